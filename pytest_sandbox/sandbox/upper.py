"""Reading, from outside, what a sandbox wrote: its layer behind a descriptor. Imports `model` and `primitives`.

The layer is not trusted. It is only ever walked relative to directory descriptors, without following a link; only regular
files are opened, and those without blocking. Whiteouts and opaque directories: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterator, Sequence

from pytest_sandbox.model.outcome import Change, ChangeKind
from pytest_sandbox.primitives.overlay import Tree, TreeKind

MOST_CHANGES = 1000
_DEEPEST = 64
_OPAQUE = "user.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclasses.dataclass(frozen=True, slots=True)
class Fill:
    """How much a layer holds: bytes, files and directories, and the larger of both as a share of its limits."""

    bytes: int
    inodes: int
    share: float


def fill(layer: int, trees: int) -> Fill:
    """What is in the file system of a layer of its own (fstatvfs(3)), less what is there from the start."""
    status = os.fstatvfs(layer)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    own = 3 + 3 * trees  # u, w and the root; for each tree an upper, a work directory and overlayfs's own below it
    inodes = max(0, status.f_files - status.f_ffree - own)
    shares = [1 - status.f_bavail / status.f_blocks if status.f_blocks else 0.0]
    shares.append(1 - status.f_favail / status.f_files if status.f_files else 0.0)
    return Fill(used, inodes, max(shares))


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a layer: its path as seen inside, the directory descriptor and name that reach it, its status."""

    path: str
    parent: int
    name: str
    status: os.stat_result


def walk(layer: int, trees: Sequence[Tree]) -> Iterator[Entry]:
    """Every entry, directories before what is in them; a descriptor is good until the next entry."""
    for index, tree in enumerate(trees):
        if tree.kind is not TreeKind.OVERLAY:
            continue
        with contextlib.suppress(OSError):
            top = os.open(f"u/{index}", _DIRECTORY, dir_fd=layer)
            yield from _walk(top, tree.path.rstrip("/"), 0)


def _walk(directory: int, path: str, depth: int) -> Iterator[Entry]:
    try:
        for name in sorted(os.listdir(directory)):
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError:
                continue
            yield Entry(f"{path}/{name}", directory, name, status)
            if stat.S_ISDIR(status.st_mode) and depth < _DEEPEST:
                with contextlib.suppress(OSError):
                    below = os.open(name, _DIRECTORY, dir_fd=directory)
                    yield from _walk(below, f"{path}/{name}", depth + 1)
    except OSError:
        return
    finally:
        os.close(directory)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry stands for a deletion."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def changes(layer: int, trees: Sequence[Tree]) -> tuple[tuple[Change, ...], bool]:
    """The first MOST_CHANGES paths that differ from below, and whether there are more.

    A path that is there on the machine counts as modified, even if a scope's layer is what was changed; a directory only
    as added.
    """
    found: list[Change] = []
    for entry in walk(layer, trees):
        change = _change(entry)
        if change is None:
            continue
        if len(found) == MOST_CHANGES:
            return tuple(found), True
        found.append(change)
    return tuple(found), False


def _change(entry: Entry) -> Change | None:
    if is_whiteout(entry.status):
        return Change(entry.path, ChangeKind.DELETED)
    exists = os.path.lexists(entry.path)
    if stat.S_ISDIR(entry.status.st_mode):
        return None if exists else Change(entry.path, ChangeKind.ADDED)
    return Change(entry.path, ChangeKind.MODIFIED if exists else ChangeKind.ADDED, entry.status.st_size)


def copy_out(layer: int, trees: Sequence[Tree], below: str, target: str) -> int:
    """Copy what was written below the path `below` to the directory `target` of the machine; returns how many entries.

    Directories, regular files and symbolic links (as links) only. The target must be nobody else's.
    """
    prefix = below.rstrip("/") + "/"
    count = 0
    for entry in walk(layer, trees):
        if entry.path.startswith(prefix):
            with contextlib.suppress(OSError):
                count += _copy(entry, os.path.join(target, entry.path[len(prefix) :]))
    return count


def _copy(entry: Entry, target: str) -> int:
    mode = entry.status.st_mode
    if stat.S_ISDIR(mode):
        os.makedirs(target, mode=0o700 | stat.S_IMODE(mode) & 0o755, exist_ok=True)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(entry.name, dir_fd=entry.parent), target)
    elif stat.S_ISREG(mode):
        _copy_file(entry, target)
    else:
        return 0
    return 1


def _copy_file(entry: Entry, target: str) -> None:
    source = os.open(entry.name, _FILE, dir_fd=entry.parent)
    try:
        mode = 0o600 | stat.S_IMODE(entry.status.st_mode) & 0o755
        output = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            remaining = os.fstat(source).st_size
            while remaining > 0 and (sent := os.sendfile(output, source, None, min(remaining, 1 << 24))):
                remaining -= sent
        finally:
            os.close(output)
    finally:
        os.close(source)
