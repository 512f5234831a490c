"""What a verdict goes by, besides how a sandbox ended and what the kernel has counted by then. Imports `primitives` only."""

from __future__ import annotations

import dataclasses

from pytest_sandbox.primitives.cgroups import MemorySnapshot


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What the kernel has counted that somebody was told of: processes killed for memory, limits of memory met, forks refused."""

    kills: int = 0
    ooms: int = 0
    refused: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """What main says that it has failed of, and what shares of its limits were seen in use when it said that it had no room.

    files: its limit of descriptors, and how many were in use, where that was seen to be met. is_met: whether one was seen to be.
    """

    errno: int = 0
    disk_full: float = 0.0
    inodes_full: float = 0.0
    files: tuple[int, int] | None = None
    is_met: bool = False


@dataclasses.dataclass(slots=True)
class Evidence:
    """Of one sandbox, gathered while it lives.

    told: what was told of before its end. failure: what the test that runs says that it has failed of. failed: whether that has.
    reported: whether its main process has said all that it had to. overran: what its output was when that was too much.
    taken: how much of what the test wrote that runs stands in its reports, and not in files any more, in bytes.
    memory: what its memory was made of when there was still somebody to have it.
    """

    told: Told = dataclasses.field(default_factory=Told)
    failure: Failure = dataclasses.field(default_factory=Failure)
    failed: bool = False
    reported: bool = True
    overran: int = 0
    taken: int = 0
    memory: MemorySnapshot | None = None
