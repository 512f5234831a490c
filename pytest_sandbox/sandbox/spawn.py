"""The parent's side of a new sandbox: namespaces, ids, and the first fork. Imports `init` and below, and no plugin."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from pytest_sandbox._linux import proc, syscalls
from pytest_sandbox._linux.flags import Clone
from pytest_sandbox._linux.sockdiag import serves_network
from pytest_sandbox.model.spec import Network
from pytest_sandbox.primitives import mounts, process
from pytest_sandbox.primitives.namespaces import Identity, write_maps
from pytest_sandbox.primitives.process import fork
from pytest_sandbox.sandbox import layout as layouts
from pytest_sandbox.sandbox.child import Body, Descriptors, Order, Start, describe
from pytest_sandbox.sandbox.init import become_init
from pytest_sandbox.sandbox.layout import DEEPEST, Layout
from pytest_sandbox.sandbox.wire import encode


def spawn(
    layout: Layout,
    order: Order,
    given: Descriptors,
    body: Body,
    *,
    inherited: Sequence[int] = (),
    handlers: Mapping[int, process.Handler] = MappingProxyType({}),
    mapped: Callable[[int], None] = lambda _: None,
) -> int:
    """Clone init of a new sandbox; returns its pid (of a helper that ends at once where the caller has threads).

    inherited: descriptors of the caller that the sandbox shall not have. handlers: of signals, which main gets back besides
    those that the caller has. mapped: called with the pid when the new user
    namespace has its ids, before init goes on. OSError: the kernel refused a namespace or the ids.
    """
    if layout.depth >= DEEPEST:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), f"a sandbox in {layout.depth} others: {DEEPEST} levels are the most")
    shares = shares_network(layout, order.spec.network)
    layout = dataclasses.replace(layout, sockets=_sockets(layout, order.spec.network))
    operations = layouts.root_operations(layout, order.spec, order.name, scope=order.scope, shares_network=shares)
    operations += [mounts.bind(path, layout.root + path) for path in layout.sockets if os.path.exists(path)]
    start = Start(layout, order, given, body, operations, shares, spawn, handlers)
    flags = _namespaces(layout, shares=shares)
    released, release = os.pipe()

    def init() -> NoReturn:
        for fd in (release, *inherited):
            os.close(fd)
        become_init(start, released)

    def go(pid: int) -> None:
        write_maps(pid, layout.identity, layout.depth, layout.uid, layout.gid)
        mapped(pid)
        os.write(release, b"x")

    process.flush()
    try:
        if proc.threads() > 1:
            return _spawn_from_threads(flags, init, given, go)
        pid = syscalls.clone3(flags)
        if pid == 0:
            _never_return(init, given)
        go(pid)
        return pid
    finally:
        os.close(released)
        os.close(release)


def _sockets(layout: Layout, wanted: Network) -> tuple[str, ...]:
    """Paths of unix sockets where enclosing scopes listen: reached from any network namespace, but through no overlay."""
    if layout.depth == 0 or wanted not in (Network.AUTO, Network.SHARED):
        return ()
    return tuple(dict.fromkeys((*layout.sockets, *(path for path in proc.unix_listeners() if path.startswith("/")))))


def _namespaces(layout: Layout, *, shares: bool) -> Clone:
    flags = Clone.NEWUSER | Clone.NEWNS | Clone.NEWPID | Clone.NEWIPC | Clone.NEWUTS | Clone.NEWNET
    if shares:
        flags &= ~Clone.NEWNET
    if layout.depth == 0 and layout.identity is not Identity.USER:
        flags &= ~Clone.NEWNS  # after the launcher has id-mapped the trees, which takes the new user namespace
    return flags


def _spawn_from_threads(flags: Clone, init: Callable[[], NoReturn], given: Descriptors, go: Callable[[int], None]) -> int:
    """As `spawn`, from a process with threads: fork(3) first, which takes malloc's locks, then unshare(2)."""
    unshared, tell = os.pipe()
    mapped, end = os.pipe()
    helper = fork()
    if helper == 0:

        def helper_main() -> NoReturn:
            os.close(unshared)
            os.close(end)
            syscalls.unshare(flags)
            process.set_dumpable(True)  # or the parent may not write our uid_map
            os.write(tell, b"x")
            os.close(tell)
            if fork() == 0:
                os.close(mapped)
                init()
            os.read(mapped, 1)  # the files of /proc of a process that has ended belong to the machine's root
            os._exit(0)

        _never_return(helper_main, given)
    for fd in (tell, mapped):
        os.close(fd)
    try:
        if os.read(unshared, 1):
            go(helper)
    finally:
        os.close(unshared)
        os.close(end)
    return helper


def shares_network(layout: Layout, wanted: Network) -> bool:
    """Whether a sandbox made now stays in its parent's network namespace."""
    if wanted is Network.AUTO:
        return layout.depth > 0 and serves_network()
    if wanted is Network.SHARED:
        return layout.depth > 0
    return wanted is Network.HOST


def _never_return(run: Callable[[], NoReturn], given: Descriptors) -> NoReturn:
    try:
        run()
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(given.control, encode({"op": "failed", **describe(error)}))
    finally:
        os._exit(1)
