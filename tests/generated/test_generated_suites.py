"""Suites made at random are the same with --sandbox as without, word for word: no green that is none, no red either.

python tests/generated/compare.py 0 2000      # many more
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from apart import Ran

#: Suites that are run for each of the tests.
COUNT = 10


@pytest.mark.parametrize(
    ("first", "options"), [(0, []), (1000, []), (2000, ["--sandbox-jobs=3"]), (910000, ["--sandbox-scope=module"])]
)
def test_the_same(first: int, options: list[str]) -> None:
    """Every event, all that is printed, files and the exit status; what differs on purpose is listed in compare.py."""
    program = [sys.executable, str(Path(__file__).with_name("compare.py"))]
    done = subprocess.run(
        [*program, str(first), str(COUNT), "--show", "--", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{COUNT} suites in " in done.stdout


def _report(test: str, when: str, text: str = "", said: str = "") -> list[Any]:
    return ["report", test, when, "failed" if text else "passed", "None", text, False, [[f"Captured stdout {when}", said]], []]


def _events() -> list[list[Any]]:
    """A suite with a fixture that raises SystemExit, which costs pytest the second test."""
    ends = [_report("t.py::test_1", "setup", "E   SystemExit: set-up of fix_1"), _report("t.py::test_1", "teardown")]
    broken = [_report("t.py::test_2", "setup", "E   AssertionError"), _report("t.py::test_2", "teardown")]
    passes = [_report("t.py::test_3", when, said=f"{when} of fix_2") for when in ("setup", "call", "teardown")]
    warning = ["warning", "runtest", "t.py::test_3", "UserWarning", "warned in test_3", "t.py", 1, "None"]
    starts = [["start", f"t.py::test_{n}", []] for n in (1, 2, 3)]
    return [starts[0], *ends, starts[1], *broken, starts[2], *passes, warning]


def _has(events: list[list[Any]], change: Callable[[list[list[Any]]], object]) -> bool:
    """Whether that is a difference: a sandboxed run which differs by this from the plain one."""
    import apart
    import generator

    boxed = [list(event) for event in events]
    change(boxed)
    ran: Ran = apart.Ran(generator.Suite({}, (), moves=False, leaving=frozenset(), letters=frozenset()), events, "")
    away = apart.find(ran)
    return list(apart.events(events, away)) != list(apart.events(boxed, away))


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_what_is_apart_hides_nothing_else() -> None:
    """Of the test that pytest breaks nothing is compared, of those after it all but set-up and teardown."""
    events = _events()
    at = {(event[0], event[1], str(event[2])): number for number, event in enumerate(events)}

    def change(test: str, when: str, field: int, to: object) -> Callable[[list[list[Any]]], object]:
        return lambda boxed: boxed[at["report", f"t.py::{test}", when]].__setitem__(field, to)

    assert not _has(events, list.copy)
    assert not _has(events, change("test_2", "setup", 3, "passed"))
    assert not _has(events, change("test_3", "setup", 7, [["Captured stdout setup", "other"]]))
    assert _has(events, change("test_3", "setup", 3, "failed"))
    assert _has(events, change("test_3", "call", 7, [["Captured stdout call", "other"]]))
    assert _has(events, change("test_3", "call", 3, "skipped"))
    assert _has(events, change("test_1", "setup", 3, "skipped"))
    assert _has(events, lambda boxed: boxed.pop())
    assert _has(events, lambda boxed: boxed.remove(["start", "t.py::test_2", []]))
    # A sandboxed run that is alone in being broken is no excuse.
    assert _has(events, change("test_3", "call", 5, "E   AssertionError"))
