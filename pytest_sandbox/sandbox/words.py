"""The last words of a sandbox's init, as they travel and as they may be believed. Imports `model` only.

Init is not traced or signalled by what it contains, but before it is born its parent, which may be a test, holds its end of
the socket: what arrives is checked, field by field.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from pytest_sandbox.model.errors import SetupError, WireError

_MOST = 1 << 63


@dataclasses.dataclass(frozen=True, slots=True)
class LastWords:
    """How main ended, who is left over, and what was used.

    status: main's, as of wait(2). leaks: pids inside and command lines. cpu: seconds of all that init has reaped.
    blocks: read and written, of 512 bytes. network: bytes received and sent; None where it had no network of its own.
    """

    status: int
    leaks: tuple[tuple[int, str], ...] = ()
    cpu: float | None = None
    blocks: tuple[int, int] | None = None
    network: tuple[int, int] | None = None
    shares_network: bool = False

    def to_frame(self) -> dict[str, Any]:
        """The fields of a frame."""
        return {"op": "exit", **dataclasses.asdict(self)}

    @classmethod
    def from_frame(cls, frame: Mapping[str, Any]) -> LastWords:
        """The words in such a frame; raises WireError for what init would not say."""
        try:
            cpu = frame["cpu"]
            return cls(
                _status(frame["status"]),
                tuple((_number(pid, 1 << 22), str(line)) for pid, line in frame["leaks"]),
                None if cpu is None else _seconds(cpu),
                _pair(frame["blocks"]),
                _pair(frame["network"]),
                bool(frame["shares_network"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WireError(f"these are no last words of an init: {error!r}") from None


def _number(value: object, most: int = _MOST) -> int:
    if not isinstance(value, int) or not 0 <= value < most:
        raise ValueError(f"{value!r} is no number that the kernel gives")
    return value


def _status(value: object) -> int:
    """A wait status of a process that has ended; ValueError for one that is only stopped."""
    status = _number(value, 1 << 16)
    os.waitstatus_to_exitcode(status)
    return status


def _seconds(value: object) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value < _MOST:
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _pair(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{value!r} is no pair")
    return _number(value[0]), _number(value[1])


def refusal(frame: Mapping[str, Any]) -> SetupError:
    """What a frame of the kind "failed" or "refused" says; of what makes no sense the errno becomes 0."""
    number = frame.get("errno")
    if not isinstance(number, int) or not 0 <= number < 4096:  # MAX_ERRNO of the kernel
        number = 0
    return SetupError(str(frame.get("step"))[:1000], str(frame.get("object", ""))[:1000], number)
