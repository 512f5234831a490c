"""What sandboxes of scopes and of tests say of themselves: each frame is parsed here, and only what is parsed is acted on.

Nothing that a sandbox says is trusted. What has more to it is parsed where it is kept: reports and warnings, what other plugins
and coverage have noted, generators' states, reruns, and what tests ask of further sandboxes. Imports nothing of the controller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.texts import printable
from pytest_sandbox.plugin.builtin import interruption
from pytest_sandbox.plugin.builtin.fields import duration, seconds, whole_number, writable_text
from pytest_sandbox.plugin.builtin.interruption import Interruption
from pytest_sandbox.sandbox.wire.frames import Frame

Pairs = list[tuple[int, int]]


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """An item of a unit begins, by index. captured: what scopes have written for it, in bytes."""

    item: int
    shares_network: bool
    captured: int


@dataclasses.dataclass(frozen=True, slots=True)
class Finish:
    """It has ended."""

    item: int


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """All is said."""


@dataclasses.dataclass(frozen=True, slots=True)
class Alarm:
    """pytest-timeout's; in seconds."""

    seconds: float
    grace: float


@dataclasses.dataclass(frozen=True, slots=True)
class Hold:
    """Whether somebody is in a debugger."""

    on: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """For the terminal."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class For:
    """For which unit and item a scope sets up now, by index; None: for nobody."""

    unit: int | None
    item: int


@dataclasses.dataclass(frozen=True, slots=True)
class Fixture:
    """Which fixture it sets up now."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """It has set up what it was asked for; in seconds."""

    duration: float


@dataclasses.dataclass(frozen=True, slots=True)
class Overran:
    """The fixture that it sets up has written so many bytes, which is more than its limit."""

    output: int


@dataclasses.dataclass(frozen=True, slots=True)
class Threaded:
    """A fixture of this name has started threads."""

    fixture: str
    threads: str


@dataclasses.dataclass(frozen=True, slots=True)
class Meets:
    """A scope has opened something by which its tests would meet."""

    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class Late:
    """A teardown has failed after the test has ended the run."""

    traceback: str


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """What it has not set up, and the needs of units, by index, that failed before."""

    needs: Pairs
    failed: Pairs


Said = (
    Start
    | Finish
    | Done
    | Alarm
    | Hold
    | Text
    | For
    | Fixture
    | Prepared
    | Overran
    | Threaded
    | Late
    | Left
    | Meets
    | Interruption
)


def parse(frame: Frame) -> Said | None:
    """What a frame says; None where that is parsed elsewhere, or nowhere. Raises WireError for what makes no sense."""
    op = frame["op"]
    if op in interruption.OPS:
        return interruption.from_frame(frame)
    maker = _MAKERS.get(op)
    return None if maker is None else maker(frame)


def _text(frame: Frame, name: str) -> str:
    return str(frame.get(name, ""))


def _for(frame: Frame) -> For:
    unit = None if frame.get("unit") is None else whole_number(frame, "unit")
    return For(unit, whole_number(frame, "item"))


def _threaded(frame: Frame) -> Threaded:
    threads = frame.get("threads")
    return Threaded(_text(frame, "name"), ", ".join(map(str, threads if isinstance(threads, list) else [])))


def _pairs(frame: Frame, name: str) -> Pairs:
    try:
        pairs = [(unit, need) for unit, need in frame[name]]
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"a frame names no needs: {error!r}") from error
    if not all(type(number) is int for pair in pairs for number in pair):
        raise WireError("a frame names no needs")
    return pairs


_MAKERS: dict[str, Callable[[Frame], Said]] = {
    "start": lambda frame: Start(whole_number(frame, "item"), bool(frame.get("shares_network")), whole_number(frame, "captured")),
    "finish": lambda frame: Finish(whole_number(frame, "item")),
    "done": lambda _: Done(),
    "timer": lambda frame: Alarm(seconds(frame, "seconds"), seconds(frame, "grace")),
    "hold": lambda frame: Hold(bool(frame.get("value"))),
    "terminal": lambda frame: Text(_text(frame, "text")),
    "for": _for,
    "fixture": lambda frame: Fixture(_text(frame, "name")),
    "prepared": lambda frame: Prepared(duration(frame)),
    "overran": lambda frame: Overran(whole_number(frame, "output")),
    "threaded": _threaded,
    "meets": lambda frame: Meets(printable(_text(frame, "what"))),
    "late": lambda frame: Late(writable_text(frame.get("traceback"))),
    "left": lambda frame: Left(_pairs(frame, "needs"), _pairs(frame, "failed")),
}
