"""The suites that are run: some written here, each for one question, and two that nobody here wrote.

Imports the standard library and compare_suites.py, which knows how to get the latter.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import compare_suites

_SESSION = """
import time, pytest
@pytest.fixture(scope="session")
def session():
    time.sleep(2)
    return list(range(100))
"""
#: Small objects, as imports and fixtures leave them: memory whose pages are copied when Python touches an object in them.
_HEAVY = """
from pathlib import Path
def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
OBJECTS = []
while resident() < {megabytes}:
    OBJECTS.extend({{"number": number, "name": f"item {{number}}"}} for number in range(10_000))
"""
_WORK = """
import time
def work():
    until = time.process_time() + 0.1
    while time.process_time() < until: pass
"""


def _tests(count: int, arguments: str = "", body: str = "pass") -> str:
    return "".join(f"def test_{number}({arguments}): {body}\n" for number in range(count))


@dataclasses.dataclass(frozen=True)
class Suite:
    """Tests, and how to measure on them.

    repeat: turns that count. tests: how many there are; 0 where that is found out. files: their texts by name. foreign: whether
    they are somebody else's, by compare_suites' name, with pytest's `options`, and `paths` or all; `trials` is how often all are
    run to find out which can be compared. without: variants that say nothing here. samples: how many tests are run by a variant
    that would take hours for all. resident: MB of the process that is forked. session_fixture: whether there is one. ends:
    whether it is a long run, of which the ends are looked at.
    """

    name: str
    title: str
    repeat: int
    tests: int = 0
    trials: int = 1
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    foreign: bool = False
    options: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    samples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    resident: int = 0
    session_fixture: bool = False
    ends: bool = False


_PEERS = frozenset({"off", "forked", "isolate", "bwrap"})
#: Those of psutil's files that take no long naps, and hardly look at what else the machine does; not test_posix.py, half of which
#: looks for a process of a class's fixture by its pid.
_OF_PSUTIL = tuple(f"tests/test_{name}.py" for name in ("linux", "misc", "contracts", "memleaks", "unicode", "heap"))
#: pytest-forked and pytest-isolate run session fixtures anew for each test, hence few tests of it there.
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "trivial", "500 trivial tests", 5, 500, files={"test_it.py": _tests(500)},
            samples={"isolate": 100, "bwrap": 5},
        ),
        Suite(
            "fixture", "200 trivial tests after a session fixture of 2 s", 3, 200,
            files={"conftest.py": _SESSION, "test_it.py": _tests(200, "session")},
            samples={"forked": 3, "isolate": 3, "bwrap": 2}, without=frozenset({"off"}), session_fixture=True,
        ),
        Suite(
            "waiting", "40 tests that wait for 100 ms, after the same", 2, 40,
            files={"conftest.py": _SESSION, "test_it.py": "import time\n" + _tests(40, "session", "time.sleep(0.1)")},
            without=_PEERS | {"limit"}, session_fixture=True,
        ),
        Suite(
            "working", "40 tests that compute for 100 ms, in four files, after the same", 2, 40,
            files={
                "conftest.py": _SESSION,
                **{f"test_{name}.py": _WORK + _tests(10, "session", "work()") for name in "abcd"},
            },
            without=_PEERS | {"limit"}, session_fixture=True,
        ),
        Suite(
            "heavy", "100 trivial tests in a process of 200 MB", 5, 100,
            files={"conftest.py": _HEAVY.format(megabytes=200), "test_it.py": _tests(100)},
            samples={"isolate": 10, "bwrap": 2}, without=frozenset({"off"}), resident=200,
        ),
        # It takes warnings for errors, and pytest-forked forgets to close a file.
        Suite(
            "click", "click's own suite", 2, foreign=True,
            options=("-W", "ignore::pytest.PytestUnraisableExceptionWarning"),
            samples={"isolate": 60, "bwrap": 3},
        ),
        # Its options capture nothing, with which sandboxes run one at a time.
        Suite(
            "psutil", "a part of psutil's own suite", 2, trials=2, foreign=True, options=("--capture=fd",), paths=_OF_PSUTIL,
            without=frozenset({"isolate", "bwrap"}),
        ),
        Suite(
            "long", "10,000 trivial tests", 1, 10_000, files={"test_it.py": _tests(10_000)},
            without=_PEERS - {"forked"}, ends=True,
        ),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Place:
    """A suite on the disk: where pytest is started, its options, the files of tests, and what its environments need."""

    folder: Path
    options: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()


def put(suite: Suite, place: Path) -> Place:
    """Write a suite, or fetch it."""
    if suite.foreign:
        return _fetch(suite, place)
    place.mkdir()
    # An ini file keeps any other away.
    for name, text in {"pytest.ini": "[pytest]\n", **suite.files}.items():
        (place / name).write_text(text)
    return Place(place, paths=tuple(name for name in suite.files if name.startswith("test_")))


def _fetch(suite: Suite, place: Path) -> Place:
    known = compare_suites.SUITES[suite.name]
    place.mkdir()
    source = compare_suites.fetch(known, place)
    options = (*known.arguments, *(known.as_root if os.getuid() == 0 else ()), *suite.options)
    return Place(source, options, suite.paths, tuple(word.format(source=source) for word in known.install))
