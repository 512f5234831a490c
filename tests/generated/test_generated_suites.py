"""Suites made at random are the same with --sandbox as without, word for word: no green that is none, no red either.

python tests/generated/compare.py 0 2000      # many more
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Suites that are run for each of the tests.
COUNT = 10


@pytest.mark.parametrize("first", [0, 1000, 2000])
def test_the_same(first: int) -> None:
    """Every event, all that is printed, files and the exit status; what differs on purpose is listed in compare.py."""
    program = [sys.executable, str(Path(__file__).with_name("compare.py"))]
    done = subprocess.run(
        [*program, str(first), str(COUNT), "--show"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{COUNT} suites in " in done.stdout
