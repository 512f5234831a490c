"""The store, made once a run by the session's init: base trees, devices, and room for layers (see `layout`).

Imports `layout` and `primitives`, and no plugin.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Attr
from pytest_sandbox.primitives import mounts, overlay
from pytest_sandbox.primitives.namespaces import HOST_BASE, Identity
from pytest_sandbox.primitives.overlay import TreeKind
from pytest_sandbox.sandbox.files import layout as layouts
from pytest_sandbox.sandbox.files.layout import Layout


def make_store(layout: Layout, *, shares_network: bool) -> None:
    """Build it at the layout's place, in the caller's mount namespace. OSError names the call."""
    clones = _clone_for_user(layout) if layout.identity is Identity.USER else {}
    copied = open_copied(layout) if layout.identity is Identity.USER else {}
    source = layout.place.removesuffix("/in")
    mounts.tmpfs(layout.place).apply()
    mounts.apply(layouts.store_operations(layout, shares_network=shares_network))
    layouts.build_devices(f"{layout.store}/dev")
    if layout.identity is not Identity.USER:
        for name in layouts.CLONES:
            mounts.bind(f"{source}/{name}", f"{layout.store}/{name}", recursive=True).apply()
        return
    os.mkdir(f"{layout.store}/base/0")
    overlay.build_skeleton(layout.plan, f"{layout.store}/base/0")
    make_below(layout, layout.store, copied)
    for name, tree in clones.items():
        make_target(f"{layout.store}/{name}", tree)
        syscalls.move_mount(tree, f"{layout.store}/{name}")
        os.close(tree)


def open_copied(layout: Layout) -> dict[int, int]:
    """The directories that are copied, by their index, opened before a place for copies covers one of them."""
    copied = {index: tree.path for index, tree in enumerate(layout.common) if tree.kind is not TreeKind.OVERLAY}
    return {index: os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for index, path in copied.items()}


def make_below(layout: Layout, directory: str, copied: Mapping[int, int]) -> None:
    """Make what clones of the directories that sandboxes have in common are mounted on, or their copies; closes `copied`."""
    for index in range(len(layout.common)):
        os.mkdir(f"{directory}/below/{index}")
    for index, fd in copied.items():
        target = f"{directory}/below/{index}"
        overlay.copy(f"/proc/self/fd/{fd}/.", target)
        os.close(fd)
        if layout.identity is Identity.MAPPED:
            _give(target, HOST_BASE + layout.uid, HOST_BASE + layout.gid)


def _give(top: str, uid: int, gid: int) -> None:
    os.chown(top, uid, gid)
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            os.chown(os.path.join(directory, name), uid, gid, follow_symlinks=False)


def make_target(path: str, tree: int) -> None:
    """Make at `path` what the tree behind a descriptor can be mounted on: a directory or a file."""
    if os.path.isdir(f"/proc/self/fd/{tree}"):
        os.makedirs(path, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _clone_for_user(layout: Layout) -> dict[str, int]:
    """Detached clones, taken before the store covers a directory; recursive, since a user's mounts are locked together."""
    clones = {}
    for name, path in layouts.sources(layout).items():
        if path != "/" or not name.startswith("base/"):
            clones[name] = syscalls.open_tree(path, recursive=True)
        if name in clones and name.startswith(layouts.READ_ONLY):
            syscalls.mount_setattr(clones[name], Attr.RDONLY, recursive=True)
    return clones


def copy_files(layout: Layout) -> None:
    """Files that the machine has mounted one by one (Docker's /etc/hosts) become plain files of the first layer."""
    for path, content in layout.files:
        with contextlib.suppress(OSError), open(path, "wb") as file:
            file.write(content)
