"""What each test took in an earlier run, kept in pytest's cache, and whether one more fits the machine's memory now.

A test is expected to take what it took the last time and a half of that, at most its limit; one that is not known, its limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.model.units import LARGEST
from pytest_sandbox.plugin.planning.scopes import Unit
from pytest_sandbox.primitives.memory import available

_KEY = "sandbox/usage"
#: What a test is expected to take more than the last time, and at least, in bytes.
_MORE, _LEAST = 1.5, 16 << 20
#: How long a test must take to be called a long one, in seconds; twice that is longer, and so on.
_LONG = 0.1
#: Of how many tests is remembered what they took, when others have run.
_MOST = 20_000


class Admission:
    """Of one run. With one job nobody asks, and nothing is read or remembered."""

    def __init__(self, session: pytest.Session, jobs: int) -> None:
        self._items, self._cache = session.items, getattr(session.config, "cache", None) if jobs > 1 else None
        self._known = _checked(self._cache.get(_KEY, None) if self._cache is not None else None)
        self._new: dict[str, tuple[int, float]] = {}

    def fits(self, unit: Unit, beside: Iterable[Unit]) -> bool:
        """Whether the machine's memory is enough for a unit and those that run, whatever these have taken of it already."""
        try:
            return self._memory(unit) + sum(map(self._memory, beside)) <= available()
        except OSError:  # no descriptor is left to find out by
            return False

    def length(self, unit: Unit) -> int:
        """How long it takes: 0 for a short one or one that is not known, one more for each doubling."""
        seconds = sum(self._known.get(self._items[item].nodeid, (0, 0.0))[1] for item in unit.items)
        return int(seconds / _LONG).bit_length()

    def note(self, unit: Unit, outcome: Outcome) -> None:
        """Remember what a unit took. Of several items in one sandbox each has the memory of all, and its share of the time."""
        if self._cache is None:
            return
        taken = outcome.usage.memory_peak or 0, round(outcome.usage.wall / len(unit.items), 4)
        self._new.update((self._items[item].nodeid, taken) for item in unit.items)

    def save(self) -> None:
        """Keep it for the next run; what is known of tests that were not run now stays."""
        if self._cache is not None and self._new:
            kept = self._known if len(self._known) <= _MOST else {}
            self._cache.set(_KEY, kept | self._new)

    def _memory(self, unit: Unit) -> int:
        limit = unit.spec.limits.memory
        known = [self._known[nodeid][0] for item in unit.items if (nodeid := self._items[item].nodeid) in self._known]
        if not known or not max(known):
            return limit or 0
        expected = max(_LEAST, int(_MORE * max(known)))
        return expected if limit is None else min(limit, expected)


def _is_amount(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST  # type: ignore[operator]


def _checked(value: Any) -> dict[str, tuple[int, float]]:  # noqa: ANN401  # a file may hold anything
    """By nodeid the peak of memory in bytes and the wall time in seconds; without what is no such thing."""
    found = dict[str, tuple[int, float]]()
    for nodeid, taken in value.items() if isinstance(value, dict) else ():
        if isinstance(taken, list) and len(taken) == 2 and all(map(_is_amount, taken)):
            found[nodeid] = int(taken[0]), float(taken[1])
    return found
