"""Ctrl-C where it must not be raised at once: between two steps, and never in the midst of one, which would be lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


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
