"""What a test or fixture did to its whole process: exit, Ctrl-C, an error that is none of its own. Said, and done again.

In a sandbox it ends that alone; pytest in the controller is to do what a plain run would.
"""

from __future__ import annotations

import traceback
from typing import NoReturn

import pytest

from pytest_sandbox.plugin.builtin.reports import whole_number
from pytest_sandbox.sandbox.wire import Channel, Frame

_LONGEST_FILE = 1_000_000


def send(channel: Channel, error: BaseException) -> None:
    """Say what was raised; the controller answers with `raise_again`."""
    if isinstance(error, pytest.exit.Exception):
        channel.send({"op": "exit", "reason": str(error.msg), "returncode": error.returncode})
    elif isinstance(error, KeyboardInterrupt):
        path, line = _origin(error)
        channel.send({"op": "interrupt", "path": path, "line": line})
    else:
        channel.send({"op": "internal", "traceback": traceback.format_exc()})


def _origin(error: BaseException) -> tuple[str, int]:
    """Where it was raised: path and line, as pytest tells of a KeyboardInterrupt."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return ("", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def raise_again(item: pytest.Item, frame: Frame) -> NoReturn:
    """Do in the controller what a frame of `send` says that the item has done."""
    if frame["op"] == "exit":
        code = frame.get("returncode")
        pytest.exit(str(frame.get("reason", "")), returncode=code if isinstance(code, int) else None)
    if frame["op"] == "interrupt":
        _interrupt(item, str(frame.get("path")), whole_number(frame, "line"))
    raise RuntimeError(f"in the sandbox of {item.nodeid}:\n{frame.get('traceback')}")


def _interrupt(item: pytest.Item, path: str, line: int) -> NoReturn:
    """Raise KeyboardInterrupt where the test did, if that was in its own file: pytest says where it came from."""
    if path == str(item.path) and 0 < line < _LONGEST_FILE:
        exec(compile("\n" * (line - 1) + "raise KeyboardInterrupt", path, "exec"), {})  # noqa: S102  # our own words, at that line
    raise KeyboardInterrupt
