"""What a process gives up and how it is waited for."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandbox.primitives import process


def in_child(call: Callable[[], object]) -> str:
    """The repr of a call's value in a fork."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, repr(call()).encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    os.waitpid(pid, 0)
    return found


@pytest.mark.parametrize("ignores", [False, True])
def test_wait_or_kill(*, ignores: bool) -> None:
    """A child that ends by itself is reaped; one that does not is killed when half of the time is over."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600 if ignores else 0.05)
        os._exit(0)
    started, seconds = time.monotonic(), 3.0 if ignores else 120.0
    assert process.wait_or_kill(pid, seconds)
    assert (time.monotonic() - started >= seconds / 2) is ignores
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
    assert process.wait_or_kill(pid, 1.0)


def test_wait_or_kill_without_a_descriptor() -> None:
    """A child is not gone because there is none left to wait for it with."""

    def kill() -> list[bool]:
        found = []
        for naps in (0.05, 30):
            pid = os.fork()
            if pid == 0:
                time.sleep(naps)
                os._exit(0)
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            found.append(process.wait_or_kill(pid, 4.0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            found.append(os.path.exists(f"/proc/{pid}"))
        return found

    assert in_child(kill) == "[True, False, True, False]"


def test_limits_never_rise() -> None:
    """A limit above the hard one is the hard one, not an error."""

    def lower() -> list[tuple[int, int]]:
        found = []
        for soft, hard in ((50, 50), (30, 40), (60, resource.RLIM_INFINITY)):
            process.set_limits([(resource.RLIMIT_NOFILE, soft, hard)])
            found.append(resource.getrlimit(resource.RLIMIT_NOFILE))
        return found

    assert in_child(lower) == "[(50, 50), (30, 40), (40, 40)]"


def test_signals() -> None:
    """Handlers are taken, and can be given back."""

    def handle(*_: object) -> None:
        raise SystemExit(5)

    def take() -> tuple[bool, bool]:
        signal.signal(signal.SIGUSR1, handle)
        handlers = process.reset_signals()
        gone = signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        process.restore_signals(handlers)
        return gone, signal.getsignal(signal.SIGUSR1) is handle

    assert in_child(take) == "(True, True)"


def test_renew_descriptors(tmp_path: Path) -> None:
    """A file keeps number and offset; a socket and a file that is gone become nothing; a pipe to itself stays."""
    (tmp_path / "a").write_text("0123456789")

    def renew() -> tuple[bytes, bool, bytes, bool]:
        file = os.open(tmp_path / "a", os.O_RDONLY)
        os.read(file, 4)
        (tmp_path / "b").write_text("")
        gone = os.open(tmp_path / "b", os.O_RDONLY)
        (tmp_path / "b").unlink()
        here, _there = socket.socketpair()
        reading, writing = os.pipe()
        renewed = {file, gone, here.fileno(), reading, writing}
        process.renew_descriptors([int(name) for name in os.listdir("/proc/self/fd") if int(name) not in renewed])
        os.write(writing, b"x")
        null = os.stat("/dev/null").st_rdev
        return os.read(file, 2), os.fstat(here.fileno()).st_rdev == null, os.read(reading, 1), os.fstat(gone).st_rdev == null

    assert in_child(renew) == repr((b"45", True, b"x", True))


def test_spare_init_spares_nobody_else() -> None:
    """A process that is no pid 1 keeps its score, and one that is gone is no error."""
    before = Path(f"/proc/{os.getpid()}/oom_score_adj").read_text()
    process.spare_init(os.getpid())
    assert Path(f"/proc/{os.getpid()}/oom_score_adj").read_text() == before
    process.spare_init(2**22 - 1)
