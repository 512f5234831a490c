"""Files: whatever a test does to them is gone afterwards, and nothing leads out of its view of the machine."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest


def test_the_machine_is_unchanged_byte_for_byte(anywhere: Any) -> None:
    """Files of the project, the home, /etc, /, /tmp and /dev/shm are written, deleted, renamed, chmodded: for the test alone."""
    places = [anywhere.project / "data", anywhere.path / "home" / "data"]
    shared = Path(tempfile.mkdtemp(prefix="security-", dir="/dev/shm"))
    places.append(shared / "data")
    try:
        for place in places:
            (place / "sub").mkdir(parents=True)
            for name in ("kept", "written", "deleted", "renamed", "chmodded", "sub/file"):
                (place / name).write_bytes(os.urandom(100))
            (place / "link").symlink_to("kept")
            os.link(place / "kept", place / "hard")
        anywhere.facts["places"] = [str(place) for place in places]
        anywhere.write("""
import pathlib, shutil
def mangle(place):
    inner.assert_inside(str(place))
    for name in ("written", "link", "hard"):
        (place / name).write_text("mangled")
    (place / "deleted").unlink()
    (place / "renamed").rename(place / "new-name")
    (place / "chmodded").chmod(0)
    os.utime(place / "written", (0, 0))
    shutil.rmtree(place / "sub")
    (place / "sub").mkdir()
    (place / "added").write_text("new")
    os.truncate(place / "kept", 3)
    inner.code(lambda: os.setxattr(place / "kept", "user.mine", b"1"))
    inner.code(lambda: os.chown(place / "kept", 1234, 1234))
@pytest.mark.parametrize("place", FACTS["places"])
def test_mangle(place):
    mangle(pathlib.Path(place))
    assert sorted(os.listdir(place)) == ["added", "chmodded", "hard", "kept", "link", "new-name", "sub", "written"]
@pytest.mark.parametrize("place", FACTS["places"])
def test_remove(place):
    inner.assert_inside(place, os.path.dirname(place))
    assert "deleted" in os.listdir(place)
    shutil.rmtree(place)
    shutil.rmtree(os.path.dirname(place), ignore_errors=True)
def test_system():
    for place in ("/", "/etc", "/usr", "/tmp", "/dev/shm", "/var/tmp", os.path.dirname(os.__file__)):
        inner.assert_inside(place)
        path = f"{place}/security-{FACTS['token']}"
        wrote = inner.code(lambda: pathlib.Path(path).write_text("x"))
        assert wrote == 0 or os.getuid() and wrote in (errno.EACCES, errno.EROFS), (place, wrote)
    if os.getuid() == 0:
        for place in ("/etc/passwd", "/etc/hostname"):
            if os.path.exists(place):
                inner.assert_inside(place)
                os.chmod(place, 0o777)
                os.rename(place, place + ".gone")
        shutil.rmtree("/etc", ignore_errors=True)
        assert not os.path.exists("/etc/passwd")
def test_sees_none_of_that():
    assert all("deleted" in os.listdir(place) for place in FACTS["places"])
    assert not any(FACTS["token"] in name for place in ("/", "/etc", "/tmp", "/dev/shm") for name in os.listdir(place))
""")
        before = anywhere.manifest("/etc", *places, anywhere.project)
        result = anywhere.run()
        after = anywhere.manifest("/etc", *places, anywhere.project)
        assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()
        assert len(result.cases) == 2 * len(places) + 3
        result.passed(*result.cases)
        for place in ("/", "/etc", "/usr", "/tmp", "/dev/shm", "/var/tmp", os.path.dirname(os.__file__)):
            assert not any(anywhere.token in name for name in os.listdir(place))
    finally:
        shutil.rmtree(shared)


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
    channel.send({"op": "make", "limits": {}})
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
    channel.send({"op": "make", "limits": {}})
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


def test_special_files_in_what_is_kept_are_not_followed(attack: Any) -> None:
    """A FIFO, socket, device or link in what is kept of a failed test is never opened; a link stays a link; the run goes on."""
    secret = attack.path / "secret"
    secret.write_text("the machine's")
    attack.facts["secret"] = str(secret)
    attack.write("""
def test_specials(tmp_path):
    inner.assert_inside(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    os.symlink(FACTS["secret"], tmp_path / "to-secret")
    os.symlink("/dev/zero", tmp_path / "to-zero")
    os.symlink("/", tmp_path / "to-root")
    inner.code(lambda: os.mknod(tmp_path / "device", 0o600 | 0o020000, os.makedev(1, 5)))
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.close()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "setuid").write_text("kept")
    (tmp_path / "setuid").chmod(0o6777)
    assert False
""")
    result = attack.run()
    result.failed("test_specials", "exited")
    result.passed("test_next")
    kept = [
        path
        for path in (attack.path / "tmp").rglob("*")
        if path.name in ("file", "fifo", "socket", "device", "to-secret", "setuid")
    ]
    names = {path.name for path in kept}
    assert {"file", "setuid"} <= names, "what was written is kept"
    for path in kept:
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISLNK(mode), path
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path
        assert path.name != "to-secret" or path.is_symlink()
    assert secret.read_text() == "the machine's"


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_kept_link_is_no_way_to_write_elsewhere(attack: Any, kind: str) -> None:
    """One test leaves a link where a later one writes: what is copied out of the second does not go where the link leads."""
    outside = attack.path / "outside"
    outside.mkdir()
    attack.facts |= {"outside": str(outside), "kind": kind}
    attack.write("""
def test_1_link(tmp_path):
    target = FACTS["outside"] + ("" if FACTS["kind"] == "directory" else "/pwned")
    os.symlink(target, tmp_path.parent / "trap")
def test_2_write(tmp_path):
    trap = tmp_path.parent / "trap"
    inner.assert_inside(str(tmp_path))
    if trap.is_symlink():
        trap.unlink()
    if FACTS["kind"] == "directory":
        trap.mkdir()
        (trap / "pwned").write_text("by a test")
    else:
        trap.write_text("by a test")
""")
    result = attack.run()
    result.passed("test_1_link", "test_2_write", "test_next")
    assert os.listdir(outside) == []


def test_what_is_hard_to_remove_is_removed(attack: Any) -> None:
    """Directories of mode 000, names with newlines and without UTF-8, and a path of 10,000 levels are torn down all the same."""
    attack.write("""
def test_names(tmp_path):
    for name in (b"new\\nline", b"\\xff\\xfe", b"-rf", b"..."):
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    (tmp_path / "locked" / "in").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)
    assert False
def test_deep(tmp_path):
    os.chdir(tmp_path)
    for _ in range(10_000):
        os.mkdir("d")
        os.chdir("d")
    assert False
def test_many(tmp_path):
    for index in range(100_000):
        os.close(os.open(f"{tmp_path}/{index}", os.O_CREAT | os.O_WRONLY))
""")
    result = attack.run("-o", "tmp_path_retention_policy=none", "--sandbox-keep=never")
    result.failed("test_names", "exited")
    result.failed("test_deep", "exited")
    result.passed("test_many", "test_next")


def test_what_is_hard_to_remove_is_removed_from_a_disk(attack: Any) -> None:
    """The same where layers lie on a disk; what a run has no time for (ten seconds each), the next ones remove."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", "/var/tmp"], capture_output=True, text=True, check=True).stdout.strip()
    if kind not in ("ext2/ext3", "xfs", "btrfs"):
        pytest.skip(f"/var/tmp is on no disk, but on {kind}")
    attack.write("""
def test_deep(tmp_path):
    os.chdir(tmp_path)
    for _ in range(10_000):
        os.mkdir("a\\nb")
        os.chdir("a\\nb")
def test_locked(tmp_path):
    for place in (tmp_path, "/tmp", "/var/tmp"):
        inner.bury(place, 300)
""")
    scratch = ("--sandbox-scratch=/var/tmp", "--sandbox-disk=none", "--sandbox-inodes=none")
    result = attack.run(*scratch)
    result.passed("test_deep", "test_locked", "test_next")

    def left() -> list[Path]:
        return list(Path("/var/tmp").glob(f"pytest-sandbox-{result.pid}-*"))

    for _ in range(20):
        if left():
            attack.run(*scratch, "-k", "test_next")
    assert left() == []


def test_many_files_of_a_failed_test_are_kept_without_harm(attack: Any) -> None:
    """With the defaults, what is hard to copy is copied as far as it can be, and the run goes on."""
    attack.write("""
def test_names(tmp_path):
    for name in (b"new\\nline", b"\\xff\\xfe"):
        (os.fsencode(tmp_path) and os.mkdir(os.path.join(os.fsencode(tmp_path), name)))
    (tmp_path / "locked" / "in").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)
    assert False
def test_deep(tmp_path):
    os.chdir(tmp_path)
    for _ in range(10_000):
        os.mkdir("d")
        os.chdir("d")
    assert False
""")
    result = attack.run()
    result.failed("test_names", "exited")
    result.failed("test_deep", "exited")
    result.passed("test_next")


_INTO_THE_CACHE = """
def test_1_links(pytestconfig):
    cache = pytestconfig.cache
    inner.assert_inside(str(cache._cachedir))
    cache.set("its/own", 7)
    directory = cache.mkdir("directory")
    (directory / "file").write_text("by a test")
    os.symlink(FACTS["outside"], directory / "link")
    values = cache._cachedir / "v" / "cache"
    values.mkdir(parents=True, exist_ok=True)
    os.symlink(FACTS["outside"] + "/victim", values / "nodeids")
    os.mkfifo(values / "lastfailed")
    (cache._cachedir / "old").unlink()
    (cache._cachedir / "old-directory" / "file").unlink()
    (cache._cachedir / "old-directory").rmdir()
    (cache._cachedir / "file").unlink()
    (cache._cachedir / "file").mkdir()
    (cache._cachedir / "file" / "in").write_text("by a test")
def test_2_finds_it(pytestconfig):
    assert pytestconfig.cache.get("its/own", None) == 7
    assert (pytestconfig.cache.mkdir("directory") / "file").read_text() == "by a test"
    assert not (pytestconfig.cache._cachedir / "old").exists()
    assert False
"""


def test_what_pytest_reads_of_its_cache_is_no_trap(anywhere: Any) -> None:
    """With the cache on, as by default, tests leave links and FIFOs where pytest writes next: only files come home."""
    attack = anywhere
    outside = attack.path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("the machine's")
    attack.facts["outside"] = str(outside)
    (attack.project / "pytest.ini").write_text("[pytest]\n")
    cache = attack.project / ".pytest_cache"
    (cache / "old-directory").mkdir(parents=True)
    for name in ("old", "old-directory/file", "file", "stays"):
        (cache / name).write_text("from before")
    attack.write(_INTO_THE_CACHE)
    result = attack.run()
    result.passed("test_1_links", "test_next")
    result.failed("test_2_finds_it", "exited")
    assert (outside / "victim").read_text() == "the machine's"
    assert os.listdir(outside) == ["victim"]
    left = {str(path.relative_to(cache)): path.lstat().st_mode for path in cache.rglob("*")}
    assert all(stat.S_ISREG(mode) or stat.S_ISDIR(mode) for mode in left.values()), left
    assert {"stays", "directory/file"} <= {name.removeprefix("d/") for name in left}
    assert not {"old", "old-directory"} & set(left)
    assert (cache / "file" / "in").read_text() == "by a test"
    assert (cache / "v" / "its" / "own").read_text() == "7"
    assert "test_2_finds_it" in (cache / "v" / "cache" / "lastfailed").read_text()
    assert "test_2_finds_it" in (cache / "v" / "cache" / "nodeids").read_text()


def test_what_tests_have_in_common_is_limited(attack: Any) -> None:
    """What fills pytest's cache fills what one sandbox may write, and not the machine; the run goes on."""
    (attack.project / "pytest.ini").write_text("[pytest]\n")
    attack.write("""
def test_1_fill(pytestconfig):
    inner.assert_inside(str(pytestconfig.cache._cachedir))
    with open(pytestconfig.cache.mkdir("directory") / "file", "wb", buffering=0) as file:
        for _ in range(1024):
            file.write(bytes(1 << 20))
def test_2_many(pytestconfig):
    for number in range(100_000):
        (pytestconfig.cache.mkdir("directory") / str(number)).touch()
def test_3_without():
    open("file", "w").write("its own layer has room")
""")
    result = attack.run("--sandbox-disk=32M", "--sandbox-inodes=2000")
    assert "No space left on device" in result.output
    assert "Or it was written to .pytest_cache, where all tests of the run together" in result.output
    result.passed("test_3_without", "test_next")
    size = sum(path.stat().st_size for path in (attack.project / ".pytest_cache").rglob("*"))
    assert size < 64 << 20
