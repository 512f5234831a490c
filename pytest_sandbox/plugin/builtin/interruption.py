"""What a test or fixture did to its whole process: exit, Ctrl-C, an error that is none of its own. Said, and done again.

In a sandbox it ends that alone; pytest in the controller is to do what a plain run would.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

import pytest

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.plugin.builtin.fields import whole_number, writable_text
from pytest_sandbox.sandbox.wire.frames import Channel, Frame

_LONGEST_FILE = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Exit:
    """pytest.exit()."""

    reason: str
    status: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Interrupt:
    """KeyboardInterrupt, and where it was raised."""

    path: str
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Break:
    """One of the errors by which pytest itself ends a run, by a name of `_BREAKS`, and what it says."""

    name: str
    words: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Internal:
    """Any other error that pytest does not catch."""

    traceback: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """A request to end the session after this test, for these reasons; "" for none."""

    shouldstop: str
    shouldfail: str


#: What ends a run at once.
Raised = Exit | Interrupt | Break | Internal
Interruption = Raised | Stop
#: The frames that say one.
OPS = frozenset({"exit", "interrupt", "break", "internal", "stop"})
_BREAKS: dict[str, type[BaseException]] = {
    "failed": pytest.Session.Failed, "interrupted": pytest.Session.Interrupted, "usage": pytest.UsageError
}  # fmt: skip


def send(channel: Channel, error: BaseException) -> None:
    """Say what was raised; the controller answers with `do`."""
    if isinstance(error, pytest.exit.Exception):
        channel.send({"op": "exit", "reason": str(error.msg), "returncode": error.returncode})
    elif (name := next((name for name, kind in _BREAKS.items() if type(error) is kind), None)) is not None:
        channel.send({"op": "break", "name": name, "words": [str(word) for word in error.args]})
    elif isinstance(error, KeyboardInterrupt):
        path, line = _origin(error)
        channel.send({"op": "interrupt", "path": path, "line": line})
    else:
        channel.send({"op": "internal", "traceback": traceback.format_exc()})


def send_late(channel: Channel, error: BaseException) -> None:
    """Say what was raised by a teardown after that; nothing where the run ends by it as it does anyway."""
    if not isinstance(error, pytest.exit.Exception | KeyboardInterrupt):
        channel.send({"op": "late", "traceback": "".join(traceback.format_exception(error))})


def is_stopping(session: pytest.Session) -> bool:
    """Whether the run is to end, by whoever's wish."""
    return bool(session.shouldfail or session.shouldstop)


def stops_of(session: pytest.Session) -> dict[str, object]:
    """Why the session is to end, by the name of the attribute that says so."""
    return {name: why for name in ("shouldstop", "shouldfail") if (why := getattr(session, name))}


def send_stop(channel: Channel, session: pytest.Session, known: Mapping[str, object] = MappingProxyType({})) -> bool:
    """Say that the session is to end, if it is, by others' wish than is known; whether that was so."""
    stops = {name: str(why) for name, why in stops_of(session).items() if known.get(name) != why}
    if stops:
        channel.send({"op": "stop", **stops})
    return bool(stops)


def _origin(error: BaseException) -> tuple[str, int]:
    """Where it was raised: path and line, as pytest tells of a KeyboardInterrupt."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return ("", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def from_frame(frame: Frame) -> Interruption:
    """What a frame of `OPS` says. Raises WireError for what makes no sense."""
    op = frame["op"]
    if op == "exit":
        status = frame.get("returncode")
        return Exit(writable_text(frame.get("reason", "")), status if isinstance(status, int) else None)
    if op == "interrupt":
        return Interrupt(str(frame.get("path")), whole_number(frame, "line"))
    if op == "break":
        name, words = frame.get("name"), frame.get("words")
        if name not in _BREAKS or not isinstance(words, list):
            raise WireError(f"no error of pytest's: {name!r}, with {type(words).__name__}")
        return Break(str(name), tuple(map(writable_text, words)))
    if op == "internal":
        return Internal(writable_text(frame.get("traceback")))
    return Stop(writable_text(frame.get("shouldstop") or ""), writable_text(frame.get("shouldfail") or ""))


def do(item: pytest.Item, said: Interruption) -> None:
    """Do in the controller what the item has done to its process: raise it, or ask the session to stop."""
    match said:
        case Exit(reason, status):
            pytest.exit(reason, returncode=status)
        case Interrupt(path, line):
            _interrupt(item, path, line)
        case Break(name, words):
            raise _BREAKS[name](*words)
        case Internal(text):
            raise RuntimeError(f"in the sandbox of {item.nodeid}:\n{text}")
        case Stop():
            for name in ("shouldstop", "shouldfail"):
                if getattr(said, name) and not getattr(item.session, name):  # which reports fired here may have said already
                    setattr(item.session, name, getattr(said, name))


def _interrupt(item: pytest.Item, path: str, line: int) -> NoReturn:
    """Raise KeyboardInterrupt where the test did, if that was in a file that is loaded here: pytest says where it was."""
    known = {str(item.path), *(getattr(module, "__file__", None) for module in tuple(sys.modules.values()))}
    if path in known and 0 < line < _LONGEST_FILE:
        exec(compile("\n" * (line - 1) + "raise KeyboardInterrupt", path, "exec"), {})  # noqa: S102  # our own words, at that line
    raise KeyboardInterrupt
