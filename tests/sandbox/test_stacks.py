"""Who is timed out is to print its stacks first, and what becomes of those that do not."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from pytest_sandbox import Ending
from pytest_sandbox.primitives.process import STACKS_SIGNAL
from pytest_sandbox.sandbox.outside import watch
from tests.sandbox.conftest import ending_of


def test_timed_out_with_the_stacks_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python thread's stack is in the outcome."""
    monkeypatch.setattr(watch, "STACKS_TIME", 60.0)  # on a machine under load it takes its turn to print them

    def other_thread() -> None:
        time.sleep(60)

    def main_thread() -> None:
        threading.Thread(target=other_thread).start()
        time.sleep(60)

    outcome = ending_of(main_thread, timeout=2.0).outcome
    assert outcome.ending is Ending.TIMED_OUT
    assert "in main_thread" in outcome.stacks
    assert "in other_thread" in outcome.stacks


def block_signals() -> None:
    """A loop with all signals blocked, and a stopped child."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with subprocess.Popen(["sh", "-c", "kill -STOP $$"]):
        pass


def ignore_signals() -> None:
    """As a program may that wants to live: all that can be."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(60)


def stop() -> None:
    """As by Ctrl-Z."""
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("call", [block_signals, ignore_signals, stop])
def test_who_cannot_print_its_stacks_is_not_waited_for(call: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who blocks or ignores every signal, or is stopped, is killed when its time is over, and no later."""
    monkeypatch.setattr(watch, "STACKS_TIME", 60.0)
    error = ending_of(call, timeout=0.3)
    assert error.outcome.ending is Ending.TIMED_OUT
    assert error.outcome.sentence.endswith(", limit 300ms")
    assert error.outcome.usage.wall < 30


def test_who_does_not_print_its_stacks_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler of its own keeps Python from it: that the time which that takes is over the limit is said."""
    monkeypatch.setattr(watch, "STACKS_TIME", 0.4)

    def take_the_signal() -> None:
        signal.signal(STACKS_SIGNAL, lambda *_: None)
        while True:
            time.sleep(60)

    outcome = ending_of(take_the_signal, timeout=0.3).outcome
    assert outcome.ending is Ending.TIMED_OUT
    assert outcome.sentence.endswith(", limit 300ms; it was given 400ms more to print its stacks, and did not")
    assert outcome.usage.wall >= 0.7


def test_who_is_killed_for_another_limit_was_not_given_time_for_its_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has had is no longer than until then."""
    monkeypatch.setattr(watch, "STACKS_TIME", 60.0)

    def write_in_its_time() -> None:
        signal.signal(STACKS_SIGNAL, lambda *_: os.write(1, b"x" * 200_000))
        while True:
            time.sleep(60)

    outcome = ending_of(write_in_its_time, timeout=0.3, output=100_000).outcome
    assert outcome.ending is Ending.TIMED_OUT
    assert outcome.sentence.endswith(", limit 300ms")
    assert outcome.usage.wall < 30


def test_a_thread_that_hears_prints_the_stacks_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of the threads does not block the signal."""
    monkeypatch.setattr(watch, "STACKS_TIME", 60.0)

    def block_in_main_thread() -> None:
        threading.Thread(target=time.sleep, args=(60,)).start()
        block_signals()

    outcome = ending_of(block_in_main_thread, timeout=1.0).outcome
    assert outcome.ending is Ending.TIMED_OUT
    assert "in block_signals" in outcome.stacks
