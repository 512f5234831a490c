"""Roots as lists of operations: what is planned for a machine, and what the kernel makes of it, in a throw-away child."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Clone
from pytest_sandbox._linux.proc import MountEntry
from pytest_sandbox.primitives import mounts, overlay
from pytest_sandbox.primitives.mounts import HideOp, MkdirOp, MountOp, ReadOnlyOp
from pytest_sandbox.primitives.namespaces import HOST_BASE, Identity, id_map, same_ids
from pytest_sandbox.primitives.overlay import Tree, TreeKind
from pytest_sandbox.sandbox.machine import probes


def entry(point: str, fstype: str = "ext4") -> MountEntry:
    """A mount at a point."""
    return MountEntry(1, 0, "/", point, fstype, frozenset({"rw"}), frozenset({"rw"}))


def inside(attempt: Callable[[], None]) -> None:
    """Run in a child with namespaces of its own, which first asserts that they are; its OSError is raised here."""
    before, uid, gid = os.stat("/proc/self/ns/mnt").st_ino, os.getuid(), os.getgid()

    def run() -> None:
        if uid:
            syscalls.unshare(Clone.NEWUSER | Clone.NEWNS)
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                    file.write(text)
        else:
            syscalls.unshare(Clone.NEWNS)
        if os.stat("/proc/self/ns/mnt").st_ino == before:
            raise OSError(1, "not inside")
        mounts.make_private()
        attempt()

    error = probes.try_in_child(run)
    if error is not None:
        raise error


def check(*, true: bool) -> None:
    """An assertion that a child can report."""
    if not true:
        raise OSError(5, "assertion failed")


def refuses(path: Path) -> bool:
    """Whether nothing can be made there, since the mount is read-only."""
    try:
        path.touch()
    except OSError as error:
        return error.errno == errno.EROFS
    return False


# -- plans -------------------------------------------------------------------------------------------------------------


def test_plan_for_root(tmp_path: Path) -> None:
    """A tree a file system, parents first; what the sandbox makes itself is left out; what cannot lie below is bound."""
    (tmp_path / "mounted").touch()
    entries = [entry(str(tmp_path)), entry("/proc", "proc"), entry("/"), entry("/dev", "devtmpfs")]
    entries += [entry("/dev/shm", "tmpfs"), entry("/usr", "vfat"), entry("/var", "fuse.x"), entry("/etc", "fuse")]
    entries += [entry(str(tmp_path / "mounted")), entry("/sys/fs/cgroup", "tmpfs")]
    plan = overlay.plan_for_root(entries)
    assert [tree.path for tree in plan.trees] == ["/", "/usr", "/var", "/etc", "/dev/shm", str(tmp_path)]
    assert [tree.kind for tree in plan.trees[:4]] == [TreeKind.OVERLAY, TreeKind.BIND, TreeKind.BIND, TreeKind.BIND]
    assert plan.files == (str(tmp_path / "mounted"),)


def test_layers_are_listed_flat() -> None:
    """Nearest first, the machine last; work beside upper; userxattr always."""
    trees = [Tree("/", TreeKind.OVERLAY), Tree("/b", TreeKind.BIND), Tree("/c", TreeKind.OVERLAY)]
    first, bound, last = overlay.mount_operations("/r", trees, "/base", ["/L1", "/L0"], "/L2")
    assert isinstance(first, MountOp)
    assert first.data == "lowerdir=/L1/u/0:/L0/u/0:/base/0,upperdir=/L2/u/0,workdir=/L2/w/0,userxattr"
    assert (first.target, bound) == ("/r", mounts.bind("/base/1", "/r/b"))
    assert isinstance(last, MountOp)
    assert last.target == "/r/c"
    assert [operation.path for operation in overlay.layer_operations("/L", trees) if isinstance(operation, MkdirOp)] == [
        "/L/u", "/L/w", "/L/u/0", "/L/w/0", "/L/u/2", "/L/w/2",
    ]  # fmt: skip
    assert overlay.own_inodes(trees) == 9


@pytest.mark.parametrize(
    ("identity", "depth", "line"),
    [
        (Identity.USER, 0, "1000 1000 1"), (Identity.USER, 3, "1000 1000 1"), (Identity.SAME, 0, "0 0 1\n1 1 65535"),
        (Identity.MAPPED, 0, f"0 {HOST_BASE} 65536"), (Identity.MAPPED, 1, "0 0 65536"),
    ],
)  # fmt: skip
def test_id_map(identity: Identity, depth: int, line: str) -> None:
    """A user is himself; root's ids are on an unused range, mapped once."""
    assert id_map(identity, depth, 1000, same_ids("0 1000 1\n1 100000 65535\n")) == line


# -- the kernel --------------------------------------------------------------------------------------------------------


def test_tmpfs_has_a_size(tmp_path: Path) -> None:
    """In bytes and files; None is no bound."""

    def attempt() -> None:
        mounts.tmpfs(str(tmp_path), size=1 << 20, inodes=50).apply()
        status = os.statvfs(tmp_path)
        check(true=(status.f_blocks * status.f_frsize, status.f_files) == (1 << 20, 50))
        mounts.tmpfs(str(tmp_path)).apply()
        check(true=os.statvfs(tmp_path).f_files == 0)

    inside(attempt)
    assert os.listdir(tmp_path) == []


def test_hide_and_read_only(tmp_path: Path) -> None:
    """A directory is empty, a file too, both unwritable; nothing is there to hide: nothing is done."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    (tmp_path / "f").write_text("x")
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "ro").mkdir()

    def attempt() -> None:
        names = ("d", "f", "missing", "dangling")
        mounts.apply([HideOp(str(tmp_path / name)) for name in names])
        check(true=os.listdir(tmp_path / "d") == [] and os.listdir(tmp_path / "link") == [])
        check(true=(tmp_path / "f").read_bytes() == b"")
        mounts.apply([mounts.bind(str(tmp_path / "ro"), str(tmp_path / "ro")), ReadOnlyOp(str(tmp_path / "ro"))])
        check(true=refuses(tmp_path / "d" / "new") and refuses(tmp_path / "ro" / "new"))

    inside(attempt)
    assert (tmp_path / "f").read_text() == "x"


def test_directories_have_exact_modes(tmp_path: Path) -> None:
    """Whatever the umask."""
    before = os.umask(0o077)
    try:
        MkdirOp(str(tmp_path / "d"), 0o1777).apply()
    finally:
        os.umask(before)
    assert (tmp_path / "d").stat().st_mode & 0o7777 == 0o1777


def test_the_first_that_fails_is_named(tmp_path: Path) -> None:
    """And the rest is not done."""
    with pytest.raises(OSError, match="/no/such") as caught:
        mounts.apply([MkdirOp(str(tmp_path / "a")), MkdirOp("/no/such/place"), MkdirOp(str(tmp_path / "b"))])
    assert caught.value.errno == 2
    assert sorted(os.listdir(tmp_path)) == ["a"]
