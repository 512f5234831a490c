"""Watchdogs of faulthandler's: pytest's own, and one that runs in pytest's process when sandboxes are forked from it.

pytest's (`faulthandler_timeout`) runs in the sandboxes of tests and, while they set up and tear down, of scopes, and prints to a
file there, which the controller looks at. The thread of one of the whole run (a conftest's) is not in a forked child, where
`faulthandler.cancel_dump_traceback_later()` waits for the end of it for ever; pytest calls that after every failure. faulthandler
does not tell whether one runs. Imports pytest and what is below the plugin.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_sandbox._linux import proc
from pytest_sandbox.plugin.builtin.terminal import show_error
from pytest_sandbox.sandbox.machine.probes import ask_child
from pytest_sandbox.sandbox.outside.running import Running

_RUNS: pytest.StashKey[bool] = pytest.StashKey()
#: How long a child may take to cancel a watchdog, in seconds: one that has to be waited for is taken for one that runs.
_PATIENCE = 0.5
#: How often is looked for what pytest's watchdog has printed, in seconds.
_LOOK = 0.5


def note(config: pytest.Config) -> None:
    """In the controller: find out, and remember it for sandboxes. Costs a fork where a thread is not of Python's making."""

    def cancel() -> bytes:
        faulthandler.cancel_dump_traceback_later()
        return b"done"

    config.stash[_RUNS] = proc.threads() > threading.active_count() and not ask_child(cancel, 2 * _PATIENCE)


def timeout(config: pytest.Config) -> float:
    """pytest's `faulthandler_timeout`, in seconds; 0: there is none."""
    if not config.pluginmanager.hasplugin("faulthandler"):
        return 0.0
    return float(config.getini("faulthandler_timeout") or 0.0)


class Barks:
    """What pytest's watchdog prints in one sandbox. every: how often to look for it, in seconds; None: there is no watchdog."""

    def __init__(self, config: pytest.Config) -> None:
        self.every = _LOOK if timeout(config) > 0 else None
        self._shown = 0

    def show(self, running: Running | None) -> None:
        """Show on stderr, as in a plain run, what it has printed since the last time."""
        if running is not None:
            self._new(running)()

    def end(self, running: Running) -> Callable[[], None]:
        """The sandbox has ended: what shows the last of it."""
        show = self._new(running)
        self.every = None
        return show

    def _new(self, running: Running) -> Callable[[], None]:
        if self.every is None:
            return lambda: None
        stacks, shown = running.written.read_stacks(), self._shown
        self._shown = len(stacks)
        return lambda: show_error(stacks[shown:])


def settle(config: pytest.Config) -> None:
    """In the outermost sandbox: have watchdogs of Python's own threads, where faulthandler's cannot be used any more."""
    if config.stash.get(_RUNS, False):
        one = _Watchdog()
        faulthandler.dump_traceback_later = one.start
        faulthandler.cancel_dump_traceback_later = one.cancel


class _Watchdog:
    """What faulthandler offers, but for a process that holds the GIL for ever."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def start(self, timeout: float, repeat: bool = False, file: Any = None, exit: bool = False) -> None:  # noqa: A002, ANN401
        """See `faulthandler.dump_traceback_later`."""
        self.cancel()
        to = sys.stderr if file is None else file

        def bark() -> None:
            faulthandler.dump_traceback(to)
            if exit:
                os._exit(1)
            if repeat:
                self.start(timeout, repeat, to, exit)

        self._timer = threading.Timer(timeout, bark)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """See `faulthandler.cancel_dump_traceback_later`."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
