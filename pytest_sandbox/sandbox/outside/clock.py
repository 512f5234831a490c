"""Which times of a sandbox run, and when their limits are enforced. All in seconds; moments are the monotonic clock's.

Pure: who enforces them is `watch`. Imports `_linux` and `model` only.
"""

from __future__ import annotations

import dataclasses

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.spec import Limits

#: How often a long test's output and CPU time are looked at.
LOOK = 0.1
#: How often in the first moments, when a quick writer would fill memory.
FIRST_LOOK = 0.01
#: How long a process that has said all has at least to be gone, or one that has failed to tell the rest.
END_TIME = 5.0
#: How often one is given that, as long as its time does not begin anew: for three reports and its end. Nobody is trusted to end.
END_TIMES = 4
#: How much longer a time may be, all in all, for what the controller was busy with meanwhile.
MOST_EXCUSED = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Deadline:
    """A time limit: how long it is; when it began, and when it is enforced; how often that was put off.

    grace: how much later it is enforced, by the wish of who has set it. excused: how much later it is for what the controller
    did meanwhile.
    """

    seconds: float
    began: float
    due: float
    grace: float = 0.0
    prolonged: int = 0
    excused: float = 0.0

    @classmethod
    def begin(cls, seconds: float, grace: float = 0.0) -> Deadline:
        """One that begins now, and is enforced so long after it is over."""
        now = monotonic()
        return cls(seconds, now, now + seconds + grace, grace)

    def anew(self) -> Deadline:
        """The same, from now on."""
        return self.begin(self.seconds, self.grace)

    def later(self, seconds: float) -> Deadline:
        """The same, so much later, as far as it may be put off."""
        excused = min(self.excused + seconds, MOST_EXCUSED)
        return dataclasses.replace(self, due=self.due + excused - self.excused, excused=excused)

    def prolong(self) -> Deadline:
        """The same, not enforced for a moment, as often as it may be put off so."""
        due = monotonic() + END_TIME
        if self.due >= due or self.prolonged >= END_TIMES:
            return self
        return dataclasses.replace(self, due=due, prolonged=self.prolonged + 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """A limit of CPU time: how much it is; when it began, and how much the sandbox had used by then."""

    seconds: float
    began: float
    before: float = 0.0


@dataclasses.dataclass(slots=True)
class Dying:
    """It is out of time, and prints its stacks before it is killed.

    look: when the file of its stacks is looked at next; until: how long it is waited for.
    before, seen: the size of that file when it was asked for them, and when it was looked at last, in bytes.
    """

    look: float
    until: float
    before: int
    seen: int

    @property
    def is_mute(self) -> bool:
        """Whether it has printed nothing yet."""
        return self.seen == self.before


@dataclasses.dataclass(slots=True)
class Clock:
    """The times of one sandbox. Once it is dying none of them changes any more.

    started: when its main process was let go. limit: its time, and alarm: what it has set itself, besides. cpu: its CPU time.
    hold: neither time ends (a debugger). next_look: when its output and CPU time are looked at. dying: what it does when one of
    these is over.
    """

    started: float = dataclasses.field(default_factory=monotonic)
    limit: Deadline | None = None
    alarm: Deadline | None = None
    cpu: Budget | None = None
    hold: bool = False
    next_look: float | None = None
    dying: Dying | None = None

    def start(self, limits: Limits) -> None:
        """Its main process goes."""
        self.started = monotonic()
        if self.limit is None:
            self.allow(limits.timeout)
        self.cpu = None if limits.cpu_time is None else Budget(limits.cpu_time, self.started)
        if limits.output is not None or limits.cpu_time is not None:
            self.next_look = self.started + FIRST_LOOK

    def grant(self, limits: Limits | None, used: float | None) -> None:
        """What is done from now on, in a scope, has the time and the CPU time of these limits for itself; None: what it takes.

        used: CPU time that it has used up to now; None: nobody counts that.
        """
        if self.dying is not None:
            return
        self.allow(None if limits is None else limits.timeout)
        self.cpu = None
        if limits is not None and limits.cpu_time is not None and used is not None:
            self.cpu = Budget(limits.cpu_time, monotonic(), used)
            self.next_look = self.cpu.began + FIRST_LOOK

    def allow(self, seconds: float | None) -> None:
        """So much time it has from now on; None: as much as it takes."""
        if self.dying is None:
            self.limit = None if seconds is None else Deadline.begin(seconds)

    def restart(self) -> None:
        """Its time begins anew: another test does in it."""
        self.allow(None if self.limit is None else self.limit.seconds)

    def prolong(self) -> None:
        """It has said all that it has to, or that it has failed of a limit, and waited for the answer.

        To end is no part of what it has its time for, nor is our time; both take longer on a machine under load.
        """
        if self.dying is None:
            self.limit = self.limit and self.limit.prolong()
            self.alarm = self.alarm and self.alarm.prolong()

    def excuse(self, seconds: float) -> None:
        """It has said something, and for so long nobody has heard it, nor answered: that is not its time."""
        if self.dying is None:
            self.limit = self.limit and self.limit.later(seconds)
            self.alarm = self.alarm and self.alarm.later(seconds)

    def resume(self) -> None:
        """All of its time begins anew: somebody has left the debugger."""
        self.restart()
        self.alarm = self.alarm and self.alarm.anew()

    def set_alarm(self, seconds: float, grace: float = 0.0) -> None:
        """What it asks for itself, besides its limit: to be killed so long from now, or later by a grace; 0: not any more."""
        self.alarm = Deadline.begin(seconds, grace) if seconds > 0 else None

    @property
    def first(self) -> Deadline | None:
        """Of its limit and its alarm, what is over first."""
        return min(filter(None, (self.limit, self.alarm)), key=lambda deadline: deadline.due, default=None)

    @property
    def due(self) -> float | None:
        """When its time is over, which does not run in a debugger, or when its stacks are looked at."""
        if self.dying is not None:
            return self.dying.look
        first = None if self.hold else self.first
        return None if first is None else first.due

    def look_again(self, now: float) -> None:
        """Look next after a twentieth of its age: so a quick writer is caught early, and a long test is seldom looked at."""
        self.next_look = now + min(LOOK, max(FIRST_LOOK, (now - self.started) / 20))

    def counted(self, used: float | None) -> float | None:
        """Of so much CPU time that the sandbox has used in all, what counts for its limit."""
        return None if used is None else used - (self.cpu.before if self.cpu else 0.0)

    def is_out_of_cpu(self, used: float | None) -> bool:
        """Whether that has reached its limit."""
        counted = self.counted(used)
        return self.cpu is not None and counted is not None and counted >= self.cpu.seconds
