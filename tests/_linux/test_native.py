"""The compiled parts by themselves; what they do together is in tests/sandbox/test_trees.py."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_sandbox._linux import native


@pytest.fixture
def init() -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """The program, in this process's own namespaces, and the controller's end of its socket; its main never ends."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.settimeout(30)
    code = "import sys; from pytest_sandbox._linux import native; native.become_init(int(sys.argv[1]), int(sys.argv[2]))"
    with here, there:
        process = subprocess.Popen([sys.executable, "-c", code, str(there.fileno()), str(1 << 30)], pass_fds=[there.fileno()])
        there.close()
        try:
            yield here, process
        finally:
            process.kill()
            process.wait()


def test_it_is_there() -> None:
    """Built, and loaded."""
    assert native.problem() is None
    assert native.program().startswith(b"\x7fELF")


def test_init_ends_with_its_controller(init: tuple[socket.socket, subprocess.Popen[bytes]]) -> None:
    """Nobody is left to say anything to."""
    here, process = init
    here.close()
    assert process.wait(30) == 1


def operation(code: bytes, *texts: bytes) -> bytes:
    """One operation without numbers, after its length."""
    data = code + bytes(12) + b"\0".join([*texts, *[b""] * (4 - len(texts))]) + b"\0"
    return struct.pack("=I", len(data)) + data


@pytest.mark.parametrize(
    ("operations", "number", "error"),
    [
        ([operation(b"o", b"/nowhere")], 0, 2),
        ([operation(b"o", b"/"), operation(b"o", b"/"), operation(b"?")], 2, 22),
        ([operation(b"o", b"/")] * 9, 8, 22),
        ([operation(b"o", b"/" + b"x" * 5000)], 0, 36),
        ([operation(b"o", b"/"), b"\xff\xff\0\0x"], 1, 22),
        ([operation(b"m", b"a", b"b", b"c", b"d", b"e")], 0, 22),
        ([struct.pack("=I", 20) + b"o" + bytes(12) + b"no end."], 0, 22),
        ([b"o"], 0, 22),
    ],
)
def test_what_init_cannot_do(
    init: tuple[socket.socket, subprocess.Popen[bytes]], operations: list[bytes], number: int, error: int
) -> None:
    """Is told by its number and the kernel's; what comes after it is not done, and init goes on."""
    here, process = init
    here.send(b"b" + b"".join(operations))
    assert here.recv(100) == b"f" + struct.pack("=ii", error, number)
    here.send(b"nothing that it knows")
    here.send(b"b" + operation(b"k"))
    here.settimeout(0.05)
    with pytest.raises(TimeoutError):
        here.recv(100)
    assert process.poll() is None


def test_init_heeds_no_signal(init: tuple[socket.socket, subprocess.Popen[bytes]]) -> None:
    """But for the two that nobody can block; it cannot be traced by its own user, either."""
    here, process = init
    here.send(b"b" + operation(b"k"))
    assert here.recv(100) == b"r"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        process.send_signal(number)
    here.send(b"b" + operation(b"k"))
    assert here.recv(100) == b"r"
    assert os.getuid() == 0 or not os.access(f"/proc/{process.pid}/mem", os.R_OK)


def plan(namespaces: list[int]) -> tuple[native.ForkPlan, list[socket.socket]]:
    """A plan with sockets for files."""
    sockets = [*socket.socketpair(), *socket.socketpair()]
    own, given = [sockets[0].fileno()], [sockets[2].fileno()]
    return native.ForkPlan((), namespaces, own, given, b"hello", True, b"/", [], (), 0), sockets


@pytest.mark.parametrize("thread", [False, True])
def test_a_fork_that_fails(*, thread: bool) -> None:
    """Names the step, and leaves the caller as it was: its descriptors, its signal mask, no child."""
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    if thread:
        other.start()
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        before, mask = sorted(os.listdir("/proc/self/fd")), signal.pthread_sigmask(signal.SIG_BLOCK, [])
        what, sockets = plan([null])
        with pytest.raises(OSError, match="setns") as caught:
            native.fork(what)
        assert (caught.value.errno, caught.value.filename) == (22, "setns")
        for one in sockets:
            one.close()
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    finally:
        os.close(null)
        end.set()
        if thread:
            other.join()
