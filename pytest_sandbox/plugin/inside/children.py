"""Processes that a process around this one has started: Python takes them for ended, without an error. Imports `builtin`.

`subprocess.Popen` says 0 of a process that is not its own's child (bugs.python.org/issue15756): a test would find that a
fixture's server has ended well, whatever that has done. It says what is known here, and raises where that is nothing.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from errno import ECHILD
from typing import Any
from weakref import WeakSet, ref

from pytest_sandbox.plugin.builtin.tracebacks import unseen

_FIX = "Fix: let the fixture do it, or let its tests share its sandbox: @pytest.mark.sandbox(scope=...)"
_PATCHED = ("_execute_child", "_internal_poll", "_try_wait", "send_signal")


class Children:
    """The `subprocess.Popen` objects of this process and of those around it."""

    def __init__(self) -> None:
        self._own: WeakSet[_Watch] = WeakSet()

    def begin(self) -> None:
        """First in a forked process: what was the other's own is inherited."""
        for watch in self._own:
            watch.own = False
        self._own.clear()

    def note(self) -> None:
        """Before a fork: note what is known of this process's own, which is all that the new one will know of them."""
        for watch in self._own:
            watch.note()

    def take_over(self) -> None:
        """Have Popen not say of a process what it does not know. Once, for all forks."""
        import subprocess

        popen: Any = subprocess.Popen
        if not set(dir(popen)).issuperset(_PATCHED):  # somebody's own
            return
        execute, poll, try_wait, send = popen._execute_child, popen._internal_poll, popen._try_wait, popen.send_signal

        @unseen
        def _execute_child(self: Any, *args: object, **kwargs: object) -> None:  # noqa: ANN401
            __tracebackhide__ = True
            execute(self, *args, **kwargs)
            self._sandbox_watch = watch = _Watch(self)
            children._own.add(watch)

        @unseen
        def _internal_poll(self: Any, _deadstate: object = None, *args: object, **kwargs: object) -> object:  # noqa: ANN401
            __tracebackhide__ = True
            watch = None if _deadstate is not None else _watch(self)  # given where Python lets go of it
            if watch is None:
                return poll(self, _deadstate, *args, **kwargs)
            if not watch.runs(0):
                self._handle_exitstatus(watch.end())
            return self.returncode

        @unseen
        def _try_wait(self: Any, wait_flags: int) -> object:  # noqa: ANN401
            __tracebackhide__ = True
            watch = _watch(self)
            if watch is None:
                return try_wait(self, wait_flags)
            if watch.runs(0 if wait_flags & os.WNOHANG else None):
                return 0, 0
            return self.pid, watch.end()

        @unseen
        def send_signal(self: Any, sig: int) -> None:  # noqa: ANN401
            __tracebackhide__ = True
            _check_reach(self)
            send(self, sig)

        children = self
        popen._execute_child, popen._internal_poll, popen._try_wait = _execute_child, _internal_poll, _try_wait
        popen.send_signal = send_signal


def _watch(process: Any) -> _Watch | None:  # noqa: ANN401
    """What is known of a process that is not this one's child; None if it is, or has been seen to end."""
    if process.returncode is not None:
        return None
    watch: _Watch | None = getattr(process, "_sandbox_watch", None)
    if watch is None:  # from before the run
        watch = _Watch(process)
        watch.own = _is_child(process.pid)
    return None if watch.own else watch


class _Watch:
    """What others than its parent know of a process: whether it runs, and what the parent has noted of its end."""

    def __init__(self, process: Any) -> None:  # noqa: ANN401
        self.own = True
        self._process = ref(process)
        self._pid: int = process.pid
        self._pidfd: int | None = None
        self._status: int | None = None

    def note(self) -> None:
        """By its parent: so that others can know it."""
        process = self._process()
        if process is None or process.returncode is not None:
            return
        with suppress(OSError):  # somebody else has waited for it; or there are too many open files
            if self._pidfd is None:
                self._pidfd = os.pidfd_open(self._pid)
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                self._status = ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status

    def runs(self, timeout: float | None) -> bool:
        """Whether it does after that many milliseconds; None: wait until it does not. False, too, if nobody knows."""
        if self._pidfd is None or self._status is not None:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(timeout)

    @unseen
    def end(self) -> int:
        """Its wait status (wait(2)); ChildProcessError where it is not known."""
        __tracebackhide__ = True
        if self._status is not None:
            return self._status
        what = "whether it has ended, and how," if self._pidfd is None else "it has ended, and how"
        raise ChildProcessError(ECHILD, f"{_named(self._pid)} {what} is not known here. {_FIX}")

    def __del__(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)


@unseen
def _check_reach(process: Any) -> None:  # noqa: ANN401
    """ChildProcessError for one that runs, and whose number is another process's here, or nobody's."""
    __tracebackhide__ = True
    if _watch(process) is not None and process.poll() is None:  # a pidfd is no way out of a pid namespace, either
        raise ChildProcessError(ECHILD, f"{_named(process.pid)} it cannot be sent a signal from here. {_FIX}")


def _named(pid: int) -> str:
    return f"process {pid} was started by a fixture of a wider scope, or at import, in another process:"


def _is_child(pid: int) -> bool:
    """Whether it is a child of this process that nobody has waited for yet: numbers are given anew in each pid namespace."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
