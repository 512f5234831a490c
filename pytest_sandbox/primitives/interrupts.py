"""Ctrl-C, and what else asks a process to end, where it must be served between two steps only: in the midst one would be lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within: SIGINT is noted, and KeyboardInterrupt raised at the end; at once when it comes again.

    Nothing is changed where SIGINT does not raise KeyboardInterrupt, as within another `deferred`, and in other threads,
    which no signal handler runs in (Python's library reference, signal). Must not be around a fork.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, frame)
        asked = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within: what asks this process to end is not served; the rest, and what is ignored, is. Must not be around a fork."""
    asking = {number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, asking)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def waiting() -> signal.Signals | None:
    """Which signal asks this process to end, and is held."""
    pending = signal.sigpending()
    return next((number for number in _ENDING if number in pending), None) if pending else None
