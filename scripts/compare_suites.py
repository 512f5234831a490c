"""Compares outcomes with `--sandbox` to those of plain pytest, test by test, on suites that nobody here wrote.

    python scripts/compare_suites.py [--user] [--control] [--keep DIR] [SUITE ...] [-- options for the sandbox's run]

Fetches the source distributions, installs each with its own test requirements and this checkout into a virtual
environment of its own, and runs the unmodified tests three times with one command: plain, with `--sandbox`, plain again. A
test that differs between the plain runs says nothing about a sandbox: it is counted as unstable. What differs otherwise
is a fault, unless known_differences.json gives its reason. Exit status 1 where there is a fault.

Imports only the standard library and what lies beside it.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import delegation
import workplace
from workplace import CHECKOUT, Identity

HERE = Path(__file__).resolve().parent
KNOWN = HERE / "known_differences.json"

Reports = dict[str, list[tuple[str, str, str]]]


@dataclasses.dataclass(frozen=True)
class Suite:
    """A project's tests: what to install with {source} as its unpacked distribution, and pytest's arguments.

    boxed: what the sandbox's run has besides.
    """

    name: str
    install: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    as_root: tuple[str, ...] = ()
    boxed: tuple[str, ...] = ("--sandbox",)


#: Those of pytest's own tests that start runs, whose reports, output and order are what a sandbox could change.
_OF_PYTEST = (
    "acceptance_test.py", "logging", "python", "test_assertion.py", "test_cacheprovider.py", "test_capture.py",
    "test_collection.py", "test_debugging.py", "test_doctest.py", "test_faulthandler.py", "test_junitxml.py", "test_mark.py",
    "test_recwarn.py", "test_reports.py", "test_runner.py", "test_runner_xunit.py", "test_scope.py", "test_session.py",
    "test_setuponly.py", "test_setupplan.py", "test_skipping.py", "test_stepwise.py", "test_subtests.py", "test_terminal.py",
    "test_threadexception.py", "test_tmpdir.py", "test_unittest.py", "test_unraisableexception.py", "test_warnings.py",
)  # fmt: skip


SUITES = {
    suite.name: suite
    for suite in (
        Suite("attrs", ("{source}", "--group", "{source}/pyproject.toml:tests")),
        Suite("cachetools", ("{source}",)),
        Suite("click", ("{source}", "--group", "{source}/pyproject.toml:tests")),
        # Gateways of wider fixtures are threads, of `_thread`, beside processes.
        Suite("execnet", ("{source}",)),
        Suite("jinja2", ("{source}", "trio")),
        Suite("pluggy", ("{source}", "--group", "{source}/pyproject.toml:testing"), ("testing",)),
        # Editable, as its own `make test` has it: the tests find the extension beside its sources.
        # Root's test_sudo.py sets the machine's clock, which no run of a comparison should.
        # pytest 9.2 refuses the text "0" that its configuration gives for a number.
        Suite("psutil", ("setuptools", "-e", "{source}[test]"), ("-o", "verbosity_subtests=0"), ("--ignore=tests/test_sudo.py",)),
        Suite("tenacity", ("{source}[test]", "trio")),
        Suite("waitress", ("{source}[testing]",)),
        Suite("watchdog", ("{source}[watchmedo]", "-r", "{source}/requirements-tests.txt"), ("tests",)),
        # Its own runs are sandboxed, not its tests: they look into the memory of a run that they have started themselves.
        Suite(
            "pytest",
            ("{source}[dev]", "pexpect"),
            tuple(f"testing/{name}" for name in _OF_PYTEST),
            boxed=("-p", "inner_sandbox"),
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a suite: exit status, wall time in seconds, and the reports of each test."""

    status: int
    wall: float
    reports: Reports | None

    def outcome(self, test: str) -> str:
        """What became of a test, in words that two runs can be compared by."""
        if self.reports is None:
            return "not run"
        rows = [(when, outcome) for when, outcome, _ in self.reports.get(test, [])]
        if not rows:
            return "not run"
        telling = [row for row in rows if row[0] == "call" or row[1] != "passed"] or rows
        counted = sorted(collections.Counter(f"{when} {outcome}" for when, outcome in telling).items())
        return ", ".join(text if count == 1 else f"{text} x{count}" for text, count in counted).replace("call ", "")

    def reason(self, test: str) -> str:
        """The first line of the first reason that a report of the test gives."""
        rows = (self.reports or {}).get(test, [])
        return next((reason for _, _, reason in rows if reason), "")


@dataclasses.dataclass
class Comparison:
    """A suite's row of the table, and its differences."""

    suite: str
    version: str
    who: Identity
    plain: Run
    boxed: Run
    again: Run

    def __post_init__(self) -> None:
        """Sort the tests into same, unstable, known and different."""
        runs = (self.plain, self.boxed, self.again)
        tests = sorted(set().union(*(run.reports or {} for run in runs)))
        self.tests = len(tests)
        self.unstable = [test for test in tests if self.plain.outcome(test) != self.again.outcome(test)]
        apart = [test for test in tests if self.plain.outcome(test) != self.boxed.outcome(test)]
        apart = [test for test in apart if test not in set(self.unstable)]
        self.known = {test: reason for test in apart if (reason := self._known(test))}
        self.different = [test for test in apart if test not in self.known]

    def _known(self, test: str) -> str:
        who = "root" if self.who.uid is None and os.getuid() == 0 else "user"
        for entry in json.loads(KNOWN.read_text()):
            if entry["suite"] == self.suite and fnmatch.fnmatchcase(test, entry["test"]) and who in entry["as"]:
                return str(entry["reason"])
        return ""

    @property
    def finished(self) -> bool:
        """Whether all three runs came to their end."""
        return all(run.reports is not None for run in (self.plain, self.boxed, self.again))

    @property
    def shows_nothing(self) -> bool:
        """Whether most tests do not even pass in plain pytest: what fails of a lacking package fails alike everywhere."""
        return 2 * sum(self.plain.outcome(test) == "passed" for test in self.plain.reports or ()) < self.tests

    def row(self) -> tuple[str, ...]:
        """The cells of the table."""
        same = self.tests - len(self.unstable) - len(self.known) - len(self.different)
        counts = (self.tests, same, len(self.different), len(self.known), len(self.unstable))
        walls = (f"{self.plain.wall:.1f} s", f"{self.boxed.wall:.1f} s")
        return (f"{self.suite} {self.version}", self.who.name, *map(str, counts), *walls)

    def details(self) -> list[str]:
        """A paragraph for each test that is not the same."""
        lines = []
        for run, name in ((self.plain, "plain"), (self.boxed, "with --sandbox"), (self.again, "plain again")):
            if run.reports is None:
                lines.append(f"{self.suite}: the run {name} did not finish (exit status {run.status})")
        if self.shows_nothing:
            lines.append(f"{self.suite}: fewer than half of its tests pass in plain pytest, so that nothing is shown")
        for title, tests in (("DIFFERENT", self.different), ("known", list(self.known)), ("unstable", self.unstable)):
            lines += [line for test in tests for line in self._detail(title, test)]
        return lines

    def _detail(self, title: str, test: str) -> list[str]:
        lines = [f"{title}: {self.suite}: {test}"]
        for run, name in ((self.plain, "plain"), (self.boxed, "sandbox"), (self.again, "again")):
            lines.append(f"    {name:8} {run.outcome(test)}: {run.reason(test)}".rstrip(": "))
        if test in self.known:
            lines.append(f"    why      {self.known[test]}")
        return lines


HEAD = ("suite", "as", "tests", "same", "different", "known", "unstable", "wall plain", "wall sandbox")


def fetch(suite: Suite, folder: Path) -> Path:
    """The newest source distribution of a suite, unpacked."""
    workplace.pip(sys.executable, "download", "--no-deps", "--no-binary", suite.name, "-d", str(folder / "sdist"), suite.name)
    (archive,) = (folder / "sdist").iterdir()
    (folder / "source").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", folder / "source", "--no-same-owner"], check=True)
    (source,) = (folder / "source").iterdir()
    return source


def run_once(who: Identity, source: Path, argv: list[str], options: argparse.Namespace, name: str) -> Run:
    """Run pytest on a fresh copy of the sources, in a home of the user's own."""
    with workplace.temporary(who) as home, delegation.delegated(who.uid) as cgroups:
        (home / "tmp").mkdir()
        shutil.copytree(source, home / source.name, symlinks=True)
        who.own(home)
        env = workplace.environment(who, home, Path(argv[0]))
        env |= {"OUTCOMES": str(home / "outcomes.json"), "PYTHONPATH": str(options.recorder)}
        started = time.monotonic()
        with (home / "output.txt").open("wb") as output:
            status = who.run(
                argv, home / source.name, env, output=output.fileno(), timeout=options.timeout, cgroups=cgroups
            )  # fmt: skip
        wall = time.monotonic() - started
        keep(options.keep, home, f"{name}-{who.uid or os.getuid()}")
        return Run(status, wall, read(home / "outcomes.json"))


def read(outcomes: Path) -> Reports | None:
    """What the recorder wrote; None where it did not come to that."""
    try:
        rows = json.loads(outcomes.read_text())
    except (OSError, ValueError):
        return None
    reports: Reports = {}
    for nodeid, when, outcome, reason in rows:
        reports.setdefault(nodeid, []).append((when, outcome, reason))
    return reports


def compare(suite: Suite, who: Identity, place: Path, python: str, options: argparse.Namespace) -> Comparison:
    """Fetch, install and run a suite three times."""
    folder = place / suite.name
    source = fetch(suite, folder)
    venv = workplace.make_venv(python, folder / "venv", *(word.format(source=source) for word in suite.install))
    workplace.pip_install(venv, str(CHECKOUT))
    argv = [str(venv), "-m", "pytest", "-p", "no:cacheprovider", "-p", "outcome_recorder", *suite.arguments]
    argv += suite.as_root if os.getuid() == 0 and who.uid is None else ()
    runs = []
    for name, extra in (("plain", []), ("sandbox", [] if options.control else [*suite.boxed, *options.extra]), ("again", [])):
        print(f"{suite.name} as {who.name}: {name} ...", flush=True)
        run = run_once(who, source, argv + extra, options, f"{suite.name}-{name}")
        if run.reports is None:
            # psutil's test_process_all.py hangs now and then in multiprocessing.Pool.terminate, also in plain pytest.
            print(f"    did not finish (exit status {run.status}); once more", flush=True)
            run = run_once(who, source, argv + extra, options, f"{suite.name}-{name}-retry")
        runs.append(run)
    return Comparison(suite.name, source.name.rpartition("-")[2], who, *runs)


def keep(target: Path | None, home: Path, name: str) -> None:
    """Copy a run's output and outcomes to where the caller can read them afterwards."""
    if target is None:
        return
    target.mkdir(parents=True, exist_ok=True)
    for file in ("output.txt", "outcomes.json"):
        if (home / file).exists():
            shutil.copyfile(home / file, target / f"{name}-{file}")


def table(comparisons: list[Comparison]) -> str:
    """The table, as Markdown that also reads well as it is."""
    rows = [HEAD, *(comparison.row() for comparison in comparisons)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line; what stands behind "--" goes to pytest in the sandbox's run."""
    argv, extra = workplace.split_arguments(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"some of {', '.join(SUITES)} (default: all but pytest, which takes an hour)"
    )
    parser.add_argument("--user", action="store_true", help="called by root: run as an ordinary user instead")
    parser.add_argument("--control", action="store_true", help="no --sandbox in any run: what differs then is no fault of it")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="save output and outcomes of each run there")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for each run (default: 900)")
    options = parser.parse_args(argv)
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    options.extra = extra
    return options


def main() -> int:
    """Compare all suites that were asked for; 1 if a test is different and no reason is known."""
    options = parse()
    me = Identity("root" if os.getuid() == 0 else f"uid {os.getuid()}")
    who = workplace.ordinary_user() if options.user and os.getuid() == 0 else me
    python = workplace.choose_interpreter([me, who])
    with workplace.temporary() as place:
        options.recorder = place / "recorder"
        options.recorder.mkdir()
        for plugin in ("outcome_recorder.py", "inner_sandbox.py", "shared_sandbox.py"):
            shutil.copy(HERE / plugin, options.recorder)
        comparisons = [
            compare(SUITES[name], who, place, python, options)
            for name in options.suites or [name for name in SUITES if name != "pytest"]
        ]
    for comparison in comparisons:
        print("\n".join(comparison.details()))
    print("\n" + table(comparisons))
    return int(any(one.different or not one.finished or one.shows_nothing for one in comparisons))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except workplace.WorkplaceError as problem:
        sys.exit(f"compare_suites.py: {problem}")
