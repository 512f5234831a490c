"""What is noted of the run's sandboxes, warned of, and said at its end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.fixtures import FixtureDef
from _pytest.nodes import Node

from pytest_sandbox.model.capability import Capability
from pytest_sandbox.model.outcome import Ending, Made, Outcome, counted
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.model.texts import printable
from pytest_sandbox.plugin.builtin.terminal import show, show_error
from pytest_sandbox.plugin.builtin.warning import hint, tell, warn
from pytest_sandbox.plugin.planning import resolve
from pytest_sandbox.plugin.reporting.header import not_enforced
from pytest_sandbox.plugin.reporting.lost import first_lost, told
from pytest_sandbox.plugin.reporting.meetings import Meetings
from pytest_sandbox.plugin.reporting.report import add_error, add_outcome, fail, make_report
from pytest_sandbox.plugin.reporting.totals import Totals
from pytest_sandbox.plugin.reporting.usage_table import Row, table
from pytest_sandbox.plugin.warned import LeakWarning, ThreadWarning
from pytest_sandbox.sandbox.machine import host


class Book:
    """Everything that is said about the run's sandboxes."""

    def __init__(self, config: pytest.Config, settings: resolve.Settings) -> None:
        self._config = config
        self._settings = settings
        self._rows: list[Row] = []
        self._kept: list[tuple[str, Path]] = []
        self._totals = Totals(config)
        self._sharing: list[str] = []
        self._lost = ""
        self._not_home: list[str] = []
        self._late: list[str] = []
        self._must_raise = False
        self.meetings = Meetings()
        #: What workers of pytest-xdist say, and who.
        self._said: dict[str, list[str]] = {}

    def to_plain(self, header: Sequence[str]) -> dict[str, object]:
        """All that was noted, as plain data, for the controller of pytest-xdist; header: this machine's."""
        return {
            "rows": [row.to_plain() for row in self._rows],
            "totals": self._totals.to_plain(),
            "kept": [(nodeid, os.fspath(path)) for nodeid, path in self._kept],
            "sharing": list(self._sharing),
            "lost": self._lost,
            "not home": list(self._not_home),
            "meetings": self.meetings.to_plain(),
            "said": [*header, *self._said],
        }

    def add_worker(self, plain: Mapping[str, Any], who: str, header: Sequence[str]) -> None:
        """Take over what a worker has noted; what its machine lacks is said, if `header` has not done so."""
        for row in map(Row.from_plain, plain["rows"]):
            self._rows.append(row if row.kind == "test" else dataclasses.replace(row, kind=f"{row.kind} {who}"))
        self._totals.add_worker(plain["totals"])
        self._kept += [(nodeid, Path(path)) for nodeid, path in plain["kept"]]
        self._sharing += plain["sharing"]
        self._lost = self._lost or plain["lost"]
        self._not_home += plain["not home"]
        self.meetings.add_worker(plain["meetings"])
        for line in plain["said"]:
            if line not in header:
                self._said.setdefault(line, []).append(who)

    def say(self, line: str) -> None:
        """Say something about the run: now, or where this is a worker of pytest-xdist, at the end."""
        if hasattr(self._config, "workerinput"):
            self._said[line] = []
        else:
            show(self._config, f"{line}\n")

    def late(self, item: pytest.Item, traceback: str, *, may_be_early: bool) -> None:
        """Note an error of what was torn down after this test had ended the run: there is no report for it to stand in.

        may_be_early: of what was perhaps set up for tests that did not run, and so in plain pytest not at all.
        """
        self._late.append(f"in the sandbox of {item.nodeid}, which had ended the run:\n{traceback}")
        self._must_raise |= not may_be_early

    def raise_late(self, status: int) -> None:
        """Raise them, as plain pytest does at the session's end; show them, where the run has not succeeded anyway."""
        if self._late and (self._must_raise or status == pytest.ExitCode.OK):
            raise RuntimeError("\n".join(self._late))
        for text in self._late:
            show_error(f"{text}\n")

    def tell_degraded(self, specs: Iterable[Spec], known: Mapping[str, Capability]) -> None:
        """Say which limits that markers ask for nothing enforces here, each once, but for those that the header has named."""
        base = self._settings.base.spec
        told = {one.name for one in host.unenforced(base, known)} & base.asked
        for spec in specs:
            asked = [one for one in host.unenforced(spec, known) if one.name in spec.asked - told]
            told |= {one.name for one in asked}
            for line in not_enforced(asked, spec.asked):
                self.say(line)

    def add_test(
        self,
        item: pytest.Item,
        done: list[pytest.TestReport],
        outcome: Outcome,
        made: Made | None,
        *,
        shares_network: bool,
        tests: int,
    ) -> None:
        """Note a test's outcome, and put it into its reports.

        made: what it made by `sandbox_factory`. tests: how many its sandbox ran; it was the last of them.
        """
        self._totals.add("sandboxes", Made(1, outcome.usage))
        if made is not None:
            self._totals.add("made", made)
        if self._settings.usage:
            self._rows.append(Row(item.nodeid, outcome, "test" if tests == 1 else f"{tests} tests, up to"))
            if made is not None:
                self._rows.append(Row(item.nodeid, Outcome(Ending.EXITED, None, made.usage), f"{made.count} made by"))
        if shares_network:
            self._sharing.append(item.nodeid)
        if done:
            add_outcome(item, done, outcome, made, tests, shares_network=shares_network)
        if outcome.leaks and done and not any(report.failed for report in done):
            error = self._warn_of_leaks(item, outcome, tests)
            if error is not None:
                fail(done[-1], error, outcome)

    def _warn_of_leaks(self, item: pytest.Item, outcome: Outcome, tests: int) -> str | None:
        """Warn as if the test had; what is said where that is an error."""
        who = "" if tests == 1 else f", or one of the {tests - 1} tests before it in the same sandbox did"
        warning = LeakWarning(_left_running(outcome, who))
        return warn(self._config, warning, (str(item.path), (item.location[1] or 0) + 1), item.nodeid, item)

    def warn_of_threads(self, item: pytest.Item, definition: FixtureDef[Any], threads: str) -> None:
        """Say that a fixture of a wider scope is set up by each test's sandbox, and how to have it once."""
        code = getattr(definition.func, "__code__", None)
        warning = ThreadWarning(
            f"fixture {definition.argname!r} starts a thread ({threads}), which no fork inherits: it is set up anew in the "
            "sandbox of each test. To have it set up once, let its tests share a sandbox: "
            f"@pytest.mark.sandbox(scope={definition.scope!r})"
        )
        place = (code.co_filename, code.co_firstlineno) if code else (str(item.path), 1)
        hint(self._config, warning, place, item.nodeid, item)

    def warn_of_threads_at_import(self, session: pytest.Session, threads: str) -> None:
        """Say that tests would wait for them in vain."""
        warning = ThreadWarning(
            f"a module starts a thread as it is imported ({threads}), which no sandbox has: tests would wait for it in vain. "
            "Fix: start it in a fixture, or run these tests without one: @pytest.mark.sandbox(enabled=False)"
        )
        hint(self._config, warning, (str(session.path), 1))

    def add_scope(
        self, node: Node, outcome: Outcome, item: pytest.Item, closed: pytest.TestReport | None, *, is_over: bool = False
    ) -> pytest.TestReport | None:
        """Note what a scope's own sandbox used, its fixtures, apart from the tests below; and what they have left running.

        item: its last test. closed: what it said of its teardown. Returns that, with what was left where it is an error.
        is_over: nobody takes one.
        """
        self._totals.add("scopes", Made(1, outcome.usage))
        if self._settings.usage:
            self._rows.append(Row(node.nodeid or "session", outcome, "scope"))
        if not outcome.leaks:
            return closed
        warning = LeakWarning(f"fixtures of {node.nodeid or 'the session'} {_left_running(outcome)}")
        place = str(node.path), 1
        error = warn(self._config, warning, place, node.nodeid, item)
        if error is None:
            return closed
        if is_over:
            tell(self._config, warning, place, node.nodeid)
            return closed
        report = make_report(item, "teardown") if closed is None else closed
        add_error(report, error, outcome)
        return report

    def kept(self, item: pytest.Item, done: Sequence[pytest.TestReport], path: Path) -> None:
        """Say where a test's files are."""
        self._kept.append((item.nodeid, path))
        for report in done:
            if report.failed:
                report.sections.append(("Sandbox files", f"what it wrote is kept in {path}"))
                break

    def lost(self, item: pytest.Item, outcome: Outcome) -> None:
        """Note what a passing test has written and somebody may miss, once a run: see `lost`."""
        if self._lost or not outcome.changes:
            return
        root = Path(os.path.realpath(self._config.rootpath))
        path = first_lost(outcome, root)
        if path is not None:
            self._lost = printable(told(item.nodeid, path, root))

    def not_home(self, problems: Sequence[str]) -> None:
        """Note what tests wrote to pytest's cache, say, and is lost."""
        self._not_home += map(printable, problems)

    def finish(self) -> None:
        """All sandboxes have ended: put into junit's suite what they used."""
        self._totals.note()

    def _tell_of_workers(self, terminal: pytest.TerminalReporter) -> None:
        if self._said:
            terminal.section("sandbox on workers")
            for line, who in self._said.items():
                terminal.write_line(f"{', '.join(who)}: {line}")

    def summary(self, terminal: pytest.TerminalReporter) -> None:
        """The usage table, longest first; which tests shared a network (with -v); files lost, and kept; what workers said."""
        self._tell_of_workers(terminal)
        if self._sharing and terminal.verbosity > 0:
            terminal.section("sandbox network shared with the scope around the test")
            for nodeid in self._sharing:
                terminal.write_line(nodeid)
        for line in self.meetings.lines():
            terminal.write_line(line)
        if self._settings.usage and self._rows:
            terminal.section("sandbox usage")
            for line in table(self._rows, everything=terminal.verbosity > 0):
                terminal.write_line(line)
        kept = [f"{path}  {nodeid}" for nodeid, path in self._kept]
        for what, lines in ("lost", [*filter(None, [self._lost]), *self._not_home]), ("kept", kept):
            if lines:
                terminal.section(f"sandbox files {what}")
                for line in lines:
                    terminal.write_line(line)


def _left_running(outcome: Outcome, who: str = "") -> str:
    names = "; ".join(f"{leak.command} (pid {leak.pid})" for leak in outcome.leaks)
    return f"left {counted(outcome.leaks)} process(es) running{who}, killed now: {names}"
