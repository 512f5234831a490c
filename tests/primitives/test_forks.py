"""A fork whose child does something before all handlers of forks."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandbox.primitives.forks import fork

#: What was done in a child.
noted: list[str] = []
os.register_at_fork(after_in_child=lambda: noted.append("handler"))


def said_by_child(first: Callable[[], object]) -> tuple[list[str], int]:
    """What a child noted before it had come back from its fork, and its exit status."""
    reading, writing = os.pipe()
    noted.clear()  # what handlers noted, if this runs in a child itself
    pid = fork(first)
    if pid == 0:
        os.write(writing, "\n".join(noted).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return text.split("\n") if text else [], os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_it_is_first() -> None:
    """Before handlers, once."""
    assert said_by_child(lambda: noted.append("first")) == (["first", "handler"], 0)


def test_it_may_return_elsewhere() -> None:
    """In a process that it makes: the handlers run in that one."""

    def first() -> None:
        if pid := os.fork():
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        noted.append("grandchild")

    assert said_by_child(first) == (["handler", "grandchild", "handler"], 0)  # of the plain fork within, first


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_raises(error: type[BaseException], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is no copy of its parent that goes on."""

    def first() -> None:
        raise error("no")

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    assert said_by_child(first) == ([], 1)
    assert "no" in capfd.readouterr().err


def test_signals_are_blocked(tmp_path: Path) -> None:
    """In the child until it comes back, whose mask is its parent's then, and in the parent as before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    told = tmp_path / "told"

    def first() -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        told.write_text(str(signal.SIGINT in blocked and signal.SIGTERM in blocked and signal.SIGRTMAX in blocked))

    pid = fork(first)
    if pid == 0:
        os._exit(40 + (signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 41
    assert told.read_text() == "True"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_it_is_of_one_thread() -> None:
    """Another thread that forks meanwhile has a plain child."""
    statuses = list[int]()
    end = threading.Event()

    def other() -> None:
        while not end.is_set():
            pid = os.fork()
            if pid == 0:
                os._exit(7)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    thread = threading.Thread(target=other)
    thread.start()
    try:
        own = set()
        for _ in range(50):
            pid = fork(lambda: os._exit(9))
            own.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    finally:
        end.set()
        thread.join()
    assert own == {9}
    assert set(statuses) == {7}
