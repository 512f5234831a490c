"""pid 2 of a sandbox: gives up what it has too much of, and runs the body. Imports `child` and below, and no plugin."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import traceback
from typing import NoReturn

from pytest_sandbox.primitives import process
from pytest_sandbox.primitives.namespaces import Identity
from pytest_sandbox.sandbox.child import Inside, Order, Start
from pytest_sandbox.sandbox.layout import Layout
from pytest_sandbox.sandbox.wire import Channel


def become_main(start: Start) -> NoReturn:
    """Run the body in a fork of init, and end with its exit code."""
    code, given = 1, start.given
    try:
        os.setsid()  # its own session: kill(0, ...) and the terminal's signals end at the sandbox's border
        process.leave_keyring()
        _give_up(start.layout, start.order)
        process.restore_signals(start.handlers)
        channel = Channel(socket.socket(fileno=given.wire))
        code = start.body(Inside(start.order, start.layout.below(), channel, given, start.shares_network, start.spawner))
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        with contextlib.suppress(Exception):
            os.write(given.stderr, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        process.flush()
        os._exit(code)


def _give_up(layout: Layout, order: Order) -> None:
    limits = order.spec.limits
    rlimits = [(resource.RLIMIT_CORE, 0)]
    if limits.files is not None:
        rlimits.append((resource.RLIMIT_NOFILE, limits.files))
    if order.count_pids and limits.pids is not None:
        # Counted per user namespace since Linux 5.14, so this is the sandbox's own processes (init included).
        rlimits.append((resource.RLIMIT_NPROC, limits.pids))
    process.set_limits(rlimits)
    keep = () if layout.identity is Identity.USER else process.ROOT_CAPABILITIES
    process.drop_privileges(keep, layout.last_capability)
    process.set_dumpable(True)
