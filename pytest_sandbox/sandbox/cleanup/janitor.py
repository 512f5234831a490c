"""A process that cleans up when the controller cannot: forked before the first cgroup is made, gone after the last.

It lies in a session of its own, so that no kill of the whole process group reaches it, blocks all signals, and waits for a
word, the end of its line, or the controller's. Processes need no janitor: they die with the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import NoReturn

from pytest_sandbox._linux.sockets import pair
from pytest_sandbox.primitives import process
from pytest_sandbox.primitives.cgroups import remove_run
from pytest_sandbox.primitives.forks import fork
from pytest_sandbox.primitives.locks import left
from pytest_sandbox.sandbox.cleanup.removal import remove_tree

#: The last word: that nothing is left, or that it is to be removed.
_LEAVE, _CLEAN = "leave", "clean"
#: How long it may take to go when nothing is left to do, in seconds.
_LEAVE_TIME = 5.0


class Janitor:
    """The controller's end: `watch` what is about to be made. A context manager, at whose end it is all removed again."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as its:
            controller = os.pidfd_open(os.getpid())
            its.callback(os.close, controller)
            reading, self._line = pair(socket.SOCK_STREAM)  # a write to a pipe could end in SIGPIPE
            its.callback(reading.close)
            undo.callback(self._line.close)
            ready, its_ready = os.pipe()
            its.callback(os.close, ready)
            try:
                self._pid = fork(lambda: _main(reading.fileno(), controller, its_ready))
            finally:
                os.close(its_ready)
            # Before it has left this process's group, one kill could take both, when something is made already.
            if not os.read(ready, 1):
                raise ChildProcessError(errno.ECHILD, "it died as it began", "janitor")
            undo.pop_all()

    @property
    def fd(self) -> int:
        """What nobody else may hold."""
        return self._line.fileno()

    def watch(self, kind: str, path: str) -> None:
        """Take over `path`, of kind "cgroup" or "directory", should the controller die."""
        self._line.sendall(os.fsencode(f"{kind}\0{path}\0"), socket.MSG_NOSIGNAL)

    def watch_cgroups(self, paths: Sequence[str]) -> None:
        """Take over a run's cgroups."""
        for path in paths:
            self.watch("cgroup", path)

    def __enter__(self) -> Janitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let it go, and after an error, Ctrl-C among them, see first that nothing is left."""
        with contextlib.suppress(ConnectionError):
            self.watch(_LEAVE if kind is None else _CLEAN, "")
        self._line.close()
        process.wait_or_kill(self._pid, _LEAVE_TIME)


def _main(reading: int, controller: int, ready: int) -> NoReturn:
    try:
        os.setsid()
        os.write(ready, b"r")
        _close_all_but((reading, controller))
        orders = _hear(reading, controller)
        if (_LEAVE, "") not in orders:
            _clean([path for kind, path in orders if kind == "cgroup"], [path for kind, path in orders if kind == "directory"])
    finally:
        os._exit(0)


def _close_all_but(keep: Collection[int]) -> None:
    """Let go of the terminal and of everything else: whoever waits for the end of a pipe must not wait for us."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor of listdir itself
                os.close(int(name))


def _hear(reading: int, controller: int) -> list[tuple[str, str]]:
    """All that the controller has said until its last word, or the end of it or of the line.

    That alone may not come: what a test without a sandbox has forked holds the line open.
    """
    poll, said, is_over, orders = select.poll(), b"", False, list[tuple[str, str]]()
    poll.register(reading, select.POLLIN)
    poll.register(controller, select.POLLIN)
    os.set_blocking(reading, False)
    while not is_over and not {(_LEAVE, ""), (_CLEAN, "")}.intersection(orders):
        is_over = controller in dict(poll.poll())  # looked at first: what it said before is there to be read
        with contextlib.suppress(BlockingIOError):
            while data := os.read(reading, 1 << 16):
                said += data
            is_over = True
        words = os.fsdecode(said).split("\0")[:-1]
        orders = list(zip(words[::2], words[1::2], strict=False))
    return orders


def _clean(cgroups: Sequence[str], directories: Sequence[str]) -> None:
    with contextlib.suppress(Exception):
        remove_run(cgroups)
    for directory in directories:
        with contextlib.suppress(Exception), left(directory, wait=True) as alone:  # a later run may be at it already
            if alone:
                remove_tree(directory)
