"""The open scope sandboxes, from the session's inwards: opened when a unit needs them, closed when the next does not.

    [session] -> [package] -> [module] -> [class]     each forked from the one before; units are forked from the last
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import pytest
from _pytest.nodes import Node

from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.plugin import inside, resolve
from pytest_sandbox.plugin.inside import World
from pytest_sandbox.plugin.report import Book, describe, make_report, show, show_bytes
from pytest_sandbox.plugin.reports import from_frame, record_warning
from pytest_sandbox.plugin.scopes import Need, Unit
from pytest_sandbox.plugin.tmp import keep_tmp_path
from pytest_sandbox.sandbox.child import Inside
from pytest_sandbox.sandbox.running import Listener, Running
from pytest_sandbox.sandbox.supervisor import Supervisor
from pytest_sandbox.sandbox.wire import Frame


class Told(Protocol):
    """For whose unit a scope sets up: what that took, and what it did to the scope's process."""

    prepared: float
    interruption: Frame | None


class Unrunnable(Exception):  # noqa: N818  # not an error of ours: the test's
    """Why a unit cannot be run; the text is the test's error."""


@dataclasses.dataclass(eq=False, slots=True)
class Scope:
    """An open scope sandbox. has: the parameter (None: it has none) of each fixture set up there, by definition's id."""

    node: Node
    has: dict[int, int | None]
    last_item: int
    running: Running | None = None
    outcome: Outcome | None = None
    closed: pytest.TestReport | None = None
    setting_up: str = ""
    told: Told | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return self.node.nodeid or "the session"


class Tree:
    """Which scopes are open, and what they have set up."""

    def __init__(
        self, world: World, supervisor: Supervisor, settings: resolve.Settings, book: Book, units: Sequence[Unit]
    ) -> None:
        self._world, self._supervisor, self._book, self._units = world, supervisor, book, units
        self._index = {id(unit): index for index, unit in enumerate(units)}
        limits = dataclasses.replace(settings.base.spec.limits, timeout=None, cpu_time=None)
        # A scope has the run's limits, not those of the test that happens to come first; and no limit of time.
        self._spec: Spec = dataclasses.replace(settings.base.spec, limits=limits)
        self._broken: dict[int, str] = {}
        self.open: list[Scope] = []

    # -- forking ------------------------------------------------------------------------------------------------------

    def fork(self, unit: Unit, items: Sequence[int], listener: Listener, told: Told, *, held: bool) -> Running:
        """Open what the unit's chain lacks, have the fixtures set up that it needs, and fork its sandbox. Unrunnable."""
        for need in unit.above:
            if id(need.definition) in self._broken:
                raise Unrunnable(self._broken[id(need.definition)])
        for depth in range(len(self.open), len(unit.chain)):
            self._open(unit, depth, told)
        wanted = self._prepare(self.open[-1], [unit])
        return self._order(unit, unit.spec, listener, told, wanted, scope=unit.can_spawn, held=held, items=list(items))

    def is_ready_for(self, unit: Unit) -> bool:
        """Whether the unit can be forked as the tree stands: nothing to open, to set up or to change."""
        if [scope.node for scope in self.open] != list(unit.chain):
            return False
        if any(scope.outcome is not None for scope in self.open):
            return False
        return not any(
            id(need.definition) in self._broken or any(need.node is scope.node and _lacks(scope, need) for scope in self.open)
            for need in unit.above
        )

    def _open(self, unit: Unit, depth: int, told: Told) -> None:
        scope = Scope(unit.chain[depth], {}, unit.items[-1])
        listener = _ScopeListener(self, scope)
        if depth == 0:
            scope.running = self._open_session(scope, listener)
        else:
            wanted = self._prepare(self.open[depth - 1], [unit, *self._later(unit, depth)])
            scope.running = self._order(unit, self._spec, listener, told, wanted, scope=True, node=depth)
        self.open.append(scope)

    def _open_session(self, scope: Scope, listener: _ScopeListener) -> Running:
        world, node = self._world, scope.node

        def body(found: Inside) -> int:
            return inside.scope_body(world, node, found)

        running = self._supervisor.start_root(self._spec, body, listener)
        self._supervisor.run_while(lambda: running.layer is None and not running.ended)
        if running.ended:
            raise pytest.UsageError(_explain(running, scope))
        return running

    def _order(
        self,
        unit: Unit,
        spec: Spec,
        listener: Listener,
        told: Told,
        wanted: list[tuple[int, list[int]]],
        *,
        scope: bool,
        held: bool = False,
        node: int | None = None,
        items: list[int] | None = None,
    ) -> Running:
        for above in self.open:
            above.last_item = unit.items[-1]
        parent = self.open[-1]
        parent.told = told
        if parent.running is None or parent.outcome is not None:
            raise Unrunnable(self.why_dead() or "the sandbox around it is gone")
        order = {"unit": self._index[id(unit)], "node": node, "items": items, "prepare": wanted}
        return self._supervisor.start(parent.running, spec, listener, scope=scope, held=held, **order)

    # -- what is set up where -----------------------------------------------------------------------------------------

    def _prepare(self, scope: Scope, units: Iterable[Unit]) -> list[tuple[int, list[int]]]:
        """What a scope must set up before a sandbox is forked from it, noted as had from now on.

        For the first unit all that it needs. For later ones (that will use a scope to be opened now) what they need
        besides: after the fork the scope must stay as it is, since an overlay's lower layer must not change.
        """
        wanted = []
        for position, unit in enumerate(units):
            indexes = [index for index, need in enumerate(unit.above) if self._is_due(scope, need, first=position == 0)]
            if indexes and not self._is_skipped(unit):
                wanted.append((self._index[id(unit)], indexes))
                scope.has.update((id(unit.above[index].definition), unit.above[index].index) for index in indexes)
        return wanted

    def _is_due(self, scope: Scope, need: Need, *, first: bool) -> bool:
        if need.node is not scope.node or id(need.definition) in self._broken:
            return False
        return _lacks(scope, need) if first else id(need.definition) not in scope.has

    def _later(self, unit: Unit, depth: int) -> Iterator[Unit]:
        """Units after this one that will use the same sandbox at `depth`, for as long as they come one after the other."""
        for later in self._units[self._index[id(unit)] + 1 :]:
            if later.chain[: depth + 1] != unit.chain[: depth + 1]:
                return
            yield later

    def _is_skipped(self, unit: Unit) -> bool:
        """Whether marks say that none of the unit's items will run, so that nothing is set up for it."""
        from _pytest.skipping import evaluate_skip_marks

        try:
            return all(evaluate_skip_marks(self._world.session.items[index]) for index in unit.items)
        except Exception:  # a mark's condition is foreign code; the item itself will say what is wrong with it
            return False

    # -- closing ------------------------------------------------------------------------------------------------------

    def ending(self, following: Unit | None) -> list[Scope]:
        """The open scopes that the following unit cannot use, innermost first."""
        keep = 0
        for scope, node in zip(self.open, following.chain if following is not None else ()):
            if scope.node is not node or scope.outcome is not None:
                break
            keep += 1
            if following is not None and any(need.node is node and _lacks(scope, need) for need in following.above):
                break  # what stands on it must go before it may change
        return list(reversed(self.open[keep:]))

    def close(self, scope: Scope) -> pytest.TestReport | None:
        """Have a scope tear down; its report, which belongs to the teardown of the last test in it."""
        self.open.remove(scope)
        if scope.outcome is None and scope.running is not None:
            scope.running.send({"op": "close", "item": scope.last_item})
            self._supervisor.run_while(lambda: scope.outcome is None)
        if scope.outcome is None:
            return None
        self._book.add_scope(scope.node, scope.outcome)
        if scope.closed is None and not scope.setting_up:
            item = self._world.session.items[scope.last_item]
            text = f"the sandbox of {scope.name} ended before it had torn down: {scope.outcome.sentence}"
            return make_report(item, "teardown", "failed", text, describe(scope.outcome))
        return scope.closed

    def close_in_a_hurry(self, seconds: float) -> None:
        """After Ctrl-C or an error: kill tests, and let scopes tear down for a while."""
        limit = time.monotonic() + seconds
        self._supervisor.kill_innermost([scope.running for scope in self.open if scope.running is not None])
        while self.open:
            scope = self.open.pop()
            if scope.outcome is None and scope.running is not None:
                scope.running.send({"op": "close", "item": scope.last_item})
            while scope.outcome is None and time.monotonic() < limit:
                self._supervisor.step(max(0.0, limit - time.monotonic()))

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def why_dead(self) -> str | None:
        """Why a scope's sandbox has ended by itself, if one has; a fixture that did that is not set up again."""
        dead = next((scope for scope in self.open if scope.outcome is not None), None)
        if dead is None or dead.outcome is None:
            return None
        who = f"the sandbox of {dead.name} ended while it set up fixture {dead.setting_up!r}" if dead.setting_up else f"the sandbox of {dead.name} ended"
        text = f"{who}: {dead.outcome.sentence}\n{describe(dead.outcome)}"
        if dead.setting_up:
            needs = [need for unit in self._units for need in unit.above]
            self._broken |= {id(need.definition): text for need in needs if (need.name, need.node) == (dead.setting_up, dead.node)}
        return text


def _lacks(scope: Scope, need: Need) -> bool:
    return id(need.definition) not in scope.has or scope.has[id(need.definition)] != need.index


class _ScopeListener:
    """Hears a scope's sandbox; `inside.scope_body` is what speaks."""

    def __init__(self, tree: Tree, scope: Scope) -> None:
        self._tree, self._scope = tree, scope
        self._config = tree._world.config

    def on_frame(self, running: Running, frame: Frame) -> None:
        """Not trusted: WireError for what makes no sense."""
        scope, op = self._scope, frame["op"]
        nodeid = self._tree._world.session.items[scope.last_item].nodeid
        if op == "fixture":
            scope.setting_up = str(frame.get("name", ""))
        elif op == "prepared":
            scope.setting_up = ""
            if scope.told is not None:
                scope.told.prepared += float(frame.get("duration") or 0.0)
        elif op == "closed":
            scope.closed = from_frame(self._config, frame, nodeid)
        elif op == "warning":
            record_warning(self._config, frame, nodeid)
        elif op == "terminal":
            show(self._config, str(frame.get("text", "")))
        elif op in ("exit", "interrupt", "internal") and scope.told is not None:
            scope.told.interruption = frame
        elif op == "hold":
            running.hold = bool(frame.get("value"))

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """The scope is gone, by itself or closed."""
        show_bytes(running.read_shown())
        self._scope.outcome = outcome
        keep_tmp_path(self._config, self._tree._supervisor, running, failed=False, used=True)


def _explain(running: Running, scope: Scope) -> str:
    outcome = scope.outcome
    reason = running.problem or (outcome.sentence if outcome else "it ended at once")
    errors = outcome.stderr.decode("utf-8", "replace").strip() if outcome else ""
    fix = "run pytest --sandbox-doctor, which names what is missing"
    return f"--sandbox: the first sandbox could not be made: {reason}. Fix: {fix}. {errors}".rstrip()
