"""Directories that are locked for as long as the process that made them lives. Imports nothing.

What a killed run has left is told from what belongs to a live one by flock(2) on the directory itself, which works on cgroups
as on any other: the kernel gives it up with the process, however that ends, and it holds across pid namespaces and containers
that share the file system, where the number of a process says nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_everyone: weakref.WeakSet[Locks] = weakref.WeakSet()


class Locks:
    """Locked directories of this process alone: a fork of it has no part in them, nor a descriptor that leads there."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        _everyone.add(self)

    def make(self, path: str) -> None:
        """Make a directory that only its owner may enter, and lock it. OSError as by mkdir(2) and open(2): there is none then.

        Until it is locked, somebody may take it for one that was left and remove it: then it is made again.
        """
        while True:
            os.mkdir(path, 0o700)
            try:
                fd = os.open(path, _DIRECTORY)
            except FileNotFoundError:
                continue
            except OSError:  # no descriptor is left: it is nobody's
                with contextlib.suppress(OSError):
                    os.rmdir(path)
                raise
            _lock(fd, fcntl.LOCK_EX)
            if _is_at(path, fd):
                self._fds.append(fd)
                return
            os.close(fd)

    def release(self) -> None:
        """Unlock all."""
        while self._fds:
            os.close(self._fds.pop())


@contextlib.contextmanager
def left(path: str, *, wait: bool = False) -> Iterator[bool]:
    """Whether the directory `path` is there, the caller may open it, and nobody has it locked. Until the end the caller has.

    wait: for who has it locked.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError:
        yield False
        return
    try:
        # Without the second look it may be another one of that name, made since.
        yield _lock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)) and _is_at(path, fd)
    finally:
        os.close(fd)


def _lock(fd: int, how: int) -> bool:
    """Whether that was possible: on a file system without locks nothing is ever taken for left."""
    try:
        fcntl.flock(fd, how)
    except OSError:
        return False
    return True


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def forget() -> None:
    """Close all that are held, without unlocking: a lock belongs to what the descriptors of parent and child have in common."""
    for locks in tuple(_everyone):
        locks.release()


os.register_at_fork(after_in_child=forget)
