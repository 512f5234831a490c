"""Reading, from outside, what a sandbox wrote: its layer behind a descriptor. Imports `model` and `primitives`.

The layer is not trusted. It is only ever walked relative to directory descriptors, without following a link; only regular
files are opened, and those without blocking (`copying`). Whiteouts and opaque directories:
Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import stat
from collections.abc import Iterator, Sequence

from pytest_sandbox.model.outcome import Change, ChangeKind
from pytest_sandbox.primitives.overlay import Tree, TreeKind

MOST_CHANGES = 1000
#: Directories below this depth are not looked into (an open descriptor a level): the changes are then cut.
_DEEPEST = 64
_OPAQUE = "user.overlay.opaque"
#: How many blocks or inodes are as good as none.
_OF_NO_USE = 3
#: How a directory of a layer is opened.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclasses.dataclass(frozen=True, slots=True)
class Fill:
    """How much a layer holds: bytes, files and directories, and what share of its limits is in use; 0 where it has none."""

    bytes: int
    inodes: int
    disk_full: float = 0.0
    inodes_full: float = 0.0


def used_inodes(layer: int) -> int:
    """Files and directories in the file system of a layer; attributes of files count too (tmpfs(5), nr_inodes)."""
    status = os.fstatvfs(layer)
    return status.f_files - status.f_ffree


def fill(layer: int, own: int) -> Fill:
    """What is in the file system of a layer of its own (fstatvfs(3)), less the `own` inodes that it began with."""
    status = os.fstatvfs(layer)
    used, inodes = (status.f_blocks - status.f_bfree) * status.f_frsize, status.f_files - status.f_ffree
    return Fill(used, max(0, inodes - own), *_shares(status))


def shares(layer: int) -> tuple[float, float]:
    """What share of the blocks and of the inodes of a layer's file system is in use; 0 where it has no limit."""
    return _shares(os.fstatvfs(layer))


def _shares(status: os.statvfs_result) -> tuple[float, float]:
    return _share(status.f_bavail, status.f_blocks), _share(status.f_favail, status.f_files)


def _share(left: int, of: int) -> float:
    """Of a few that are left it may be that none can be had: a file that is changed takes up to two inodes."""
    if not of:
        return 0.0
    return 1.0 if left < _OF_NO_USE else 1 - left / of


#: How many entries of a layer without a limit are counted: 200,000 take about a second.
MOST_COUNTED = 200_000


def fill_by_walking(layer: int, trees: Sequence[Tree]) -> Fill | None:
    """As `fill`, of a layer that is a directory among others of a file system, and so has no limit of its own.

    None where it has more than MOST_COUNTED entries.
    """
    size = count = 0
    for entry in walk(layer, trees):
        size += entry.status.st_blocks * 512
        count += 1
        if count > MOST_COUNTED:
            return None
    return Fill(size, count)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a layer: its path as seen inside, the directory descriptor and name that reach it, its status.

    tree, depth: the index of its tree, and how many directories are between that and the entry. below: a descriptor of the
    entry itself, if it is a directory that can be read.
    """

    path: str
    parent: int
    name: str
    status: os.stat_result
    tree: int
    depth: int
    below: int | None = None

    @property
    def names(self) -> list[str]:
        """The parts of its path below the root of its tree."""
        return self.path.split("/")[-1 - self.depth :]


def walk(layer: int, trees: Sequence[Tree]) -> Iterator[Entry]:
    """Every entry, directories before what is in them; a descriptor is good until the next entry."""
    for index, tree in enumerate(trees):
        if tree.kind is TreeKind.OVERLAY:
            yield from walk_tree(layer, index, tree.path)


def walk_tree(layer: int, tree: int, path: str) -> Iterator[Entry]:
    """As `walk`, of the overlay of one index, which is over `path`."""
    with contextlib.suppress(OSError):
        yield from _walk(open_upper(layer, tree), tree, path.rstrip("/"), 0)


def open_upper(layer: int, tree: int) -> int:
    """The upper of a tree, no part of whose path may be a link: a scope can reach its own layer."""
    uppers = os.open("u", DIRECTORY, dir_fd=layer)
    try:
        return os.open(str(tree), DIRECTORY, dir_fd=uppers)
    finally:
        os.close(uppers)


def listed(directory: int) -> Iterator[str]:
    """What is in a directory, in order where that is not more than MOST_COUNTED: no list is as long as a test likes."""
    with os.scandir(directory) as entries:
        while some := sorted(entry.name for entry in itertools.islice(entries, MOST_COUNTED)):
            yield from some


def _walk(directory: int, tree: int, path: str, depth: int) -> Iterator[Entry]:
    try:
        for name in listed(directory):
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError:
                continue
            yield from _walk_entry(directory, name, status, tree, path, depth)
    except OSError:
        return
    finally:
        os.close(directory)


def _walk_entry(directory: int, name: str, status: os.stat_result, tree: int, path: str, depth: int) -> Iterator[Entry]:
    with _opened(directory, name, status) as below:
        yield Entry(f"{path}/{name}", directory, name, status, tree, depth, below)
        if below is not None and depth < _DEEPEST:
            yield from _walk(os.dup(below), tree, f"{path}/{name}", depth + 1)


@contextlib.contextmanager
def _opened(directory: int, name: str, status: os.stat_result) -> Iterator[int | None]:
    """A descriptor of a directory, as long as it is looked into; None for anything else, and for what cannot be read."""
    below, mode = None, None
    if stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(OSError):
            below, mode = _open_directory(directory, name)
    try:
        yield below
    finally:
        if below is not None:
            if mode is not None:
                os.fchmod(below, mode)
            os.close(below)


def _open_directory(directory: int, name: str) -> tuple[int, int | None]:
    """Open it, and an ordinary user's own also where he has no right to look into it: then its mode, to be given back. OSError.

    Its sandbox may still live, and put a link in its place at any time: what is changed is what was opened, by its descriptor.
    """
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        status, itself = os.fstat(found), f"/proc/self/fd/{found}"
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o500 == 0o500 or not status.st_uid == os.geteuid() != 0:
            return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), None
        os.chmod(itself, mode | 0o500)
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), mode
    finally:
        os.close(found)


def is_cut(entry: Entry) -> bool:
    """Whether what is in it is not looked into, and there is something. OSError."""
    return entry.below is not None and entry.depth == _DEEPEST and any(listed(entry.below))


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry stands for a deletion."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def changes(layer: int, trees: Sequence[Tree], below: Sequence[int] = ()) -> tuple[tuple[Change, ...], bool]:
    """The first MOST_CHANGES paths that differ from what lies below, and whether there are more.

    below: the layers of the enclosing sandboxes, nearest first; under them all is the machine. A directory counts only if it
    is new, or has another mode, or takes the place of something else.
    """
    found: list[Change] = []
    for entry in walk(layer, trees):
        for change in _changes_of(entry, below):
            if len(found) == MOST_CHANGES:
                return tuple(found), True
            found.append(change)
        if is_cut(entry):
            return tuple(found), True
    return tuple(found), False


def _changes_of(entry: Entry, below: Sequence[int]) -> Iterator[Change]:
    if is_whiteout(entry.status):
        yield Change(entry.path, ChangeKind.DELETED)
        return
    before, mode = _before(entry, below), entry.status.st_mode
    if before is None:
        yield Change(entry.path, ChangeKind.ADDED, 0 if stat.S_ISDIR(mode) else entry.status.st_size)
    elif not stat.S_ISDIR(mode):
        yield Change(entry.path, ChangeKind.MODIFIED, entry.status.st_size)
    elif before.st_mode != mode:
        yield Change(entry.path, ChangeKind.MODIFIED)
    if before is not None and stat.S_ISDIR(before.st_mode) and entry.below is not None and is_opaque(entry.below):
        yield from _gone_with_directory(entry.path, entry.below)


def _gone_with_directory(path: str, now: int) -> Iterator[Change]:
    """What a directory of the machine held that was removed and made anew: there is no whiteout for each."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(path)):
            if not _is_in(now, name):
                yield Change(f"{path}/{name}", ChangeKind.DELETED)


def _is_in(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def is_opaque(directory: int) -> bool:
    """Whether a directory of a layer, behind a descriptor, takes the place of what lies below."""
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:
        return False


def _before(entry: Entry, layers: Sequence[int]) -> os.stat_result | None:
    """What was at an entry's path before: in the nearest layer that has it or hides it, else on the machine."""
    relative = entry.names
    for layer in layers:
        found, hides = _in_layer(layer, entry.tree, relative)
        if hides or found is not None:
            return found
    try:
        return os.lstat(entry.path)
    except OSError:
        return None


def _in_layer(layer: int, tree: int, names: Sequence[str]) -> tuple[os.stat_result | None, bool]:
    """The status of an entry of another layer, and where it has none, whether it hides what lies below."""
    directory, opaque = -1, False
    try:
        directory = open_upper(layer, tree)
        for name in names[:-1]:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):  # a whiteout, or what takes the directory's place
                return None, True
            inner = os.open(name, DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
            opaque = opaque or is_opaque(directory)
        status = os.stat(names[-1], dir_fd=directory, follow_symlinks=False)
        return (None, True) if is_whiteout(status) else (status, False)
    except OSError:
        return None, opaque
    finally:
        if directory >= 0:
            os.close(directory)
