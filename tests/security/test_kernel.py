"""The kernel: nothing that acts on the whole machine can be written, and no program gains rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_nothing_of_the_kernel_is_writable(anywhere: Any) -> None:
    """core_pattern and all of /proc/sys, sysrq-trigger, /sys, release_agent: EROFS, EACCES or not there; also nested."""
    anywhere.write("""
def writable(top):
    found = []
    for directory, names, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
            except OSError:
                continue
            found.append(path)
    return found
def attempt():
    inner.assert_inside("/proc/sys", "/sys")
    found = writable("/proc/sys") + writable("/sys") + [p for n in ("bus", "fs", "irq") for p in writable("/proc/" + n)]
    assert found == [], found
    for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/kcore", "/proc/kmsg",
                 "/proc/mtrr", "/proc/timer_list", "/proc/keys", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/fuse"):
        if os.path.exists(path) and inner.code(lambda: os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))) == 0:
            assert (os.stat(path).st_mode, os.stat(path).st_rdev) == (os.stat("/dev/null").st_mode, os.makedev(1, 3)), path
def test_directly():
    attempt()
def test_nested(capfd):
    status = inner.in_user_namespace(attempt)
    assert status == 0, capfd.readouterr().err
def test_calls():
    inner.assert_inside()
    LIBC = inner.LIBC
    inner.refused(errno.EPERM, errno.ENOSYS, errno.EACCES, errno.ENOENT,
        reboot=inner.call("reboot", 0), swapoff=inner.call("swapoff", "/none"), acct=inner.call("acct", "/tmp/acct"),
        module=inner.call("syscall", 175, 0, 0, 0) if os.uname().machine == "x86_64" else errno.EPERM,
        syslog=inner.call("klogctl", 5, None, 0), settime=inner.code(lambda: time.clock_settime(time.CLOCK_REALTIME, 0)),
        hostname=inner.call("sethostname", "x", 1), iopl=inner.call("iopl", 3) if hasattr(inner.LIBC, "iopl") else errno.EPERM)
def test_null_is_the_machines_own():
    '''Nobody owns a device that is bound from the machine. What is tried changes nothing, even where it may.'''
    import stat
    inner.assert_inside()
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        path = "/dev/" + name
        mode = stat.S_IMODE(os.stat(path).st_mode)
        inner.refused(errno.EPERM, errno.EROFS, errno.EACCES, chmod=inner.code(lambda: os.chmod(path, mode)),
            utime=inner.code(lambda: os.utime(path, ns=(os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))),
            unlink=inner.code(lambda: os.unlink(path)))
""")
    before = {name: os.stat(f"/dev/{name}") for name in ("null", "zero", "tty")}
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    anywhere.run().passed("test_directly", "test_nested", "test_calls", "test_null_is_the_machines_own", "test_next")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    for name, status in before.items():
        after = os.stat(f"/dev/{name}")
        assert (after.st_mode, after.st_uid, after.st_gid) == (status.st_mode, status.st_uid, status.st_gid)


def test_limits_cannot_be_loosened(anywhere: Any) -> None:
    """No cgroup file is to be seen; one that is mounted in a nested namespace shows nothing above, and no limit to write."""
    anywhere.write("""
UID = os.getuid()
def look(place):
    inner.assert_inside()
    os.makedirs(place, exist_ok=True)
    found = []
    for kind, options in (("cgroup2", None), *(("cgroup", name) for name in ("memory", "pids", "cpu", "none,name=x"))):
        if inner.call("mount", "x", place, kind, 0, options.encode() if options else None):
            continue
        assert UID == 0, f"{kind} {options} can be mounted, and the user's own cgroups are his"
        for directory, _, files in os.walk(place):
            for name in files:
                if inner.code(lambda: os.close(os.open(os.path.join(directory, name), os.O_WRONLY))) == 0:
                    found.append((kind, options, os.path.join(directory, name)))
        inner.call("umount2", place, inner.MNT_DETACH)
    assert found == [], found
def test_not_mounted():
    inner.assert_inside()
    with open("/proc/self/mountinfo") as file:
        assert not [line for line in file if " cgroup" in line.partition(" - ")[2]]
    assert not os.path.exists("/sys/fs/cgroup") or os.listdir("/sys/fs/cgroup") == []
    with open("/proc/self/cgroup") as file:
        assert {line.rstrip().split(":", 2)[2] for line in file} <= {"/"}  # none where there are no cgroups
def test_directly():
    look("/tmp/cgroup")
def test_nested(capfd):
    status = inner.in_user_namespace(lambda: look("/tmp/cgroup"))
    assert status == 0, capfd.readouterr().err
def test_resource_limits():
    import resource
    for which in (resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
        soft, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            with pytest.raises((ValueError, PermissionError)):
                resource.setrlimit(which, (soft, hard + 1))
""")
    anywhere.run().passed("test_not_mounted", "test_directly", "test_nested", "test_resource_limits", "test_next")


def programs(attack: Any) -> list[str]:
    """Programs that give an ordinary user of this machine rights, outside of any sandbox; skips where there are none.

    They are the machine's own and, as only root can make them, one that is root's and set-user-id, and one with capabilities.
    """
    found = [path for path in map(shutil.which, ("su", "mount", "passwd", "sudo", "ping", "newuidmap")) if path]
    if os.getuid() == 0:
        attack.path.chmod(0o711)
        place = attack.path / "programs"
        place.mkdir()
        for name in ("setuid", "capable"):
            shutil.copy(shutil.which("true") or "", place / name)
            found.append(str(place / name))
        (place / "setuid").chmod(0o6755)
        # Version 2, effective; CAP_CHOWN and CAP_NET_RAW, which are in the bounding set of a sandbox of root's.
        os.setxattr(place / "capable", "security.capability", bytes.fromhex("01000002" + "01200000" * 2 + "00000000" * 2))
    code = f"import inner, json; print(json.dumps([path for path in {found} if inner.gained(path)]))"
    environment = attack.environ() | {"PYTHONPATH": str(attack.project)}
    shown = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, check=True)
    gaining = [str(path) for path in json.loads(shown.stdout)]
    if not gaining:
        pytest.skip("no program gives rights here: file systems are nosuid, or no_new_privs is set already")
    return gaining


def test_no_program_gains_rights(anywhere: Any) -> None:
    """no_new_privs is set, capabilities are bounded, and a set-user-id program runs as who started it."""
    anywhere.facts["programs"] = programs(anywhere)
    anywhere.write("""
import shutil
def test_flags():
    own = inner.status()
    assert own["NoNewPrivs"] == "1"
    strong = {1 << bit for bit in (12, 16, 17, 19, 20, 21, 22, 23, 24, 25, 39, 40)}
    for name in ("CapPrm", "CapEff", "CapBnd"):
        held = int(own[name], 16)
        assert not any(held & bit for bit in strong), (name, own[name])
        assert os.getuid() == 0 or held == 0
    assert int(own["CapAmb"], 16) == int(own["CapInh"], 16) == 0
@pytest.mark.parametrize("path", FACTS["programs"])
def test_program_of_the_machine(path):
    '''Run by an ordinary user: by who runs the test or, where that is root, by another.'''
    assert os.access(path, os.X_OK)
    assert inner.gained(path) == []
def test_program_of_its_own():
    '''What root of the sandbox, or the user, makes set-user-id there.'''
    inner.assert_inside("/tmp")
    shutil.copy(shutil.which("true"), "/tmp/true")
    os.chmod("/tmp/true", 0o6755)
    assert inner.gained("/tmp/true") == []
def test_file_capabilities():
    '''A program with capabilities on disk, as root of the sandbox can make it, gains nothing above the bounding set.'''
    inner.assert_inside("/tmp")
    shutil.copy(sys.executable, "/tmp/python")
    blob = bytes.fromhex("01000002" + "ffffffff" + "00000000" + "ffffffff" + "00000000")
    inner.code(lambda: os.setxattr("/tmp/python", "security.capability", blob))
    code = "print([l for l in open('/proc/self/status') if l.startswith('CapEff')][0].split()[1])"
    try:
        shown = subprocess.run(["/tmp/python", "-c", code], capture_output=True, text=True, check=True)
    except PermissionError:
        return  # refused as a whole, since it asks for more than the bounding set has
    assert int(shown.stdout, 16) & ~int(inner.status()["CapBnd"], 16) == 0, shown
""")
    result = anywhere.run()
    result.passed("test_flags", "test_program_of_its_own", "test_file_capabilities", "test_next")
    result.passed(*(f"test_program_of_the_machine[{path}]" for path in anywhere.facts["programs"]))


def test_root_leaves_no_files_of_the_machines_root(anywhere: Any) -> None:
    """A set-user-id program that a test as root makes in a path that is let through does not belong to the machine's root.

    Where ids are mapped, the file belongs to who started the run: that is what a let-through path is for. Kept files lose
    the bit.
    """
    if os.getuid():
        pytest.skip("the ordinary user has nothing to give")
    anywhere.write("""
import shutil
def test_make(tmp_path):
    inner.assert_inside(str(tmp_path))
    shutil.copy("/bin/sh", tmp_path / "shell")
    (tmp_path / "shell").chmod(0o4755)
    assert False
""")
    anywhere.run().failed("test_make", "exited")
    kept = list((anywhere.path / "tmp").rglob("shell"))
    assert kept
    assert not any(path.stat().st_mode & 0o6000 for path in kept)


def test_sessions_keys_terminals_and_abstract_sockets_are_out_of_reach(anywhere: Any) -> None:
    """Keys of the session that started pytest, its terminal's input, SysV memory and abstract sockets: not reachable inside."""
    anywhere.write(
        """
import ctypes
SERVER = socket.socket(socket.AF_UNIX)
SERVER.bind("\\0security-" + FACTS["token"])
SERVER.listen()
# In the controller: a key in the session keyring, and a queue of messages.
add_key = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
KEY = inner.LIBC.syscall(add_key, b"user", FACTS["token"].encode(), b"secret", 6, -3)
QUEUE = inner.LIBC.msgget(int(FACTS["token"][:7], 16), 0o1000 | 0o600)
def pytest_unconfigure():
    inner.LIBC.msgctl(QUEUE, 0, None)
""",
        "conftest.py",
    )
    anywhere.write("""
import ctypes, fcntl, termios
keyctl = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
request_key = {"x86_64": 249, "aarch64": 218}[os.uname().machine]
def test_abstract_socket():
    client = socket.socket(socket.AF_UNIX)
    with client, pytest.raises(ConnectionRefusedError):
        client.connect("\\0security-" + FACTS["token"])
def test_terminal():
    inner.assert_inside()
    for name in os.listdir("/proc/self/fd"):
        inner.refused(errno.EPERM, errno.ENOTTY, errno.EBADF, errno.EIO, errno.EINVAL, errno.EACCES,
            **{name: inner.code(lambda: fcntl.ioctl(int(name), termios.TIOCSTI, b"x"))})
    assert inner.code(lambda: os.open("/dev/tty", os.O_RDWR)) in (errno.ENXIO, errno.EACCES, errno.EIO)
def test_queue():
    assert inner.LIBC.msgget(int(FACTS["token"][:7], 16), 0) == -1
    assert ctypes.get_errno() == errno.ENOENT
def test_keys():
    '''The keyring of the session: neither found nor read nor linked.'''
    inner.assert_inside()
    found = inner.LIBC.syscall(request_key, b"user", FACTS["token"].encode(), None, 0)
    assert found == -1, "the key of the session that started pytest was found"
""")
    anywhere.run().passed("test_abstract_socket", "test_terminal", "test_queue", "test_keys", "test_next")


def test_a_terminal_takes_no_input_from_a_test(attack: Any) -> None:
    """Run on a terminal with -s, a test can print, but cannot push characters into its input (TIOCSTI)."""
    attack.write("""
import fcntl, termios
def test_push():
    inner.assert_inside()
    assert os.isatty(1)
    inner.refused(errno.EPERM, errno.EIO, stdin=inner.code(lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x")),
        stdout=inner.code(lambda: fcntl.ioctl(1, termios.TIOCSTI, b"x")))
    assert inner.code(lambda: os.open("/dev/tty", os.O_RDWR)) == errno.ENXIO
""")
    code = (
        "import os, pty, sys\n"
        "def read(fd):\n    data = os.read(fd, 4096)\n    return data\n"
        "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:], read)))"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "pytest", "--sandbox", "-s", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        cwd=attack.project,
        env=attack.environ(),
        capture_output=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout.decode()
