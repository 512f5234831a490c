"""What one sandbox is to run of a unit, and what it stands in as it does."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.plugin.builtin.generators import Baton
from pytest_sandbox.plugin.planning.scopes import Unit
from pytest_sandbox.sandbox.wire.frames import Frame


class Line(Protocol):
    """What units stand in: the walk. baton: what generators are handed on by."""

    @property
    def baton(self) -> Baton:
        """See `Home`."""

    def take_generators(self, frame: Frame) -> None:
        """A test has changed the state of random generators. Raises WireError for what is no state."""

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """All of a unit has run in one sandbox."""

    def break_off(self) -> None:
        """The sandbox of a test has ended amid that."""

    def news(self) -> None:
        """One of them has said something."""

    def early_warnings(self, item: int) -> list[dict[str, Any]]:
        """Those of fixtures that scopes have set up for an item; once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """(The rest of) a unit as one sandbox runs it: items, by index. See `inside.unit.unit_body` for the others."""

    items: tuple[int, ...]
    grows: bool = False
    earlier: int = 0
    following: int | None = None
