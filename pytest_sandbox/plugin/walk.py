"""The walk over the units, one after the other; the next sandbox is made ready while one runs, the last one dies meanwhile.

    made ready (held) -> released -> runs -> quiet -> over -> reported

A unit is made ready ahead only if the tree need not change for it, so that it is what it would have been if made in time.
Reports are fired in order, each when the outcome (and so the usage) of its sandbox is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections import deque
from collections.abc import Sequence

import pytest

from pytest_sandbox.model.errors import SandboxError
from pytest_sandbox.plugin import inside, resolve, scopes, settling
from pytest_sandbox.plugin.ledger import Ledger
from pytest_sandbox.plugin.measured import Measured
from pytest_sandbox.plugin.report import Book
from pytest_sandbox.plugin.scope import Unrunnable
from pytest_sandbox.plugin.scopes import Unit
from pytest_sandbox.plugin.telling import Telling
from pytest_sandbox.plugin.tree import Tree
from pytest_sandbox.sandbox import host
from pytest_sandbox.sandbox.supervisor import Supervisor

#: How many sandboxes are made ready while one runs: to make one takes longer than a short test.
AHEAD = 2
#: How long scopes may take to tear down after Ctrl-C, in seconds.
PATIENCE = 10.0


class Walk:
    """One run. A context manager: on exit no sandbox is left."""

    def __init__(
        self,
        session: pytest.Session,
        plans: Sequence[resolve.Plan],
        settings: resolve.Settings,
        book: Book,
        ledger: Ledger,
        measured: Measured | None,
    ) -> None:
        self._session, self._book, self._measured = session, book, measured
        self._spec = settings.base.spec
        self._order = scopes.units(session.items, plans)
        self._units = [entry for entry in self._order if isinstance(entry, Unit)]
        config = session.config
        # OSError: it cannot be made, which is the error of a test that asks for it.
        with contextlib.suppress(AttributeError, OSError):
            config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # or each child makes its own
        keeps = settling.keeps_terminal(config)
        world = inside.World(session, self._units, ledger, keeps_terminal=keeps)
        self._supervisor = _supervisor(self._units, settling.kept_descriptors(config, keeps=keeps))
        self._tree = Tree(world, self._supervisor, settings, book, self._units, measured)
        self._line: deque[Telling] = deque()
        self._ahead: deque[Telling] = deque()

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                with contextlib.suppress(Exception, KeyboardInterrupt):
                    self._tree.close_in_a_hurry(PATIENCE)
            if self._measured is not None:
                self._measured.finish(self._supervisor, self._spec)
        finally:
            self._supervisor.close()

    def all(self) -> None:
        """Every unit and every item that is not sandboxed, in order."""
        if self._units and isinstance(self._order[0], int):
            self._tree.begin(self._units[0])  # no sandbox shall see what tests have done to the controller
        position = 0
        for index, entry in enumerate(self._order):
            if isinstance(entry, Unit):
                position += 1
                following = self._units[position] if position < len(self._units) else None
                self._run_unit(entry, following, _leading_units(self._order[index + 1 : index + 1 + AHEAD]))
            else:
                self._run_here(index, entry)
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _run_here(self, index: int, item_index: int) -> None:
        """An item with enabled=False, in the controller itself."""
        later = next((entry for entry in self._order[index + 1 :] if isinstance(entry, int)), None)
        item = self._session.items[item_index]
        nextitem = None if later is None else self._session.items[later]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)

    # -- one unit -----------------------------------------------------------------------------------------------------

    def _run_unit(self, unit: Unit, following: Unit | None, adjacent: Sequence[Unit]) -> None:
        """Run one; `following` is the next one, `adjacent` those that come at once after this one."""
        items = unit.items
        while items:
            told = self._take(unit, items)
            if self._is_stopping:
                return
            if told.running is not None:
                self._supervisor.release(told.running)
                self._make_ready(adjacent)
                self._supervisor.run_while(lambda told=told: not told.quiet)  # type: ignore[misc]
            if told.unmade is not None and told.interruption is None and not self._fails(told):
                self._line.remove(told)
                continue
            if told.over or not adjacent or self._tree.ending(following):
                self._finish(told, following)
            items = told.remaining if told.over else ()

    def _fails(self, told: Telling) -> bool:
        """Say why a unit could not be run, or False: if a scope died of a fixture that this unit does not need, try anew."""
        problem = told.unmade
        if told.running is not None:
            problem = self._tree.why_dead(told) or problem
        if told.interruption is not None:
            return True
        survives = self._tree.survives(told.unit)
        self._tree.drop_dead()
        if not survives and problem is not None:
            told.fail(problem)
        return not survives

    @property
    def _is_stopping(self) -> bool:
        return bool(self._session.shouldfail or self._session.shouldstop)

    def _take(self, unit: Unit, items: Sequence[int]) -> Telling:
        """The unit's sandbox: the one that was made ready ahead, or a new one."""
        if self._ahead and self._ahead[0].unit is unit and self._ahead[0].items == tuple(items) and not self._ahead[0].over:
            told = self._ahead.popleft()
            self._line.append(told)
            return told
        self._drop_ahead()
        told = self._tell(unit, items)
        self._line.append(told)
        self._news()
        # What is set up now shows, live, below the name of the test that it is set up for.
        self._supervisor.run_while(lambda: self._line[0] is not told and not self._is_stopping)
        if self._is_stopping:
            told.stopped = True
            return told
        told.log_start()
        try:
            told.running = self._tree.fork(unit, items, told, told, held=False)
            told.running.reported = False
        except Unrunnable as problem:
            told.unmade = problem
        return told

    def _tell(self, unit: Unit, items: Sequence[int]) -> Telling:
        return Telling(self._session, unit, items, self._book, self._supervisor, self._news, self._measured)

    def _make_ready(self, following: Sequence[Unit]) -> None:
        """Make the next units' sandboxes while this one runs."""
        for unit in following[len(self._ahead) :]:
            # Items of a shared sandbox count failures for --maxfail, and so must know of all before.
            if len(unit.items) > 1 or not self._tree.is_ready_for(unit):
                return
            told = self._tell(unit, unit.items)
            try:
                told.running = self._tree.fork(unit, unit.items, told, told, held=True)
            except Unrunnable:
                return
            told.running.reported = False
            self._ahead.append(told)

    def _drop_ahead(self) -> None:
        """Sandboxes that were made ready for nothing."""
        for told in self._ahead:
            if told.running is not None:
                told.stopped = True
                told.running.kill(None)
        self._ahead.clear()

    # -- reporting ----------------------------------------------------------------------------------------------------

    def _news(self) -> None:
        """Some unit has said something: report what can be, in order."""
        while self._line:
            told = self._line[0]
            told.report_finished()
            told.announce()
            if self._is_stopping:
                return
            if len(self._line) > 1 and told.over:
                self._line.popleft()
                told.report_all_but_last()
                told.report_last()
                continue
            told.report_finished()
            if self._is_stopping and told.running is not None and not told.over:
                told.stopped = True
                told.running.kill(None)
            return

    def _finish(self, told: Telling, following: Unit | None) -> None:
        """Wait for all that is in line, and report it; before the last teardown close the scopes that end with it."""
        self._supervisor.run_while(lambda: not all(one.over or one.running is None for one in self._line))
        self._news()
        while len(self._line) > 1:  # only where a stop was asked for: what ran after that did not happen
            self._line.pop()
        told = self._line.popleft()
        told.report_all_but_last()
        if self._is_stopping or told.interruption is not None:
            following = None
        ending = self._tree.ending(following)
        if ending:
            self._drop_ahead()
        for scope in ending:
            told.merge(self._tree.close(scope, told.items[max(0, told.position - 1)]))
        told.report_last()
        told.raise_interruption()


def _leading_units(order: Sequence[Unit | int]) -> list[Unit]:
    """Those before the first item that is not sandboxed."""
    end = next((index for index, entry in enumerate(order) if isinstance(entry, int)), len(order))
    return [entry for entry in order[:end] if isinstance(entry, Unit)]


def _supervisor(units: Sequence[Unit], keep: tuple[int, ...]) -> Supervisor:
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    try:
        layout = host.make_layout(host.find_identity(), name, [unit.spec for unit in units])
        return Supervisor(name, dataclasses.replace(layout, keep_descriptors=keep))
    except (OSError, SandboxError) as error:
        raise pytest.UsageError(f"--sandbox: {error}") from error
