"""Plain values of frames: read where they are what they must be, and texts made fit for where they are written to."""

from __future__ import annotations

from typing import Any

from _pytest.junitxml import bin_xml_escape

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.units import LARGEST


def whole_number(frame: dict[str, Any], name: str) -> int:
    """A field that is a number, or missing: 0. Raises WireError for what is neither."""
    value = frame.get(name) or 0
    if not isinstance(value, int):
        raise WireError(f"{name} of a frame is {type(value).__name__}")
    return value


def seconds(frame: dict[str, Any], name: str, least: float = 0.0) -> float:
    """A field that is a duration of at least so much, or missing: 0. Raises WireError for what is neither."""
    value = frame.get(name) or 0.0
    try:
        if isinstance(value, (int, float)) and least <= value <= LARGEST:
            return float(value)
    except OverflowError:
        pass
    raise WireError(f"{name} of a frame is no duration")


def duration(frame: dict[str, Any]) -> float:
    """How long something took by a clock that a test may have set back (freezegun), as plain pytest has it. Raises WireError."""
    return seconds(frame, "duration", least=-LARGEST)


def writable_text(value: object) -> str:
    """Text that can be written to a file, and sent by pytest-xdist: no half of a surrogate pair."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def xml_text(value: object) -> str:
    """Text that can be written to an XML file, as pytest does it."""
    return str(bin_xml_escape(writable_text(value)))


def sendable(value: object) -> Any:  # noqa: ANN401  # plain data, as deep as it is
    """What pytest-xdist can send of it: of a report that was made by a sandbox nothing shall take a worker down."""
    if isinstance(value, dict):
        return {sendable(key): sendable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [sendable(one) for one in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, int) and not -(1 << 31) <= value < 1 << 63:  # execnet packs any negative one into four bytes
        return writable_text(value)
    return value if isinstance(value, (bool, int, float, bytes, type(None))) else writable_text(value)
