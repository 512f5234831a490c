"""One sandbox as the controller sees it while it lives. Imports `clock`, `evidence`, `talk`, `written` and below."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from pytest_sandbox._linux import proc
from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.model.errors import SandboxError, WireError
from pytest_sandbox.model.outcome import Ending, Outcome
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import Cgroup
from pytest_sandbox.primitives.process import STACKS_SIGNAL
from pytest_sandbox.sandbox.inside.child import Descriptors, Order
from pytest_sandbox.sandbox.inside.pid1 import LastWords, Recipe, signal_main
from pytest_sandbox.sandbox.outside import ends
from pytest_sandbox.sandbox.outside.clock import Clock
from pytest_sandbox.sandbox.outside.evidence import Evidence
from pytest_sandbox.sandbox.outside.talk import Talk
from pytest_sandbox.sandbox.outside.written import Written
from pytest_sandbox.sandbox.wire.frames import Frame

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
    and of the last ones that have ended: what it says of them may come late. used: what those that have ended were reaped with;
    None: of one that is not known.
    """

    is_here: bool = False
    netlink: Socket | None = None
    preparing: set[str] = dataclasses.field(default_factory=set)
    waiting: list[Running] = dataclasses.field(default_factory=list)
    clones: dict[int, Running] = dataclasses.field(default_factory=dict)
    cloned: int = 0
    ordered: set[str] = dataclasses.field(default_factory=set)
    gone: deque[str] = dataclasses.field(default_factory=lambda: deque(maxlen=64))
    used: dict[str, float] | None = dataclasses.field(default_factory=dict)

    @property
    def may_clone(self) -> bool:
        """Whether one can be begun: main is there, and changes nothing of what it would stand on."""
        return self.is_here and not self.preparing


@dataclasses.dataclass(slots=True)
class Entering:
    """How a sandbox comes to run, step by step.

    pending: what it is still to be given. recipe: what its init has to do. sockets: unix sockets on paths where those around it
    listen. launcher: pid of the process that it was forked from, if that is one of the controller's own.
    held: made ready, but not to run yet. enter_by: when main must be there. being_forked: the main process around it may be
    forking into it. spared_until: until when a kill waits for that.
    attached: main is in its cgroups of version 2. entered: in all. deserted: nobody is left who could. refused: it never started,
    by the word of who was to make it, which lives.
    """

    pending: Pending | None
    recipe: Recipe | None = None
    sockets: tuple[str, ...] = ()
    launcher: int | None = None
    held: bool = False
    enter_by: float | None = None
    being_forked: bool = False
    spared_until: float | None = None
    attached: bool = False
    entered: bool = False
    deserted: bool = False
    refused: bool = False


@dataclasses.dataclass(slots=True)
class End:
    """How a sandbox is brought to its end; moments are the monotonic clock's, in seconds.

    killed: for which limit. abandoned: nothing that it does counts any more. killed_at: when init was sent SIGKILL.
    gone_by: when nothing of it may be left.
    """

    killed: Ending | None = None
    abandoned: bool = False
    killed_at: float | None = None
    gone_by: float | None = None

    @property
    def is_near(self) -> bool:
        """Whether no limit of time counts any more: it is killed, or its init has said how main ended."""
        return self.abandoned or self.gone_by is not None


class Listener(Protocol):
    """Who wants to know what a sandbox says and how it ended."""

    def on_frame(self, running: Running, frame: Frame) -> None:
        """Main said something. Not trusted."""

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """Nothing of the sandbox is left."""


@dataclasses.dataclass(eq=False, slots=True)
class Running:
    """Who and where it is, and what is known of it: one sandbox.

    control: the controller's end of init's socket. depth: how many are around it. words: what init has said at its end.
    pid: init's. pidfd: init's too, while it can be signalled. main: pid of its main process, as the kernel vouches for it.
    layer: what it writes its files to. common: of the outermost, the layer of what all have in common. own_inodes: of its layer,
    before it wrote. problem: why it never started, or what it did that it must not. ended: nothing of it is left.
    """

    order: Order
    listener: Listener
    parent: Running | None
    control: Socket
    talk: Talk
    written: Written
    cgroup: Cgroup
    entering: Entering
    below: Below = dataclasses.field(default_factory=Below)
    clock: Clock = dataclasses.field(default_factory=Clock)
    evidence: Evidence = dataclasses.field(default_factory=Evidence)
    end: End = dataclasses.field(default_factory=End)
    words: LastWords = dataclasses.field(default_factory=LastWords)
    depth: int = 0
    pid: int | None = None
    pidfd: int | None = None
    main: int | None = None
    layer: int | None = None
    common: int | None = None
    own_inodes: int = 0
    problem: SandboxError | None = None
    ended: bool = False

    @property
    def name(self) -> str:
        """Unique in the run."""
        return self.order.name

    @property
    def last_words(self) -> LastWords | None:
        """What pid 1 said at the end; None where it was killed before."""
        return None if self.words.status is None else self.words

    @property
    def hears(self) -> bool:
        """Whether it would hear that it is asked for its stacks: it is not stopped, and does not block the signal."""
        return self.main is None or proc.hears(self.main, STACKS_SIGNAL)

    @property
    def is_unheard(self) -> bool:
        """Whether it or its init has said something, or it has ended, and nobody knows yet."""
        return self.talk.is_unheard or ends.have_news(self.control.fileno(), self.pidfd)

    def is_around(self, other: Running) -> bool:
        """Whether another one is this one, or was made in it."""
        inner: Running | None = other
        while inner is not None and inner is not self:
            inner = inner.parent
        return inner is not None

    def packet_of_init(self) -> tuple[bytes, int | None, list[int]] | None:
        """What init says, its pid as the kernel vouches for it, and descriptors; no words: it is gone. None: nothing yet."""
        return ends.packet(self.control)

    def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """Say something to main; one that is dying does not listen, which its end will tell, and one that never does dies."""
        try:
            self.talk.outbox.put(frame, descriptors)
        except WireError as error:
            self.fail(error)

    def grant(self, limits: Limits | None) -> None:
        """See `Clock`, of which it is a scope's."""
        counts = limits is not None and limits.cpu_time is not None
        self.clock.grant(limits, self.cgroup.figure("cpu") if counts else None)

    def interrupt(self) -> None:
        """Let init send main what Ctrl-C sends to a program."""
        with contextlib.suppress(OSError):
            self.control.say(signal_main(signal.SIGINT))

    def ask_for_stacks(self) -> None:
        """Let init make main print its stacks; of which a program that is no Python dies."""
        self.look_at_memory()
        with contextlib.suppress(OSError):
            self.control.say(signal_main(STACKS_SIGNAL))

    def look_at_memory(self) -> None:
        """Keep what its memory is made of, while it still has it."""
        self.evidence.memory = self.evidence.memory or self.cgroup.snapshot()

    def fail(self, problem: SandboxError) -> None:
        """Kill it for what it did, or for what could not be done for it; the first problem stands."""
        self.problem = self.problem or problem
        self.kill(None)

    def fail_unforked(self, problem: SandboxError) -> None:
        """The same, where the main process around it forks into it no more."""
        self.fork_is_over()
        self.fail(problem)

    def fork_is_over(self) -> None:
        """The main process around it has forked into it, or does not: from now on it can be killed."""
        self.entering.being_forked, self.entering.spared_until = False, None
        if self.end.abandoned:
            self.kill(None)

    def hang_up(self) -> None:
        """Leave init alone, which then ends: for one that has no pid yet to be killed by."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)

    def overrun(self, written: int) -> None:
        """Kill it for so many bytes of output."""
        self.evidence.overran = written
        self.kill(Ending.TOO_MUCH_OUTPUT)

    def kill(self, why: Ending | None) -> None:
        """SIGKILL init, and with it every process of its namespace; the first reason stands.

        A fork into it is let go on: cut off, it would leave locks of the C library taken in the main process around it.
        """
        self.end.killed = self.end.killed or why
        self.end.abandoned = True
        if self.pidfd is None:
            return
        if self.entering.being_forked:
            self.entering.spared_until = self.entering.spared_until or monotonic() + FORK_TIME
        else:
            self.look_at_memory()
            self.end.killed_at = self.end.killed_at or monotonic()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.ends()

    def ends(self) -> None:
        """Its init is dying, which takes all others of its namespace along."""
        if self.end.gone_by is None:
            self.end.gone_by = monotonic() + GONE_TIME

    def descriptors(self) -> set[int]:
        """Those that the controller has of it."""
        own = {self.control.fileno()} | self.talk.descriptors() | self.written.descriptors()
        own |= {fd for fd in (self.pidfd, self.layer, self.common) if fd is not None}
        own |= {self.below.netlink.fileno()} if self.below.netlink is not None else set()
        own |= self.entering.pending.all() if self.entering.pending else set()
        return own - {-1}  # a socket that has been handed over

    def drop_common(self) -> None:
        """Bring nothing home that somebody may still write to."""
        if self.common is not None:
            os.close(self.common)
            self.common = None

    def close(self) -> None:
        """Close the controller's descriptors."""
        self.control.close()
        self.talk.close()
        self.written.close()
        if self.below.netlink is not None:
            self.below.netlink.close()
        if self.entering.pending is not None:
            self.entering.pending.close()
            self.entering.pending = None
        for fd in (self.pidfd, self.layer):
            if fd is not None:
                os.close(fd)
        self.pidfd = self.layer = None
        self.drop_common()
