"""Shows a unit's items: fires reports in pytest's order, and puts what a sandbox says on the terminal where it belongs."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pytest_sandbox.plugin.builtin.interruption import is_stopping
from pytest_sandbox.plugin.builtin.junit import Noted
from pytest_sandbox.plugin.builtin.terminal import show
from pytest_sandbox.plugin.others import carried
from pytest_sandbox.plugin.others.reruns import Reruns
from pytest_sandbox.sandbox.wire.frames import Frame


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """An item with all its reports, not fired yet; its warnings follow them, as in plain pytest. position: which one it is."""

    item: pytest.Item
    position: int
    reports: list[pytest.TestReport]
    warnings: list[dict[str, Any]]

    def end(self) -> None:
        """Fire logfinish, and the warnings."""
        try:
            self.item.ihook.pytest_runtest_logfinish(nodeid=self.item.nodeid, location=self.item.location)
        finally:
            self.warn()

    def warn(self) -> None:
        """Fire the warnings."""
        for warning in self.warnings:
            self.item.config.hook.pytest_warning_recorded.call_historic(kwargs=warning)


class Showing:
    """What is shown of a unit. finished: its items that have run, and are not reported yet. is_early: whether it is not its turn.

    announced: the position of the last item whose name was shown, -1 before the first.
    """

    def __init__(self, session: pytest.Session, reruns: Reruns, *, is_early: bool) -> None:
        self._session, self._config, self._reruns = session, session.config, reruns
        self.finished: list[Finished] = []
        self.is_early = is_early
        self._unseen: list[Callable[[], None]] = []
        self.announced = -1
        self._noted: dict[str, Noted] = {}
        self._carried: dict[str, list[Callable[[], None]]] = {}
        # By the position of an item, or by test, phase and number of the report they are shown after, which may be made anew.
        self._texts: dict[int | tuple[str, str, int], list[str]] = {}
        self._fired: collections.Counter[tuple[str, str]] = collections.Counter()

    # -- what is kept until then --------------------------------------------------------------------------------------

    def note(self, item: pytest.Item, frame: Frame) -> None:
        """Keep what junit is to know of an item."""
        self._noted[item.nodeid] = Noted.from_frame(frame)

    def carry(self, item: pytest.Item, frame: Frame) -> None:
        """Keep what foreign plugins are to know of it."""
        self._carried.setdefault(item.nodeid, []).append(carried.from_frame(self._config, item, frame))

    def say(self, text: str, position: int, reports: Sequence[pytest.TestReport]) -> None:
        """Show what the terminal reporter or a live log says: below what it comes after, if that is not shown yet."""
        telling = [report for report in reports if report.when == "call" or not report.passed]
        # Whoever talks to a debugger is to see at once what pytest says before it.
        talks = getattr(self._config.option, "usepdb", False)
        if not talks and (telling or self.announced < position):
            last = telling[-1] if telling else None
            number = sum(last is not None and report.when == last.when for report in reports)
            place = position if last is None else (last.nodeid, str(last.when), number)
            self._texts.setdefault(place, []).append(text)
        else:
            show(self._config, text)

    def when_its_turn(self, see: Callable[[], None]) -> None:
        """Have something seen, at once or when that has come."""
        if self.is_early:
            self._unseen.append(see)
        else:
            see()

    def its_turn(self) -> None:
        """That has come, and all before is reported."""
        self.is_early = False
        for see in self._unseen:
            see()
        self._unseen.clear()

    def say_all(self) -> None:
        """Show at once all texts that are kept."""
        show(self._config, "".join(text for texts in self._texts.values() for text in texts))
        self._texts.clear()

    # -- what is fired ------------------------------------------------------------------------------------------------

    def start(self, item: pytest.Item, position: int) -> None:
        """Fire logstart of an item, if that was not done."""
        if self.announced < position:
            self.announced = position
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            show(self._config, "".join(self._texts.pop(position, ())))

    def _fire(self, one: Finished, reports: Sequence[pytest.TestReport]) -> None:
        """Fire reports of an item; its warnings, too, where one of their hooks ends the run."""
        try:
            self._fire_reports(one.item, reports)
        except BaseException:
            one.warn()
            raise

    def _fire_reports(self, item: pytest.Item, reports: Sequence[pytest.TestReport]) -> None:
        if item.nodeid in self._noted:  # before junit hears of the item, and after it has heard of all before
            self._noted.pop(item.nodeid).remember(self._config, item)
        for remember in self._carried.pop(item.nodeid, ()):
            remember()
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
            self._reruns.fired(item, report)
            phase = report.nodeid, str(report.when)
            self._fired[phase] += 1
            show(self._config, "".join(self._texts.pop((*phase, self._fired[phase]), ())))

    def cut_off(self, one: Finished) -> None:
        """Fire an item as far as it came: the run ends amid it, or after its last phase."""
        self._fire(one, one.reports)
        if any(report.when == "teardown" for report in one.reports):
            one.end()
        else:
            one.warn()

    def report(self, *, but: int = 0) -> None:
        """Fire what is finished, but for the last ones, until one has the run stop: those after it did not happen.

        Of one that asks for that before its teardown, this is left: it takes along what scopes have to say at theirs.
        """
        while len(self.finished) > but:
            one = self.finished[0]
            self._fire_all_but_last(one)
            if is_stopping(self._session):
                del self.finished[1:]
                return
            del self.finished[0]
            self._fire(one, one.reports)
            one.end()
            if is_stopping(self._session):
                self.finished.clear()

    def _fire_all_but_last(self, one: Finished) -> None:
        self.start(one.item, one.position)
        self._fire(one, one.reports[:-1])
        del one.reports[:-1]

    def report_all_but_last(self) -> None:
        """Fire what is finished, but for the last item's teardown, which scopes that end with it may still change."""
        self.report(but=1)
        for last in self.finished:
            self._fire_all_but_last(last)

    def report_last(self) -> None:
        """Fire the rest of the last."""
        if self.finished:
            one = self.finished.pop()
            self._fire(one, one.reports)
            one.end()
