"""Parsers of /proc, on what the kernel prints, odd names included."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_sandbox._linux import proc

MOUNTINFO = (
    "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    "31 27 0:28 / /a\\040b\\011c\\012d\\134e rw,nosuid shared:7 master:2 - tmpfs tmpfs rw,size=4k\n"
    "32 27 0:29 /deep/root /\u00a0\u2028\x0b\udcff ro - fuse.sshfs x:/y rw\n"
    "33 27 0:30 / /over rw - tmpfs one rw\n"
    "34 33 0:31 / /over/below rw - tmpfs two rw\n"
    "35 27 0:32 / /over rw - ext4 three rw\n"
)


def test_mountinfo() -> None:
    """Escapes are undone; only blanks and newlines separate; optional fields are passed over."""
    _, odd, unicode, *_ = proc.parse_mountinfo(MOUNTINFO)
    assert (odd.point, odd.fstype, odd.options) == ("/a b\tc\nd\\e", "tmpfs", frozenset({"rw", "nosuid"}))
    assert (unicode.point, unicode.root, unicode.fstype) == ("/\u00a0\u2028\x0b\udcff", "/deep/root", "fuse.sshfs")


def test_visible() -> None:
    """A mount hides those below its point that came before it."""
    assert [entry.mount_id for entry in proc.visible(proc.parse_mountinfo(MOUNTINFO))] == [27, 31, 32, 35]


def test_own_mounts() -> None:
    """The root is always there."""
    assert "/" in {entry.point for entry in proc.mounts()}


def test_threads() -> None:
    """Those of this process, counted by the kernel."""
    while proc.threads() > threading.active_count():
        time.sleep(0.01)  # a thread that was joined may be the kernel's for a moment yet
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        assert proc.threads() == threading.active_count() >= 3
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("name", ["plain", "with blank", "new\nline", "\n00: 0 0 00010000 01 01 1 @forged", "tab\t \udcff"])
def test_unix_listeners(tmp_path: Path, name: str) -> None:
    """Paths of who listens, odd ones included; a name that looks like a row of the table forges no abstract socket."""
    path = os.path.join(os.path.relpath(tmp_path), name.replace("/", ""))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)
        assert path not in proc.unix_listeners()
        one.listen()
        if "\n" not in name:
            assert path in proc.unix_listeners()


def test_abstract_listener() -> None:
    """With a leading @."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"\0sandbox-test-{os.getpid()}")
        one.listen()
        assert f"@sandbox-test-{os.getpid()}" in proc.unix_listeners()


def _network_bytes() -> tuple[int, int] | None:
    return proc.network_bytes(Path("/proc/self/net/dev").read_text(encoding="ascii"))


def test_network_bytes() -> None:
    """The loopback's traffic is counted."""
    before = _network_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.sendto(bytes(1000), one.getsockname())
        one.recv(2000)
    after = _network_bytes()
    assert before
    assert after
    assert after[0] - before[0] >= 1000
    assert after[1] - before[1] >= 1000


def test_command_lines() -> None:
    """Arguments in a row; [name] of a zombie; None of nobody."""
    source = "print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", source, "odd \udcff"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        assert (proc.command_line(process.pid) or "").endswith(f" -c {source} odd \\xff")
        assert process.pid in dict(proc.processes())
        process.communicate(b"\n")
    finally:
        process.kill()
        process.wait()
    assert proc.command_line(process.pid) is None
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    line = proc.command_line(pid)
    os.waitpid(pid, 0)
    assert line is not None
    assert line.startswith("[")
