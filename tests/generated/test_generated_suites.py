"""Suites made at random have the same outcomes with --sandbox as without: no green that is none, no red either.

python tests/generated/compare.py 0 2000 --loose      # many more, and without --loose every word that is said
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Suites that are run for each of the tests.
COUNT = 10


@pytest.mark.parametrize("first", [0, 1000, 2000])
def test_same_outcomes(first: int) -> None:
    """Each test's outcome in each of its phases, in the same order, and the exit status."""
    program = [sys.executable, str(Path(__file__).with_name("compare.py"))]
    done = subprocess.run(
        [*program, str(first), str(COUNT), "--loose", "--show"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{COUNT} suites in " in done.stdout
