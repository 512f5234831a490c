"""What happens while sandboxes run: each event of each is heard, and each is brought to its end. Imports `entering`, `accounts`.

Outermost:  hello (init's pid) -> cgroup -> ready (layer) -> go -> frames of main ... -> exit -> pid 1 dead -> Outcome
Below:      ready (init's pid, layer, namespaces) -> the main process around it forks -> joined (pid) -> cgroup -> go ...
"""

from __future__ import annotations

import contextlib
import json
import selectors
from collections.abc import Sequence

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.errors import SetupError, WireError, warn_of_teardown
from pytest_sandbox.primitives.interrupts import deferred
from pytest_sandbox.sandbox.cleanup.scratch import remove_or_warn
from pytest_sandbox.sandbox.files.home import Home, Refuses
from pytest_sandbox.sandbox.files.layout import Layout, room_in_common, scratch_of
from pytest_sandbox.sandbox.inside import pid1
from pytest_sandbox.sandbox.outside import entering, watch
from pytest_sandbox.sandbox.outside.accounts import bill, note_failure, outcome_of
from pytest_sandbox.sandbox.outside.cloning import Cloning
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.wire.frames import Frame
from pytest_sandbox.sandbox.wire.words import SEEN, refusal

#: How long what one sandbox says is heard before the others, and the clock, have their turn, in seconds.
_TURN = 0.01
#: How long the controller may be busy without giving those more time who may wait for its answer, in seconds.
_BUSY = 0.1
#: How long it is heard before it is killed for a limit, in seconds.
_TURN_BEFORE_ITS_KILL = 1.0
#: How long who has no business in a sandbox's cgroup may take to die, in seconds.
_SQUATTERS_TIME = 1.0
#: How long what one sandbox has said is still heard after its end, in seconds.
_LAST_TURN = 10.0
#: The longest time to wait for an event, in seconds: epoll_wait(2) counts milliseconds in an int.
_LONGEST_WAIT = 3600.0


class Loop:
    """The sandboxes that run, by name, and the selector that waits for them."""

    def __init__(self, layout: Layout, refuses: Refuses) -> None:
        self._layout = layout
        self._home = Home(layout.common, refuses)
        #: What could not be brought home, in sentences.
        self.not_home: list[str] = []
        self._selector = selectors.DefaultSelector()
        self.running: dict[str, Running] = {}
        self._cloning = Cloning(layout)
        #: When the last step was over.
        self._left = monotonic()

    def close(self) -> None:
        """Wait for nothing any more."""
        self._selector.close()
        self._home.close()

    def descriptors(self) -> set[int]:
        """Those that belong to the controller alone."""
        own = {self._selector.fileno()} if isinstance(self._selector, selectors.EpollSelector) else set[int]()
        return own.union(self._home.tops, *(running.descriptors() for running in self.running.values()))

    def add(self, running: Running) -> None:
        """Hear a sandbox from now on."""
        self.running[running.name] = running
        self._selector.register(running.control, selectors.EVENT_READ, (self._on_control, running))
        self._selector.register(running.talk.wire, selectors.EVENT_READ, (self._on_wire, running))

    def drop(self, running: Running) -> None:
        """Hear nothing of one that could not be begun."""
        self.running.pop(running.name, None)
        self._forget(running)
        if running.parent is not None:
            _answered(running.parent, running)

    def _forget(self, running: Running) -> None:
        for fd in (running.control, running.talk.wire, running.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(fd)  # type: ignore[arg-type]

    def clone(self, running: Running) -> None:
        """Begin a sandbox below one whose main process is there, which has a pid that init knows only if nobody came before."""
        if not running.ended:
            self._cloning.begin(running)

    def step(self, timeout: float | None = None) -> None:
        """Wait for the next event or due time, and serve it."""
        now = self._busy_with(None, self._left)
        due = [(moment, running) for running in self.running.values() if (moment := watch.due(running)) is not None]
        if due:
            wait = max(0.0, min(moment for moment, _ in due) - now)
            timeout = min(wait, _LONGEST_WAIT if timeout is None else timeout)
        unheard = [running for running in self.running.values() if running.talk.is_due]
        self._listen_for_room()
        events = self._selector.select(0 if unheard else timeout)
        with deferred():
            self._serve(events, unheard, due)
        self._left = monotonic()

    def _serve(
        self,
        events: Sequence[tuple[selectors.SelectorKey, int]],
        unheard: Sequence[Running],
        due: Sequence[tuple[float, Running]],
    ) -> None:
        now = heard = monotonic()  # who had ended, or said something, by now is among the events
        for key, _ in events:
            handler, running = key.data
            if not running.ended:
                handler(running)
                now = self._busy_with(running, now)
        for running in unheard:
            if not running.ended:
                self._on_wire(running)
                now = self._busy_with(running, now)
        for moment, running in due:
            if moment <= heard and not running.ended:
                watch.check(running, heard, self._hear_all)
                if running.end.gone_by is not None and heard >= running.end.gone_by and not running.ended:
                    self._give_up(running)
                now = self._busy_with(running, now)

    def _busy_with(self, running: Running | None, began: float) -> float:
        """Since when it is busy, when something was done for one since then; None: between two steps.

        What takes little time adds up. If it took long, as with a test's files at its end, others get more time: those that may
        wait for an answer; not this one, nor who has made it or was made by it.
        """
        now = monotonic()
        if (spent := now - began) <= _BUSY:
            return now if running is None else began
        for other in self.running.values():
            if self._may_wait(other) and (running is None or not (other.is_around(running) or running.is_around(other))):
                other.clock.excuse(spent)
        return now

    def _may_wait(self, running: Running) -> bool:
        """Whether it has said something that nobody has heard yet, or one that was made by it, for whose end it may wait.

        A scope does not wait for its tests, but has no limit either while they run.
        """
        return running.talk.is_unheard or any(one.is_unheard for one in self.running.values() if one.parent is running)

    def _listen_for_room(self) -> None:
        """Be woken too when a sandbox for which frames wait can take more of them."""
        for running in self.running.values():
            talk = running.talk
            if talk.outbox.waiting is not talk.crowded:
                talk.crowded = talk.outbox.waiting
                key = self._selector.get_map().get(talk.wire)
                if key is not None:
                    room = selectors.EVENT_WRITE if talk.crowded else 0
                    self._selector.modify(talk.wire, selectors.EVENT_READ | room, key.data)

    def _on_control(self, running: Running) -> bool:
        """Hear what init says; whether there may be more."""
        said = running.packet_of_init()
        if said is None:
            return False
        packet, pid, descriptors = said
        if not packet:
            self._selector.unregister(running.control)
            running.ends()
            if running.pidfd is None:
                self._finish(running)
            return False
        self._word(running, packet, pid or 0, descriptors)
        return True

    def _word(self, running: Running, packet: bytes, pid: int, descriptors: list[int]) -> None:
        kind = packet[:1]
        if kind == b"h":
            self._meet(running, pid)
            entering.admit(running, pid)
        elif kind == b"r":
            self._ready(running, pid, descriptors)
        elif kind == b"f":
            failed, problem = pid1.failure(packet, running.entering.recipe)
            victim = running.below.clones.get(failed) if failed is not None else running
            if victim is None:  # it has ended meanwhile
                return
            victim.entering.refused = True
            victim.fail(problem)
            if victim.pidfd is None:  # nobody can tell its end
                self._finish(victim)
        elif kind == b"F":
            running.problem = refusal(json.loads(packet[1:]))
        else:
            running.words.hear(packet)
            if running.last_words is not None:
                running.ends()

    def _meet(self, running: Running, pid: int) -> None:
        entering.meet(running, pid)
        if running.pidfd is not None:
            self._selector.register(running.pidfd, selectors.EVENT_READ, (self._finish, running))

    def _ready(self, running: Running, pid: int, descriptors: list[int]) -> None:
        if running.pidfd is None:
            self._meet(running, pid)
        if running.parent is not None:
            _answered(running.parent, running)
        try:
            entering.ready(running, descriptors, has_common=bool(self._layout.common))
        except WireError as error:
            self._lies(running, error)

    def release(self, running: Running) -> None:
        """Let a sandbox that was held run; its clock starts now."""
        try:
            entering.release(running)
        except WireError as error:
            self._lies(running, error)

    def _hear_all(self, running: Running) -> None:
        """Take in what it has said by now, before it is killed for a limit."""
        self._on_wire(running, _TURN_BEFORE_ITS_KILL, to_the_end=True)

    def _on_wire(self, running: Running, turn: float = _TURN, *, to_the_end: bool = False) -> None:
        end = monotonic() + turn
        if running.main is None:
            running.main = running.talk.joiner()
        try:
            if not running.entering.entered and running.parent is not None and entering.join(running):
                return
            running.talk.outbox.flush()
            for frame in running.talk.frames(to_the_end=to_the_end):
                self._frame(running, frame)
                if monotonic() > end:
                    break
        except WireError as error:
            self._lies(running, error)
        if not running.ended and running.talk.silent and not running.talk.is_due:
            with contextlib.suppress(KeyError):
                self._selector.unregister(running.talk.wire)
            if not running.entering.entered:
                entering.desert(running)

    def _frame(self, running: Running, frame: Frame) -> None:
        if frame["op"] == "refused":
            name = str(frame.get("name"))
            if name not in running.below.ordered and name not in running.below.gone:
                raise WireError("it refuses what was not asked of it")
            running.below.ordered.discard(name)
            child = self.running.get(name)
            if child is not None:
                child.entering.refused = True
                child.fail_unforked(refusal(frame))
            return
        if frame["op"] == "joined":
            return
        if frame["op"] in ("here", "ripe", "dropped"):
            self._on_children(running, frame)
            return
        if frame["op"] == "errno":
            _on_failure(running, _number(frame))
            return
        if frame["op"] == "done":
            if running.end.gone_by is None:  # of an empty cgroup there is nothing to be told
                running.evidence.memory = running.cgroup.snapshot()
            running.clock.prolong()
            running.send({"op": "bye"})
        elif frame["op"] == "raised":
            running.evidence.failed = True
        running.listener.on_frame(running, frame)

    def _on_children(self, running: Running, frame: Frame) -> None:
        """Main is there, or is as a sandbox to be made below it wants it ("ripe"), or cannot be made so ("dropped")."""
        running.below.is_here = True
        if running.end.killed is not None:  # nothing is made any more below what has met its limit
            return
        if frame["op"] != "here":
            name = str(frame.get("name"))
            if name not in running.below.preparing:
                raise WireError("it speaks of what was not asked of it")
            running.below.preparing.discard(name)
            if frame["op"] == "dropped":
                running.below.waiting = [child for child in running.below.waiting if child.name != name]
                if name in self.running:
                    self._finish(self.running[name])
        if running.below.may_clone:
            children, running.below.waiting = running.below.waiting, []
            for child in children:
                self._clone_late(child)

    def _clone_late(self, running: Running) -> None:
        try:
            self.clone(running)
        except (OSError, ValueError) as error:
            running.problem = SetupError.of("begin a sandbox", error)
            self._finish(running)

    def _lies(self, running: Running, error: WireError) -> None:
        running.talk.hush()
        running.fail_unforked(error)
        with contextlib.suppress(KeyError):
            self._selector.unregister(running.talk.wire)
        if running.pidfd is None and not running.ended:  # whoever was to make it lies in its stead
            self._finish(running)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _finish(self, running: Running) -> None:
        """pid 1 is dead, and so is everything of its namespace: read what it used, and remove what was made for it."""
        end = monotonic() + _LAST_TURN
        try:
            for frame in running.talk.frames(to_the_end=True):
                self._frame(running, frame)
                if monotonic() > end:  # somebody else holds its end of the socket, and goes on talking
                    break
        except WireError as error:
            running.problem = running.problem or error
        while running.last_words is None and running.control in self._selector.get_map() and self._on_control(running):
            continue  # its last words may still be unread
        if running.ended:
            return
        running.ended = True
        if not running.entering.entered:
            running.problem = running.problem or entering.why_not(running)
        del self.running[running.name]
        if running.parent is not None:
            _answered(running.parent, running)
            running.parent.below.ordered.discard(running.name)
            running.parent.below.gone.append(running.name)
        self._forget(running)
        with contextlib.ExitStack() as last:
            last.callback(self._finish_unmade, running)
            last.callback(running.close)
            last.callback(self._bring_home, running)
            last.callback(self._remove_scratch, running)
            last.callback(self._remove_cgroup, running)
            bill(running)
            outcome = outcome_of(running, self._layout, self.layers_below(running))
            running.listener.on_end(running, outcome)

    @staticmethod
    def _remove_cgroup(running: Running) -> None:
        """The main process around it had a way into its cgroups, for its fork: who is there still has no business there."""
        if not running.cgroup.remove_empty():
            if running.parent is not None and running.cgroup.processes():
                running.cgroup.kill(_SQUATTERS_TIME)
            running.cgroup.remove()

    def _finish_unmade(self, running: Running) -> None:
        """What was to be made below it, and never was: nobody is left to make it."""
        for child in [child for child in self.running.values() if child.parent is running and child.pid is None]:
            self._finish(child)

    def _give_up(self, running: Running) -> None:
        """Go on without one that does not die: the kernel holds a process of it, for a disk say, or somebody has frozen it."""
        pids = ", ".join(map(str, running.cgroup.processes()[:10])) or str(running.pid)
        why = "processes that wait in the kernel, or that a freezer (cgroup v1) has stopped, do not die before they go on"
        warn_of_teardown(f"{running.name} cannot be killed, with pids {pids}: {why}")
        running.drop_common()
        self._finish(running)

    def _bring_home(self, running: Running) -> None:
        """Everybody is gone who could write to the directories that the sandboxes had in common."""
        if running.common is not None:
            self.not_home += self._home.bring(running.common, room_in_common(running.order.spec.limits)[0])

    def _remove_scratch(self, running: Running) -> None:
        order = running.order
        if (own := scratch_of(self._layout, order.spec, order.name, scope=order.scope)) is not None:
            remove_or_warn(own)

    def layers_below(self, running: Running) -> tuple[int, ...]:
        """The layers of the sandboxes around it, nearest first."""
        found, outer = list[int](), running.parent
        while outer is not None:
            if outer.layer is not None:
                found.append(outer.layer)
            outer = outer.parent
        return tuple(found)


def _on_failure(running: Running, number: int) -> None:
    full = note_failure(running, number)
    if number in SEEN:
        if full:  # its limit is what ends it, and what it has yet to say is of that
            running.clock.prolong()
        running.send({"op": "noted", "full": full})


def _number(frame: Frame) -> int:
    """Of an errno. WireError for none."""
    if type(number := frame.get("errno")) is not int:
        raise WireError(f"the errno of a frame is {type(number).__name__}")
    return number


def _answered(parent: Running, child: Running) -> None:
    """Nothing more can be heard of a clone by its number."""
    for number in [number for number, clone in parent.below.clones.items() if clone is child]:
        del parent.below.clones[number]
