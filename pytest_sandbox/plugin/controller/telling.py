"""What one unit's sandbox tells, made into complete sets of pytest's reports.

Whatever a sandbox leaves unsaid about a test when it ends is said for it, with the ending.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.outcome import KILLING, Ending, Outcome
from pytest_sandbox.model.spec import Keep, Limits
from pytest_sandbox.plugin.builtin import interruption, recorded, watchdog
from pytest_sandbox.plugin.builtin.interruption import Break, Exit, Internal, Interrupt, Interruption, Raised, Stop
from pytest_sandbox.plugin.builtin.reports import from_frame, is_of_subtest
from pytest_sandbox.plugin.builtin.settling import keeps_terminal
from pytest_sandbox.plugin.builtin.terminal import show_bytes
from pytest_sandbox.plugin.builtin.tmp import keep_changes, keep_tmp_path
from pytest_sandbox.plugin.controller.kept import Kept
from pytest_sandbox.plugin.controller.requests import Requests
from pytest_sandbox.plugin.controller.said import Alarm, Done, Finish, Hold, Late, Said, Start, Text, parse
from pytest_sandbox.plugin.controller.scope import Scope, Unrunnable
from pytest_sandbox.plugin.controller.turn import Line, Turn
from pytest_sandbox.plugin.others import dependency
from pytest_sandbox.plugin.others.coverage.measured import Account, measured_of
from pytest_sandbox.plugin.others.reruns import Reruns
from pytest_sandbox.plugin.planning.scopes import Unit
from pytest_sandbox.plugin.reporting.book import Book
from pytest_sandbox.plugin.reporting.report import add_outcome, make_report
from pytest_sandbox.plugin.reporting.showing import Finished, Showing
from pytest_sandbox.plugin.reporting.unsaid import completed, fail_after_all, merge
from pytest_sandbox.sandbox.outside.evidence import Failure
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from pytest_sandbox.sandbox.wire.frames import Frame


class Telling:
    """One run of (the rest of) a unit.

    unmade: why there never was a sandbox. position: which of its items runs. reports, warnings: of that one. showing: has those
    before it, and what is not to be seen yet. quiet: nothing more is to be heard but the end. over: nothing of it is left. grows:
    the last of the items runs when `go_on` says which one comes after it. reruns: whether there is another attempt after it.
    following: the item that comes after them, as hooks know it. version: of the generators' state that its sandbox was made with.
    barks: of pytest's watchdog.
    """

    def __init__(
        self,
        session: pytest.Session,
        unit: Unit,
        turn: Turn,
        book: Book,
        supervisor: Supervisor,
        line: Line,
        *,
        is_early: bool = False,
    ) -> None:
        self.session, self.unit, self.items, self.grows = session, unit, turn.items, turn.grows
        self.following = turn.following
        self.reruns = Reruns(session.items[turn.items[0]], turn.earlier, alone=len(turn.items) == 1 and not turn.grows)
        self._book, self._supervisor, self._line = book, supervisor, line
        self._measured = measured_of(session.config)
        self._account = Account(self._measured)
        self._requests = Requests(supervisor, self._measured)
        self.position = 0
        self.reports: list[pytest.TestReport] = []
        self.warnings: list[dict[str, Any]] = []
        self.prepared = 0.0
        self.interruption: Interruption | None = None
        self._at_the_end: list[dict[str, Any]] = []
        self._shown_last = b""
        self.outcome: Outcome | None = None
        self.running: Running | None = None
        self.stopped = False
        self.version = 0
        self.unmade: Unrunnable | None = None
        self.showing = Showing(session, self.reruns, is_early=is_early)
        self._shares_network = False
        self._kept = Kept()
        self._phase_began: float | None = None
        self._done = self._has_failed = False
        self.barks = watchdog.Barks(session.config)

    @property
    def item(self) -> pytest.Item:
        """The item that is running, or the last that was."""
        return self.session.items[self._index]

    @property
    def _index(self) -> int:
        return self.items[min(self.position, len(self.items) - 1)]

    @property
    def _finished(self) -> list[Finished]:
        return self.showing.finished

    @property
    def limits(self) -> Limits:
        """See `Asker`."""
        return self.unit.spec.limits

    @property
    def over(self) -> bool:
        """Whether its outcome is known, or there will be none."""
        return self.outcome is not None or self.unmade is not None

    @property
    def quiet(self) -> bool:
        """Whether all its items passed or were skipped, and only the sandbox's end is left to come."""
        failed = self.running is None or self._has_failed or self.reruns.may_follow
        return self.over or (self._done and not failed and self.interruption is None and self.position == len(self.items))

    @property
    def is_complete(self) -> bool:
        """Whether all its items have run, and nothing is left but to report them."""
        return self.over and self.unmade is None and self.interruption is None and not (self.remaining or self.reruns.again)

    @property
    def is_let_run(self) -> bool:
        """Whether it runs, or has."""
        return self.running is not None and not self.running.entering.held

    @property
    def is_busy(self) -> bool:
        """Whether it takes a job: it runs, and has not said all."""
        return self.is_let_run and not self.quiet

    def let_run(self) -> None:
        """Let a sandbox that is held run, with what has changed since it was made."""
        if self.running is not None and self.running.entering.held:
            handed = {"generators": self._line.baton.since(self.version), "failed": self.session.testsfailed}
            self.running.send({"op": "begin", "following": self.following, **handed})
            self._supervisor.release(self.running)

    def kill(self) -> None:
        """End a sandbox whose next item shall not run."""
        if self.running is not None:
            self.stopped = True
            self.running.kill(None)

    @property
    def is_ready(self) -> bool:
        """Whether it waits for its release, or never will."""
        return self.over or self.running is None or self.running.entering.entered

    @property
    def pauses(self) -> bool:
        """Whether it has run, and goes on when it is told what comes after its last item."""
        return self.grows and not self.over and self.interruption is None and self.position == len(self.items) - 1

    def go_on(self, following: int | None, *, stays: bool) -> None:
        """Let the last item run; `following` comes after it, None: nothing does. stays: in this sandbox."""
        if stays and following is not None:
            self.items = (*self.items, following)
        else:
            self.grows = False
        if self.running is not None and not self.over:
            self.running.send({"op": "next", "item": following, "stays": stays})
            self.running.clock.restart()

    @property
    def remaining(self) -> tuple[int, ...]:
        """What is still to be run, in a fresh sandbox, after this one ended."""
        return () if self.interruption is not None or self.stopped else self.items[self.position :]

    # -- what the sandbox says ----------------------------------------------------------------------------------------

    def on_frame(self, running: Running, frame: Frame) -> None:
        """See `inside.unit.unit_body` for what a unit says. Raises WireError for what it must not say."""
        if running.end.killed is not None or self.stopped:
            return  # a test that has met its limit has failed, also if it ends before it is killed
        self._kept.weigh(running, frame)
        said = parse(frame)
        if said is None:
            self._hear_more(running, frame)
        else:
            self._hear(running, said)

    def _hear(self, running: Running, said: Said) -> None:
        match said:
            case Start(item, shares_network, captured):
                self._expect(item)
                self._phase_began, self._shares_network = monotonic(), shares_network
                self._kept.begin(running, captured)
                self._line.news()
            case Finish(item):
                self._expect(item)
                self._finish(running)
            case Done():
                self._done = True
            case Alarm(seconds, grace):
                running.clock.set_alarm(seconds, grace)
            case Hold(on):
                self._hold(running, on=on)
            case Text(text):
                if self._kept.show(running, text):
                    self.showing.say(text, self.position, self.reports)
            case Exit() | Interrupt() | Break() | Internal() | Stop():
                self.interruption = said
            case Late(traceback):
                self._book.late(self.item, traceback, may_be_early=False)
            case _:
                raise WireError(f"a test's sandbox speaks as a scope's does: {said}")

    def _take_report(self, running: Running, frame: Frame) -> None:
        """Hear a report, or the last one again, which somebody has changed."""
        report = from_frame(self.session.config, frame, self.item)
        if frame.get("again") and self.reports and self.reports[-1].when == report.when:
            self.reports.pop()
        self._kept.take(running, frame, report, len(self.reports))
        self.reports.append(report)
        if self._phase_began is not None and not is_of_subtest(report):
            self._phase_began = monotonic()
        running.evidence.failed |= report.failed
        self._has_failed |= report.failed

    def _finish(self, running: Running) -> None:
        if not any(report.when == "teardown" for report in self.reports):
            raise WireError(
                "it has finished a test without a report of its teardown. Fix, if a plugin or conftest has a "
                "pytest_runtest_protocol of its own: it must call _pytest.runner.runtestprotocol"
            )
        self._next()
        evidence = running.evidence
        evidence.reported = self.position == len(self.items)
        if not evidence.reported:
            done = self._finished[-1].reports
            met = self._supervisor.met_meanwhile(running, failed=any(report.failed for report in done))
            if met is not None:
                self._fail_after_all(met)
                add_outcome(self._finished[-1].item, done, met, None, self.position, shares_network=self._shares_network)
            running.clock.restart()  # a timeout is a test's, not the sandbox's
            evidence.failure, evidence.failed, evidence.taken = Failure(), False, 0
            running.talk.forgive()
            self._account.restart()
            running.send({"op": "counted"})
        self._line.news()

    def _hold(self, running: Running, *, on: bool) -> None:
        """Stop the clock for a debugger; nobody is in one where the terminal is not kept, and a test must not do it."""
        if keeps_terminal(self.session.config):
            running.clock.hold = on
            running.clock.resume()
            if on:  # somebody is to talk to it, and should see what it has said before
                self.showing.say_all()
        if on:
            running.send({"op": "held"})

    def _hear_more(self, running: Running, frame: Frame) -> None:
        op = frame["op"]
        if op == "report":
            self._take_report(running, frame)
        elif op == "warning":
            self._where_warnings_go.append(recorded.warning_from_frame(self.session.config, frame, self.item.nodeid))
        elif op == "junit":
            self.showing.note(self.item, frame)
        elif op == "carried":
            self.showing.carry(self.item, frame)
        elif op == "coverage":
            self._account.hear(frame)
        elif op == "generators":
            self._line.take_generators(frame)
        elif not self.reruns.on_frame(running, frame):
            self._requests.on_frame(running, frame)

    @property
    def _where_warnings_go(self) -> list[dict[str, Any]]:
        if isinstance(self.interruption, Raised):
            return self._at_the_end
        return self.warnings if self.position < len(self.items) or not self._finished else self._finished[-1].warnings

    def _expect(self, item: int) -> None:
        if self.position >= len(self.items) or item != self.items[self.position]:
            raise WireError(f"item {item} is not the one that runs")

    def _next(self) -> None:
        if self.prepared and self.reports:
            self.reports[0].duration += self.prepared  # as plain pytest counts what its first test had set up
            self.prepared = 0.0
        self._line.baton.note(dependency.entries(self.session.config, self._index, self.item, self.reports))
        warnings = [*self._line.early_warnings(self._index), *self.warnings]
        self._finished.append(Finished(self.item, self.position, self.reports, warnings))
        self.reports, self.warnings, self._kept = [], [], Kept()
        self.position += 1
        self._phase_began, self.reruns.is_set_up = None, False

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """The sandbox is gone: whatever was not reported is reported now, with the ending."""
        shown = running.written.read_shown()
        if isinstance(self.interruption, Raised):
            self._shown_last = shown
        elif shown:
            self.showing.when_its_turn(lambda: self._show(shown))
        if self._measured is not None:
            self._measured.take_files(self._supervisor, running)
        self.showing.when_its_turn(self.barks.end(running))
        self.outcome = outcome
        if self.is_let_run and running.entering.entered and not (self._done or self.stopped):
            self._line.break_off()
        if self.position < len(self.items) and not self.stopped and self.interruption is None:
            self._complete_by_ending(running, outcome)
        elif (outcome.ending in KILLING or running.problem is not None) and not (self.reruns.again or self.stopped):
            self._fail_after_all(outcome)
            if len(self.items) == 1 and self._finished:
                self.reruns.after_kill(self._finished[-1].reports)
        self._keep(running, outcome)
        self._line.news()

    def _show(self, written: bytes) -> None:
        """Show what it wrote past its capture, below the name of the test."""
        self.log_start(min(self.position, len(self.items) - 1))
        show_bytes(written)

    def _complete_by_ending(self, running: Running, outcome: Outcome) -> None:
        own = running.end.killed is not None or outcome.ending is Ending.OUT_OF_MEMORY
        if running.problem is None and not own and outcome.status is None:
            # Not its own end: the sandbox around it has gone, or is going. Why, the tree will know in a moment.
            self.unmade = Unrunnable("the sandbox around it ended", outcome)
        elif not running.entering.entered:
            self.unmade = Unrunnable(f"the sandbox could not be made: {running.problem or outcome.sentence}")
        else:
            self._complete(outcome.sentence, outcome)
            self.reruns.after_kill(self._finished[-1].reports)

    def _fail_after_all(self, outcome: Outcome) -> None:
        if self._finished:
            fail_after_all(self._finished[-1].item, self._finished[-1].reports, outcome)

    def _keep(self, running: Running, outcome: Outcome) -> None:
        if not self._finished:
            return
        item, done = self._finished[-1].item, self._finished[-1].reports
        failed = self._has_failed or any(report.failed for report in done)  # of those that share it, too
        made, shares, tests = self._requests.made, self._shares_network, self.position
        self.showing.when_its_turn(lambda: self._book.add_test(item, done, outcome, made, shares_network=shares, tests=tests))
        if tests == len(self.unit.items):
            self._line.ended(self.unit, outcome)
        lost = keep_tmp_path(self.session.config, self._supervisor, running, self.unit.items)
        kept, more = keep_changes(self.session.config, self._supervisor, running, outcome, failed=failed)
        self._book.not_home([f"{item.nodeid}: {what}" for what in (lost, more) if what])
        if kept is not None:
            self.showing.when_its_turn(lambda: self._book.kept(item, done, kept))
        elif running.order.spec.keep is Keep.FAILED:
            self.showing.when_its_turn(lambda: self._book.lost(item, outcome))

    # -- what is said for it ------------------------------------------------------------------------------------------

    def fail(self, problem: Unrunnable) -> None:
        """Report an item that could not be run at all."""
        if self.position < len(self.items):
            self._complete(str(problem), problem.outcome)

    def _complete(self, sentence: str, outcome: Outcome | None) -> None:
        """Make a full set of reports of what the sandbox left unsaid about its current item."""
        if self.reruns.is_set_up and not self.reports:
            self.reports.append(make_report(self.item, "setup"))
        lasted = None if self._phase_began is None else monotonic() - self._phase_began
        self.reports = completed(self.item, self.reports, sentence, outcome, lasted)
        self._next()

    # -- what is reported ---------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Fire logstart for the item that runs now, if it has begun; once."""
        if self._phase_began is not None:
            self.log_start(self.position)

    def log_start(self, position: int = 0) -> None:
        """Fire logstart of an item, if that was not done."""
        if position < len(self.items):
            self.showing.start(self.session.items[self.items[position]], position)

    def report_finished(self) -> None:
        """Fire complete items while the unit still runs."""
        self.showing.report(but=0 if self.position < len(self.items) else 1)

    def merge(self, scope: Scope, closed: pytest.TestReport | None) -> None:
        """Put what a closing scope had to say into the teardown of its last test, as plain pytest does."""
        before, self.interruption = self.interruption, self.interruption or scope.interruption
        if self._finished or self.interruption is not None:
            self._where_warnings_go.extend(scope.warnings)
        if isinstance(before, Raised):
            if closed is not None and closed.failed:
                self._book.late(self.item, closed.longreprtext, may_be_early=True)
            return
        if closed is None or not self._finished or not self._finished[-1].reports:
            return
        last = self._finished[-1]
        merge(last.item, last.reports, closed)
        self._line.baton.note(dependency.entries(self.session.config, self.items[last.position], last.item, last.reports[-1:]))

    def raise_interruption(self) -> None:
        """Do in the controller what a test or fixture did to its process: exit, Ctrl-C, an internal error, a stop."""
        said = self.interruption
        if said is None:
            return
        if isinstance(said, Raised):
            warnings = [*self._line.early_warnings(self._index), *self.warnings, *map(recorded.of_the_run, self._at_the_end)]
            self.showing.cut_off(Finished(self.item, self.position, self.reports, warnings))
            show_bytes(self._shown_last)  # by what was torn down then
        interruption.do(self.item, said)
