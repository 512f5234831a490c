"""Tests that meet: those of several tests at once (`--sandbox-jobs`) show by it how many run."""

from __future__ import annotations

from typing import Any

import pytest

#: Tests that meet: each is there, and waits for as many others as it is told, which is possible only at the same time.
MEET = """
import pathlib, pytest, time
PLACE = pathlib.Path({place!r})
def meet(name, count, seconds=60):
    (PLACE / name).touch()
    limit = time.monotonic() + seconds
    while len(list(PLACE.iterdir())) < count:
        assert time.monotonic() < limit, sorted(path.name for path in PLACE.iterdir())
        time.sleep(0.01)
"""


@pytest.fixture
def place(tmp_path: Any) -> Any:
    """A directory of the machine's, in which sandboxes may meet."""
    made = tmp_path / "place"
    made.mkdir()
    return made


def meeting(place: Any) -> str:
    """The source of `meet`."""
    return MEET.format(place=str(place))


def counting(place: Any, tests: int, seconds: str, jobs: int) -> str:
    """The source of so many tests, each of which fails where more than `jobs` run when it has slept."""
    return f"""{meeting(place)}
@pytest.mark.parametrize("number", range({tests}))
def test_it(number):
    mine = PLACE / str(number)
    mine.touch()
    time.sleep({seconds})
    # By two looks: one alone may find who left while it was made, and who came after that.
    assert len(set(PLACE.iterdir()) & set(PLACE.iterdir())) <= {jobs}
    mine.unlink()
"""


def run(pytester: pytest.Pytester, place: Any, *args: str) -> pytest.RunResult:
    """A run whose tests may write to the place, on a machine with little memory too: unless told to, they reserve none."""
    return pytester.runpytest_subprocess("--sandbox", f"--sandbox-writable={place}", "--sandbox-memory=none", *args)
