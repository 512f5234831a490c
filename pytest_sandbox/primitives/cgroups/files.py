"""Reading, writing, killing and removing cgroup directories by path. Imports `model` only.

Paths and plain os.open, no descriptors kept: a sandbox is a fork without exec, and must not inherit a way to its own
limits. Opening by path costs 2 us more than by directory descriptor (measured).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.errors import warn_of_teardown

_SURELY_THE_END = 2048
"""seq_file fills a page up to the last record that fits, and the records here are short. Saves a system call a read."""
_LEAF_LINKS = 2
"""st_nlink of a kernfs directory is 2 and its subdirectories: spares listing 30 files."""
KILL_SECONDS = 5.0
"""How long to wait for killed processes: SIGKILL takes effect when a process leaves an uninterruptible wait."""
REMOVE_SECONDS = 10.0
_MOST_AT_ONCE = 500
_PAUSE = 0.001


def read(path: str) -> bytes:
    """The whole content of a cgroup's file, or another of short records, as /proc/PID/stat; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
            if len(chunk) < _SURELY_THE_END:
                break
        return b"".join(chunks)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """Write to an existing cgroup file in one write(2); raises OSError with the file's name."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def inherit(directory: str, names: Iterable[str]) -> None:
    """Copy these files of a cgroup's parent into it; raises OSError."""
    for name in names:
        write(f"{directory}/{name}", read(f"{os.path.dirname(directory)}/{name}").decode().strip())


def pids_in(directory: str) -> tuple[int, ...]:
    """Process ids in this cgroup alone, without zombies; () where it does not exist."""
    try:
        return tuple(map(int, read(directory + "/cgroup.procs").split()))
    except FileNotFoundError:
        return ()
    except OSError as error:
        # ENODEV: removed between open and read. EOPNOTSUPP: a threaded cgroup, whose processes its parent lists.
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return ()
        raise


def upwards(directory: str) -> Iterator[str]:
    """A cgroup's directory and those around it, nearest first, up to the root of what is to be seen of the hierarchy."""
    while os.path.exists(f"{directory}/cgroup.procs"):
        yield directory
        directory = os.path.dirname(directory)


def is_real_root(directory: str) -> bool:
    """Whether it is the root of version 2 itself: only that has no cgroup.events (kernel/cgroup/cgroup.c, CFTYPE_NOT_ON_ROOT)."""
    return not os.path.exists(f"{directory}/cgroup.events")


def walk(directory: str) -> Iterator[str]:
    """The cgroup directories below and including `directory`, deepest first."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(directory).st_nlink > _LEAF_LINKS:
            with os.scandir(directory) as entries:
                children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            for child in children:
                yield from walk(child)
        yield directory


def pids_below(directory: str) -> tuple[int, ...]:
    """Process ids in this cgroup and all below it."""
    return tuple(pid for each in walk(directory) for pid in pids_in(each))


def kill_below(directories: Iterable[str], seconds: float = KILL_SECONDS) -> tuple[int, ...]:
    """SIGKILL every process in these cgroups and below, and wait until they are dead (zombies count as dead).

    cgroup.kill (v2, Linux 5.14) is atomic; elsewhere forks are first forbidden by pids.max, so that the loop over
    cgroup.procs ends even against a fork bomb (these refusals count as pids events: read them before). Waits by pidfd
    (pidfd_open(2), 5.3): an event on cgroup.events comes up to 10 ms late. Returns the pids that are still there after
    `seconds`.
    """
    roots = tuple(directories)
    deadline = monotonic() + seconds
    for root in roots:
        if not _try_write(f"{root}/cgroup.kill", "1"):
            _try_write(f"{root}/pids.max", "0")
    while pids := _members(roots):
        left = deadline - monotonic()
        if left <= 0:
            return tuple(sorted(pids))
        _kill_and_wait(pids, roots, left)
    return ()


def _try_write(path: str, value: str) -> bool:
    try:
        write(path, value)
    except OSError:
        return False
    return True


def _members(roots: tuple[str, ...]) -> frozenset[int]:
    return frozenset(pid for root in roots for pid in pids_below(root))


def _kill_and_wait(pids: frozenset[int], roots: tuple[str, ...], seconds: float) -> None:
    """SIGKILL those of `pids` that are still in `roots`, and wait until they are dead or `seconds` are over."""
    deadline = monotonic() + seconds
    fds = _pidfds(pids)
    try:
        # A pid may have been reused before its pidfd was opened: only what is listed afterwards is surely a member.
        poll, waiting = select.poll(), 0
        for pid in _members(roots) & fds.keys():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fds[pid], signal.SIGKILL)
                poll.register(fds[pid], select.POLLIN)
                waiting += 1
        if not waiting:
            time.sleep(_PAUSE)
        while waiting and (left := deadline - monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                poll.unregister(fd)
                waiting -= 1
    finally:
        for fd in fds.values():
            os.close(fd)


def _pidfds(pids: frozenset[int]) -> dict[int, int]:
    """A pidfd for each that is there, for 500 at most: a fork bomb's processes must not use up this process's descriptors."""
    fds: dict[int, int] = {}
    # cgroup_procs_show lists a process of a pid namespace that is not ours as 0.
    for pid in sorted(pids - {0})[:_MOST_AT_ONCE]:
        try:
            fds[pid] = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        except OSError as error:
            if len(fds) > 1 and error.errno in (errno.EMFILE, errno.ENFILE):
                _, spare = fds.popitem()  # to read with; the others' turn comes when these are dead
                os.close(spare)
                return fds
            for fd in fds.values():
                os.close(fd)
            raise
    return fds


def remove_empty(directories: Iterable[str]) -> bool:
    """Remove these cgroups, in the order given, as far as they are empty; whether none is left."""
    return all(_removed(each) for each in directories)


def remove(directories: Iterable[str], seconds: float = REMOVE_SECONDS) -> None:
    """Remove these cgroups and those below them, in the order given; what is in them must be dead or dying.

    Attempts all, then warns TeardownWarning once about those that the kernel kept for `seconds`.
    """
    kept = [message for message in (_remove_one(each, seconds) for each in directories) if message]
    if kept:
        warn_of_teardown("; ".join(kept))


def _remove_one(directory: str, seconds: float) -> str:
    """Remove one cgroup; the reason where the kernel refuses to the end.

    rmdir gives EBUSY while a killed process is still leaving. Sleeps on cgroup.events between attempts (v1 has no such
    file: growing pauses).
    """
    deadline, pause = monotonic() + seconds, 0.001
    while True:
        try:
            os.rmdir(directory)
            return ""
        except FileNotFoundError:
            return ""
        except OSError as error:
            left = deadline - monotonic()
            if error.errno != errno.EBUSY or left <= 0:
                return f"cgroup {directory} could not be removed: {error.strerror}; in it: {pids_below(directory)}"
        # The other reason for EBUSY: cgroups below. Unless one of them is gone now, nothing changes without a wait.
        removed = [_removed(child) for child in tuple(walk(directory))[:-1]]
        if not any(removed):
            _wait_for_change(directory, min(pause, left))
            pause = min(pause * 2, 0.05)


def _removed(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except OSError:
        return False
    return True


def _wait_for_change(directory: str, seconds: float) -> None:
    """Sleep until cgroup.events changes, or `seconds` at most."""
    try:
        fd = os.open(directory + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        time.sleep(seconds)
        return
    try:
        # POLLPRI fires for a change since the last read.
        if b"populated 0" not in os.read(fd, 256):
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            poll.poll(seconds * 1000)
        else:
            time.sleep(seconds)
    except OSError as error:
        if error.errno != errno.ENODEV:  # it has been removed
            raise
    finally:
        os.close(fd)
