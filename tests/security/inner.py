"""What attacks are made of, for tests inside of a sandbox: imported by them, as `inner`. Standard library only.

`assert_inside` comes before everything that would do harm outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
FACTS = json.loads(os.environ["SECURITY_FACTS"])
NAMESPACES = ("user", "mnt", "pid", "net")

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 1 << 17, 1 << 25, 1 << 28, 1 << 29, 1 << 30
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, -1)


def assert_inside(*paths: str) -> None:
    """Fail unless this process is in namespaces of its own, and unless writes to `paths` stay in there."""
    for kind in NAMESPACES:
        assert os.readlink(f"/proc/self/ns/{kind}") != FACTS["namespaces"][kind], f"NOT IN A SANDBOX: {kind} is the host's"
    for path in paths:
        kind, options = mount_of(path)
        assert kind in ("overlay", "tmpfs") or "ro" in options, f"NOT IN A SANDBOX: {path} is on {kind} {options}"
        host = FACTS["devices"].get(path)
        assert kind != "tmpfs" or host is None or os.stat(path).st_dev != host, f"NOT IN A SANDBOX: {path} is the host's"


def mount_of(path: str) -> tuple[str, list[str]]:
    """Type and options of the mount that a path is on; the last of several on one point is the one that is seen."""
    path = os.path.realpath(path)
    best, found = "", ("", [""])
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            point = before.split()[4]
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, found = point, (after.split()[0], before.split()[5].split(","))
    return found


def call(name: str, *args: object) -> int:
    """A function of libc; its errno, or 0."""
    converted = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    function = getattr(LIBC, name)
    return 0 if function(*converted) >= 0 else ctypes.get_errno()


def code(attempt: Callable[[], object]) -> int:
    """The errno of the OSError that `attempt` raises, or 0."""
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0


def refused(*codes: int, **named: int) -> None:
    """Fail for the attempts, by name, whose errno is none of `codes`."""
    got = {name: errno.errorcode.get(value, str(value)) for name, value in named.items() if value not in codes}
    assert not got, f"not refused as expected: {got}"


def fork(run: Callable[[], object]) -> int:
    """Run a function in a child; the exit status: 0, 1 where it raised (told on stderr), minus a signal's number."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def daemon(argv: list[str]) -> None:
    """Start a program that has nothing to do with this process any more: double fork, setsid, no descriptor."""

    def middle() -> None:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 65536)
            os.execv(argv[0], argv)

    assert fork(middle) == 0


def sleeper(token: str) -> list[str]:
    """A program that ignores every signal it can, and sleeps; `token` is seen in its command line."""
    ignore = "for n in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(n, signal.SIG_IGN)"
    return [sys.executable, "-c", f"import signal, time\n{ignore}\ntime.sleep(600)", token]


def wait_until(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    """Fail unless it becomes true in time."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def processes(word: str) -> list[int]:
    """Pids of those that can be seen and have `word` in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", encoding="utf-8") as file:
                if word in file.read():
                    found.append(int(name))
    return found


def in_user_namespace(run: Callable[[], object]) -> int:
    """Run a function as root of a user and mount namespace made inside, which every capability is in; `fork`'s status.

    -errno of unshare is raised as OSError where the sandbox lets nobody make one: that is fine, too.
    """

    def nested() -> None:
        uid, gid = os.getuid(), os.getgid()
        # A sandbox may allow no cgroup namespaces, or no user namespaces at all.
        flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET
        if LIBC.unshare(flags | CLONE_NEWCGROUP) and LIBC.unshare(flags):
            return
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
        run()

    return fork(nested)


def wire_socket() -> int:
    """The descriptor of the one socket that leads to the controller, as an attacker would find it."""
    found = [int(fd) for fd in os.listdir("/proc/self/fd") if link(fd).startswith("socket:")]
    assert len(found) == 1, f"not one socket: {[link(str(fd)) for fd in found]}"
    return found[0]


def effective_capabilities() -> int:
    """Bits of the first 32 capabilities that this process has; capget(2), which needs no /proc."""
    data = (ctypes.c_uint32 * 6)()
    assert LIBC.capget((ctypes.c_uint32 * 2)(0x2008_0522, 0), data) == 0
    return int(data[0])


def status(pid: int | str = "self") -> dict[str, str]:
    """What /proc says of a process, by name; of one that has ended too, as long as nobody has waited for it."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def gained(path: str) -> list[str]:
    """Which of its ids and capabilities a program ends with that an ordinary user who starts it does not have.

    That is this user or, where this is root, number 1000. Asked for its help, so that it gives up nothing itself.
    """
    user, group = (os.getuid(), os.getgid()) if os.getuid() else (1000, 1000)
    process = subprocess.Popen(
        [path, "--help"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=None if os.getuid() else user,
        group=None if os.getuid() else group,
        extra_groups=None if os.getuid() else [],
    )
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    found = status(process.pid)
    process.wait()
    expected = {"Uid": [user] * 4, "Gid": [group] * 4, "CapPrm": [0], "CapEff": [0]}
    return [
        f"{name}: {found[name]}"
        for name, values in expected.items()
        if [int(word, 16 if name.startswith("Cap") else 10) for word in found[name].split()] != values
    ]


def link(fd: str) -> str:
    """What a descriptor of this process leads to."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def send(frame: object) -> None:
    """Send the controller a frame that the plugin did not make."""
    body = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    data = len(body).to_bytes(4, "big") + body
    fd = wire_socket()
    while data:
        data = data[os.write(fd, data) :]


def stop_signals() -> None:
    """Block and ignore whatever can be."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def bury(top: str, levels: int) -> None:
    """Make directories in directories, of mode 000 and with a newline in their names."""
    made = []
    os.chdir(top)
    for _ in range(levels):
        os.mkdir("a\nb")
        made.append(os.open("a\nb", os.O_RDONLY))
        os.chdir("a\nb")
    for fd in reversed(made[:-1]):
        os.chmod("a\nb", 0, dir_fd=fd)
        os.close(fd)


def pids() -> list[int]:
    """Of all processes that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def nest(levels: int, width: int) -> None:
    """Leave so many deaf processes here, and in each of so many pid and user namespaces in each other, if these may be made."""
    for _ in range(width):
        if os.fork() == 0:
            stop_signals()
            time.sleep(600)
    if levels == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    if call("unshare", CLONE_NEWUSER | CLONE_NEWPID) == 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    if os.fork() == 0:
        nest(levels - 1, width)
        stop_signals()
        time.sleep(600)
