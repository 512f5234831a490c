"""Which trees of the machine a sandbox sees, and the overlay that makes each copy-on-write. Imports `mounts`, `namespaces`.

A *tree* is one file system of the machine at its mount point. Its base is a read-only clone, made once a run; a sandbox
mounts over it an overlay whose lower layers are the enclosing scopes' uppers, listed flat (a third stacked overlay is
EINVAL). Source: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from pytest_sandbox._linux.proc import MountEntry
from pytest_sandbox.primitives.mounts import MkdirOp, MountOp, Operation, ReadOnlyOp, bind, tmpfs
from pytest_sandbox.primitives.namespaces import MAPPED_IDS, Identity

# File systems that the sandbox makes itself, or that name kernel objects instead of files.
PSEUDO = frozenset({
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs",
    "tracefs",
})  # fmt: skip
# overlayfs refuses these as lower layers: case-insensitive names or revalidation of its own.
NO_LOWER = frozenset({"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuse", "fuseblk", "9p", "hostfs"})
OWN = ("/proc", "/sys", "/dev")  # replaced whole; of the machine's only /dev/shm is seen
# Where an ordinary user may write although what lies around it belongs to root.
COMMON_PLACES = ("/var/tmp", "/var/lock", "/run/lock", "/run/shm")
_NOBODY = 65534  # who an id is that a user namespace has not got: user_namespaces(7)
COPY_LIMIT = 64 << 20  # bytes of a directory that must be copied, as since files are mounted in it (Docker's /etc)


class TreeKind(enum.Enum):
    """How a tree is seen: copy-on-write; read-only where no overlay is possible; as nothing but what is mounted in it."""

    OVERLAY = "overlay"
    BIND = "bind"
    EMPTY = "empty"


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """A tree at `path`; mode and owner (as seen inside) are what the overlay's root must have."""

    path: str
    kind: TreeKind
    mode: int = 0o755
    uid: int = -1
    gid: int = -1


@dataclasses.dataclass(frozen=True, slots=True)
class RootPlan:
    """What to make of the machine: trees (parents first), and files to copy into the first layer.

    Where no clone of `/` is possible, also the skeleton: directories and links around the trees.
    """

    trees: tuple[Tree, ...]
    files: tuple[str, ...] = ()
    directories: tuple[tuple[str, int], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    copies: tuple[str, ...] = ()


def is_below(path: str, parents: Iterable[str]) -> bool:
    """Whether a path is one of these or lies below one."""
    return any(path == parent or path.startswith(parent.rstrip("/") + "/") for parent in parents)


def _is_own(path: str) -> bool:
    return path != "/dev/shm" and is_below(path, OWN)


def _tree(path: str, fstype: str) -> Tree:
    overlaid = fstype not in NO_LOWER and not fstype.startswith("fuse.")
    try:
        status = os.stat(path)
    except OSError:
        return Tree(path, TreeKind.BIND)
    return Tree(path, TreeKind.OVERLAY if overlaid else TreeKind.BIND, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def plan_for_root(entries: Sequence[MountEntry], unmappable: Collection[str] = ()) -> RootPlan:
    """One tree a file system: root may clone each mount without what is mounted below it.

    unmappable: points of mounts that keep their ids, and so can only be read: a container's root file system, say.
    """
    trees: list[Tree] = []
    files: list[str] = []
    for entry in sorted(entries, key=lambda entry: entry.point.count("/") if entry.point != "/" else 0):
        if _is_own(entry.point):
            continue
        if entry.fstype in PSEUDO:
            trees.append(dataclasses.replace(_tree(entry.point, ""), kind=TreeKind.EMPTY))
        elif os.path.isdir(entry.point):
            tree = _tree(entry.point, entry.fstype)
            trees.append(dataclasses.replace(tree, kind=TreeKind.BIND) if entry.point in unmappable else tree)
        elif os.path.isfile(entry.point):
            files.append(entry.point)
    # Without a tree in it, it is as empty as what it is mounted on.
    full = [tree.path for tree in trees if tree.kind is not TreeKind.EMPTY]
    trees = [tree for tree in trees if tree.kind is not TreeKind.EMPTY or any(is_below(path, [tree.path]) for path in full)]
    return RootPlan(tuple(trees), tuple(files))


class _UserPlanner:
    """Walks down from `/` to the directories below which nothing is mounted: only those can be overlaid by a user."""

    def __init__(self, entries: Sequence[MountEntry]) -> None:
        self.points = {entry.point: entry.fstype for entry in entries}
        self.trees: list[Tree] = []
        self.directories: list[tuple[str, int]] = []
        self.links: list[tuple[str, str]] = []
        self.copies: list[str] = []

    def visit(self, path: str, fstype: str) -> None:
        fstype = self.points.get(path, fstype)
        below = [] if _is_own(path) else [point for point in self.points if point != path and is_below(point, [path])]
        is_empty = _is_own(path) or fstype in PSEUDO
        if below and not is_empty and all(os.path.isfile(point) for point in below) and _size(path) <= COPY_LIMIT:
            self.copies.append(path)
            return
        self._directory(path)
        if below:
            self._descend(path, fstype)
        elif not is_empty:
            self.trees.append(self.user_tree(path, fstype))

    def _descend(self, path: str, fstype: str) -> None:
        try:
            children = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError:
            return
        if fstype in PSEUDO:
            children = [child for child in children if any(is_below(point, [child.path]) for point in self.points)]
        for child in children:
            # What the user may not look at is left out: FUSE of somebody else's (EACCES), or whose server has died (ENOTCONN).
            with contextlib.suppress(OSError):
                self._see(child, fstype)

    def _see(self, child: os.DirEntry[str], fstype: str) -> None:
        if child.is_symlink():
            self.links.append((child.path, os.readlink(child.path)))
        elif child.is_dir(follow_symlinks=False):
            self.visit(child.path, fstype)
        elif child.is_file(follow_symlinks=False):
            self.copies.append(child.path)

    def _directory(self, path: str) -> None:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        self.directories.append((path, mode if os.access(path, os.W_OK) else mode & ~0o222))

    def add_place(self, path: str) -> None:
        """A tree at the outermost directory on the way to `path` that the user may write, unless its parent may be copied up."""
        trees = {tree.path: tree for tree in self.trees}
        above = next((parent for parent in _upwards(path) if parent in trees), None)
        if above is None or trees[above].kind is not TreeKind.OVERLAY:
            return
        below = [parent for parent in reversed(_upwards(path)) if len(parent) > len(above)]
        start = next((parent for parent in below if os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)), None)
        # What is the user's own (group too), right below a tree's root, can be copied up itself.
        if start is not None and (start != below[0] or not _is_mapped(start)):
            self.trees.append(self.user_tree(start, ""))

    def user_tree(self, path: str, fstype: str) -> Tree:
        """The tree at a directory, with the mode that it has for this user."""
        tree = _tree(path, fstype)
        if not os.access(path, os.X_OK):  # nothing in it can be reached anyway
            return Tree(path, TreeKind.BIND)
        # The upper is the user's own: were it writable, a user could write where outside he may not.
        mode = tree.mode if os.access(path, os.W_OK) else tree.mode & ~0o222
        return Tree(path, tree.kind, mode)


def _is_mapped(path: str) -> bool:
    """Whether owner and group have an id in the namespace of a user, who is all that is mapped there."""
    status = os.stat(path)
    return (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def _upwards(path: str) -> list[str]:
    """The path and its parents, but for "/"."""
    parts = [path]
    while os.path.dirname(parts[-1]) not in ("/", parts[-1]):
        parts.append(os.path.dirname(parts[-1]))
    return parts


def _size(path: str) -> int:
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError:
                continue
        if total > COPY_LIMIT:
            break
    return total


def plan_for_user(entries: Sequence[MountEntry], places: Sequence[str] = ()) -> RootPlan:
    """A skeleton, a tree for every directory below which nothing is mounted, and more trees where the user may write.

    In a user's namespace all mounts are locked together: an overlay over a directory with mounts below is EINVAL. And what
    belongs to somebody else cannot be copied up (EOVERFLOW: its owner has no id inside), nor hence what lies below it: each
    directory of the user's own below one of root's needs a tree of its own. places: where tests will surely write.
    """
    planner = _UserPlanner(entries)
    planner.visit("/", next((entry.fstype for entry in entries if entry.point == "/"), ""))  # a chroot need not be a mount
    if "/dev/shm" in planner.points or os.path.isdir("/dev/shm"):
        planner.trees.append(planner.user_tree("/dev/shm", planner.points.get("/dev/shm", "tmpfs")))
    for place in dict.fromkeys(os.path.realpath(place) for place in (*COMMON_PLACES, *places)):
        planner.add_place(place)
    skeleton = Tree("/", TreeKind.OVERLAY, 0o555)
    return RootPlan((skeleton, *planner.trees), (), tuple(planner.directories), tuple(planner.links), tuple(planner.copies))


def plan_common(path: str, plan: RootPlan, entries: Sequence[MountEntry], identity: Identity) -> Tree | None:
    """The tree at a directory that all sandboxes have in common; None where there can be none. OSError: there is no directory.

    BIND stands for one that is copied, since no overlay can change what is in it: what belongs to somebody without an id inside
    (EOVERFLOW), has mounts of others in it, which a user's overlay may not cover, or is on a file system below none.
    """
    os.stat(f"{path}/")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return None
    for_user, tree = identity is Identity.USER, _tree(path, "")
    trees = plan.trees[1:] if for_user else plan.trees  # the first of a user's is a skeleton
    around = max((one for one in trees if is_below(path, [one.path])), key=lambda one: len(one.path), default=None)
    can_be_lower = around is not None and around.kind is TreeKind.OVERLAY and tree.kind is TreeKind.OVERLAY
    has_mounts = any(entry.point != path and is_below(entry.point, [path]) for entry in entries)
    kind = TreeKind.OVERLAY if can_be_lower and not has_mounts and not _has_foreign(path, identity) else TreeKind.BIND
    if kind is TreeKind.BIND and _size(path) > COPY_LIMIT:
        return None
    if for_user or kind is TreeKind.BIND:
        return Tree(path, kind, tree.mode)
    return dataclasses.replace(tree, kind=kind)


#: How many entries of a directory are looked at for their owners: 10,000 take some 20 ms.
_MOST_OWNERS = 10_000


def _has_foreign(path: str, identity: Identity) -> bool:
    """Whether something in a directory belongs to somebody who has no id inside."""
    own = (os.getuid(), os.getgid())
    is_foreign: dict[Identity, Callable[[tuple[int, int]], bool]] = {
        Identity.USER: lambda ids: ids != own,
        Identity.MAPPED: lambda ids: max(ids) >= MAPPED_IDS,
        Identity.SAME: lambda ids: _NOBODY in ids,
    }
    found = itertools.islice(_statuses(path), _MOST_OWNERS)
    return any(is_foreign[identity]((status.st_uid, status.st_gid)) for status in found)


def _statuses(path: str) -> Iterator[os.stat_result]:
    yield os.stat(path)
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(directory, name))


def build_skeleton(plan: RootPlan, base: str) -> None:
    """Make the plan's directories, links and copies below `base`, an empty directory that then lies under all overlays."""
    for path, _ in plan.directories:
        os.makedirs(base + path, exist_ok=True)
    for path, target in plan.links:
        os.symlink(target, base + path)
    for path in plan.copies:
        copy(path, base + path)
    for path, mode in reversed(plan.directories):
        os.chmod(base + path, mode)


def copy(source: str, target: str) -> None:
    """Copy a file or a tree of files as far as the caller may read it; what he may not read is not there."""
    try:
        if os.path.isdir(source) and not os.path.islink(source):
            shutil.copytree(source, target, symlinks=True, ignore_dangling_symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target, follow_symlinks=False)
    except (OSError, shutil.Error):
        return  # unreadable, special or gone: the sandbox has no right to it either


def layer_operations(layer: str, trees: Sequence[Tree]) -> list[Operation]:
    """Directories for one sandbox's writes in `layer`: for each tree an upper and, beside it, a work directory."""
    operations: list[Operation] = [MkdirOp(f"{layer}/u"), MkdirOp(f"{layer}/w")]
    for index, tree in enumerate(trees):
        if tree.kind is TreeKind.OVERLAY:
            operations.append(MkdirOp(f"{layer}/u/{index}", tree.mode, tree.uid, tree.gid))
            operations.append(MkdirOp(f"{layer}/w/{index}"))
    return operations


def own_inodes(trees: Sequence[Tree]) -> int:
    """How many files and directories a layer has from the start.

    The three of `layer_operations`, and for each overlay an upper, a work directory and overlayfs's own below that.
    """
    return 3 + 3 * sum(tree.kind is TreeKind.OVERLAY for tree in trees)


def mount_operations(root: str, trees: Sequence[Tree], base: str, lowers: Sequence[str], layer: str) -> list[Operation]:
    """Mount every tree at its path below `root`: writes go to `layer`, reads fall through `lowers` (nearest first) to `base`."""
    operations: list[Operation] = []
    for index, tree in enumerate(trees):
        target = root + tree.path.rstrip("/")
        if tree.kind is TreeKind.BIND:
            operations.append(bind(f"{base}/{index}", target))
            continue
        if tree.kind is TreeKind.EMPTY:
            operations += _empty(root, tree, [one.path for one in trees])
            continue
        operations.append(mount(target, index, [*(f"{lower}/u/{index}" for lower in lowers), f"{base}/{index}"], layer))
    return operations


def _empty(root: str, tree: Tree, paths: Iterable[str]) -> list[Operation]:
    """A directory that can only be read, with room in it to mount those of the paths that lie below."""
    rooms = {part for path in paths if is_below(path, [tree.path]) for part in _upwards(path) if len(part) > len(tree.path)}
    target = root + tree.path
    return [tmpfs(target, size=4096, mode=tree.mode), *(MkdirOp(root + room) for room in sorted(rooms)), ReadOnlyOp(target)]


def mount(target: str, index: int, below: Sequence[str], layer: str) -> MountOp:
    """The overlay at `target`, whose writes go to the upper of that index in `layer`; below: directories, nearest first."""
    # userxattr: without it a rmtree and mkdir of a lower directory is EIO in a user namespace.
    data = f"lowerdir={':'.join(below)},upperdir={layer}/u/{index},workdir={layer}/w/{index},userxattr"
    return MountOp("overlay", target, "overlay", 0, data)


def overlaid(trees: Iterable[Tree]) -> tuple[Tree, ...]:
    """The trees, each as one that is copy-on-write."""
    return tuple(dataclasses.replace(tree, kind=TreeKind.OVERLAY) for tree in trees)
