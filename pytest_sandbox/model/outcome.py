"""What became of a sandbox: `Outcome`, made of an `Ending`, `Usage`, `Change`s and `Leak`s. Imports nothing."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any


class Ending(enum.Enum):
    """Why a sandbox's main process ended. A fixed vocabulary; the values are what reports say."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out of memory"
    TIMED_OUT = "timed out"
    CPU_TIME = "cpu time"
    TOO_MANY_PROCESSES = "too many processes"
    TOO_MANY_OPEN_FILES = "too many open files"
    DISK_FULL = "disk full"
    OUT_OF_INODES = "out of inodes"
    TOO_MUCH_OUTPUT = "too much output"
    NO_REPORT = "no report"


#: Of limits that end whoever meets them, by a kill that a test may not have noticed; the others refuse what is asked for.
KILLING = frozenset({Ending.OUT_OF_MEMORY, Ending.TIMED_OUT, Ending.CPU_TIME, Ending.TOO_MUCH_OUTPUT})


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox consumed over its whole life, all its processes together.

    Times in seconds, sizes in bytes. A field that could not be measured is None, and `missing` has its
    name with the reason; a field is never 0 because nobody looked.

    memory_peak counts page cache and the files of the overlay's tmpfs; memory_anon, memory_file and memory_kernel are its
    parts as they stood when the main process was done. memory_max_events, memory_high_events: how often it met these limits,
    also where giving back page cache was enough; memory_oom_events: where that was not. faults: of pages, of which major_faults
    waited for a disk. pids_max_events: forks and threads that the limit refused. bytes_read, bytes_written, reads, writes: block
    I/O. overlay_bytes: left in the upper layers at the end. throttled: time without a share of cpus, added up over CPUs.
    cpu_stalled, memory_stalled, io_stalled: time in which some process of it waited for that, and ..._fully in which all did
    that had something to do (Documentation/accounting/psi.rst).
    """

    wall: float
    cpu: float | None = None
    memory_peak: int | None = None
    memory_anon: int | None = None
    memory_file: int | None = None
    memory_kernel: int | None = None
    memory_max_events: int | None = None
    memory_high_events: int | None = None
    memory_oom_events: int | None = None
    oom_kills: int | None = None
    faults: int | None = None
    major_faults: int | None = None
    pids_peak: int | None = None
    pids_max_events: int | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None
    reads: int | None = None
    writes: int | None = None
    overlay_bytes: int | None = None
    overlay_inodes: int | None = None
    network_received: int | None = None
    network_sent: int | None = None
    throttled: float | None = None
    cpu_stalled: float | None = None
    cpu_stalled_fully: float | None = None
    memory_stalled: float | None = None
    memory_stalled_fully: float | None = None
    io_stalled: float | None = None
    io_stalled_fully: float | None = None
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def and_then(self, later: Usage) -> Usage:
        """Of two sandboxes, one after the other: the sum of each figure, but the greater peak; None where one is not known."""
        found: dict[str, Any] = {}
        for name in (field.name for field in dataclasses.fields(self) if field.name != "missing"):
            own, other = getattr(self, name), getattr(later, name)
            if own is not None and other is not None:
                found[name] = max(own, other) if name in _AT_A_TIME else own + other
        return Usage(**found, missing={**self.missing, **later.missing})


#: Figures of a moment, not of a time.
_AT_A_TIME = {"memory_peak", "memory_anon", "memory_file", "memory_kernel", "pids_peak"}


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """How many further sandboxes a test has made, and what they used, one after the other: see `Usage.and_then`."""

    count: int
    usage: Usage

    def and_then(self, later: Made) -> Made:
        """These, and some more after them."""
        return Made(self.count + later.count, self.usage.and_then(later.usage))


class ChangeKind(enum.Enum):
    """How a path differs from the layer below."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A path that the sandbox wrote or deleted: absolute, as seen inside; size in bytes (0 for a directory)."""

    path: str
    kind: ChangeKind
    size: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Leak:
    """A process that was still there when the main process had ended: pid inside, and its command line."""

    pid: int
    command: str


#: Of no more than so many it is told what they were; `init.c` has the same.
MOST_LEAKS = 100


def counted(leaks: Sequence[Leak]) -> str:
    """How many there were."""
    return f"{MOST_LEAKS} or more" if len(leaks) >= MOST_LEAKS else str(len(leaks))


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The whole result of one sandbox.

    status: exit code, or minus the signal's number (as in `subprocess`), None where the main process never
    started. sentence: the ending in one sentence, with the figures: limit, peak, which process.
    stdout, stderr: what had been written to the sandbox's own descriptors and not yet reported.
    stacks: Python stacks by faulthandler, at a timeout or crash. changes is cut at a fixed number of paths;
    changes_cut says so, and output_cut that stdout or stderr are cut: at the limit, and at 64M whatever that is.
    """

    ending: Ending
    status: int | None
    usage: Usage
    sentence: str = ""
    stdout: bytes = b""
    stderr: bytes = b""
    stacks: str = ""
    leaks: tuple[Leak, ...] = ()
    changes: tuple[Change, ...] = ()
    changes_cut: bool = False
    output_cut: bool = False

    @property
    def ok(self) -> bool:
        """Whether the main process exited with 0 and no limit was the end of it."""
        return self.ending is Ending.EXITED and self.status == 0
