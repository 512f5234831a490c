"""Mounts and roots: no mask, layer or root can be taken off, and nothing of the machinery lends its rights to it."""

from __future__ import annotations

import os
from typing import Any

import pytest

MOUNTS = """
import pathlib
def try_mounts():
    '''Every way to change a mount that the sandbox made; the errno of each.'''
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4] for line in file]
    for point in points:
        inner.refused(errno.EPERM, errno.EINVAL, **{f"umount {point}": inner.call("umount2", point, inner.MNT_DETACH)})
        if "ro" in inner.mount_of(point)[1]:
            remounted = inner.call("mount", None, point, None, inner.MS_REMOUNT | inner.MS_BIND, None)
            inner.refused(errno.EPERM, **{f"remount {point}": remounted})
    for path in ("/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware"):
        if os.path.isdir(path):
            assert os.listdir(path) == [], path
        elif os.path.exists(path):
            assert not os.path.getsize(path) and not open(path, "rb").read(1), path
    for path in ("/proc/sys", "/sys"):
        assert "ro" in inner.mount_of(path)[1], path
def try_proc_again():
    '''A second proc or sysfs without the masks: the kernel refuses where the visible one is masked.'''
    place = "/tmp/again"
    os.makedirs(place, exist_ok=True)
    if inner.call("mount", "proc", place, "proc", 0, None) == 0:
        assert inner.code(lambda: open(place + "/sys/kernel/core_pattern", "w")) in (errno.EACCES, errno.EROFS, errno.EPERM)
        assert inner.code(lambda: open(place + "/sysrq-trigger", "w")) in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT)
"""


def test_masks_and_layers_cannot_be_taken_off(anywhere: Any) -> None:
    """No mask, base or read-only mount can be unmounted or made writable, by a test or as root of a user namespace of its own."""
    anywhere.write(
        MOUNTS
        + """
def test_directly():
    inner.assert_inside("/")
    try_mounts()
    inner.refused(errno.EPERM,
        tmpfs=inner.call("mount", "x", "/tmp", "tmpfs", 0, None),
        bind=inner.call("mount", "/", "/tmp", None, inner.MS_BIND, None),
        proc=inner.call("mount", "proc", "/tmp", "proc", 0, None), setns=inner.call("setns", os.open("/proc/self/ns/mnt", 0), 0),
        pivot=inner.call("syscall", inner.SYS_PIVOT_ROOT, b".", b"."), unshare=inner.call("unshare", inner.CLONE_NEWNS))
def test_nested(capfd):
    inner.assert_inside("/")
    status = inner.in_user_namespace(lambda: (try_mounts(), try_proc_again()))
    assert status == 0, capfd.readouterr().err
def test_no_store():
    '''The directories behind the overlays are not to be found.'''
    assert os.listdir("/dev/.sandbox/root") == [] and os.listdir("/dev/.sandbox/store") == []
"""
    )
    anywhere.run().passed("test_directly", "test_nested", "test_no_store", "test_next")


def test_whoever_owns_a_sandbox_uncovers_nothing_in_it(anywhere: Any) -> None:
    """A test that takes the namespaces of one below it, and so all capabilities in there, cannot mount: where paths are hidden.

    Nor where root is the machine's root, to whom only mounts deny what is root's.
    """
    secret = anywhere.path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    anywhere.facts["secret"] = str(secret)
    anywhere.write("""
import fcntl
SECRET = FACTS["secret"]
NS_MNT_GET_NEXT, NS_MNT_GET_PREV = 0x8010B70B, 0x8010B70C
def take_over(user, mounts):
    inner.refused(0, user=inner.call("setns", user, 0), mounts=inner.call("setns", mounts, 0))
    assert inner.effective_capabilities() & 1 << 21, "no CAP_SYS_ADMIN: the attack does not begin"
    for point in (SECRET, "/proc/sys", "/proc/acpi"):
        inner.refused(errno.EPERM, **{f"umount {point}": inner.call("umount2", point, inner.MNT_DETACH)})
    inner.refused(errno.EPERM,
        remount=inner.call("mount", None, "/proc/sys", None, inner.MS_REMOUNT | inner.MS_BIND, None),
        proc=inner.call("mount", "proc", "/tmp", "proc", 0, None),
        open_tree=inner.call("syscall", 428, -100, b"/", 1),
        setattr=inner.call("syscall", 442, -100, b"/proc/sys", 0, b"", 0),
        next=inner.code(lambda: fcntl.ioctl(mounts, NS_MNT_GET_NEXT, bytes(16))),
        prev=inner.code(lambda: fcntl.ioctl(mounts, NS_MNT_GET_PREV, bytes(16))))
    assert os.listdir(SECRET) == []
    for name in ("core_pattern", "printk_ratelimit", "modprobe"):
        path = "/proc/sys/kernel/" + name
        if os.path.exists(path):
            assert inner.code(lambda: os.close(os.open(path, os.O_WRONLY))) in (errno.EROFS, errno.EACCES, errno.EPERM), path
def test_it(sandbox_factory, capfd):
    inner.assert_inside("/")
    channel = sandbox_factory._inside.channel
    channel.send({"op": "make", "number": 1, "limits": {}})
    frame, descriptors = channel.receive()
    assert frame["op"] == "spawn"
    assert inner.link(str(descriptors[5])).startswith("user:") and inner.link(str(descriptors[6])).startswith("mnt:")
    assert inner.fork(lambda: take_over(*descriptors[5:7])) == 0, capfd.readouterr().err
""")
    anywhere.run(f"--sandbox-hide={secret}").passed("test_it", "test_next")


def test_nothing_of_the_machinery_lends_its_rights(anywhere: Any) -> None:
    """A thread that an at-fork handler starts in the outermost main is confined as main is; so is a test after an odd fixture."""
    secret = anywhere.path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    anywhere.facts["secret"] = str(secret)
    anywhere.write(
        """
import platform, threading
work, done = [], []
def labour():
    while True:
        if work:
            done.append(work.pop()())
        time.sleep(0.01)
os.register_at_fork(after_in_child=lambda: threading.Thread(target=labour, daemon=True).start())
def attempt():
    return inner.call("umount2", FACTS["secret"], inner.MNT_DETACH), inner.effective_capabilities() & 1 << 21
@pytest.fixture(scope="session")
def result():
    work.append(attempt)
    inner.wait_until(lambda: done)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "aarch64")
        yield done[0], os.listdir(FACTS["secret"])
""",
        "conftest.py",
    )
    anywhere.write("""
@pytest.mark.sandbox(hide="/srv")
def test_it(result):
    inner.assert_inside("/")
    assert result == ((errno.EPERM, 0), [])
""")
    anywhere.run(f"--sandbox-hide={secret}").passed("test_it", "test_next")


def test_what_init_lets_others_trace_is_of_no_use(attack: Any) -> None:
    """To map a user, init makes a process that may be traced, for a moment: whoever catches it finds it unable to do anything."""
    if os.getuid() == 0:
        pytest.skip("root's namespaces are mapped without it")
    attack.write("""
import select
PTRACE_SEIZE = 0x4206
def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return {line.partition(":")[0]: line.partition(":")[2].strip() for line in file}
def catch(channel):
    # Whoever is to be traced of the next pids, until a sandbox is made.
    with open("/proc/loadavg") as file:
        last = int(file.read().split()[-1])
    channel.send({"op": "make", "number": 1, "limits": {}})
    while not select.select([channel.socket], [], [], 0)[0]:  # until it is to be entered
        for pid in range(last + 1, last + 4):
            if inner.LIBC.ptrace(PTRACE_SEIZE, pid, None, None) == 0:
                return pid
    frame, descriptors = channel.receive()
    if frame["op"] == "spawn":
        for fd in descriptors:
            os.close(fd)
        channel.send({"op": "refused", "name": frame["name"]})
        channel.receive()
def test_it(sandbox_factory):
    inner.assert_inside("/")
    pid = next(filter(None, (catch(sandbox_factory._inside.channel) for _ in range(50))), None)
    if pid is None:
        return
    found = status(pid)
    os.kill(pid, signal.SIGKILL)
    print("caught", found["Name"], found["Seccomp"], found["NoNewPrivs"])
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "1"), found
""")
    for _ in range(40):
        result = attack.run("-rP")
        result.passed("test_it")
        if "caught" in result.output:
            return
    pytest.fail("nobody was caught in 2000 attempts: this shows nothing")


def test_there_is_no_way_out_of_the_root(anywhere: Any) -> None:
    """chroot and "..", /proc/*/root, a directory opened before the sandbox was, and file handles lead to the sandbox's files."""
    anywhere.write(
        """
ROOT = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
HERE = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
PATH_ONLY = os.open("/", os.O_PATH | os.O_DIRECTORY)
""",
        "opened.py",
    )
    anywhere.write("""
import opened, pathlib
MARK = f"security-{FACTS['token']}"
NAME = FACTS["path"] + "/project/" + MARK
def same(fd_or_path, dir_fd=None):
    '''Whether this is the sandbox's own root directory.'''
    mine, other = os.stat("/"), os.stat(fd_or_path, dir_fd=dir_fd) if dir_fd is not None else os.stat(fd_or_path)
    return (mine.st_dev, mine.st_ino) == (other.st_dev, other.st_ino)
def test_descriptors():
    inner.assert_inside("/", FACTS["path"])
    up = "../" * 40
    assert same(up, opened.HERE)
    for fd in (opened.ROOT, opened.HERE, opened.PATH_ONLY):
        if inner.link(str(fd)) != "/dev/null":
            assert same(up, fd)
            inner.code(lambda: os.close(os.open(up + NAME.lstrip("/") + "-by-fd", os.O_CREAT | os.O_WRONLY, dir_fd=fd)))
def test_chroot(tmp_path):
    inner.assert_inside("/", FACTS["path"])
    def escape():
        there = os.open(".", os.O_RDONLY)
        os.chroot(tmp_path)
        os.fchdir(there)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        pathlib.Path(NAME + "-chroot").write_text("escaped")
        assert os.path.exists("/dev/.sandbox") and not os.listdir("/dev/.sandbox/store")
    if os.getuid() == 0:
        assert inner.fork(escape) == 0
    else:
        assert inner.code(lambda: os.chroot(".")) == errno.EPERM
        assert inner.in_user_namespace(escape) == 0
def test_roots_of_others():
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            for name in ("root", "cwd"):
                try:
                    assert same(f"/proc/{pid}/{name}/" + "../" * 40)
                except PermissionError:
                    assert pid == "1"
def test_file_handles():
    handle = b"\\x08\\0\\0\\0\\x01\\0\\0\\0" + bytes(16)
    inner.refused(errno.EPERM, handle=inner.call("open_by_handle_at", opened.HERE, handle, 0))
""")
    result = anywhere.run()
    result.passed("test_descriptors", "test_chroot", "test_roots_of_others", "test_file_handles")
    assert not [name for name in os.listdir(anywhere.project) if anywhere.token in name]
