"""What a root is made of: the lists of mount operations for a sandbox at any depth. Imports `primitives`, `_linux`, `model`.

    place/                  a tmpfs that only scopes have; at depth 0 over a directory of the machine, then /dev/.sandbox
      store/base/<tree>     read-only clones of the machine's trees
      store/L<depth>/       one layer a sandbox of the chain: u/<tree> and w/<tree> (upper and work directories)
      store/rw/<n>          the paths that tests may really change
      store/below/<n>       read-only clones, or copies, of the directories that the sandboxes have in common
      store/common/         what they write there: a layer, and the overlays m/<n>
      store/scratch/<n>     directories on disks, where layers lie that are no tmpfs
      store/dev             a /dev that is bound into every sandbox, read-only
      store/hidden/         an unmasked proc and sysfs, covered: without them the kernel lets no child mount its own
      root/                 where the next root is mounted before it is entered

The init of a scope finds the same store below /dev/.sandbox, with its own layer and those around it. Its other processes
are in a mount namespace that has no store.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from pytest_sandbox._linux.flags import Mount
from pytest_sandbox.model.spec import Limits, Spec
from pytest_sandbox.primitives import mounts, overlay
from pytest_sandbox.primitives.mounts import HideOp, MkdirOp, MountOp, NumberOp, Operation, ReadOnlyOp, WriteOp, bind
from pytest_sandbox.primitives.namespaces import Identity
from pytest_sandbox.primitives.overlay import RootPlan, Tree, TreeKind, layer_operations, mount_operations, own_inodes

INNER_PLACE = "/dev/.sandbox"
INNER_STORE = f"{INNER_PLACE}/store"
DEEPEST = 16
#: How many pids lie between those of one depth and the next.
_PIDS = 1000
_CGROUPS = ("/sys/fs/cgroup",)
_NO_EXEC = Mount.NOSUID | Mount.NOEXEC | Mount.NODEV


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """All that must be known to make the sandboxes of one depth.

    depth: of the sandboxes to be made. place: where whoever makes them finds the store (docstring of the module).
    writable: the paths behind store/rw, by index. common: the directories behind store/common/m, by index.
    cwd: where every sandbox starts. scratches: what specs call `scratch`, and this run's own directory below that, behind
    store/scratch, by index. files: what is mounted file by file, with its content.
    keep_descriptors: of the controller's, those that go inside as they are. most_files, most_pids: of these limits, the greatest
    that any of the run's sandboxes has; None where one has none.
    """

    identity: Identity
    uid: int
    gid: int
    groups: tuple[int, ...]
    plan: RootPlan
    masked: tuple[str, ...]
    read_only: tuple[str, ...]
    writable: tuple[str, ...]
    common: tuple[Tree, ...]
    place: str
    last_capability: int
    cwd: str
    depth: int = 0
    scratches: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()
    keep_descriptors: tuple[int, ...] = ()
    most_files: int | None = None
    most_pids: int | None = None

    def below(self) -> Layout:
        """The layout for the sandboxes that a sandbox of this one makes."""
        return dataclasses.replace(self, depth=self.depth + 1, place=INNER_PLACE)

    @property
    def root(self) -> str:
        """Where the next root is mounted."""
        return f"{self.place}/root"

    @property
    def store(self) -> str:
        """Where the store is found."""
        return f"{self.place}/store"

    @property
    def common_layer(self) -> str:
        """The layer of the directories that all sandboxes have in common."""
        return f"{self.store}/common"

    @property
    def layer(self) -> str:
        """The layer of the sandbox to be made."""
        return f"{self.store}/L{self.depth}"

    @property
    def lowers(self) -> tuple[str, ...]:
        """The enclosing scopes' layers, nearest first."""
        return tuple(f"{self.store}/L{depth}" for depth in reversed(range(self.depth)))


#: The directories of the store that hold clones of the machine's.
CLONES = ("base", "rw", "below", "scratch")
#: Those of them that nobody writes to.
READ_ONLY = ("base/", "below/")


def sources(layout: Layout) -> dict[str, str]:
    """What of the machine is cloned into the store: paths by their names there.

    Of the directories that sandboxes have in common only what can lie below an overlay; the others are copied.
    """
    found = {f"base/{index}": tree.path for index, tree in enumerate(layout.plan.trees) if tree.kind is not TreeKind.EMPTY}
    found |= {f"rw/{index}": path for index, path in enumerate(layout.writable)}
    found |= {f"below/{index}": tree.path for index, tree in enumerate(layout.common) if tree.kind is TreeKind.OVERLAY}
    return found | {f"scratch/{index}": path for index, (_, path) in enumerate(layout.scratches)}


def store_operations(layout: Layout, *, shares_network: bool = False) -> list[Operation]:
    """The store's skeleton, in an empty tmpfs at `layout.place`; made once a run by the session's init."""
    store = layout.store
    operations: list[Operation] = [MkdirOp(layout.root), MkdirOp(store)]
    operations += [MkdirOp(f"{store}/{name}") for name in (*CLONES, "common", "dev", "hidden")]
    operations += [MkdirOp(f"{store}/L{depth}") for depth in range(DEEPEST)]
    operations += [mounts.tmpfs(f"{store}/dev"), *_device_directories(f"{store}/dev")]
    hidden = f"{store}/hidden"
    operations += [
        MkdirOp(f"{hidden}/proc"),
        MkdirOp(f"{hidden}/sys"),
        MountOp("proc", f"{hidden}/proc", "proc", _NO_EXEC),
        _sysfs(f"{hidden}/sys", shares_network=shares_network),
        MountOp("hidden", hidden, "tmpfs", Mount.RDONLY, "size=4k,mode=0"),
    ]
    return operations


def _device_directories(dev: str) -> list[Operation]:
    names = ("pts", "shm", "mqueue", ".sandbox", ".sandbox/root", ".sandbox/store")
    return [MkdirOp(f"{dev}/{name}") for name in names]


def room_in_common(limits: Limits) -> tuple[int, int]:
    """How many bytes, and files and directories, those of a run write to what they have in common: never without a bound."""
    usual = Limits()
    return limits.disk or usual.disk or 0, limits.inodes or usual.inodes or 0


def common_operations(layout: Layout, spec: Spec) -> list[Operation]:
    """The overlays that all sandboxes of the run write to; together they hold what one sandbox may hold, or usually may."""
    if not layout.common:
        return []
    common, trees = layout.common_layer, overlay.overlaid(layout.common)
    size, inodes = room_in_common(spec.limits)
    operations: list[Operation] = [mounts.tmpfs(common, size=size, inodes=inodes + own_inodes(trees) + 1 + len(trees))]
    operations += [*layer_operations(common, trees), MkdirOp(f"{common}/m")]
    for index in range(len(trees)):
        target = f"{common}/m/{index}"
        operations += [MkdirOp(target), overlay.mount(target, index, [f"{layout.store}/below/{index}"], common)]
    return operations


def build_devices(dev: str) -> None:
    """Device nodes, bound from the machine's since mknod(2) of a device is EPERM in a user namespace; then read-only."""
    for name in mounts.existing(f"/dev/{name}" for name in mounts.DEVICES):
        target = dev + name.removeprefix("/dev")
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        bind(name, target).apply()
        # The node is the machine's own: who has the id of its owner could change its mode. Writing to it goes on to work.
        ReadOnlyOp(target).apply()
    for name, link in mounts.DEVICE_LINKS.items():
        os.symlink(link, f"{dev}/{name}")
    ReadOnlyOp(dev).apply()


def _split(operations: Sequence[Operation], root: str) -> tuple[list[Operation], list[Operation]]:
    """Mounts before and after /dev is there."""
    late = [operation for operation in operations if _target(operation).startswith(f"{root}/dev/")]
    return [operation for operation in operations if operation not in late], late


def _target(operation: Operation) -> str:
    return operation.path if isinstance(operation, (MkdirOp, HideOp, WriteOp, NumberOp)) else operation.target


def scratch_of(layout: Layout, spec: Spec, name: str, *, scope: bool) -> str | None:
    """The directory below `spec.scratch` that is a sandbox's layer, as the machine calls it; None where a tmpfs is.

    A scope's never is: a layer below others may not lie within another one (ELOOP, ovl_check_overlapping_layers), and the
    tree of the file system that scratch is on is such another one.
    """
    return None if spec.scratch is None or scope else f"{dict(layout.scratches)[spec.scratch]}/{name}"


def layer_mount(layout: Layout, spec: Spec, name: str, *, scope: bool) -> Operation:
    """Where this sandbox's writes go: a tmpfs of the disk limit's size, or its own directory below `scratch`."""
    if spec.scratch is not None and not scope:
        index = [asked for asked, _ in layout.scratches].index(spec.scratch)
        return bind(f"{layout.store}/scratch/{index}/{name}", layout.layer)
    inodes = spec.limits.inodes
    if inodes is not None:
        inodes += own_inodes(layout.plan.trees)
    return mounts.tmpfs(layout.layer, size=spec.limits.disk, inodes=inodes)


def root_operations(layout: Layout, spec: Spec, name: str, *, scope: bool, shares_network: bool) -> list[Operation]:
    """Everything between an empty `place/root` and a root that can be entered."""
    root, trees = layout.root, layout.plan.trees
    operations = [layer_mount(layout, spec, name, scope=scope), *layer_operations(layout.layer, trees)]
    early, late = _split(mount_operations(root, trees, f"{layout.store}/base", layout.lowers, layout.layer), root)
    operations += early
    operations += [bind(f"{layout.store}/dev", f"{root}/dev", recursive=True), *late]
    if not any(tree.path == "/dev/shm" for tree in trees):
        operations.append(MountOp("shm", f"{root}/dev/shm", "tmpfs", _NO_EXEC, "mode=1777"))
    operations += _kernel_file_systems(layout, root, shares_network=shares_network)
    # No process has the pid of the one that it is a copy of, by which libraries find out that they were forked.
    operations.append(NumberOp(f"{root}/proc/sys/kernel/ns_last_pid", _PIDS * (layout.depth + 1)))
    if layout.identity is Identity.SAME and not scope:
        # Root is the machine's root: with the capabilities of a namespace of its own it could mount and write what is root's.
        operations.append(WriteOp(f"{root}/proc/sys/user/max_user_namespaces", "0"))
    if layout.identity is Identity.USER and not scope:
        # Cgroups that are delegated to the user, his session's among them, are his inside too. To mount the file system takes
        # capabilities over a cgroup namespace: none may be made but this sandbox's own.
        operations.append(WriteOp(f"{root}/proc/sys/user/max_cgroup_namespaces", "1"))
    operations += mounts.masks(root, layout.masked, layout.read_only)
    operations += [mounts.hide(root, own, is_dir=True) for _, own in layout.scratches]  # other sandboxes' layers
    operations += _let_through(layout, spec, root)
    if scope:
        operations += _store_for_children(layout, root)
    return operations


def _sysfs(target: str, *, shares_network: bool) -> MountOp:
    """A sysfs shows the network namespace of who mounts it, if he owns it; whoever shares one is shown what is there."""
    if shares_network:
        return bind("/sys", target, recursive=True)
    return MountOp("sysfs", target, "sysfs", _NO_EXEC | Mount.RDONLY)


def _kernel_file_systems(layout: Layout, root: str, *, shares_network: bool) -> list[Operation]:
    terminals = "newinstance,ptmxmode=0666,mode=0620"
    if layout.identity is not Identity.USER:
        terminals += ",gid=5"  # the group "tty", which a user's namespace has no id for
    operations: list[Operation] = [
        MountOp("devpts", f"{root}/dev/pts", "devpts", Mount.NOSUID | Mount.NOEXEC, terminals),
        MountOp("mqueue", f"{root}/dev/mqueue", "mqueue", _NO_EXEC),
        MountOp("proc", f"{root}/proc", "proc", _NO_EXEC),
        _sysfs(f"{root}/sys", shares_network=shares_network),
    ]
    if shares_network and layout.depth == 0:  # the machine's own, with all that is mounted in it
        operations += [ReadOnlyOp(f"{root}/sys", recursive=True), *mounts.masks(root, mounts.existing(_CGROUPS), ())]
    return operations


def _let_through(layout: Layout, spec: Spec, root: str) -> list[Operation]:
    """What is common, and over that what is the machine's own, which may lie in it."""
    common = {tree.path: f"{layout.common_layer}/m/{number}" for number, tree in enumerate(layout.common)}
    index = {path: f"{layout.store}/rw/{number}" for number, path in enumerate(layout.writable)}
    operations: list[Operation] = [bind(common[path], root + path) for path in spec.common if path in common]
    # Recursive: a user's clone has locked mounts below, without which it cannot be bound.
    return operations + [
        bind(index[path], root + os.path.realpath(path), recursive=True) for path in spec.writable if path in index
    ]


def hide_operations(spec: Spec) -> list[Operation]:
    """What to cover once the root is entered: only there a path means what the sandbox's own processes mean by it."""
    return [HideOp(path) for path in sorted(spec.hide)]


def _store_for_children(layout: Layout, root: str) -> list[Operation]:
    store = f"{root}{INNER_STORE}"
    # Not recursive: each layer is a mount of its own. What all scopes have in common none may change, nor fill.
    operations: list[Operation] = [bind(layout.store, store, recursive=True), ReadOnlyOp(store)]
    # A scope's fixtures may write to their own layer as they like, but never to the ones that others stand on.
    operations += [ReadOnlyOp(f"{store}/L{depth}") for depth in range(layout.depth)]
    if layout.common:
        operations.append(ReadOnlyOp(f"{store}/common"))
    return operations
