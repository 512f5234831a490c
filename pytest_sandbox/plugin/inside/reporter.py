"""The plugin in a sandbox that says everything to the controller which pytest's own reporters would note in memory.

Imports pytest and what is beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Generator, Iterator
from errno import EAGAIN
from gc import collect
from os import getpid
from typing import Any, NoReturn

import pytest
from _pytest.runner import CallInfo

from pytest_sandbox.plugin.builtin import filters, junit, logs, recorded, reports, sections
from pytest_sandbox.plugin.builtin.settling import INSIDE
from pytest_sandbox.plugin.builtin.tracebacks import unseen
from pytest_sandbox.plugin.inside import hints
from pytest_sandbox.plugin.inside.threads import Threads
from pytest_sandbox.plugin.others import carried
from pytest_sandbox.primitives import process
from pytest_sandbox.sandbox.inside.bodies import tell_errno
from pytest_sandbox.sandbox.wire.frames import Channel

_HOOKS = ("pytest_runtest_logstart", "pytest_runtest_logreport", "pytest_runtest_logfinish", "pytest_warning_recorded")


@dataclasses.dataclass
class Watched:
    """While fixtures are set up: the threads that there were before, and the innermost fixture after which there were more."""

    threads: Threads
    starter: str = ""


class Reporter:
    """The plugin that says everything to the controller that pytest's own reporters would have noted in memory.

    owner: the process whose reports these are. listens: whether the run's sandboxes have begun. other_hint: for a test that fails
    by no error that has one.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.owner = 0
        self.listens = False
        self._watched: Watched | None = None
        self._last: pytest.TestReport | None = None
        self.other_hint: Callable[[], str | None] = lambda: None

    @contextlib.contextmanager
    def watching_threads(self) -> Iterator[Watched]:
        """Within: find out which fixture starts threads."""
        self._watched = watched = Watched(Threads())
        try:
            yield watched
        finally:
            self._watched = None

    def leave_fixtures(self) -> None:
        """In a test's sandbox: be in no traceback of its fixtures; threads are its own."""
        self._config.hook.pytest_fixture_setup._remove_plugin(self)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    @unseen
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Note who has started a thread: of fixtures within each other the one that is set up first."""
        __tracebackhide__ = True
        result = yield
        watched = self._watched
        if watched is not None and not watched.starter and watched.threads.started():
            watched.starter = fixturedef.argname
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_exception_interact(self, report: object) -> Generator[None, object, object]:
        """Send a report again that somebody changes here, if it is sent already; pytest shows it as it is at the run's end."""
        before = _shown_of(report)
        try:
            return (yield)
        finally:  # also after pytest.exit(), by which a debugger is left
            if self._last is not None and report is self._last and before != _shown_of(report):
                self._send_again(self._last)

    @property
    def has_failed(self) -> bool:
        """Whether something was raised in the phase of the last report, be it to skip."""
        return self._last is not None and not self._last.passed

    def add_error(self, report: pytest.TestReport) -> None:
        """Send the last report again, with a failure of the same phase."""
        if self._last is not None:
            self._send_again(reports.with_error(self._last, report))

    def _send_again(self, report: pytest.TestReport) -> None:
        self._channel.send({**reports.to_frame(self._config, report), "again": True})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Have what scopes have left for this item: what they have logged, for `caplog`, and filters of warnings."""
        logs.hand_on(item)
        filters.hand_on(item)

    @property
    def _channel(self) -> Channel:
        return self._config.stash[INSIDE].channel

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say what an OSError was about, and join what scopes captured for this item with what it captures itself."""
        if getpid() != self.owner:
            _end_fork(call)
        sections.merge_sections(item)
        number, full = tell_errno(self._channel, None if call.excinfo is None else call.excinfo.value)
        report = yield
        if report.failed:
            hint = self._hint(report, number, full=full)
            report.sections += [("Sandbox hint", hint)] if hint else []
        return report

    def _hint(self, report: pytest.TestReport, number: int, *, full: bool) -> str | None:
        order = self._config.stash[INSIDE].order
        hint, pids = hints.hint(number, order.spec, full=full), order.spec.limits.pids
        if hint is None and order.processes is not None and pids is not None and number != EAGAIN:  # that has a verdict
            text = "\n".join([report.longreprtext, *(content for _, content in report.sections)])
            hint = hints.of_output(text, pids)
        return hint or self.other_hint()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Stream the report."""
        if report.when == "call" and not reports.is_of_subtest(report):
            collect()  # unraisable exceptions and never-awaited coroutines belong to this test
        self._last = report
        self._channel.send(reports.to_frame(self._config, report))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        """Forward the warning."""
        if self.listens:
            self._channel.send(recorded.warning_to_frame(warning_message, when, nodeid, location))

    def pytest_enter_pdb(self) -> None:
        """Nobody's time runs out in a debugger."""
        # Until what was said before is shown: the debugger writes to the same terminal, and not by way of the controller.
        self._channel.ask({"op": "hold", "value": True}, "held")

    def pytest_leave_pdb(self) -> None:
        """It does again."""
        self._channel.send({"op": "hold", "value": False})

    def news(self, item: pytest.Item, *, ended: bool = False) -> None:
        """Say what junit and foreign plugins have noted since the last time. ended: whether the item has run to its end."""
        news = junit.news(self._config, item)
        if news:
            self._channel.send({"op": "junit", **news})
        if frame := carried.news(self._config, item, ended=ended):
            self._channel.send(frame)


def _shown_of(report: object) -> tuple[int, list[tuple[str, str]], bool]:
    """What of a report is shown: its representation, by its identity, its sections, and whether a debugger has done so."""
    return id(getattr(report, "longrepr", None)), list(getattr(report, "sections", ())), hasattr(report, "_pdbshown")


def _end_fork(call: CallInfo[None]) -> NoReturn:
    """A test forked and let its child come back into pytest: the test is the parent's, the child has done its part."""
    process.leave(0 if call.excinfo is None else 1)


def silence_foreign_hooks(reporter: Reporter, config: pytest.Config) -> None:
    """Let these hooks be heard by conftest files and plugins once a report, which is in the controller.

    pytest's own have state that the test's process needs: the count for --maxfail, the live log.
    """
    for name in _HOOKS:
        caller = getattr(config.hook, name)
        for implementation in caller.get_hookimpls():
            own = implementation.function.__module__.startswith("_pytest.") or implementation.plugin is reporter
            if not own:
                caller._remove_plugin(implementation.plugin)
