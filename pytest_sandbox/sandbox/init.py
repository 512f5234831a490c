"""pid 1 of a sandbox: makes the root, forks main, reaps, and has the last word. Imports `main` and below, and no plugin."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import select
import signal
import socket
from typing import NoReturn

from pytest_sandbox._linux import proc, syscalls
from pytest_sandbox._linux.flags import Clone
from pytest_sandbox.model.spec import Network
from pytest_sandbox.primitives import mounts, network, process
from pytest_sandbox.primitives.cgroups import enter
from pytest_sandbox.primitives.namespaces import Identity
from pytest_sandbox.sandbox.child import Start
from pytest_sandbox.sandbox.layout import Layout, hide_operations
from pytest_sandbox.sandbox.main import become_main
from pytest_sandbox.sandbox.store import copy_files, make_store
from pytest_sandbox.sandbox.wire import encode
from pytest_sandbox.sandbox.words import LastWords

#: How long init waits for processes that are just ending before it calls them leaked, in seconds.
LEAK_GRACE = 0.05
#: How many leaked processes are named, and how much of each command line.
_MOST_LEAKS, _LONGEST_LINE = 100, 500


def become_init(start: Start, released: int) -> NoReturn:
    """Run a sandbox from its first moment to its last word; `released` is a pipe that says when our ids are mapped."""
    layout, given = start.layout, start.given
    handlers = {**start.handlers, **process.reset_signals()}
    if not os.read(released, 1):  # the parent could not map our ids, or is gone
        os._exit(1)
    os.close(released)
    enter(given.tasks)
    if layout.depth == 0:
        _become(layout)
        process.die_with_launcher()
    control = socket.socket(fileno=given.control)
    control.sendall(encode({"op": "hello"}))
    _make_root(start, control)
    if not start.shares_network and start.order.spec.network is not Network.NONE:
        network.raise_loopback()
    if layout.depth == 0:
        copy_files(layout)
        process.renew_descriptors({0, 1, 2, *given.kept(), *layout.keep_descriptors})
    mounts.apply(hide_operations(start.order.spec))
    if layout.depth:
        process.renew_directories(())
    with contextlib.suppress(OSError):
        os.chdir(layout.cwd)
    if not control.recv(1):  # "go": we are in our cgroup
        os._exit(1)
    syscalls.unshare(Clone.NEWCGROUP)
    main = os.fork()
    if main == 0:
        control.close()
        become_main(dataclasses.replace(start, handlers=handlers))
    control.sendall(encode({"op": "forked"}))
    for fd in given.kept()[1:]:
        os.close(fd)
    _supervise(start, main, control)


def _become(layout: Layout) -> None:
    """Take the ids of who started the run, as they are called in the new user namespace."""
    if layout.identity is Identity.USER:
        return
    os.setgroups(layout.groups)
    os.setresgid(layout.gid, layout.gid, layout.gid)
    os.setresuid(layout.uid, layout.uid, layout.uid)
    process.set_dumpable(True)
    syscalls.unshare(Clone.NEWNS)


def _make_root(start: Start, control: socket.socket) -> None:
    """Mount everything, hand our layer to the controller, and enter."""
    layout = start.layout
    umask = os.umask(0)
    mounts.make_private()
    if layout.depth == 0:
        make_store(layout, shares_network=start.shares_network)
    mounts.apply(start.operations)
    layer = os.open(layout.layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    socket.send_fds(control, [encode({"op": "ready"})], [layer])
    os.close(layer)
    mounts.enter(layout.root)
    os.umask(umask)


def _supervise(start: Start, main: int, control: socket.socket) -> NoReturn:
    wake, alarm = socket.socketpair()
    alarm.setblocking(False)
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
    process.drop_privileges((), start.layout.last_capability)
    process.set_dumpable(False)
    status: int | None = None
    while status is None:
        ended = process.reap() or []
        status = next((code for pid, code in ended if pid == main), None)
        if status is None:
            _wait(main, control, wake)
    words = LastWords(
        status=status,
        leaks=_left_over(wake),
        blocks=_blocks(used := resource.getrusage(resource.RUSAGE_CHILDREN)),
        cpu=used.ru_utime + used.ru_stime,
        network=None if start.shares_network else proc.network_bytes(),
        shares_network=start.shares_network,
    )
    control.setblocking(True)
    control.sendall(encode(words.to_frame()))
    os._exit(0)


def _blocks(used: resource.struct_rusage) -> tuple[int, int]:
    return used.ru_inblock, used.ru_oublock


def _wait(main: int, control: socket.socket, wake: socket.socket, timeout: float | None = None) -> None:
    """Until a child ends or the controller says something: "s" asks for main's stacks, silence for ever is its death."""
    ready, _, _ = select.select([control, wake], [], [], timeout)
    if wake in ready:
        with contextlib.suppress(BlockingIOError):
            wake.recv(4096)
    if control in ready:
        order = control.recv(1)
        if not order:
            os._exit(1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(main, process.STACKS_SIGNAL)


def _left_over(wake: socket.socket) -> tuple[tuple[int, str], ...]:
    """Pid and command line of all that main left behind; what is just ending has a moment to do so."""
    if process.reap() is None:
        return ()
    with contextlib.suppress(BlockingIOError):
        wake.recv(4096)
    select.select([wake], [], [], LEAK_GRACE)
    if process.reap() is None:
        return ()
    return tuple((pid, line[:_LONGEST_LINE]) for pid, line in proc.processes() if pid != 1)[:_MOST_LEAKS]
