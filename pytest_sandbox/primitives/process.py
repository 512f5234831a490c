"""Processes: what one gives up before it runs foreign code. Imports `_linux` only.

Sources: capabilities(7), prctl(2), pid_namespaces(7), wait(2), close_range(2).
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import resource
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from os import _exit
from types import FrameType
from typing import NoReturn

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox._linux.flags import Cap, Prctl
from pytest_sandbox.primitives import output

# What a container's root keeps: Docker's default list. All of it counts in the sandbox's own user namespace only.
ROOT_CAPABILITIES = frozenset({
    Cap.CHOWN, Cap.DAC_OVERRIDE, Cap.FOWNER, Cap.FSETID, Cap.KILL, Cap.SETGID, Cap.SETUID, Cap.SETPCAP,
    Cap.NET_BIND_SERVICE, Cap.NET_RAW, Cap.SYS_CHROOT, Cap.MKNOD, Cap.AUDIT_WRITE, Cap.SETFCAP,
})  # fmt: skip

#: The signal that makes a sandboxed Python print its stacks: the last real-time signal, which nobody uses.
STACKS_SIGNAL = signal.SIGRTMAX
#: How long a thread waits for Python's lock until it asks for it, while a process is cloned, in seconds.
_PATIENCE = 0.5

Handler = Callable[[int, "FrameType | None"], object]


def last_capability() -> int:
    """The number of the newest capability that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def drop_privileges(keep: Collection[int], last: int) -> None:
    """Keep only the capabilities in `keep`, for this process and all that it executes; no set-uid program gains any."""
    syscalls.drop_bounding_set(keep, last)
    syscalls.set_capabilities(keep)
    syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)


def keep_privileges(last: int) -> None:
    """Take every capability along when another program is executed, also as an ordinary user (ambient set)."""
    syscalls.raise_ambient(last)


def set_dumpable(value: bool) -> None:
    """Whether processes of the same user may trace this one and read its /proc files (PR_SET_DUMPABLE)."""
    syscalls.prctl(Prctl.SET_DUMPABLE, int(value))


def is_dumpable() -> bool:
    """What `set_dumpable` has set, or the kernel where ids were changed, or a program begun that may not be read."""
    return syscalls.prctl(Prctl.GET_DUMPABLE) == 1


def die_with_parent(parent: int) -> None:
    """SIGKILL the caller when its parent's thread ends; at once if the parent, whose pid was `parent`, is gone already."""
    syscalls.prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def die_with_launcher() -> None:
    """As `die_with_parent`, for a pid 1, which cannot see its parent; after the last change of ids, which undoes it."""
    syscalls.prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)


def leave_keyring() -> None:
    """Lose the keys of the session that pytest was started in: no namespace hides a session keyring (keyrings(7))."""
    # A kernel without keys, or a container's seccomp filter, which keeps keyctl from everybody in there.
    with contextlib.suppress(OSError, KeyError):
        syscalls.join_new_session_keyring()


def leave_session() -> None:
    """Begin a session: kill(0, ...) and the terminal's signals end at the sandbox's border. Blocked signals are forgotten."""
    os.setsid()
    while signal.sigtimedwait(signal.valid_signals(), 0):
        continue


def set_limits(limits: Iterable[tuple[int, int, int]]) -> None:
    """setrlimit(2) of resources, each with its soft and hard limit, never above the hard one there is."""
    for which, *wanted in limits:
        _, most = resource.getrlimit(which)
        soft, hard = (most if value == resource.RLIM_INFINITY or 0 <= most < value else value for value in wanted)
        resource.setrlimit(which, (soft, hard))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within: threads seldom wait for Python's lock (the GIL), and ask for it after half a second only.

    A child that is cloned, without Python's hooks, while one waits or asks may, as soon as it lets go of the lock, wait for that
    thread, which is not in the child. A launcher has threads only where a handler of os.register_at_fork() that is older than
    `forks` starts them. This makes it rare.
    """
    interval = sys.getswitchinterval()
    if threading.active_count() > 1:
        sys.setswitchinterval(_PATIENCE)
        time.sleep(0.001)  # who asks already, or was about to, has its turn
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def reset_signals() -> dict[int, Handler]:
    """Default dispositions for every signal that is handled here; returns Python's handlers, for `restore_signals`.

    A pid 1 must not run a handler that it inherited: the kernel passes on what its namespace sends it only where there is
    one. faulthandler's are the worst: a few different fatal signals at once overrun its alternate stack, which is a true SIGSEGV.
    """
    faulthandler.disable()
    faulthandler.unregister(STACKS_SIGNAL)
    handlers: dict[int, Handler] = {}
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler):
            handlers[number] = handler
            signal.signal(number, signal.SIG_DFL)
    return handlers


def restore_signals(handlers: Mapping[int, Handler]) -> None:
    """Give a process that runs foreign code the handlers that `reset_signals` took: a fixture's own, and SIGINT's."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def renew_descriptors(keep: Collection[int]) -> None:
    """Replace every open descriptor outside `keep` by one that reaches nothing of the machine, under the same number.

    A file or directory is opened anew by its path, at its offset: what the caller now sees under that path. Anonymous
    kernel objects (epoll, eventfd) and pipes that lead from the process to itself stay. Sockets, devices and the rest
    become /dev/null, not closed: Python objects that still own the number must not close somebody else's file later. So
    do duplicates of stdout and stderr, and of what these were before pytest's capture: opened for writing, a log that the run's
    output goes to would be copied up, whole.
    """
    own_output = output.files()
    found = {int(name): _target(int(name)) for name in os.listdir("/proc/self/fd") if int(name) not in keep}
    modes: dict[str, set[int]] = {}
    for fd, target in found.items():
        if target.startswith("pipe:"):
            modes.setdefault(target, set()).add(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE)
    own = {target for target, ends in modes.items() if ends == {os.O_RDONLY, os.O_WRONLY}}
    for fd, target in found.items():
        if not target or target in own or target.startswith("anon_inode:"):
            continue
        if output.file_of(fd) in own_output:
            _replace(fd, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        else:
            _renew(fd, target)


def renew_directories(keep: Collection[int]) -> None:
    """As `renew_descriptors`, of directories only: for who goes from one sandbox into another inside it.

    Through a directory that was opened outside, ".." and openat(2) would lead into the layer of the scope around it. Files
    stay as they are: to share their offsets is what whoever opened them expects.
    """
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with contextlib.suppress(OSError):  # the descriptor of listdir itself
            if fd not in keep and stat.S_ISDIR(os.fstat(fd).st_mode):
                _renew(fd, _target(fd))


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # the descriptor of listdir itself
        return ""


def _renew(fd: int, target: str) -> None:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not _reopen(fd, target):
        _replace(fd, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))


def _reopen(fd: int, path: str) -> bool:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~(os.O_CREAT | os.O_TRUNC | os.O_EXCL)
    # O_APPEND: others write to the same file (a log) through offsets of their own.
    append = os.O_APPEND if flags & os.O_ACCMODE == os.O_WRONLY else 0
    try:
        new = os.open(path, flags | append | os.O_CLOEXEC)
    except OSError:  # deleted, or hidden inside
        return False
    with contextlib.suppress(OSError):  # EBADF: O_PATH
        os.lseek(new, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
    _replace(fd, new)
    return True


def _replace(fd: int, new: int) -> None:
    try:
        os.dup2(new, fd, inheritable=os.get_inheritable(fd))
    except OSError:  # its number is above RLIMIT_NOFILE, which was lowered when it was open: nobody can have such a one anew
        os.close(fd)
    os.close(new)


def flush() -> None:
    """Write out what Python's own streams hold: before a fork, lest it is written twice, and before an end without cleanup."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def leave(status: int) -> NoReturn:
    """End without cleanup, as a fork does that is not to do what its parent will; what its streams hold is written."""
    flush()
    _exit(status)


def spare_init(pid: int) -> None:
    """Keep the OOM killer off a pid 1 (proc_pid_oom_score_adj(5)), if the caller may, and only if it is one.

    Its end would take all of its namespace along. To be done when it has forked main, since children inherit it: those inits
    that it clones shall.
    """
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/status", "rb") as status:
            inner = next((line.split() for line in status if line.startswith(b"NSpid:")), [])
        if inner[-1:] == [b"1"]:
            with open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as file:
                file.write(b"-1000")


def wait_or_kill(pid: int, seconds: float) -> bool:
    """Reap a child; SIGKILL it after half of `seconds`. Whether it is gone in the end: a process may be beyond all signals."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:  # reaped already
        return True
    except OSError:  # no descriptor is left to wait with
        if not _ends_within(pid, seconds / 2):
            os.kill(pid, signal.SIGKILL)
            return _ends_within(pid, seconds / 2)
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(seconds * 500):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            if not poll.poll(seconds * 500):
                return False
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        return True
    finally:
        os.close(fd)


def _ends_within(pid: int, seconds: float) -> bool:
    """Look for the end of a child now and then, and reap it."""
    until = monotonic() + seconds
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if monotonic() >= until:
                return False
            time.sleep(0.01)
    return True
