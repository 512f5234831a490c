"""A pytest plugin that leaves a file with the name of its process's pid in the directory PROCESS_RECORD. Imports pytest only."""

from __future__ import annotations

import os
from pathlib import Path


def pytest_configure() -> None:
    """Of the run's controller and of each worker."""
    (Path(os.environ["PROCESS_RECORD"]) / str(os.getpid())).touch()
