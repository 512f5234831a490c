"""Parsers of /proc, on what the kernel prints, odd names included."""

from __future__ import annotations

import os
import signal
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


def test_hears() -> None:
    """Whoever neither ignores a signal nor blocks it; also where that cannot be read, as of who is no more."""
    with subprocess.Popen(["sleep", "60"]) as gone:
        assert proc.hears(gone.pid, signal.SIGTERM)
        gone.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, gone.pid, os.WSTOPPED)
        assert not proc.hears(gone.pid, signal.SIGTERM)
        gone.kill()
    assert proc.hears(gone.pid, signal.SIGTERM)
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; exec sleep 60"], stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout
        deaf.stdout.readline()
        assert not proc.hears(deaf.pid, signal.SIGTERM)
        assert proc.hears(deaf.pid, signal.SIGUSR1)
        deaf.kill()


def test_mountinfo() -> None:
    """Escapes are undone; only blanks and newlines separate; optional fields are passed over."""
    _, odd, unicode, *_ = proc.parse_mountinfo(MOUNTINFO)
    assert (odd.point, odd.fstype, odd.options) == ("/a b\tc\nd\\e", "tmpfs", frozenset({"rw", "nosuid"}))
    assert odd.super_options == frozenset({"rw", "size=4k"})
    assert (unicode.point, unicode.root, unicode.fstype) == ("/\u00a0\u2028\x0b\udcff", "/deep/root", "fuse.sshfs")


def lines(*mounts: tuple[int, int, str]) -> str:
    """Text of mountinfo, of ids, parents' ids and points."""
    return "".join(f"{mount} {parent} 0:{mount} / {point} rw - tmpfs t rw\n" for mount, parent, point in mounts)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (MOUNTINFO, {27, 31, 32, 35}),
        # Rootless Podman's with --userns=keep-id: the root is mounted last.
        (lines((2, 5, "/etc/hosts"), (3, 6, "/dev/shm"), (5, 1, "/"), (6, 5, "/dev")), {2, 3, 5, 6}),
        # On another's root, where something was mounted before.
        (lines((1, 0, "/"), (2, 1, "/a"), (3, 2, "/a/b"), (4, 2, "/a")), {1, 4}),
        # On a directory above another.
        (lines((1, 0, "/"), (6, 1, "/c/d"), (8, 6, "/c/d/e"), (7, 1, "/c")), {1, 7}),
        # A root on the root.
        (lines((2, 1, "/"), (3, 2, "/"), (4, 3, "/a"), (5, 2, "/b")), {3, 4}),
    ],
)
def test_visible(text: str, ids: set[int]) -> None:
    """Those that no other mount hides, each behind the one that it is on."""
    shown = proc.visible(proc.parse_mountinfo(text))
    assert {entry.mount_id for entry in shown} == ids
    place = {entry.mount_id: number for number, entry in enumerate(shown)}
    assert all(place.get(entry.parent_id, -1) < place[entry.mount_id] for entry in shown)


MOUNTS_UPON_MOUNTS = """
mount --make-rprivate /
mount -t tmpfs one /mnt
mkdir -p /mnt/b/c /mnt/d
mount -t tmpfs two /mnt/b/c
mount -t tmpfs three /mnt/b
mount -t tmpfs four /mnt/d
mkdir /mnt/b/c
mount -t tmpfs five /mnt/b/c
mount --rbind /mnt/d /mnt/b
"""
REACHED = """
import os
from pytest_sandbox._linux import proc
entries = proc.mounts()
reached = set()
for entry in entries:
    try:
        fd = os.open(entry.point, os.O_PATH)
    except OSError:
        continue  # hidden
    with open(f"/proc/self/fdinfo/{fd}") as info:
        reached.add(int(info.read().partition("mnt_id:")[2].split()[0]))
    os.close(fd)
assert reached == {entry.mount_id for entry in proc.visible(entries)}
print(len(entries) - len(reached))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts outside of a user namespace")
def test_visible_is_what_paths_reach() -> None:
    """The kernel says by which mount it reaches each point."""
    command = ["unshare", "--mount", "sh", "-ec", f'{MOUNTS_UPON_MOUNTS}\nexec "$0" -c "$1"', sys.executable, REACHED]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert int(said.stdout) >= 3


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


def test_descriptors() -> None:
    """Those below the limit, which alone stand in the way of another one; nothing of a process that is not there."""
    source = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)); print(flush=True); sys.stdin.read()"
    high = os.dup2(0, 50)
    with subprocess.Popen([sys.executable, "-c", source], stdin=-1, stdout=-1, pass_fds=[high]) as process:
        os.close(high)
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        assert proc.descriptors(process.pid) == (20, 3)
        process.stdin.close()
        process.wait()
        assert proc.descriptors(process.pid) is None


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
