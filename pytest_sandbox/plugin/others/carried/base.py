"""What a carrier is, and what several of them need: refusals, and values that a frame cannot hold. Imports pytest and `model`."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pytest

from pytest_sandbox.model.errors import WireError

Fields = dict[str, Any]


class Carrier(Protocol):
    """Brings what one foreign plugin keeps in memory from sandboxes to the controller. Made before the first fork."""

    name: str

    def begin(self) -> None:
        """In a sandbox that was just forked: what is there now is no news of it."""

    def news(self, item: pytest.Item) -> Fields | None:
        """In a sandbox: what is new since the last time, as fields of a frame, which `item` has ended or set up for."""

    def read(self, item: pytest.Item, fields: Fields) -> Callable[[], None]:
        """In the controller: check what a sandbox says of `item`; returns what puts it into the plugin. Raises WireError."""

    def end(self, unheard: Sequence[pytest.Item]) -> None:
        """In the controller, when all have run: these tests were to run in a sandbox, and did not say that they have ended."""


def probe(distribution: str, switch: str, *needed: tuple[object, str, Sequence[str]]) -> None:
    """Refuse the run where a version of a plugin lacks what is read or called here.

    needed: objects, how to call them, and the attributes that they must have. switch: the plugin's name for `-p no:`.
    """
    for thing, called, names in needed:
        lacking = [name for name in names if not hasattr(thing, name)]
        if lacking:
            version = "unknown"
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                version = importlib.metadata.version(distribution)
            refuse(
                f"{distribution} {version}: its {called} has no {', '.join(lacking)}, so what tests leave in its memory cannot "
                f"be brought out of their sandboxes. Fix: install another version of it, or leave it out with -p no:{switch}"
            )


def refuse(text: str) -> None:
    """Raise the usage error of a run that would lose something."""
    raise pytest.UsageError(f"--sandbox: {text}, or use --no-sandbox")


def field(fields: Fields, name: str, *kinds: type) -> Any:  # noqa: ANN401  # one of `kinds`
    """A field of exactly one of these types. Raises WireError."""
    value = fields.get(name)
    if type(value) not in kinds:
        raise WireError(f"{name} of a frame is {type(value).__name__}")
    return value


def rows(fields: Fields, name: str) -> list[Fields]:
    """A field that is a list of objects. Raises WireError."""
    found: list[Fields] = field(fields, name, list)
    if not all(isinstance(row, dict) for row in found):
        raise WireError(f"{name} of a frame has what is no object")
    return found
