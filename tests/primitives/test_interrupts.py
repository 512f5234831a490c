"""Ctrl-C that is held back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from pytest_sandbox.primitives.interrupts import deferred


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _deferring(*steps: Callable[[], object]) -> None:
    with deferred():
        for step in steps:
            step()


def test_one_is_raised_at_the_end() -> None:
    """What is begun is done first; afterwards all is as before."""
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        _deferring(_interrupt, lambda: done.append(1))
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_is_raised_at_once() -> None:
    """Nobody is kept waiting who means it."""
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        _deferring(_interrupt, lambda: done.append(1), _interrupt, lambda: done.append(2))
    assert done == [1]


def test_the_outermost_raises() -> None:
    """One within another changes nothing."""
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        _deferring(lambda: _deferring(_interrupt), lambda: done.append(1))
    assert done == [1]


def test_an_error_goes_first() -> None:
    """What has failed says so."""
    with pytest.raises(ZeroDivisionError):
        _deferring(_interrupt, lambda: 1 / 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebodys_own_handler_stays() -> None:
    """Who has taken SIGINT gets it."""
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        with deferred():
            _interrupt()
            assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_none() -> None:
    """Only the main thread has handlers; elsewhere it is no error."""
    done = []

    def run() -> None:
        with deferred():
            done.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [1]
