"""Filters of warnings that a wider fixture sets, which hold for the rest of the test that it is set up for. Imports pytest only.

pytest restores the filters when a test is over; its fixtures of wider scopes are set up in another process, and before.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

_SET: pytest.StashKey[list[Any]] = pytest.StashKey()


@contextlib.contextmanager
def noted(item: pytest.Item) -> Iterator[None]:
    """Within, where warnings are caught for an item: have the filters that were set for it before, and note what is set."""
    hand_on(item)
    before = list(warnings.filters)
    try:
        yield
    finally:
        if list(warnings.filters) != before:
            item.stash[_SET] = list(warnings.filters)


def hand_on(item: pytest.Item) -> None:
    """Have the filters that fixtures of wider scopes have set for it."""
    found = item.stash.get(_SET, None)
    if found is not None:
        warnings.simplefilter("default")  # has Python forget what it has warned of by those before
        warnings.filters[:] = found  # type: ignore[index]  # a list, which typeshed says nobody should change
