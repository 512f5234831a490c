"""Runs suites that generator.py makes, plain and with --sandbox, and says where pytest's users would see a difference.

    python compare.py FIRST COUNT [--loose] [--show] [--timeout SECONDS] [-- more options for the sandbox's run]

Compared are, in their order, every event that plugins see (start, reports with outcome, phase, text, sections and properties,
warnings, finish), the whole output on the terminal, the exit status, junit's file and the log file; all but what is meant to
differ: see `INTENDED`, and apart.py for what differs of single tests, which leaves the others to be compared. Each run is a fork
of this process, which has imported pytest. Exit status 1 where there is a difference, or where a run takes too long.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import difflib
import json
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apart
import generator
import pytest
from apart import Apart

#: With what lines begin that stand below "Sandbox" in a report.
OURS = (
    "wall ", r"\(of \d+ tests that shared ", "added: ", "modified: ", "deleted: ", "replaced: ", "what it wrote", "  ", r"\.\.\.",
)  # fmt: skip
LETTERS = r"-+ Captured stdout call -+\n(?:[u,\-]+\n|\n?SUB[A-Z]+(?:\(.*\))? +\[ *\d+%\]\n)+"
#: What differs by its nature, in any text: times, addresses, counters of processes and runs, and what a sandbox adds.
INTENDED = (
    (r"^sandbox: .*\n", ""),
    (rf"(?m)^-+ Sandbox( files)? -+\n(?:(?:{'|'.join(OURS)}).*\n)*", ""),
    (r"\bin \d+\.\d+s\b( \(\d:\d\d:\d\d\))?", "in N s"),
    (r"0x[0-9a-f]{6,}", "0xN"),
    (r"\b(Instant|Duration)\(.*\)", r"\1(N)"),  # of pytest's own, by --showlocals
    (r"\bThread-\d+\b", "Thread-N"),
    (r"pytest-of-[^/\s]+/pytest-\d+", "basetemp"),
    (r'\b(time|timestamp|hostname)="[^"]*"', r'\1="N"'),
    (r"=+ ([^=\n]*) =+", r"= \1 ="),
    # The letters of unittest's subtests, which plain pytest captures, and shows below the name of a test that may print no more.
    (rf"^_+ .+ _+\n{LETTERS}(?=[_=]|-+ Captured \w+ teardown)", ""),
    (rf"^{LETTERS}", ""),
    # In native tracebacks: the way from pytest to the test; also as XML.
    (r'^  File "(.*/(_pytest|pluggy)/|(.*/pytest_sandbox/|(<|&lt;)pytest-sandbox(>|&gt;))).*\n(    .*\n)*', ""),
    (r'^  \|   File "(.*/(_pytest|pluggy)/|(.*/pytest_sandbox/|(<|&lt;)pytest-sandbox(>|&gt;))).*\n(  \|     .*\n)*', ""),
)
_INTENDED = [(re.compile(pattern, re.MULTILINE), to) for pattern, to in INTENDED]


#: How long one run may take, in seconds: it takes one or two, where nothing hangs, and many times as long in a guest.
TIMEOUT = 600.0


def normal(text: str) -> str:
    """A text without what is meant to differ."""
    for pattern, to in _INTENDED:
        text = pattern.sub(to, text)
    return text


class Recorder:
    """Every event that a plugin sees in the process that started pytest."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._pid = os.getpid()

    def _add(self, *event: object) -> None:
        if os.getpid() == self._pid:
            self.events.append([normal(part) if isinstance(part, str) else part for part in event])

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        """A test begins."""
        self._add("start", str(nodeid), list(location))

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        """A test is over."""
        self._add("finish", str(nodeid), list(location))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of it, or a subtest."""
        sections = [[name, normal(text)] for name, text in report.sections if name != "Sandbox"]
        properties = [[name, str(value)] for name, value in report.user_properties if not name.startswith("sandbox_")]
        context = getattr(report, "context", None)
        self._add(
            "report", str(report.nodeid), str(report.when), report.outcome, str(getattr(report, "wasxfail", None)),
            report.longreprtext, isinstance(report.longrepr, tuple), sections, properties,
            list(report.location), sorted(map(str, report.keywords)), repr(context) if context is not None else "",
        )  # fmt: skip

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: object) -> None:
        """A warning, wherever it came from."""
        message = warning_message
        self._add(
            "warning",
            when,
            str(nodeid),
            message.category.__name__,
            str(message.message),
            message.filename,
            message.lineno,
            str(location),
        )


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one run showed."""

    status: object
    events: list[Any]
    output: str
    files: dict[str, str]


def run(suite: generator.Suite, place: Path, extra: Sequence[str], timeout: float) -> Seen | None:
    """Run a suite in a fresh directory, always the same one, in a fork of this process; None where it takes more seconds."""
    shutil.rmtree(place, ignore_errors=True)
    for name, source in suite.files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    output, errors = place.parent / "output", place.parent / "errors"
    record = place.parent / "record"
    record.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        status: object = "no status"
        recorder = Recorder()
        try:
            os.chdir(place)
            with output.open("wb") as file:
                os.dup2(file.fileno(), 1)
            with errors.open("wb") as file:
                os.dup2(file.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            # What the parent had opened for itself is a file without a position of its own.
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            status = int(pytest.main([*suite.arguments, *extra], plugins=[recorder]))
        except BaseException:
            status = traceback.format_exc()
        finally:
            record.write_text(json.dumps({"status": status, "events": recorder.events}))
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(0)
    if not _wait(pid, timeout):
        return None
    found = json.loads(record.read_text())
    text = output.read_text(encoding="utf-8", errors="backslashreplace")
    files = {name: normal((place / name).read_text()) for name in ("junit.xml", "log.txt") if (place / name).exists()}
    files["stderr"] = normal(errors.read_text(encoding="utf-8", errors="backslashreplace"))
    return Seen(found["status"], found["events"], normal(text), files)


def _wait(pid: int, timeout: float) -> bool:
    """Wait for a child; False where it had to be killed, by which sandboxes end, too."""
    with open(os.pidfd_open(pid), closefd=True) as ended:
        in_time = bool(select.select([ended], [], [], timeout)[0])
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return in_time


#: With these arguments what fixtures do is shown as it happens; those of wider scopes may be set up for a test earlier.
LIVE = {"--capture=no", "--capture=sys", "--capture=tee-sys", "--setup-show", "--log-cli-level=INFO"}


def differences(plain: Seen, boxed: Seen, away: Apart, *, is_live: bool, loose: bool) -> Iterator[str]:
    """Every place where they are not the same, as a diff; loose: only what became of each test, and the exit status."""
    # Where a teardown fails after pytest.exit() or Ctrl-C, plain pytest itself ends with a traceback.
    if plain.status != boxed.status and isinstance(plain.status, int):
        yield f"exit status {plain.status} is {boxed.status} with --sandbox"
    events = [list(apart.events(run.events, away)) for run in (plain, boxed)]
    if loose:
        yield from _diff(
            "outcomes", *([" ".join(map(str, event[:5])) for event in run if event[0] == "report"] for run in events)
        )
        return
    yield from _diff("events", *([json.dumps(event) for event in run] for run in events))
    if not away.reasons:
        yield from _of_the_whole(plain, boxed, is_live=is_live)
    elif not is_live and isinstance(plain.status, int):  # else a teardown has failed as it ended: it has shown no summary
        yield from _diff("output", *(list(apart.output(run.output, away)) for run in (plain, boxed)))
    if away.reasons and "junit.xml" in plain.files:
        yield from _diff("junit.xml", *(list(apart.junit(_without_ours(run.files["junit.xml"]), away)) for run in (plain, boxed)))


def _of_the_whole(plain: Seen, boxed: Seen, *, is_live: bool) -> Iterator[str]:
    """All that is printed, and all files."""
    output = [run.output.splitlines() for run in (plain, boxed)]
    if is_live:
        # A live log has its headline again where something was set up early; reasons are cut off where the line ends.
        output = [[re.sub(r"-{5,}( live log \w+ -+)?", "", line) for line in lines] for lines in output]
        joined = ["".join("".join(lines).split()) for lines in output]
        output = [sorted(re.sub(r"(XFAIL|XPASS|SKIPPED)\((?:[^()]|\([^()]*\))*\)", r"\1", text)) for text in joined]
    yield from _diff("output", *output)
    for name in plain.files.keys() | boxed.files.keys():
        # A log file has what fixtures log that are set up early for a later test before what the tests in between do.
        is_sorted = name == "log.txt" or (is_live and name == "stderr")
        texts = [_junit(run.files.get(name, "")) for run in (plain, boxed)]
        yield from _diff(name, *([sorted(lines) for lines in texts] if is_sorted else texts))


def _junit(text: str) -> list[str]:
    """Line by line, without what is ours."""
    text = _without_ours(text)
    return re.sub(r"><", ">\n<", re.sub(r"(<testcase[^>]*[^/])></testcase>", r"\1 />", text)).splitlines()


def _without_ours(text: str) -> str:
    """Without the properties that a sandbox adds, and the element around them if there are no others."""
    text = re.sub(r'<property name="sandbox_[^"]*" value="[^"]*" ?/>', "", text)
    return re.sub(r"<properties>\s*</properties>", "", text)


def _diff(name: str, plain: list[str], boxed: list[str]) -> Iterator[str]:
    lines = list(difflib.unified_diff(plain, boxed, f"{name}, plain", f"{name}, with --sandbox", lineterm="", n=1))
    if lines:
        yield "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Compared:
    """What came out for one seed: the differences, how many tests ran and were apart, and why."""

    found: list[str]
    tests: int = 0
    apart: int = 0
    reasons: frozenset[str] = frozenset()


def compare(seed: int, place: Path, options: Sequence[str] = (), *, loose: bool = False, timeout: float = TIMEOUT) -> Compared:
    """Compare what one seed makes; see `differences`."""
    suite = generator.make(seed)
    plain = run(suite, place / "suite", ["--no-sandbox"], timeout)
    boxed = run(suite, place / "suite", ["--sandbox", "--sandbox-keep=never", *options], timeout)
    if plain is None or boxed is None:
        return Compared([f"the {'plain' if plain is None else 'sandboxed'} run takes more than {timeout:g} s"])
    ran = apart.Ran(suite, plain.events, plain.output)
    away = apart.find(ran)
    is_live = bool(LIVE.intersection(suite.arguments))
    found = list(differences(plain, boxed, away, is_live=is_live, loose=loose))
    return Compared(found, len(ran.tests), len(away.tests), frozenset(away.reasons))


def main() -> int:
    """Compare seeds; 1 where one differs."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options] FIRST COUNT [-- more options for the sandbox's run]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--loose", action="store_true", help="only what became of each test, and the exit status")
    parser.add_argument("--show", action="store_true", help="the differences themselves")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help="for each run (default: %(default)g)")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, more = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    all_of_them, began = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="generated-") as directory:
        for seed in range(options.first, options.first + options.count):
            one = compare(seed, Path(directory), more, loose=options.loose, timeout=options.timeout)
            all_of_them.append(one)
            if one.found:
                print(f"seed {seed}: {len(one.found)} differences", flush=True)
                if options.show:
                    print("\n".join(one.found), flush=True)
    report(options.first, all_of_them, time.monotonic() - began)
    return int(any(one.found for one in all_of_them))


def report(first: int, compared: Sequence[Compared], took: float) -> None:
    """Say how many were compared, how much of them was not, and why."""
    different = [first + number for number, one in enumerate(compared) if one.found]
    whole = sum(not one.reasons for one in compared)
    tests, away = sum(one.tests for one in compared), sum(one.apart for one in compared)
    print(
        f"{len(compared)} suites in {took:.0f} s, {whole} in all that is shown, the others but for {away} of all {tests} tests, "
        f"{len(different)} with differences: {different}"
    )
    for why, count in collections.Counter(why for one in compared for why in one.reasons).most_common():
        print(f"{count:6} suites with tests of which some is not compared, for {why}")


if __name__ == "__main__":
    sys.exit(main())
