"""Mounts as data: a root is a list of operations, and one interpreter walks it. Imports `_linux` only.

The lists are made by pure functions before the fork, so that the child has nothing to think about. Sources: mount(2),
mount_setattr(2), pivot_root(2), the OCI runtime specification for what is masked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import MNT_DETACH, Attr, Mount

# What OCI runtimes hide or make read-only, as config.json of runc has it.
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class MountOp:
    """One mount(2)."""

    source: str | None
    target: str
    fstype: str | None = None
    flags: int = 0
    data: str | None = None

    def apply(self) -> None:
        """Do it; OSError names the call."""
        syscalls.mount(self.source, self.target, self.fstype, self.flags, self.data)


@dataclasses.dataclass(frozen=True, slots=True)
class ReadOnlyOp:
    """One mount_setattr(2) that takes writing away; unlike a remount it keeps flags that are locked."""

    target: str
    recursive: bool = False

    def apply(self) -> None:
        """Do it; OSError names the call."""
        syscalls.mount_setattr(self.target, Attr.RDONLY, recursive=self.recursive)


@dataclasses.dataclass(frozen=True, slots=True)
class MkdirOp:
    """One directory with an exact mode, whatever the umask, and owner as seen by the caller."""

    path: str
    mode: int = 0o755
    uid: int = -1
    gid: int = -1

    def apply(self) -> None:
        """Do it; OSError names the path."""
        os.mkdir(self.path)
        if self.uid != -1 or self.gid != -1:
            os.chown(self.path, self.uid, self.gid)
        os.chmod(self.path, self.mode)


@dataclasses.dataclass(frozen=True, slots=True)
class HideOp:
    """Make what `path` leads to, in the caller's own root, empty and unwritable; where there is nothing, nothing is done."""

    path: str

    def apply(self) -> None:
        """Do it; OSError names the call."""
        if os.path.exists(self.path):
            hide("", self.path, is_dir=os.path.isdir(self.path)).apply()


@dataclasses.dataclass(frozen=True, slots=True)
class WriteOp:
    """Write one value to a file of proc, before that is made read-only."""

    path: str
    text: str

    def apply(self) -> None:
        """Do it; OSError names the path."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, self.text.encode())
        finally:
            os.close(fd)


@dataclasses.dataclass(frozen=True, slots=True)
class NumberOp:
    """Have the next pid of the caller's pid namespace follow `last`; `path`: sys/kernel/ns_last_pid of any proc.

    Documentation/admin-guide/sysctl/kernel.rst. Not where the kernel has none (CONFIG_CHECKPOINT_RESTORE), or a
    security module lets nobody write to it.
    """

    path: str
    last: int

    def apply(self) -> None:
        """Do it, if it can be done."""
        with contextlib.suppress(OSError):
            WriteOp(self.path, str(self.last)).apply()


Operation = MountOp | ReadOnlyOp | MkdirOp | HideOp | WriteOp | NumberOp


def apply(operations: Iterable[Operation]) -> None:
    """Walk the list; the first that fails raises OSError and leaves the rest undone."""
    for operation in operations:
        operation.apply()


def bind(source: str, target: str, *, recursive: bool = False) -> MountOp:
    """A bind mount."""
    return MountOp(source, target, None, Mount.BIND | (Mount.REC if recursive else 0))


def tmpfs(target: str, *, size: int | None = None, inodes: int | None = None, mode: int = 0o755) -> MountOp:
    """A tmpfs of at most `size` bytes and `inodes` files; None is as much as the memory limit allows."""
    options = [f"mode={mode:o}", f"size={size or 0}", f"nr_inodes={inodes or 0}"]
    return MountOp("sandbox", target, "tmpfs", Mount.NOSUID | Mount.NODEV, ",".join(options))


def make_private() -> None:
    """Cut the caller's mounts off from where they were copied, so that nothing propagates back."""
    syscalls.mount(None, "/", None, Mount.REC | Mount.PRIVATE)


def enter(root: str) -> None:
    """Make the mount at `root` the caller's `/`, and let the old one go (pivot_root(2), "pivot_root(".", ".")")."""
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", MNT_DETACH)
    os.chdir("/")


def existing(paths: Iterable[str]) -> tuple[str, ...]:
    """Those of `paths` that exist here; asked once a run, since a mask of what is not there is ENOENT."""
    return tuple(path for path in paths if os.path.lexists(path))


def masks(root: str, hidden: Iterable[str], read_only: Iterable[str]) -> list[Operation]:
    """Hide and protect paths below `root`: a directory is covered by an empty one, a file by /dev/null."""
    operations: list[Operation] = []
    for path in hidden:
        operations.append(hide(root, path, is_dir=os.path.isdir(path)))
    for path in read_only:
        operations += [bind(root + path, root + path), ReadOnlyOp(root + path)]
    return operations


def hide(root: str, path: str, *, is_dir: bool) -> MountOp:
    """Make `path` below `root` empty and unwritable."""
    if is_dir:
        return MountOp("hidden", root + path, "tmpfs", Mount.RDONLY | Mount.NOSUID | Mount.NODEV, "size=4k,mode=555")
    return bind(root + "/dev/null", root + path)
