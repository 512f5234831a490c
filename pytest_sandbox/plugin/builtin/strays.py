"""Errors of finalizers and of threads, which pytest notes until it tells the next test of them. Imports pytest only."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from gc import collect
from typing import Any

import pytest


def forget(config: pytest.Config) -> None:
    """Somebody else has them."""
    for noted in _noted(config):
        noted.clear()


@contextlib.contextmanager
def collected(config: pytest.Config) -> Iterator[None]:
    """Within: what was garbage is gone, in this process and its forks. What its finalizers have raised is told by no fork.

    It is told at the run's end, where plain pytest collects last. What was noted before is the first test's, and told no more.
    """
    before = [[*noted] for noted in _noted(config)]
    forget(config)
    collect()
    raised = [[*noted] for noted in _noted(config)]
    for noted, own in zip(_noted(config), before, strict=True):
        noted.clear()
        noted.extend(own)
    try:
        yield
    finally:
        for noted, told, own in zip(_noted(config), before, raised, strict=True):
            later = [one for one in noted if all(one is not other for other in told)]
            noted.clear()
            noted.extend((*own, *later))


def _noted(config: pytest.Config) -> list[deque[Any]]:
    """Where pytest notes them, if those plugins of its are there."""
    found = []
    for module, name in (("unraisableexception", "unraisable_exceptions"), ("threadexception", "thread_exceptions")):
        key = getattr(sys.modules.get(f"_pytest.{module}"), name, None)
        if key is not None and (noted := config.stash.get(key, None)) is not None:
            found.append(noted)
    return found
