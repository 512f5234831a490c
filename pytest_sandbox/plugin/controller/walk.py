"""The walk over the units, one after the other; the next ones are made ready or run while one runs, the last one dies meanwhile.

    made (held) -> let run -> runs -> quiet -> over -> reported

Reports are fired in order, each when the outcome (and so the usage) of its sandbox is known.

    all    the whole run, whose order is known
    one    the next item, by somebody else's order (pytest-xdist's), of which only the item after it is known. It is reported
           when `one` returns. What belongs into one sandbox and comes one after the other is in one: it waits for what comes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_sandbox.model.errors import SandboxError
from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.plugin.builtin import settling
from pytest_sandbox.plugin.builtin.generators import Baton
from pytest_sandbox.plugin.builtin.ledger import Ledger
from pytest_sandbox.plugin.builtin.tmp import Numbers, make_room, put_back
from pytest_sandbox.plugin.controller.admission import Admission
from pytest_sandbox.plugin.controller.ahead import Ahead
from pytest_sandbox.plugin.controller.here import Here
from pytest_sandbox.plugin.controller.row import Row
from pytest_sandbox.plugin.controller.scope import Unrunnable
from pytest_sandbox.plugin.controller.telling import Telling
from pytest_sandbox.plugin.controller.tree import DEATH_TIME, Tree
from pytest_sandbox.plugin.controller.turn import Turn
from pytest_sandbox.plugin.inside.world import World
from pytest_sandbox.plugin.others.coverage.measured import measured_of
from pytest_sandbox.plugin.planning import cached, resolve
from pytest_sandbox.plugin.planning.scopes import Unit
from pytest_sandbox.plugin.reporting.book import Book
from pytest_sandbox.plugin.reporting.progress import Progress
from pytest_sandbox.sandbox.files.home import Refuses
from pytest_sandbox.sandbox.machine import host, probes
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from pytest_sandbox.sandbox.wire.frames import Frame

#: How long scopes may take to tear down after Ctrl-C, in seconds.
PATIENCE = 10.0
#: How long a test may take to tear down what is its own, before that, in seconds.
INTERRUPT_TIME = 3.0


class Walk:
    """One run. A context manager: on exit no sandbox is left. here: runs what is not sandboxed."""

    def __init__(
        self,
        session: pytest.Session,
        order: Sequence[Unit | int],
        settings: resolve.Settings,
        book: Book,
        ledger: Ledger,
        *,
        jobs: int = 1,
        in_order: bool = True,
    ) -> None:
        self._session, self._book, self._measured = session, book, measured_of(session.config)
        self._spec = settings.base.spec
        self._order = order
        self._units = [entry for entry in self._order if isinstance(entry, Unit)]
        self._of = {item: unit for unit in self._units for item in unit.items}
        # With somebody else's order, each is put right when its turn comes.
        firsts = [entry.items[0] if isinstance(entry, Unit) else entry for entry in self._order]
        self._after: dict[Unit | int, int | None] = dict(zip(self._order, (*firsts[1:], None), strict=True))
        config = session.config
        # OSError: it cannot be made, which is the error of a test that asks for it.
        with contextlib.suppress(AttributeError, OSError):
            config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # or each child makes its own
        keeps = settling.keeps_terminal(config)
        self._undo, self._numbers = contextlib.ExitStack(), Numbers(session.items)
        world = World(session, self._units, ledger, self._numbers, keeps_terminal=keeps)
        self._supervisor = _supervisor(self._units, settling.kept_descriptors(config, keeps=keeps), cached.refuses(config))
        self._tree = Tree(world, self._supervisor, settings, book, self._units, jobs=jobs, in_order=in_order)
        self.here = Here(session, world.generators, self.baton)
        self._progress = Progress(config, jobs)
        self._row = Row(session)
        self._jobs, self._admission = jobs, Admission(session, jobs)
        self._ahead = Ahead(
            self._make_ready,
            self._tree,
            self._supervisor,
            self._admission,
            jobs=jobs,
            counts_failures=jobs == 1 or _counts(config),
        )

    def __enter__(self) -> Walk:
        self._undo.enter_context(self._numbers.given())
        with contextlib.suppress(OSError):  # which was said above, or is told by what is lost
            make_room(self._session.config, self._numbers)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = None
        try:
            if kind is KeyboardInterrupt:
                with contextlib.suppress(Exception, KeyboardInterrupt):
                    interrupted = self._interrupt()
            if kind is not None or self._tree.open:  # as where somebody else has stopped the run between two items
                with contextlib.suppress(Exception, KeyboardInterrupt):
                    self._tree.close_in_a_hurry(PATIENCE)
            if self._measured is not None:
                self._measured.finish(self._supervisor, self._spec)
            self._admission.save()
        finally:
            with self._undo:
                self._undo.callback(put_back, self._session.config)
                self._undo.callback(lambda: self._book.not_home(self._supervisor.not_home))
                self._supervisor.close()
        if interrupted is not None:
            interrupted.raise_interruption()  # where the test was, and not where the controller waited for it

    def _interrupt(self) -> Telling | None:
        """Have the running test raise KeyboardInterrupt, and tear down what is its own; None where it does not.

        Whoever has run before it, and whose sandbox was still dying, is reported.
        """
        told = self._row.units[-1] if self._row.units else None
        if told is None:
            return None
        self._ahead.drop()
        if told.running is not None and told.running.entering.entered and not told.over:
            told.running.interrupt()
        self._supervisor.run_while(
            lambda: any(one.running is not None and not one.over for one in self._row.units), INTERRUPT_TIME
        )
        self.news()
        if told.interruption is not None:
            return told
        if told.over:
            told.showing.report_all_but_last()
            told.showing.report_last()
        return None

    def begin(self) -> None:
        """Make the session's sandbox now: none shall see what becomes of the controller from here on."""
        if self._units:
            self._tree.begin(self._units[0])

    def all(self) -> None:
        """Every unit and every item that is not sandboxed, in order."""
        self.begin()
        position = 0
        for index, entry in enumerate(self._order):
            if isinstance(entry, Unit):
                position += 1
                following = self._units[position] if position < len(self._units) else None
                adjacent = _leading_units(self._order[index + 1 : index + 1 + self._ahead.reach])
                self._run_unit(entry, entry.items, None if following is None else following.items[0], adjacent)
            else:
                self._numbers.begin(entry, 0)
                later = next((one for one in self._order[index + 1 :] if isinstance(one, int)), None)
                self.here.run(entry, self._after[entry], later, self._session.config.hook.pytest_runtest_protocol)
            self._stop_if_asked()

    def one(self, index: int, following: int | None) -> bool:
        """Run the item of this index; the one of index `following` comes next, None: it is the last. False: not sandboxed."""
        unit, after = self._of.get(index), None if following is None else self._of.get(following)
        if unit is None:
            return False
        shared = after is unit
        told = self._row.units[0] if self._row.units else None
        if told is not None and told.unit is unit:
            told.go_on(following, stays=shared)
        self._after[unit] = following
        items = (index, following) if shared and following is not None else (index,)
        self._run_unit(unit, items, following, () if shared or after is None else (after,), alone=True, grows=shared)
        # Nobody serves them until the next item is here.
        self._ahead.wait_until_ready()
        return True

    def is_sandboxed(self, index: int | None) -> bool:
        """Whether an item of this index runs in a sandbox."""
        return index in self._of

    def _stop_if_asked(self) -> None:
        if self._is_stopping and self._row.units:
            self._finish(None)
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    @property
    def baton(self) -> Baton:
        """See `Line`."""
        return self._tree.baton

    def _serve(self, told: Telling, following: Sequence[Unit]) -> None:
        """Wait until it has run, or pauses; look now and then whether pytest's watchdog has barked at it, and who may run too."""

        def runs() -> bool:
            return not told.quiet and not told.pauses

        self._ahead.fill(told, following)
        every = min((seconds for seconds in (told.barks.every, self._progress.every) if seconds is not None), default=None)
        while runs():
            self._supervisor.run_while(lambda: runs() and not self._ahead.has_room(told), every)
            begun = ((one.item, one.running) for one in self._ahead.running(told))
            self._progress.show((item, running.clock.started) for item, running in begun if running is not None)
            told.barks.show(told.running)
            if runs() and self._ahead.has_room(told):  # else the room is for the one whose turn comes next
                self._ahead.fill(told, following)

    # -- one unit -----------------------------------------------------------------------------------------------------

    def _run_unit(
        self,
        unit: Unit,
        items: Sequence[int],
        following: int | None,
        adjacent: Sequence[Unit],
        *,
        alone: bool = False,
        grows: bool = False,
    ) -> None:
        """Run these items of one; `following` is the item that comes next, `adjacent` the units that come at once after this one.

        alone: only the first of the items, and report it now. grows: the others are still to come, see `Telling`.
        """
        earlier = 0
        while items:
            self._ahead.make_room(unit)
            told = self._take(unit, Turn(tuple(items), grows, earlier, self._after[unit]))
            if self._is_stopping:
                return
            if told.running is not None:
                self._let_run(told)
                # What scopes cannot set up for it they will not have for the next ones, either.
                self._tree.wait_until_prepared()
                self._serve(told, adjacent)
            if told not in self._row.units:
                return
            if told.unmade is not None and told.interruption is None and not self._fails(told):
                self._row.units.remove(told)
                continue
            if told.pauses:
                if not self._is_stopping:
                    return
                told.kill()
            if told.reruns.again:
                items, earlier = told.items, told.reruns.earlier + 1
                self._finish(items[0])
                self._supervisor.run_while(lambda: True, told.reruns.delay)
                continue
            waits = told.over and (self._jobs == 1 or not told.is_complete)
            if alone or waits or not adjacent or self._tree.ending(following):
                self._finish(following)
            items = told.remaining if told.over and not alone else ()

    def _let_run(self, told: Telling) -> None:
        """Let it run, if it does not; where output shows at once, when all before is reported."""
        if getattr(self._session.config.option, "capture", "fd") in ("no", "tee-sys"):
            self._supervisor.run_while(lambda: not self._is_stopping and self._row.units[0] is not told)
            told.log_start()
        told.let_run()

    def _fails(self, told: Telling) -> bool:
        """Say why a unit could not be run, or False: if a scope died of a fixture that this unit does not need, try anew."""
        problem = told.unmade
        if told.running is not None:
            problem = self._tree.why_dead(told, 0.0 if told.running.entering.refused else DEATH_TIME) or problem
        if told.interruption is not None:
            return True
        survives = self._tree.survives(told.unit)
        self._tree.drop_dead()
        self._ahead.let_go()
        if not survives and problem is not None:
            told.fail(problem)
        return not survives

    @property
    def _is_stopping(self) -> bool:
        return self._row.is_stopping

    def _take(self, unit: Unit, turn: Turn) -> Telling:
        """The unit's sandbox: the one that waits for this, or was made ready ahead, or a new one."""
        if self._row.units and self._row.units[0].unit is unit and self._row.units[0].items[-len(turn.items) :] == turn.items:
            return self._row.units[0]
        early = self._ahead.take(unit, turn.items)
        if early is not None:
            early.following = turn.following
            self._row.units.append(early)
            if self._jobs > 1:
                self.news()  # nothing may be left to be heard of it, or of the one before
            return early
        if self._jobs == 1:
            self._ahead.drop()
        elif self._tree.is_ready_for(unit):
            self._ahead.forget()
        else:
            self._ahead.let_go()
        told = self._tell(unit, turn)
        self._row.units.append(told)
        self.news()
        # What is set up now shows, live, below the name of the test that it is set up for.
        self._supervisor.run_while(lambda: not self._is_stopping and self._row.units[0] is not told)
        if self._is_stopping:
            told.stopped = True
            return told
        told.log_start()
        try:
            told.running = self._fork(told, turn, held=False)
        except Unrunnable as problem:
            told.unmade = problem
        return told

    def _tell(self, unit: Unit, turn: Turn, *, is_early: bool = False) -> Telling:
        return Telling(self._session, unit, turn, self._book, self._supervisor, self, is_early=is_early)

    def _fork(self, told: Telling, turn: Turn, *, held: bool) -> Running:
        extra = {"grows": turn.grows, "earlier": turn.earlier, "following": turn.following}
        running = self._tree.fork(told.unit, turn.items, told, held=held, **extra)
        running.evidence.reported, told.version = False, self.baton.version
        return running

    def _make_ready(self, unit: Unit) -> Telling | None:
        """Make a unit's sandbox before its turn; None where that cannot be."""
        turn = Turn(unit.items, following=self._after[unit])
        told = self._tell(unit, turn, is_early=True)
        try:
            told.running = self._fork(told, turn, held=True)
        except Unrunnable:
            return None
        return told

    def take_generators(self, frame: Frame) -> None:
        """See `Line`. Of tests that run at the same time none comes after another: each has what its scope has left."""
        (self.baton if self._jobs == 1 else Baton()).take(frame)

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """See `Line`."""
        self._admission.note(unit, outcome)

    def break_off(self) -> None:
        """See `Line`."""
        self._tree.break_off()

    # -- reporting ----------------------------------------------------------------------------------------------------

    def news(self) -> None:
        """See `Line`."""
        self._row.news()

    def early_warnings(self, item: int) -> list[dict[str, Any]]:
        """See `Line`."""
        return self._tree.early_warnings(item)

    def _finish(self, following: int | None) -> None:
        """Wait for all that is in line, and report it; before the last teardown close the scopes that end with it."""
        self._supervisor.run_while(lambda: not all(one.over or one.running is None for one in self._row.units))
        told = self._row.take_last()
        if told is None:
            return
        if self._is_stopping or told.interruption is not None:
            following = None
        ending = self._tree.ending(following)
        if ending and self._is_stopping:
            self._ahead.drop()
        elif ending:
            self._ahead.let_go()
        for scope in self._tree.torn_down():
            told.merge(scope, scope.closed)
        for scope in ending:
            last, is_over = told.items[max(0, told.position - 1)], not told.showing.finished
            told.merge(scope, self._tree.close(scope, last, is_over=is_over))
        with self._row.reporting():
            told.showing.report_last()
        told.raise_interruption()


def _counts(config: pytest.Config) -> bool:
    """Whether the run stops at a number of failures, or a plugin may stop it at one."""
    return bool(config.option.maxfail) or bool(getattr(config.option, "stepwise", False))


def _leading_units(order: Sequence[Unit | int]) -> list[Unit]:
    """Those before the first item that is not sandboxed."""
    end = next((index for index, entry in enumerate(order) if isinstance(entry, int)), len(order))
    return [entry for entry in order[:end] if isinstance(entry, Unit)]


def _supervisor(units: Sequence[Unit], keep: tuple[int, ...], refuses: Refuses) -> Supervisor:
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    try:
        layout = host.make_layout(probes.find_identity(), name, [unit.spec for unit in units])
        return Supervisor(name, dataclasses.replace(layout, keep_descriptors=keep), refuses)
    except (OSError, SandboxError) as error:
        raise pytest.UsageError(f"--sandbox: {error}") from error
