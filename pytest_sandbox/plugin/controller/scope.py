"""One open scope sandbox: what it has set up, for whom it works, and what it says. The tree decides what becomes of it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import pytest
from _pytest.nodes import Node

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.plugin.builtin.generators import Baton
from pytest_sandbox.plugin.builtin.interruption import Break, Exit, Internal, Interrupt, Interruption, Raised, Stop
from pytest_sandbox.plugin.builtin.junit import Noted
from pytest_sandbox.plugin.builtin.recorded import warning_from_frame
from pytest_sandbox.plugin.builtin.reports import from_frame
from pytest_sandbox.plugin.builtin.settling import keeps_terminal
from pytest_sandbox.plugin.builtin.terminal import show, show_bytes
from pytest_sandbox.plugin.builtin.tmp import keep_tmp_path, without_room
from pytest_sandbox.plugin.builtin.watchdog import Barks
from pytest_sandbox.plugin.controller.kept import Kept
from pytest_sandbox.plugin.controller.said import (
    Alarm,
    Done,
    Fixture,
    For,
    Hold,
    Left,
    Meets,
    Overran,
    Prepared,
    Text,
    Threaded,
    parse,
)
from pytest_sandbox.plugin.others import carried
from pytest_sandbox.plugin.others.coverage.measured import Account, measured_of
from pytest_sandbox.plugin.planning.scopes import Need
from pytest_sandbox.sandbox.outside.running import Listener, Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from pytest_sandbox.sandbox.wire.frames import Frame


class Asker(Listener, Protocol):
    """A unit's sandbox, as the tree knows it, for which scopes set up: what that took, in seconds, and how it was interrupted."""

    prepared: float
    interruption: Interruption | None

    @property
    def limits(self) -> Limits:
        """Those of its unit, of which each fixture that is set up for it has the time and the CPU time too."""

    @property
    def item(self) -> pytest.Item:
        """The test whose reports, warnings and properties these are."""


class Unrunnable(Exception):  # noqa: N818  # not an error of ours: the test's
    """Why a unit cannot be run: the text is the test's error; outcome is that of the sandbox around it, if that has ended."""

    def __init__(self, text: str, outcome: Outcome | None = None) -> None:
        super().__init__(text)
        self.outcome = outcome


@dataclasses.dataclass(eq=False, slots=True)
class Scope:
    """An open scope sandbox.

    has: the parameter of each fixture set up there, by definition's id; failed: of those that could not be. asking: for whom
    it works, and of: for which item it sets up now, which may be a later one. interruption: what its teardown did to
    the run. warnings: of its teardown. version: of the generators' state that it has. barks: of pytest's watchdog. meets: by what
    its tests would meet. spoilt: whether one of them was killed, which may have left that in any state.
    """

    node: Node
    has: dict[int, object]
    last_item: int
    barks: Barks
    running: Running | None = None
    outcome: Outcome | None = None
    closed: pytest.TestReport | None = None
    interruption: Interruption | None = None
    setting_up: str = ""
    asking: deque[Asker] = dataclasses.field(default_factory=deque)
    of: int | None = None
    warnings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    version: int = 0
    failed: dict[int, object] = dataclasses.field(default_factory=dict)
    meets: str = ""
    spoilt: bool = False

    @property
    def is_made(self) -> bool:
        """Whether there ever was a process of it."""
        return self.running is not None and self.running.pid is not None

    @property
    def is_refused(self) -> bool:
        """Whether it could not be made, by the word of who was to make it: it has died of nothing else."""
        return self.running is not None and self.running.entering.refused

    @property
    def is_dying(self) -> bool:
        """Whether it is on its way to its end, which has a bound."""
        return self.outcome is None and self.running is not None and self.running.end.gone_by is not None

    @property
    def name(self) -> str:
        """For messages."""
        return self.node.nodeid or "the session"

    def ask(self, asker: Asker) -> None:
        """It works for one more, whose time begins with the work; where it is still to be made, with its first word."""
        self.asking.append(asker)
        if len(self.asking) == 1 and self.running is not None and self.running.below.is_here:
            self.running.grant(asker.limits)

    def answer(self) -> Asker:
        """It has done, or given up, what it was asked for first."""
        asker = self.asking.popleft()
        self.setting_up, self.of = "", None
        if self.running is not None:
            self.running.grant(self.asking[0].limits if self.asking else None)
        return asker

    def lacks(self, need: Need) -> bool:
        """Whether a fixture is not set up here, or not with this parameter."""
        return id(need.definition) not in self.has or self.differs(need)

    def has_failed(self, need: Need) -> bool:
        """Whether a fixture could not be set up here with this parameter."""
        key = id(need.definition)
        return key in self.failed and need.has(self.failed[key])

    def differs(self, need: Need) -> bool:
        """Whether a fixture is set up here with another parameter."""
        key = id(need.definition)
        return key in self.has and not need.has(self.has[key])


class Home(Protocol):
    """Where scopes stand: the tree. baton: what generators are handed on by."""

    baton: Baton

    def unshare(self, scope: Scope, item: pytest.Item, name: str, threads: str) -> None:
        """A fixture of this name that the scope sets up, or that another asks for, has started threads."""

    def tell_meeting(self, scope: Scope) -> None:
        """Tests of a scope would meet, if they ran at once."""

    def is_of(self, item: int, unit: int) -> bool:
        """Whether there is such a unit, with this item."""

    def leave(self, scope: Scope, needs: Sequence[tuple[int, int]], failed: Sequence[tuple[int, int]]) -> None:
        """The scope has not set up these needs of units, by index, since others had failed before."""

    def warn_later(self, item: int, warning: dict[str, Any]) -> None:
        """A fixture that is set up early has warned; that belongs to the item it is set up for."""


class ScopeListener:
    """Hears a scope's sandbox; `inside.scope.scope_body` is what speaks."""

    def __init__(self, scope: Scope, session: pytest.Session, supervisor: Supervisor, home: Home) -> None:
        self._scope, self._session, self._supervisor, self._home = scope, session, supervisor, home
        self._config = session.config
        self._measured = measured_of(session.config)
        self._account = Account(self._measured)
        self._shown = 0
        self._killed = 0.0
        self._kept = Kept()

    def on_frame(self, running: Running, frame: Frame) -> None:
        """Not trusted: WireError for what makes no sense."""
        if running.end.abandoned or running.end.killed is not None:
            return  # what it was doing when it met its limit stands
        if frame["op"] in ("fixture", "prepared") and self._has_lost_a_process(running):
            running.kill(None)  # and so the fixture that it was setting up is the one that failed
        else:
            self._hear(running, frame)

    def _has_lost_a_process(self, running: Running) -> bool:
        """Whether the kernel has killed one for memory while a fixture was set up, which that may not have noticed."""
        before, self._killed = self._killed, running.cgroup.figure("oom_kills") or 0
        return bool(self._scope.setting_up) and self._killed > before

    def _hear(self, running: Running, frame: Frame) -> None:
        self._kept.weigh(running, frame)
        scope, said = self._scope, parse(frame)
        asker = scope.asking[0] if scope.asking else None
        item = self._session.items[scope.last_item] if asker is None else asker.item
        match said:
            case Threaded() | Left() | Meets():
                self._hear_of_fixtures(said, item)
            case For():
                scope.of = self._of(said)
            case Fixture(name):
                scope.setting_up = name
                running.grant(None if asker is None else asker.limits)
                running.send({"op": "heard"})
            case Prepared() | Exit() | Interrupt() | Break() | Internal() | Stop():
                self._hear_of_its_work(running, said)
            case Alarm() | Hold() | Overran():
                self._hear_of_limits(running, said)
            case Text(text):
                self._say(running, text)
            case Done():
                pass  # what it leaves running is looked at by others
            case _:
                self._hear_more(running, item, frame)

    def _hear_of_fixtures(self, said: Threaded | Left | Meets, item: pytest.Item) -> None:
        match said:
            case Threaded(fixture, threads):
                self._home.unshare(self._scope, item, fixture, threads)
            case Left(needs, failed):
                self._home.leave(self._scope, needs, failed)
            case Meets(what):
                self._scope.meets = self._scope.meets or what
                self._home.tell_meeting(self._scope)

    def _hear_of_limits(self, running: Running, said: Alarm | Hold | Overran) -> None:
        match said:
            case Alarm(seconds, grace):
                running.clock.set_alarm(seconds, grace)
            case Hold(on):
                self._hold(running, on=on)
            case Overran(output):
                running.overrun(output)

    def _of(self, said: For) -> int | None:
        if said.unit is None:
            return None
        if not self._home.is_of(said.item, said.unit):
            raise WireError(f"item {said.item} is not of unit {said.unit}")
        return said.item

    def _hear_of_its_work(self, running: Running, said: Prepared | Interruption) -> None:
        """It has set up what it was asked for, or is interrupted amid that; or it does something to the run as it tears down."""
        scope = self._scope
        if scope.asking and not isinstance(said, Stop):
            self._has_prepared(running, said)
        elif isinstance(said, Prepared):
            raise WireError("a scope's sandbox has set up what nobody has asked for")
        elif scope.interruption is None or not isinstance(said, Stop):
            scope.interruption = said

    def _has_prepared(self, running: Running, said: Prepared | Raised) -> None:
        """It has set up what it was asked for, or was interrupted amid that."""
        asker = self._scope.answer()
        self._kept, running.evidence.taken = Kept(), 0
        running.talk.forgive()
        self._show(running)
        if isinstance(said, Prepared):
            self._account.restart()
            asker.prepared += said.duration
        else:
            asker.interruption = said

    def _hold(self, running: Running, *, on: bool) -> None:
        """Stop the clock for a debugger, unless the time was over before."""
        if running.clock.dying is None:
            running.clock.hold = on and keeps_terminal(self._config)
            running.clock.resume()
        if on:
            running.send({"op": "held"})

    def _say(self, running: Running, text: str) -> None:
        if self._kept.show(running, text):
            show(self._config, text)

    def _show(self, running: Running) -> None:
        """Show what it has written past its capture since the last time."""
        written = running.written.read_shown(self._shown)
        show_bytes(written)
        self._shown += len(written)

    def _hear_more(self, running: Running, item: pytest.Item, frame: Frame) -> None:
        op = frame["op"]
        if op == "closed":
            self._scope.closed = from_frame(self._config, frame, item)
            self._kept.take(running, frame, self._scope.closed, 0)
        elif op == "warning":
            if self._scope.of is not None:
                its = self._session.items[self._scope.of]
                self._home.warn_later(self._scope.of, warning_from_frame(self._config, frame, its.nodeid))
            else:
                self._scope.warnings.append(warning_from_frame(self._config, frame, item.nodeid))
        elif op == "junit":
            Noted.from_frame(frame).remember(self._config, item)
        elif op == "carried":
            carried.from_frame(self._config, item, {**frame, "ended": False})()
        elif op == "coverage":
            self._account.hear(frame)
        elif op == "generators":
            self._home.baton.take(frame)
            self._scope.version = self._home.baton.version
        else:
            raise WireError(f"a scope's sandbox says {op!r}, which is a test's to say, or nobody's")

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """The scope is gone, by itself or closed."""
        self._show(running)
        self._scope.barks.end(running)()
        if self._measured is not None:
            self._measured.take_files(self._supervisor, running)
        self._scope.outcome = without_room(self._config, outcome)
        keep_tmp_path(self._config, self._supervisor, running)
