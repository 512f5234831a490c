"""The open scope sandboxes, from the session's inwards: opened when an item needs them, closed when the next does not.

[session] -> [package] -> [module] -> [class]     each forked from the one before; units are forked from the last
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from _pytest.nodes import Node

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.errors import SetupError, UnavailableError
from pytest_sandbox.model.outcome import KILLING, Ending, Outcome
from pytest_sandbox.model.spec import Limits, Spec, most
from pytest_sandbox.plugin.builtin.generators import Baton
from pytest_sandbox.plugin.builtin.watchdog import Barks
from pytest_sandbox.plugin.controller.needs import Needs
from pytest_sandbox.plugin.controller.scope import Asker, Scope, ScopeListener, Unrunnable
from pytest_sandbox.plugin.inside.scope import scope_body
from pytest_sandbox.plugin.inside.world import World
from pytest_sandbox.plugin.others.coverage import measuring
from pytest_sandbox.plugin.planning import resolve
from pytest_sandbox.plugin.planning.scopes import Unit
from pytest_sandbox.plugin.reporting.book import Book
from pytest_sandbox.plugin.reporting.report import fail, make_failure, origins_for_scope
from pytest_sandbox.sandbox.inside.child import Inside, Next
from pytest_sandbox.sandbox.machine.unmade import of_process
from pytest_sandbox.sandbox.outside.running import Listener, Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from pytest_sandbox.sandbox.wire.frames import Frame

#: What a scope has at least: to fork a sandbox takes 3 processes and some 30 descriptors.
_SCOPE_LEAST = {"pids": 16, "files": 64, "inodes": 64}
#: What each sandbox that is made beside others takes of its scope: an init, its kernel memory, and the page tables of a fork.
_SCOPE_MORE = {"pids": 2, "memory": 4 << 20}
_MORE_MEMORY = ". Fix: raise --sandbox-memory, which the sandboxes of scopes have too"
#: How long a scope may take to be gone after what stood on it, in seconds.
DEATH_TIME = 1.0


class Tree:
    """Which scopes are open, and what they have set up.

    in_order: units come in the order of `units`. Otherwise which of them come, and when, is not known.
    """

    def __init__(
        self,
        world: World,
        supervisor: Supervisor,
        settings: resolve.Settings,
        book: Book,
        units: Sequence[Unit],
        *,
        jobs: int = 1,
        in_order: bool = True,
    ) -> None:
        self._world, self._supervisor, self._book, self._units = world, supervisor, book, units
        self._of = {item: unit for unit in units for item in unit.items}
        # A scope has the run's limits, not those of the test that happens to come first; and no limit of time.
        self._spec: Spec = dataclasses.replace(settings.base.spec, limits=_for_scopes(settings.base.spec.limits, jobs))
        self._jobs = jobs
        self._early: dict[int, list[dict[str, Any]]] = {}
        self.open: list[Scope] = []
        self._torn_down: list[Scope] = []
        self._needs = Needs(world.session, units, self.open, in_order=in_order)
        self.baton = Baton()

    def begin(self, unit: Unit) -> None:
        """Fork the session's sandbox now, before the controller itself runs tests."""
        scope = self._scope(unit.chain[0], unit.items[-1])
        scope.running = self._open_session(scope, ScopeListener(scope, self._world.session, self._supervisor, self))
        self.open.append(scope)

    # -- forking ------------------------------------------------------------------------------------------------------

    def fork(self, unit: Unit, items: Sequence[int], asker: Asker, *, held: bool, **extra: object) -> Running:
        """Open what the unit's chain lacks, have the fixtures set up that it needs, and fork its sandbox. Unrunnable.

        extra: goes into the frame that `inside.unit.unit_body` reads.
        """
        broken = self._needs.why_broken(unit)
        if broken is not None:
            raise broken
        is_open = {scope.node for scope in self.open}
        for node in unit.chain:
            if node not in is_open:
                self._open(unit, items, node, asker)
        parent = next(scope for scope in self.open if scope.node is unit.chain[-1])
        order = {"node": None, "items": list(items), "waits": held}
        return self._start(parent, [(unit, items[0])], items, asker, asker, order | extra, held=held)

    def wait_until_prepared(self) -> None:
        """Serve all until no scope sets anything up."""

        def busy() -> list[Scope]:
            return [scope for scope in self.open if scope.asking and scope.outcome is None]

        while scopes := busy():
            self._supervisor.run_while(lambda: bool(busy()), scopes[0].barks.every)
            for scope in scopes:
                scope.barks.show(scope.running)

    def is_ready_for(self, unit: Unit) -> bool:
        """Whether the unit can be forked as the tree stands: nothing to open, to set up or to change."""
        is_open = {scope.node for scope in self.open if scope.outcome is None}
        if self.ending(unit.items[0]) or any(node not in is_open for node in unit.chain):
            return False
        return not any(
            self._needs.is_broken(need) or any(need.node is scope.node and self._needs.lacks(scope, need) for scope in self.open)
            for _, need in self._needs.within_reach(unit)
        )

    def _scope(self, node: Node, last_item: int) -> Scope:
        return Scope(node, {}, last_item, Barks(self._world.config))

    def _open(self, unit: Unit, items: Sequence[int], node: Node, asker: Asker) -> None:
        if not self.open:
            self.begin(unit)
            return
        scope, parent = self._scope(node, items[-1]), self.open[-1]
        listener = ScopeListener(scope, self._world.session, self._supervisor, self)
        units = [(unit, items[0]), *self._needs.later(unit, node)]
        order = {"node": unit.chain.index(node), "items": None, "opener": self._needs.first_to_run(unit, node, items[0])}
        scope.running = self._start(parent, units, items, listener, asker, order)
        self.open.append(scope)

    def _open_session(self, scope: Scope, listener: ScopeListener) -> Running:
        world, node = self._world, scope.node

        def body(found: Inside) -> int | Next:
            return scope_body(world, node, found)

        try:
            with measuring.sheltered(world.config):
                running = self._supervisor.start_root(self._spec, body, listener)
        except (SetupError, UnavailableError) as error:
            raise pytest.UsageError(f"--sandbox: {error}") from error
        self._supervisor.run_while(lambda: running.layer is None and not running.ended)
        if running.ended:
            raise pytest.UsageError(_explain(running, scope))
        return running

    def _start(
        self,
        parent: Scope,
        units: Sequence[tuple[Unit, int]],
        items: Sequence[int],
        listener: Listener,
        asker: Asker,
        order: Frame,
        *,
        held: bool = False,
    ) -> Running:
        """Have a sandbox forked from an open scope, for the first of the units, when that has what they need: see `Needs`.

        order: what `inside.scope.scope_body` reads.
        """
        unit, had, version = units[0][0], dict(parent.has), parent.version
        for above in self.open:
            above.last_item = items[-1]
        wanted = self._needs.prepare(parent, units)
        prepare, generators = None, self._hand_on(parent)
        if wanted:
            failed = self._world.session.testsfailed
            prepare = {"op": "prepare", "prepare": wanted, "item": items[0], "generators": generators, "failed": failed}
        else:
            order["generators"] = generators
        if parent.running is None or parent.outcome is not None:
            raise self.why_dead(asker, DEATH_TIME) or Unrunnable("the sandbox around it is gone")
        order |= {"unit": self._needs.index(unit), "failed": self._world.session.testsfailed}
        opens = order["node"] is not None
        spec, is_scope = self._spec if opens else unit.spec, opens or unit.can_spawn
        try:
            running = self._supervisor.start(parent.running, spec, listener, scope=is_scope, held=held, prepare=prepare, **order)
        except (SetupError, UnavailableError) as error:
            parent.has, parent.version = had, version  # it has not been asked
            raise Unrunnable(str(error)) from error
        if wanted:
            parent.ask(asker)
        return running

    def _hand_on(self, scope: Scope) -> Frame | None:
        """The generators' state, for a scope that has not got it."""
        state, scope.version = self.baton.since(scope.version), self.baton.version
        return state

    # -- closing ------------------------------------------------------------------------------------------------------

    def ending(self, following: int | None) -> list[Scope]:
        """The open scopes that the item which follows cannot use, innermost first."""
        keep = 0
        ancestors = self._needs.ancestors(following) if following is not None else ()
        unit = self._of.get(following) if following is not None else None  # an item that is not sandboxed has none
        needed = self._needs.within_reach(unit) if unit is not None else ()
        for scope in self.open:
            if scope.node not in ancestors or scope.outcome is not None or scope.spoilt:
                break
            keep += 1
            if any(need.node is scope.node and self._needs.lacks(scope, need) for _, need in needed):
                break  # what stands on it must go before it may change
        return list(reversed(self.open[keep:]))

    def close(self, scope: Scope, last_item: int, *, is_over: bool) -> pytest.TestReport | None:
        """Have a scope tear down; its report, which belongs to the teardown of the last test that ran. is_over: there is none."""
        self.open.remove(scope)
        scope.last_item = last_item
        self._wait_for_the_dying(scope)
        if scope.outcome is None and scope.running is not None:
            unit = self._of.get(last_item)
            scope.running.grant(None if unit is None else unit.spec.limits)
            self._send_close(scope, scope.running)
            while scope.outcome is None:
                self._supervisor.run_while(lambda: scope.outcome is None, scope.barks.every)
                scope.barks.show(scope.running)
        if scope.outcome is None:
            return None
        closed, item = self._closed(scope, scope.outcome), self._world.session.items[scope.last_item]
        return self._book.add_scope(scope.node, scope.outcome, item, closed, is_over=is_over)

    def _closed(self, scope: Scope, outcome: Outcome) -> pytest.TestReport | None:
        """What it has said of its teardown, or what is to be said for it."""
        if scope.closed is None and scope.is_made and not scope.setting_up:
            item = self._world.session.items[scope.last_item]
            text = f"{outcome.sentence}: that ended the sandbox of {scope.name} before it had torn down"
            return make_failure(item, "teardown", text + self._whose_limit(item, outcome), outcome)
        closed, broken = scope.closed, outcome.ending in KILLING or (scope.running and scope.running.problem)
        if broken and closed is not None and not (closed.failed or hasattr(closed, "wasxfail")):
            whose = self._whose_limit(self._world.session.items[scope.last_item], outcome)
            fail(closed, f"{outcome.sentence}: in the sandbox of {scope.name}{whose}", outcome)
        return closed

    def _wait_for_the_dying(self, scope: Scope) -> None:
        """What was made ready for nothing would be told as processes that the scope has left."""
        running = scope.running
        if running is not None:
            self._supervisor.run_while(lambda: scope.outcome is None and self._supervisor.has_below(running), DEATH_TIME)

    def _send_close(self, scope: Scope, running: Running) -> None:
        failed = self._world.session.testsfailed
        running.send({"op": "close", "item": scope.last_item, "generators": self._hand_on(scope), "failed": failed})

    def close_in_a_hurry(self, seconds: float) -> None:
        """After Ctrl-C or an error: kill tests, and let scopes tear down for a while."""
        limit = monotonic() + seconds
        self._supervisor.kill_innermost([scope.running for scope in self.open if scope.running is not None])
        while self.open:
            scope = self.open.pop()
            if scope.outcome is None and scope.running is not None:
                self._send_close(scope, scope.running)
            self._supervisor.run_while(lambda scope=scope: scope.outcome is None, limit - monotonic())  # type: ignore[misc]

    def is_of(self, item: int, unit: int) -> bool:
        """See `Home`."""
        return 0 <= unit < len(self._units) and item in self._units[unit].items

    @property
    def meet(self) -> bool:
        """Whether tests that run at once as the tree stands would meet."""
        return any(scope.meets for scope in self.open)

    def tell_meeting(self, scope: Scope) -> None:
        """See `Home`."""
        if self._jobs > 1:
            self._book.meetings.note(f"{scope.name}, which hold {scope.meets}")

    def break_off(self) -> None:
        """A test was killed, perhaps amid what it had asked for: who comes next would have the answer."""
        for scope in self.open:
            if scope.meets and not scope.spoilt:
                scope.spoilt = True
                self._book.meetings.renew(f"{scope.name}, which hold {scope.meets}")

    def leave(self, scope: Scope, needs: Sequence[tuple[int, int]], failed: Sequence[tuple[int, int]]) -> None:
        """See `Home`. Who needs them next, and none of those that failed before them, has them set up."""
        left, not_had = ([self._needs.at(*place) for place in places] for places in (needs, failed))
        for one in left:
            scope.has.pop(id(one.definition), None)
        for one in not_had:
            scope.failed[id(one.definition)] = one.parameter

    def warn_later(self, item: int, warning: dict[str, Any]) -> None:
        """See `Home`."""
        self._early.setdefault(item, []).append(warning)

    def early_warnings(self, item: int) -> list[dict[str, Any]]:
        """Those of fixtures that scopes have set up for it; once."""
        return self._early.pop(item, [])

    def unshare(self, scope: Scope, item: pytest.Item, name: str, threads: str) -> None:
        """A fixture of an open scope, the one that it sets up or one of this name, has started a thread, which no fork inherits.

        From now on it, and what depends on it, is set up by each sandbox that needs it. The scope ends and is made anew.
        """
        first = self._needs.unshare(name, scope.node, scope.setting_up)
        if first is not None:
            self._book.warn_of_threads(item, first.definition, threads)

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def why_dead(self, asker: Asker, seconds: float) -> Unrunnable | None:
        """Why a scope's sandbox has ended by itself, if one has; a fixture that did that is not set up again.

        seconds: how long to wait for one.
        """
        dead = self._first_dead(asker, seconds)
        if dead is None or dead.outcome is None:
            return None
        what = f"{dead.outcome.sentence}: that ended the sandbox of {dead.name}"
        if dead.setting_up:
            what += f" while it set up fixture {dead.setting_up!r}"
        what += self._whose_limit(asker.item, dead.outcome)
        fix = _MORE_MEMORY if dead.outcome.ending is Ending.OUT_OF_MEMORY and not dead.setting_up else ""
        problem = Unrunnable(f"{what}{fix}", dead.outcome)
        if dead.setting_up:
            self._needs.give_up(dead.setting_up, dead.node, problem)
        return problem

    def _whose_limit(self, item: pytest.Item, outcome: Outcome) -> str:
        return origins_for_scope(item, outcome, self._spec.limits)

    def _first_dead(self, asker: Asker, seconds: float) -> Scope | None:
        """The outermost scope that has ended. What it was making, or held, may be heard of first: wait for the cause."""

        def first() -> Scope | None:
            return next((scope for scope in self.open if scope.outcome is not None), None)

        def is_known() -> bool:
            dead = first()
            if dead is None or dead.outcome is None:
                return False
            return dead.is_refused or (dead.is_made and dead.outcome.status is not None)

        def is_dying() -> bool:
            return any(scope.is_dying for scope in self.open)

        self._supervisor.run_while(lambda: asker.interruption is None and not is_known(), seconds)
        self._supervisor.run_while(lambda: asker.interruption is None and not is_known() and is_dying())
        return first()

    def survives(self, unit: Unit) -> bool:
        """Whether a scope died of a fixture that the unit does not need, but a later one: it can be run all the same."""
        died_of_a_fixture = any(scope.outcome is not None and scope.setting_up for scope in self.open)
        return died_of_a_fixture and self._needs.why_broken(unit) is None

    def drop_dead(self) -> None:
        """Forget scopes that have ended by themselves, and what stood on them."""
        first = next((index for index, scope in enumerate(self.open) if scope.outcome is not None), len(self.open))
        for scope in self.open[first:]:
            if scope.running is not None and scope.outcome is None:
                scope.running.kill(None)
            self._supervisor.run_while(lambda scope=scope: scope.outcome is None)  # type: ignore[misc]
            if scope.outcome is not None:
                item = self._world.session.items[scope.last_item]
                scope.closed = self._book.add_scope(scope.node, scope.outcome, item, scope.closed)
            if scope.closed is not None and scope.closed.failed:
                self._torn_down.append(scope)
        del self.open[first:]

    def torn_down(self) -> list[Scope]:
        """Those that have torn down before their last test, and failed to: nobody may ever set that up again. Once."""
        found, self._torn_down = self._torn_down, []
        return found


def _for_scopes(limits: Limits, jobs: int) -> Limits:
    """The limits with room to make sandboxes, however little tests may have: processes, descriptors and files of its own."""
    least = {name: max(value, few) for name, few in _SCOPE_LEAST.items() if (value := getattr(limits, name)) is not None}
    for name, each in _SCOPE_MORE.items():
        if (value := least.get(name, getattr(limits, name))) is not None:
            least[name] = min(value + (jobs - 1) * each, most(name))
    return dataclasses.replace(limits, timeout=None, cpu_time=None, **least)


def _explain(running: Running, scope: Scope) -> str:
    outcome = scope.outcome
    reason = running.problem or (outcome.sentence if outcome else "it ended at once")
    errors = outcome.stderr.decode("utf-8", "replace").strip() if outcome else ""
    fix = "run pytest --sandbox-doctor, which names what is missing"
    if running.problem is not None and (found := of_process(running.problem)):
        reason, fix = found
    if outcome is not None and outcome.ending is Ending.OUT_OF_MEMORY:
        fix = "raise --sandbox-memory, which the session's own sandbox has too"
    return f"--sandbox: the first sandbox could not be made: {reason}. Fix: {fix}. {errors}".rstrip()
