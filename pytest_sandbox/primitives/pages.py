"""Pages of memory that forks share with the process that they are forked from. Imports `_linux`."""

from __future__ import annotations

import array
import contextlib
import gc
import mmap
import os
from collections.abc import Iterator

from pytest_sandbox._linux import proc, syscalls

_HUGE = 2 << 20  # of x86_64, and where pages have 4 KiB; where it is more, the kernel refuses, or takes a part
_IN_HUGE = _HUGE // mmap.PAGESIZE
#: Of an entry of /proc/PID/pagemap: the page is in memory, and mapped by no other process.
_OWN = 1 << 63 | 1 << 56


#: From how many forks, and how much memory, huge pages are worth it: moving 2 MiB takes 1 to 10 ms, and saves 0.1 at each fork.
_FORKS, _BYTES = 200, 64 << 20


@contextlib.contextmanager
def shared(forks: int) -> Iterator[None]:
    """Within: as little as can be of what is in memory now is copied by so many forks, of this process and of each other.

    The garbage collector leaves it alone, which writes to every object that it looks at: collect before.
    """
    gc.freeze()
    try:
        if forks >= _FORKS and _resident() >= _BYTES:
            make_huge()
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def unshared() -> Iterator[None]:
    """Within `shared`, and within this: the garbage collector looks at everything, as what runs in this process may expect."""
    gc.unfreeze()
    try:
        yield
    finally:
        gc.freeze()


def make_huge() -> int:
    """Move anonymous memory into huge pages: a fork copies one entry for 512 pages, and its end drops one; returns the bytes.

    madvise(2), MADV_COLLAPSE of Linux 6.1; nothing on older ones. Only pages that this process shares with no other one, which
    that would not make fewer, are moved.
    """
    moved = 0
    with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, end, resident in proc.anonymous_mappings():
            if resident < (end - start) // 2:
                continue  # a sanitizer's shadow has terabytes of nothing
            for begin, length in _runs(pagemap.fileno(), -(-start // _HUGE), end // _HUGE):
                with contextlib.suppress(OSError):  # some of it could not be moved
                    syscalls.collapse(begin, length)
                    moved += length
    return moved


def _resident() -> int:
    """Bytes of anonymous memory; statm of proc_pid_statm(5)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, of_files, *_ = map(int, file.read().split())
    return (resident - of_files) * mmap.PAGESIZE


def _runs(pagemap: int, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Addresses and lengths, of those parts of the size of a huge page that are this process's own, neighbours together."""
    begin = first
    for number in range(first, end + 1):
        if number == end or not _is_own(pagemap, number):
            if begin < number:
                yield begin * _HUGE, (number - begin) * _HUGE
            begin = number + 1


def _is_own(pagemap: int, number: int) -> bool:
    entries = array.array("Q", os.pread(pagemap, 8 * _IN_HUGE, 8 * _IN_HUGE * number))
    return sum(entry & _OWN == _OWN for entry in entries) >= 0.9 * _IN_HUGE
