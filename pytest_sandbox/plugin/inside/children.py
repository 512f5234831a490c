"""Processes that the process around this one has started: Python takes them for ended, without an error. Imports `_linux`.

`subprocess.Popen` says 0 of a process that is not its own's child (bugs.python.org/issue15756): a test would find that a
fixture's server has ended well, whatever that has done. multiprocessing refuses to answer, and so do we.
"""

from __future__ import annotations

import os
import sys
from errno import ECHILD
from typing import Any

from pytest_sandbox._linux import proc
from pytest_sandbox.plugin.builtin.tracebacks import unseen

_FIX = (
    "was started by a fixture of a wider scope, in another process: whether it has ended, and how, is not known here. Fix: let "
    "the fixture look at it, or let its tests share its sandbox: @pytest.mark.sandbox(scope=...)"
)


class Children:
    """Those of the processes around this one, by their pids there."""

    def __init__(self) -> None:
        self._inherited: frozenset[int] = frozenset()

    def note(self) -> None:
        """When fixtures have been set up, before a fork: what is this process's own will be inherited."""
        if "subprocess" in sys.modules:
            self._inherited |= proc.children()

    def refuse(self) -> None:
        """Have Popen raise ChildProcessError in place of an answer that it does not know. Once, for all forks."""
        import subprocess

        popen: Any = subprocess.Popen
        if not (hasattr(popen, "_internal_poll") and hasattr(popen, "_try_wait")):  # somebody's own
            return
        poll, try_wait = popen._internal_poll, popen._try_wait

        @unseen
        def _internal_poll(self: Any, _deadstate: object = None, *args: object, **kwargs: object) -> object:  # noqa: ANN401
            __tracebackhide__ = True
            if _deadstate is None:  # else it is Python that lets go of it
                check(self)
            return poll(self, _deadstate, *args, **kwargs)

        @unseen
        def _try_wait(self: Any, wait_flags: int) -> object:  # noqa: ANN401
            __tracebackhide__ = True
            check(self)
            return try_wait(self, wait_flags)

        @unseen
        def check(process: Any) -> None:  # noqa: ANN401
            __tracebackhide__ = True
            if process.returncode is None and process.pid in self._inherited and not _is_own(process.pid):
                raise ChildProcessError(ECHILD, f"process {process.pid} {_FIX}")

        popen._internal_poll, popen._try_wait = _internal_poll, _try_wait


def _is_own(pid: int) -> bool:
    """Whether it is a child of this process that nobody has waited for yet: numbers are given anew in each pid namespace."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
