"""A sandbox's main process: how it comes to be, what it gives up, and its body. Imports `child` and below, and no plugin."""

from __future__ import annotations

import resource
import traceback
from collections.abc import Sequence
from contextlib import suppress
from errno import EMFILE, ENOTSUP
from os import _exit, chdir, close, getcwdb, getpid, mkdir, rmdir, strerror, write
from tempfile import gettempdir
from typing import NoReturn

from pytest_sandbox._linux import native
from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.primitives import process
from pytest_sandbox.primitives.seccomp import forbid_mounts
from pytest_sandbox.sandbox.inside.child import Body, Descriptors, Inside, Next, Order, describe, find_root
from pytest_sandbox.sandbox.wire.frames import Channel, Frame, encode

#: What is said on the wire first, by the kernel's word for who says it, by who is in its sandbox and has run nothing of a test's.
JOINED = encode({"op": "joined"})
#: What a main process waits for, before any frame.
GO = b"g"
_TEMPORARY = gettempdir()


def fork_into(inside: Inside, frame: Frame, descriptors: Sequence[int], body: Body) -> None:
    """Fork the calling main process into the sandbox of a "spawn" frame, and have the new one run a body there; see `fork`."""
    forked = fork(inside, frame, descriptors)
    if forked is not None:
        _run(forked, body)


def fork(inside: Inside, frame: Frame, descriptors: Sequence[int]) -> Inside | None:
    """Fork the calling main process into the sandbox of a "spawn" frame, which the controller has made below it.

    Returns in both: in the new one what it finds there, which is for `Next`; in the caller None. The new main process finds its
    socket and files under the numbers of the old one's, so that whoever holds one of those, or a duplicate, uses the new one's.
    What goes wrong is told to the controller, and not raised.
    """
    order = Order.from_frame(frame)
    process.flush()
    try:
        cwd, lost = _cwd()
        forked = native.fork(_plan(inside, order, frame, descriptors, cwd))
    except OSError as error:
        refuse(inside, frame, descriptors, error)
        return None
    if forked is not native.Forked.CALLER:
        if lost:
            _lose_directory()
        return _begin(inside, order, forked)
    for fd in descriptors:
        close(fd)
    return None


def refuse(inside: Inside, frame: Frame, descriptors: Sequence[int], error: OSError) -> None:
    """Tell the controller why the sandbox of a "spawn" frame is not forked into."""
    inside.channel.send({"op": "refused", "name": frame["name"], **describe(error)})
    for fd in descriptors:
        close(fd)


def _plan(inside: Inside, order: Order, frame: Frame, descriptors: Sequence[int], cwd: bytes) -> native.ForkPlan:
    """OSError where some of the descriptors have not come: for want of numbers for them, recvmsg(2) leaves the last ones out.

    And where the caller has another root than its sandbox, of which setns(2) would make the new one's without a word.
    """
    if find_root() != inside.root:
        raise OSError(ENOTSUP, strerror(ENOTSUP), "enter a sandbox from another root directory")
    own, count = inside.descriptors.all(), frame["namespaces"]
    given, namespaces, tasks = descriptors[: len(own)], descriptors[len(own) :][:count], descriptors[len(own) + count :]
    if len(descriptors) != len(own) + count + frame["tasks"]:
        raise OSError(EMFILE, strerror(EMFILE), "receive descriptors")
    limits = _limits(order)
    return native.ForkPlan(tasks, namespaces, own, given, JOINED, frame["asks"], cwd, limits, order.keep, order.last_capability)


def _cwd() -> tuple[bytes, bool]:
    """The working directory, and whether there is none: a fixture has removed it."""
    try:
        return getcwdb(), False
    except FileNotFoundError:
        return b"/", True


def _lose_directory() -> None:
    """Have a working directory that was removed, as the process around this one has."""
    own = f"{_TEMPORARY}/sandbox-cwd-{getpid()}"
    with suppress(OSError):
        mkdir(own)
        chdir(own)
        rmdir(own)


def _begin(inside: Inside, order: Order, forked: native.Forked) -> Inside:
    if forked is native.Forked.CHILD_WITH_DIRECTORIES:
        process.renew_directories(())
    inside.channel.adopt()
    if inside.order.may_mount and not order.may_mount:
        forbid_mounts()
    return Inside(order, inside.channel, inside.descriptors, outermost=False)


def become_main(order: Order, given: Descriptors, body: Body) -> NoReturn:
    """Run the body in the outermost sandbox's main process, which has no privileges any more; ends with its exit code."""
    process.leave_keyring()
    process.set_limits(_limits(order))
    wire = Socket(fileno=given.wire)
    if wire.recv(1) != GO:  # the controller has thought better of it, or is gone
        _exit(1)
    _run(Inside(order, Channel(wire), given, outermost=True), body)


def _run(inside: Inside, body: Body) -> NoReturn:
    code = 1
    try:
        end: int | Next = Next(inside, body)
        while isinstance(end, Next):
            inside = end.inside
            _enter(inside)
            end = end.body(inside)
        code = end
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except EOFError:
        code = 1  # the controller is gone, and with it whoever would read why
    except BaseException:
        with suppress(Exception):
            write(inside.descriptors.stderr, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        process.leave(code)


def _enter(inside: Inside) -> None:
    order = inside.order
    if inside.outermost:
        inside.channel.send({"op": "joined"})
    if order.processes is not None:
        # Counted per user namespace since Linux 5.14, so this is the sandbox's own processes, and init: that is not in its
        # cgroup, but in that of the scope, except for the outermost.
        soft, hard = (value if value == resource.RLIM_INFINITY else value + (not inside.outermost) for value in order.processes)
        process.set_limits([(resource.RLIMIT_NPROC, soft, hard)])
    if order.scope:
        inside.channel.send({"op": "here"})


def _limits(order: Order) -> list[tuple[int, int, int]]:
    return [(resource.RLIMIT_CORE, 0, 0), *([] if order.files is None else [(resource.RLIMIT_NOFILE, *order.files)])]
