"""Files: whatever a test does to them is gone afterwards, and what is kept or comes home of them is no trap."""

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
