"""os.fork(), and how to be ahead of what others do in a forked child. Imports the standard library only.

Handlers of `os.register_at_fork()` run in the order in which they were registered. The plugin imports this module when pytest
loads it, so that its own comes before those of conftest files and tests, which may start threads.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


class _Asked(threading.local):
    """What the calling thread, and no other one that forks meanwhile, wants to be done first in its child."""

    first: Callable[[], object] | None = None
    is_done = False


_asked = _Asked()


def fork(first: Callable[[], object]) -> int:
    """As os.fork(), also from a process with threads.

    first: called in the child, with all signals blocked, before the handlers that were registered after this module was
    imported. What those have locked for the fork is locked still: it must not fork by os.fork(). It may make further processes,
    and return in one of those only: as far as other handlers can tell, that one is the child, and in that one this returns 0.
    Where it raises, the child ends.
    """
    import warnings

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    _asked.first, _asked.is_done = first, False
    try:
        # A handler that raises (Ctrl-C) would let the child go on as if it were its parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with warnings.catch_warnings():
            # From Python 3.12 on, os.fork() in a process with threads warns; the child here runs only what is written here.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = _fork()
        if pid == 0 and not _asked.is_done:
            os._exit(1)
    finally:
        _asked.first = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        error.filename = "fork"  # which Python does not say
        raise


def _run_first() -> None:
    if (first := _asked.first) is not None:
        _asked.first = None
        first()
        _asked.is_done = True


if hasattr(os, "register_at_fork"):  # the plugin is imported on Windows too
    os.register_at_fork(after_in_child=_run_first)
