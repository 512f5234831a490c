"""What controllers are asked: the files with figures, and how to find one there. Imports nothing.

Pure, but for which disks stand on others, which is the machine's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True, slots=True)
class Gauge:
    """One figure: the field of `CgroupUsage`, the file, how to find it there, and the unit in seconds for times.

    local: a cgroup does not count what happened in those below it (v1's events).
    """

    field: str
    file: str
    extract: Callable[[bytes], int]
    unit: float | None = None
    local: bool = False


def keyed(content: bytes, key: bytes) -> int:
    """The number after `key` in a flat keyed file; raises KeyError."""
    for line in content.splitlines():
        name, _, value = line.partition(b" ")
        if name == key:
            return int(value)
    raise KeyError(key.decode())


def key(name: bytes) -> Callable[[bytes], int]:
    """`keyed`, for a `Gauge`."""
    return lambda content: keyed(content, name)


@functools.lru_cache
def is_stacked(disk: bytes, disks: str = "/sys/dev/block") -> bool:
    """Whether a disk ("253:0") has others do its work: dm and md, which name those as slaves, and loop; sysfs-block.

    What is done through it is billed to it, and once more to what is below: a clone is another bio (blk_cgroup_bio_start,
    block/blk-cgroup.h), and a loop device's worker reads and writes the file for whoever asked (loop_process_work,
    drivers/block/loop.c, since 5.14). Measured on 7.2, 6.12 and 6.1, and with version 1: each byte twice. Not so of md's
    linear, which hands on the bio itself: on 6.1 its bytes are md's alone.

    Asked once a run, since sysfs is slow and each sandbox has several such figures: a disk that gets another's number meanwhile
    is taken for that.
    """
    place = f"{disks}/{disk.decode('ascii')}"
    with contextlib.suppress(OSError), open(f"{place}/md/level", encoding="ascii") as file:
        if file.read() == "linear\n":
            return False
    with contextlib.suppress(OSError):
        if os.listdir(f"{place}/slaves"):
            return True
    return os.path.exists(f"{place}/loop/backing_file")


def sum_after(word: bytes, left_out: Callable[[bytes], bool] = is_stacked) -> Callable[[bytes], int]:
    """Add up, over all disks but those `left_out`, the number that follows `word` ("8:0 rbytes=7", or v1's "8:0 Read 7")."""

    def total(content: bytes) -> int:
        found, disk = 0, b""
        for name, value in itertools.pairwise(content.replace(b"=", b" ").split()):
            if b":" in name:
                disk = name
            elif name == word and int(value) and not left_out(disk):
                found += int(value)
        return found

    return total


def _stall(kind: bytes) -> Callable[[bytes], int]:
    """The total of a line of a pressure file, "some avg10=0.00 ... total=7", in microseconds."""

    def total(content: bytes) -> int:
        for line in content.splitlines():
            if line.startswith(kind):
                return int(line.rpartition(b"total=")[2])
        raise KeyError(kind.decode())

    return total


def stalls() -> Iterator[Gauge]:
    """Of version 2, whichever controllers are there; Documentation/accounting/psi.rst."""
    for what in ("cpu", "memory", "io"):
        yield Gauge(f"{what}_stalled", f"{what}.pressure", _stall(b"some"), 1e-6)
        yield Gauge(f"{what}_stalled_fully", f"{what}.pressure", _stall(b"full"), 1e-6)


def pids_gauges(*, local: bool) -> tuple[Gauge, ...]:
    """Of both versions."""
    return Gauge("pids_peak", "pids.peak", int), Gauge("pids_max_events", "pids.events", key(b"max"), local=local)
