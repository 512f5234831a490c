"""One sandbox as the controller sees it while it lives. Imports `model`, `primitives`, `ends` and `outbox`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from pytest_sandbox._linux import proc
from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.model.errors import SandboxError, WireError
from pytest_sandbox.model.outcome import Ending, Outcome
from pytest_sandbox.primitives.cgroups import Cgroup, MemorySnapshot
from pytest_sandbox.primitives.process import STACKS_SIGNAL
from pytest_sandbox.sandbox import ends
from pytest_sandbox.sandbox.child import Descriptors, Order
from pytest_sandbox.sandbox.outbox import Outbox
from pytest_sandbox.sandbox.pid1 import LastWords, Recipe, signal_main
from pytest_sandbox.sandbox.states import Budget, Dying, Failure, Timer, Told
from pytest_sandbox.sandbox.wire import Decoder, Frame

#: How long a sandbox that is ending may take to be gone, in seconds; then the run goes on without it. (2,000 processes: 2 s.)
GONE_TIME = 60.0
#: How long a kill waits for the main process around it to have forked into it, in seconds: that one may be hostile.
FORK_TIME = 10.0


@dataclasses.dataclass(slots=True)
class Pending:
    """What a sandbox is to get: inner is init's end of its socket, the rest is main's."""

    extra: Frame
    descriptors: Descriptors
    tasks: tuple[int, ...]
    inner: Socket

    def own(self) -> tuple[int, ...]:
        """Those of which the controller has no further use; main's files it reads at the end."""
        return self.descriptors.wire, *self.tasks

    def all(self) -> set[int]:
        """The same, with init's."""
        return {*self.own(), self.inner.fileno()}

    def close(self) -> None:
        """Close them."""
        self.inner.close()
        for fd in self.own():
            os.close(fd)


@dataclasses.dataclass(slots=True)
class Below:
    """What a sandbox is to those that are to be made below it.

    is_here: main has said that it is there. netlink: asks who listens in its network. preparing: names of those for which
    main sets something up. waiting: those to be cloned when it may be. clones: by number, those of the `cloned` ones that
    pid 1 was told to clone and of which nothing was heard yet. ordered, gone: names of those that main was told to fork into,
    and of the last ones that have ended: what it says of them may come late.
    """

    is_here: bool = False
    netlink: Socket | None = None
    preparing: set[str] = dataclasses.field(default_factory=set)
    waiting: list[Running] = dataclasses.field(default_factory=list)
    clones: dict[int, Running] = dataclasses.field(default_factory=dict)
    cloned: int = 0
    ordered: set[str] = dataclasses.field(default_factory=set)
    gone: deque[str] = dataclasses.field(default_factory=lambda: deque(maxlen=64))

    @property
    def may_clone(self) -> bool:
        """Whether one can be begun: main is there, and changes nothing of what it would stand on."""
        return self.is_here and not self.preparing


class Listener(Protocol):
    """Who wants to know what a sandbox says and how it ended."""

    def on_frame(self, running: Running, frame: Frame) -> None:
        """Main said something. Not trusted."""

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """Nothing of the sandbox is left."""


@dataclasses.dataclass(eq=False, slots=True)
class Running:
    """Descriptors, cgroup, clock and last words of one sandbox.

    control, wire: the controller's ends. allowed: its time, and timer: what it has set itself. hold: neither ends (a debugger).
    cpu: its CPU time.
    dying: what it does when one of them is over. next_look: when its output and CPU time are looked at, on the monotonic clock.
    told: what was told of before its end. overran: what its output was when that was too much. taken: how much of what the test
    wrote that runs stands in its reports, and not in files any more, in bytes.
    below_used: what those below it that have ended were reaped with; None: of one that is not known.
    held: made ready, but not to run yet. enter_by: when main must be there. being_forked: the main process around it may be
    forking into it. spared_until: until when a kill waits for that.
    main: pid of its main process, as the kernel vouches for it.
    attached: main is in its cgroups of version 2. entered: in all. problem: why it never started, or what it
    did that it must not. refused: it never started, by the word of who was to make it, which lives.
    common: of the outermost, the layer of what all have in common. own_inodes: of its layer, before
    it wrote. launcher: pid of the process that it was forked from, if that is one of its own.
    depth: how many are around it. sockets: unix sockets on paths where those listen.
    speaker: pid of who has said on the wire what was heard last, if he can be named.
    crowded: the loop waits for room in its socket. silent: main, and whoever has inherited from it, has closed that.
    killed_at: when init was sent SIGKILL. gone_by: when nothing of it may be left.
    """

    order: Order
    listener: Listener
    parent: Running | None
    control: Socket
    wire: Socket
    stdout: int
    stderr: int
    stacks: int
    shown: int
    cgroup: Cgroup
    outbox: Outbox
    decoder: Decoder = dataclasses.field(default_factory=Decoder)
    depth: int = 0
    recipe: Recipe | None = None
    pending: Pending | None = None
    sockets: tuple[str, ...] = ()
    below: Below = dataclasses.field(default_factory=Below)
    enter_by: float | None = None
    being_forked: bool = False
    spared_until: float | None = None
    attached: bool = False
    entered: bool = False
    words: LastWords = dataclasses.field(default_factory=LastWords)
    pid: int | None = None
    main: int | None = None
    pidfd: int | None = None
    layer: int | None = None
    common: int | None = None
    own_inodes: int = 0
    started: float = dataclasses.field(default_factory=monotonic)
    allowed: Timer | None = None
    timer: Timer | None = None
    cpu: Budget | None = None
    next_look: float | None = None
    dying: Dying | None = None
    gone_by: float | None = None
    hold: bool = False
    held: bool = False
    killed: Ending | None = None
    killed_at: float | None = None
    abandoned: bool = False
    launcher: int | None = None
    problem: SandboxError | None = None
    refused: bool = False
    snapshot: MemorySnapshot | None = None
    told: Told = dataclasses.field(default_factory=Told)
    overran: int = 0
    taken: int = 0
    below_used: dict[str, float] | None = dataclasses.field(default_factory=dict)
    failure: Failure = dataclasses.field(default_factory=Failure)
    failed: bool = False
    reported: bool = True
    speaker: int | None = None
    crowded: bool = False
    silent: bool = False
    ended: bool = False

    @property
    def name(self) -> str:
        """Unique in the run."""
        return self.order.name

    @property
    def last_words(self) -> LastWords | None:
        """What pid 1 said at the end; None where it was killed before."""
        return None if self.words.status is None else self.words

    def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """Say something to main; one that is dying does not listen, which its end will tell, and one that never does dies."""
        try:
            self.outbox.put(frame, descriptors)
        except WireError as error:
            self.fail(error)

    def fail(self, problem: SandboxError) -> None:
        """Kill it for what it did, or for what could not be done for it; the first problem stands."""
        self.problem = self.problem or problem
        self.kill(None)

    def fail_unforked(self, problem: SandboxError) -> None:
        """The same, where the main process around it forks into it no more."""
        self.fork_is_over()
        self.fail(problem)

    def hang_up(self) -> None:
        """Leave init alone, which then ends: for one that has no pid yet to be killed by."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)

    def descriptors(self) -> set[int]:
        """Those that the controller has of it."""
        own = {self.control.fileno(), self.wire.fileno(), self.stdout, self.stderr, self.stacks, self.shown}
        own |= self.outbox.descriptors()
        own |= {fd for fd in (self.pidfd, self.layer, self.common) if fd is not None}
        own |= {self.below.netlink.fileno()} if self.below.netlink is not None else set()
        own |= self.pending.all() if self.pending else set()
        return own - {-1}  # a socket that has been handed over

    def drop_common(self) -> None:
        """Bring nothing home that somebody may still write to."""
        if self.common is not None:
            os.close(self.common)
            self.common = None

    def interrupt(self) -> None:
        """Let init send main what Ctrl-C sends to a program."""
        with contextlib.suppress(OSError):
            self.control.say(signal_main(signal.SIGINT))

    @property
    def hears(self) -> bool:
        """Whether it would hear that it is asked for its stacks: it is not stopped, and does not block the signal."""
        return self.main is None or proc.hears(self.main, STACKS_SIGNAL)

    def overrun(self, written: int) -> None:
        """Kill it for so many bytes of output."""
        self.overran = written
        self.kill(Ending.TOO_MUCH_OUTPUT)

    def ask_for_stacks(self) -> None:
        """Let init make main print its stacks; of which a program that is no Python dies."""
        self.snapshot = self.snapshot or self.cgroup.snapshot()
        with contextlib.suppress(OSError):
            self.control.say(signal_main(STACKS_SIGNAL))

    def kill(self, why: Ending | None) -> None:
        """SIGKILL init, and with it every process of its namespace; the first reason stands.

        A fork into it is let go on: cut off, it would leave locks of the C library taken in the main process around it.
        """
        self.killed = self.killed or why
        self.abandoned = True
        if self.pidfd is None:
            return
        if self.being_forked:
            self.spared_until = self.spared_until or monotonic() + FORK_TIME
        else:
            self.snapshot = self.snapshot or self.cgroup.snapshot()
            self.killed_at = self.killed_at or monotonic()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.ends()

    def fork_is_over(self) -> None:
        """The main process around it has forked into it, or does not: from now on it can be killed."""
        self.being_forked, self.spared_until = False, None
        if self.abandoned:
            self.kill(None)

    def ends(self) -> None:
        """Its init is dying, which takes all others of its namespace along."""
        if self.gone_by is None:
            self.gone_by = monotonic() + GONE_TIME

    def output(self) -> int:
        """Bytes that its own stdout and stderr hold now."""
        return sum(os.fstat(fd).st_size for fd in (self.stdout, self.stderr, self.shown))

    def frames(self, *, to_the_end: bool = False) -> Iterator[Frame]:
        """What main has said and nobody has heard yet, as far as one reading brings it, or all that it has said by now.

        Who stops in between leaves the rest to the `decoder`.
        """
        has_read, left = False, ends.unread(self.wire) if to_the_end else 0
        while True:
            while (frame := self.decoder.next()) is not None:
                yield frame
            if self.silent or (has_read and left <= 0):
                return
            try:
                data, self.speaker = ends.hear(self.wire)
            except BlockingIOError:
                return
            if not data:
                self.silent = True
                return
            self.decoder.feed(data)
            has_read, left = True, left - len(data)

    def is_around(self, other: Running) -> bool:
        """Whether another one is this one, or was made in it."""
        inner: Running | None = other
        while inner is not None and inner is not self:
            inner = inner.parent
        return inner is not None

    @property
    def is_unheard(self) -> bool:
        """Whether it has said something that nobody has heard yet."""
        return not self.silent and (self.decoder.is_due or ends.unread(self.wire) > 0)

    def hush(self) -> None:
        """Hear nothing more of what main says, nor of what it has said."""
        self.silent, self.decoder = True, Decoder()

    def joiner(self) -> int | None:
        """The pid of who has spoken on the wire, as the kernel vouches for it; None where nobody has. Leaves the words there."""
        return ends.next_speaker(self.wire)

    def take(self, words: bytes) -> None:
        """Read what `joiner` has seen, and nothing after it. Raises WireError where that is not `words`."""
        if (found := self.wire.recv(len(words))) != words:
            raise WireError(f"it has said {found!r} where {words!r} was due")

    def packet_of_init(self) -> tuple[bytes, int | None, list[int]] | None:
        """What init says, its pid as the kernel vouches for it, and descriptors; no words: it is gone. None: nothing yet."""
        return ends.packet(self.control)

    def read_shown(self, start: int = 0) -> bytes:
        """What it wrote past its capture, from a position on."""
        return ends.read(self.shown, self.order.spec.limits.output, start)

    def read_output(self) -> tuple[bytes, bytes, bool]:
        """What stands in stdout and stderr, and whether that is not all: more than anybody reads, or is to be held in memory."""
        limit = self.order.spec.limits.output
        out, err = (ends.read(fd, limit) for fd in (self.stdout, self.stderr))
        return out, err, len(out) + len(err) < sum(os.fstat(fd).st_size for fd in (self.stdout, self.stderr))

    def stacks_size(self) -> int:
        """How much of stacks it has printed so far, in bytes."""
        return os.fstat(self.stacks).st_size

    def read_stacks(self) -> str:
        """The stacks that it has printed so far: where it crashed, or was asked for them, or asked itself."""
        return ends.read(self.stacks, 1 << 20).decode("utf-8", "replace")

    def close(self) -> None:
        """Close the controller's descriptors."""
        self.control.close()
        self.wire.close()
        self.outbox.close()
        if self.below.netlink is not None:
            self.below.netlink.close()
        if self.pending is not None:
            self.pending.close()
            self.pending = None
        for fd in (self.stdout, self.stderr, self.stacks, self.shown, self.pidfd, self.layer):
            if fd is not None:
                os.close(fd)
        self.pidfd = self.layer = None
        self.drop_common()
