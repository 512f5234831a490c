"""The way out of the controller: one fork into a process of one thread, which starts the session's sandbox and waits.

As root it also clones the machine's trees, id-mapped, before there is a namespace that could lock them. It lives as long
as the session's init, whose parent it is, and both die with the controller.

Init and main are forked in the midst of that fork: handlers of `os.register_at_fork()`, but for what is older than the plugin,
run in main and nowhere else, as if the controller had forked that itself.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Attr, Clone
from pytest_sandbox.primitives import locks, mounts, process
from pytest_sandbox.primitives.forks import fork
from pytest_sandbox.primitives.namespaces import Identity
from pytest_sandbox.primitives.overlay import TreeKind
from pytest_sandbox.sandbox.files import layout as layouts
from pytest_sandbox.sandbox.files.layout import Layout
from pytest_sandbox.sandbox.inside.child import Body, Control, Descriptors, Order
from pytest_sandbox.sandbox.inside.main import become_main
from pytest_sandbox.sandbox.inside.outermost import spawn
from pytest_sandbox.sandbox.inside.store import make_below, make_target, open_copied


def launch(layout: Layout, order: Order, given: Descriptors, control: Control, body: Body, *, close: Sequence[int]) -> int:
    """Fork the launcher; returns its pid. `close` are the controller's own descriptors, which must not outlive it."""
    controller = os.getpid()
    process.flush()
    pid = fork(lambda: control.run(lambda: _launch(controller, layout, order, given, control), close=close))
    if pid == 0:
        become_main(order, given, body)
    return pid


def _launch(controller: int, layout: Layout, order: Order, given: Descriptors, control: Control) -> None:
    """Returns in main only."""
    locks.forget()
    control = dataclasses.replace(control, handlers=process.reset_signals())
    # All signals are blocked (`fork`): Ctrl-C reaches the whole group of the terminal; what it means is the controller's to say.
    process.die_with_parent(controller)
    umask = os.umask(0o022)  # who is root in the new user namespace is another one on the way to the trees
    clones = {} if layout.identity is Identity.USER else _clone_trees(layout)
    os.umask(umask)
    init = spawn(
        layout,
        order,
        given,
        control,
        inherited=tuple(clones.values()),
        mapped=lambda pid: _place(layout, clones, pid),
    )
    if init == 0:
        return
    for fd in (control.socket.fileno(), *control.tasks, *given.all()):
        os.close(fd)
    os.waitpid(init, 0)
    os._exit(0)


def _clone_trees(layout: Layout) -> dict[str, int]:
    """Detached clones of the trees, by where they go in the store; then a directory is covered by a place for them."""
    syscalls.unshare(Clone.NEWNS)
    mounts.make_private()
    clones = {name: syscalls.open_tree(path) for name, path in layouts.sources(layout).items()}
    copied = open_copied(layout)
    place = layout.place.removesuffix("/in")
    mounts.tmpfs(place).apply()
    for name in ("in", *layouts.CLONES):
        os.mkdir(f"{place}/{name}")
    make_below(layout, place, copied)
    for name, tree in clones.items():
        make_target(f"{place}/{name}", tree)
    return clones


def _place(layout: Layout, clones: Mapping[str, int], pid: int) -> None:
    """Mount the clones, with the ids of the user namespace of process `pid`."""
    if not clones:
        return
    place = layout.place.removesuffix("/in")
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    trees = {f"base/{index}": tree for index, tree in enumerate(layout.plan.trees)}
    trees |= {f"below/{index}": tree for index, tree in enumerate(layout.common)}
    overlaid = {name for name, tree in trees.items() if tree.kind is TreeKind.OVERLAY}
    for name, tree in clones.items():
        if layout.identity is Identity.MAPPED:
            _map(tree, userns, must=name in overlaid)
        if name.startswith(layouts.READ_ONLY):
            syscalls.mount_setattr(tree, Attr.RDONLY)
        syscalls.move_mount(tree, f"{place}/{name}")
        os.close(tree)
    os.close(userns)


def _map(tree: int, userns: int, *, must: bool) -> None:
    """Give a clone the ids of a user namespace. OSError where it must have them, and cannot."""
    try:
        syscalls.mount_setattr(tree, Attr.IDMAP, userns)
    except OSError:
        # A file system without id-mapping (FUSE, 9p): its files belong to nobody inside, and are read-only.
        if must:
            raise
