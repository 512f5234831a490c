"""A hint where a fixture stands in a sandbox that was set up early, for later tests, and may have changed what this one sees.

Scopes set fixtures up before plain pytest would (docs/limits.md, The order of set-ups). Imports pytest and `planning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from types import CodeType
from typing import Any

from _pytest.fixtures import FixtureDef

from pytest_sandbox.plugin.planning.scopes import Unit

#: What the code of a fixture names that replaces something for all of its process: patches, clocks, the environment, ...
_REPLACES = frozenset({"MonkeyPatch", "chdir", "environ", "freeze_time", "patch", "putenv", "setattr", "setlocale", "travel"})


def hint(standing: Iterable[FixtureDef[Any]], units: Sequence[Unit], now: int) -> str | None:
    """What to say of a test that failed; None: nothing. standing: what it inherited. now: of which unit it is, by index."""
    replacing = [one for one in standing if _REPLACES & _names(one.func)]
    if not replacing:  # nearly always; to look at all units would copy the memory in which they are
        return None
    # What a fixture has asked for at run time is of neither.
    early = _needed(islice(units, now + 1, None)) - _needed(islice(units, now + 1))
    names = sorted(one.argname for one in replacing if id(one) in early)
    if not names:
        return None
    return (
        f"Set up already, for later tests: {', '.join(names)}. Plain pytest would do so after this one. If what it replaces is "
        "why this one fails: give it a narrower scope, or put the tests that ask for it into a file of their own."
    )


def _needed(units: Iterable[Unit]) -> set[int]:
    return {id(need.definition) for unit in units for need in unit.above}


def _names(function: object) -> frozenset[str]:
    code = getattr(function, "__code__", None)  # also of a method
    return frozenset(code.co_names) if isinstance(code, CodeType) else frozenset()
