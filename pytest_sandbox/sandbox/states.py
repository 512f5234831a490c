"""What is known of a sandbox at a moment: its limits of time, how it dies, and what was told of it. Imports `_linux` only."""

from __future__ import annotations

import dataclasses

from pytest_sandbox._linux.clock import monotonic


@dataclasses.dataclass(frozen=True, slots=True)
class Timer:
    """A time limit: its seconds; on the monotonic clock when it began, and when it is enforced; how often that was put off.

    grace: how many seconds it is enforced later, by the wish of who has set it. excused: how many seconds later it is for what
    the controller did meanwhile.
    """

    seconds: float
    began: float
    due: float
    grace: float = 0.0
    prolonged: int = 0
    excused: float = 0.0

    @classmethod
    def begin(cls, seconds: float, grace: float = 0.0) -> Timer:
        """One that begins now, and is enforced so many seconds after it is over."""
        now = monotonic()
        return cls(seconds, now, now + seconds + grace, grace)


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """A limit of CPU time: its seconds; on the monotonic clock when it began, and how many the sandbox had used by then."""

    seconds: float
    began: float
    before: float = 0.0


@dataclasses.dataclass(slots=True)
class Dying:
    """It is out of time, and prints its stacks before it is killed.

    look: when the file of its stacks is looked at next; until: how long it is waited for; both on the monotonic clock.
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


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What the kernel has counted that somebody was told of: processes killed for memory, limits of memory met, forks refused."""

    kills: int = 0
    ooms: int = 0
    refused: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """What main says that it has failed of, and what shares of its limits were seen in use when it said that it had no room.

    files: its limit of descriptors, and how many were in use, where that was seen to be met.
    """

    errno: int = 0
    disk_full: float = 0.0
    inodes_full: float = 0.0
    files: tuple[int, int] | None = None
