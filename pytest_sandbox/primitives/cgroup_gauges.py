"""What controllers are asked: the files with figures, and how to find one there. Pure; imports nothing."""

from __future__ import annotations

import dataclasses
import itertools
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


def sum_after(word: bytes) -> Callable[[bytes], int]:
    """Add up, over all devices, the number that follows `word` ("rbytes=7", or v1's "8:0 Read 7")."""

    def total(content: bytes) -> int:
        words = content.replace(b"=", b" ").split()
        return sum(int(value) for name, value in itertools.pairwise(words) if name == word)

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
