"""The outermost sandbox: its namespaces, its store, its main process, and its init until that is a program of its own.

Imports `main` and below, and no plugin.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from pytest_sandbox._linux import native, syscalls
from pytest_sandbox._linux.flags import MNT_DETACH, Clone
from pytest_sandbox._linux.sockdiag import open_netlink
from pytest_sandbox.primitives import mounts, network, process
from pytest_sandbox.primitives.cgroups import enter
from pytest_sandbox.primitives.namespaces import Identity, fresh, write_maps
from pytest_sandbox.primitives.seccomp import forbid_mounts
from pytest_sandbox.sandbox.files import layout as layouts
from pytest_sandbox.sandbox.files.layout import Layout
from pytest_sandbox.sandbox.inside.child import Control, Descriptors, Order
from pytest_sandbox.sandbox.inside.store import copy_files, make_store


def spawn(
    layout: Layout,
    order: Order,
    given: Descriptors,
    control: Control,
    *,
    inherited: Sequence[int],
    mapped: Callable[[int], None],
) -> int:
    """Clone init of the outermost sandbox; returns its pid, and 0 in main.

    inherited: descriptors of the caller that the sandbox shall not have. mapped: called with the pid when the new user
    namespace has its ids, before init goes on. OSError: the kernel refused a namespace or the ids.
    """
    released, release = os.pipe()
    with process.undisturbed():
        pid = syscalls.clone3(_namespaces(layout, order))
    if pid == 0:
        control.run(lambda: _become_init(layout, order, given, control, released), close=(release, *inherited))
        return 0
    os.close(released)
    try:
        write_maps(pid, layout.identity, layout.depth, layout.uid, layout.gid)
        mapped(pid)
        os.write(release, b"x")
    finally:
        os.close(release)
    return pid


def _namespaces(layout: Layout, order: Order) -> Clone:
    flags = fresh(shares_network=order.shares_network)
    if layout.identity is not Identity.USER:
        flags &= ~Clone.NEWNS  # after the launcher has id-mapped the trees, which takes the new user namespace
    return flags


def _become_init(layout: Layout, order: Order, given: Descriptors, control: Control, released: int) -> None:
    """Returns in main only."""
    if not os.read(released, 1):  # the parent could not map our ids, or is gone
        os._exit(1)
    os.close(released)
    enter(control.tasks)
    _become(layout)
    process.die_with_launcher()
    ready = _make_root(layout, order)
    if order.has_loopback:
        network.raise_loopback()
        if order.spec.limits.bandwidth is not None:
            network.route(network.bandwidth(order.spec.limits.bandwidth))
    copy_files(layout)
    process.renew_descriptors({0, 1, 2, control.socket.fileno(), *given.all(), *ready, *layout.keep_descriptors})
    mounts.apply(layouts.hide_operations(order.spec))
    with contextlib.suppress(OSError):
        os.chdir(layout.cwd)
    control.greet()
    own = _leave_store() if order.scope else None
    syscalls.unshare(Clone.NEWCGROUP)
    main = syscalls.fork()
    if main == 0:
        process.leave_session()
        for fd in (*ready, *([] if own is None else [own])):
            os.close(fd)
        _confine(order)
        control.socket.close()
        process.restore_signals(control.handlers)
        process.set_dumpable(True)
        return
    control.send_ready(ready)
    if own is not None:
        view = _namespace()
        syscalls.setns(own, Clone.NEWNS)
        os.close(own)
        process.keep_privileges(layout.last_capability)
        native.become_init(control.socket.fileno(), main, view)
    process.drop_privileges((), layout.last_capability)
    native.become_init(control.socket.fileno(), main)


def _leave_store() -> int:
    """Go into a mount namespace for main, in which no store is; a descriptor of init's own, which main must not have."""
    own = _namespace()
    syscalls.unshare(Clone.NEWNS)
    syscalls.umount(layouts.INNER_STORE, MNT_DETACH)
    return own


def _namespace() -> int:
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _confine(order: Order) -> None:
    """Before anything foreign runs in main, a thread that a handler starts among it: rights are a thread's own."""
    process.drop_privileges(order.keep, order.last_capability)
    if not order.may_mount:
        forbid_mounts()


def _become(layout: Layout) -> None:
    """Take the ids of who started the run, as they are called in the new user namespace."""
    if layout.identity is Identity.USER:
        return
    os.setgroups(layout.groups)
    os.setresgid(layout.gid, layout.gid, layout.gid)
    os.setresuid(layout.uid, layout.uid, layout.uid)
    process.set_dumpable(True)
    syscalls.unshare(Clone.NEWNS)


def _make_root(layout: Layout, order: Order) -> list[int]:
    """Mount everything and enter; for the controller: our layer, a scope's socket to ask who listens, the common layer."""
    umask = os.umask(0)
    mounts.make_private()
    make_store(layout, shares_network=order.shares_network)
    mounts.apply(layouts.common_operations(layout, order.spec))
    mounts.apply(layouts.root_operations(layout, order.spec, order.name, scope=order.scope, shares_network=order.shares_network))
    ready = [os.open(layout.layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    if order.scope:
        ready.append(open_netlink().detach())
    if layout.common:
        ready.append(os.open(layout.common_layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    mounts.enter(layout.root)
    os.umask(umask)
    return ready
