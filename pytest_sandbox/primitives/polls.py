"""epoll(7) instances that a fork has inherited: made the child's own. Imports `_linux` only.

An inherited instance is that of the parent, and of every sibling: who removes a descriptor from it does so for all of them
(epoll_ctl(2)). What is registered stands in /proc (proc_pid_fdinfo(5)), so a process can have an instance like it, whosever it
is: Python's, or a library's in C. The same goes for an eventfd(2) that is registered, by which a thread wakes its loop: who reads
it takes the wake-up from the others.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterable
from contextlib import suppress
from fcntl import F_GETFL, fcntl
from os import (
    EFD_CLOEXEC,
    EFD_SEMAPHORE,
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDONLY,
    close,
    dup2,
    eventfd,
    fstat,
    get_inheritable,
    listdir,
    read,
    readlink,
)
from os import open as open_fd
from stat import S_IFMT

from pytest_sandbox._linux.syscalls import epoll_add

#: gevent, which is refused where it has patched pytest's own process, takes it away.
_epoll = getattr(select, "epoll", None)
_EPOLL, _EVENTFD = "anon_inode:[eventpoll]", "anon_inode:[eventfd]"
_REGISTERED = re.compile(rb"^tfd:\s*(\d+) events:\s*([0-9a-f]+) data:\s*([0-9a-f]+)", re.MULTILINE)
_COUNT = re.compile(rb"^eventfd-count:\s*([0-9a-f]+)", re.MULTILINE)
_SEMAPHORE = re.compile(rb"^eventfd-semaphore:\s*1", re.MULTILINE)  # since Linux 6.5


def find() -> list[int]:
    """The epoll descriptors of the calling process; none where it has no /proc, as in a chroot(2)."""
    with suppress(FileNotFoundError):
        return [fd for fd in map(int, listdir("/proc/self/fd")) if _is(fd, _EPOLL)]
    return []


def renew(fds: Iterable[int]) -> None:
    """Have each of these numbers, where it is an epoll's, lead to one of the calling process alone, with the same registered.

    What is not open any more, or cannot be waited for (what `renew_descriptors` has replaced), is left out.
    """
    registered = {fd: _registered(fd) for fd in fds if _epoll is not None and _is(fd, _EPOLL)}
    # Before any epoll, and each once: one that is replaced is registered no more, wherever it was.
    for number in {number for found in registered.values() for number, _, _ in found}:
        _renew_eventfd(number)
    for fd in tuple(registered):
        _renew_epoll(fd, registered)


def _registered(fd: int) -> list[tuple[int, int, int]]:
    return [(int(number), int(events, 16), int(data, 16)) for number, events, data in _REGISTERED.findall(_info(fd))]


def _renew_epoll(fd: int, registered: dict[int, list[tuple[int, int, int]]]) -> None:
    """And first those that are registered in it, for the same reason. Who is renewed is taken out of `registered`."""
    found = registered.pop(fd, None)
    if found is None or _epoll is None:
        return
    for number, _, _ in found:
        _renew_epoll(number, registered)
    with _epoll() as new:
        for number, events, data in found:
            with suppress(OSError):
                epoll_add(new.fileno(), number, events, data)
        dup2(new.fileno(), fd, inheritable=get_inheritable(fd))


def _renew_eventfd(fd: int) -> None:
    if _is(fd, _EVENTFD):
        info = _info(fd)
        count = _COUNT.search(info)
        semaphore = EFD_SEMAPHORE if _SEMAPHORE.search(info) else 0
        new = eventfd(int(count[1], 16) if count else 0, EFD_CLOEXEC | semaphore | fcntl(fd, F_GETFL) & O_NONBLOCK)
        dup2(new, fd, inheritable=get_inheritable(fd))
        close(new)


def _is(fd: int, what: str) -> bool:
    """Whether a descriptor is open on a kernel object of that kind: such have no type of file, which is sooner seen."""
    try:
        return not S_IFMT(fstat(fd).st_mode) and readlink(f"/proc/self/fd/{fd}") == what
    except OSError:
        return False


def _info(fd: int) -> bytes:
    file, parts = open_fd(f"/proc/self/fdinfo/{fd}", O_RDONLY | O_CLOEXEC), list[bytes]()
    while part := read(file, 1 << 16):
        parts.append(part)
    close(file)
    return b"".join(parts)
