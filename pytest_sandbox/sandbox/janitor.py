"""A process that cleans up when the controller cannot: forked before the first cgroup is made, gone after the last.

It lies in a session of its own, so that no kill of the whole process group reaches it, blocks all signals, and waits for the
end of a pipe. Processes need no janitor: they die with the launcher.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from pytest_sandbox.primitives import process
from pytest_sandbox.primitives.cgroups import remove_run
from pytest_sandbox.primitives.forks import fork
from pytest_sandbox.primitives.locks import left
from pytest_sandbox.sandbox.removal import remove_tree

_LEAVE = "leave"
#: How long it may take to go when nothing is left to do, in seconds.
_LEAVE_TIME = 5.0


class Janitor:
    """The controller's end: `watch` what is about to be made. A context manager, at whose end it is all removed again."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self._pid = fork(lambda: _main(reading))
        os.close(reading)
        self.fd = writing

    def watch(self, kind: str, path: str) -> None:
        """Take over `path`, of kind "cgroup" or "directory", should the controller die."""
        os.write(self.fd, os.fsencode(f"{kind}\0{path}\0"))

    def watch_cgroups(self, paths: Sequence[str]) -> None:
        """Take over a run's cgroups."""
        for path in paths:
            self.watch("cgroup", path)

    def __enter__(self) -> Janitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let it go, and after an error, Ctrl-C among them, see first that nothing is left."""
        if kind is None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.fd, f"{_LEAVE}\0\0".encode())
        os.close(self.fd)
        process.wait_or_kill(self._pid, _LEAVE_TIME)


def _main(reading: int) -> NoReturn:
    try:
        os.setsid()
        _close_all_but(reading)
        with os.fdopen(reading, "rb") as pipe:
            words = os.fsdecode(pipe.read()).split("\0")[:-1]
        orders = list(zip(words[::2], words[1::2], strict=False))
        if (_LEAVE, "") not in orders:
            _clean([path for kind, path in orders if kind == "cgroup"], [p for kind, p in orders if kind == "directory"])
    finally:
        os._exit(0)


def _close_all_but(keep: int) -> None:
    """Let go of the terminal and of everything else: whoever waits for the end of a pipe must not wait for us."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) != keep:
            with contextlib.suppress(OSError):  # the descriptor of listdir itself
                os.close(int(name))


def _clean(cgroups: Sequence[str], directories: Sequence[str]) -> None:
    with contextlib.suppress(Exception):
        remove_run(cgroups)
    for directory in directories:
        with contextlib.suppress(Exception), left(directory, wait=True) as alone:  # a later run may be at it already
            if alone:
                remove_tree(directory)
