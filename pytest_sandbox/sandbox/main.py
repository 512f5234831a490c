"""A sandbox's main process: how it comes to be, what it gives up, and its body. Imports `child` and below, and no plugin."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import traceback
from collections.abc import Sequence
from typing import NoReturn

from pytest_sandbox._linux import native
from pytest_sandbox.primitives import process
from pytest_sandbox.sandbox.child import Body, Descriptors, Inside, Order, describe
from pytest_sandbox.sandbox.wire import Channel, Frame, encode

#: What is said on the wire, by the kernel's word for who says it, when a process is in its sandbox but not yet main.
JOINED = encode({"op": "joined"})


def fork_into(inside: Inside, frame: Frame, descriptors: Sequence[int], body: Body) -> None:
    """Fork the calling main process into the sandbox of a "spawn" frame, which the controller has made below it.

    What goes wrong is told to the controller, and not raised.
    """
    order = Order.from_frame(frame)
    count = len(Descriptors.__dataclass_fields__)
    given, others = Descriptors(*descriptors[:count]), descriptors[count:]
    namespaces, tasks = others[: frame["namespaces"]], others[frame["namespaces"] :]
    process.flush()
    cwd = _cwd()
    try:
        is_main = native.fork(tasks, namespaces, given.wire, JOINED, order.keep, order.last_capability)
    except OSError as error:
        inside.channel.send({"op": "refused", "name": order.name, **describe(error)})
        is_main = False
    if is_main:
        for fd in (*inside.descriptors.all(), *others):
            os.close(fd)
        _enter_directory(cwd)
        become_main(order, given, body)
    for fd in descriptors:
        os.close(fd)


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # a fixture has removed it
        return "/"


def _enter_directory(cwd: str) -> None:
    process.renew_directories(())
    with contextlib.suppress(OSError):  # it is hidden inside
        os.chdir(cwd)


def become_main(order: Order, given: Descriptors, body: Body) -> NoReturn:
    """Run the body in a process that has no privileges any more, and end with its exit code."""
    code = 1
    try:
        os.setsid()  # its own session: kill(0, ...) and the terminal's signals end at the sandbox's border
        process.leave_keyring()
        _limit(order)
        channel = Channel(socket.socket(fileno=given.wire))
        if order.scope:
            channel.send({"op": "here"})
        frame, _ = channel.receive()
        if frame["op"] == "go":
            code = body(Inside(order, channel, given))
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except EOFError:
        code = 1  # the controller has thought better of it, or is gone
    except BaseException:
        with contextlib.suppress(Exception):
            os.write(given.stderr, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        process.flush()
        os._exit(code)


def _limit(order: Order) -> None:
    limits = order.spec.limits
    rlimits = [(resource.RLIMIT_CORE, 0)]
    if limits.files is not None:
        rlimits.append((resource.RLIMIT_NOFILE, limits.files))
    if order.count_pids and limits.pids is not None:
        # Counted per user namespace since Linux 5.14, so this is the sandbox's own processes (init included).
        rlimits.append((resource.RLIMIT_NPROC, limits.pids))
    process.set_limits(rlimits)
