"""Errors of finalizers and of threads, which pytest notes until it tells the next test of them. Imports `tracebacks`."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from gc import collect
from typing import Any

import pytest

from pytest_sandbox.plugin.builtin.tracebacks import unseen


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


def any_noted(config: pytest.Config) -> bool:
    """Whether there are some that nobody was told of."""
    return any(_noted(config))


@unseen
def tell(config: pytest.Config) -> None:
    """Warn of them, as pytest's plugins do at the end of a phase, in which warnings may be errors: raises those."""
    __tracebackhide__ = True
    for _, collect_all in _plugins(config):
        collect_all(config)


def _noted(config: pytest.Config) -> list[deque[Any]]:
    return [noted for noted, _ in _plugins(config)]


#: pytest's modules that note them; where, and what warns of them.
_PLUGINS = (
    ("unraisableexception", "unraisable_exceptions", "collect_unraisable"),
    ("threadexception", "thread_exceptions", "collect_thread_exception"),
)


def _plugins(config: pytest.Config) -> list[tuple[deque[Any], Callable[[pytest.Config], None]]]:
    """Of those that are there what they have noted, and what warns of that."""
    found = []
    for name, key, collect_all in _PLUGINS:
        module: Any = sys.modules.get(f"_pytest.{name}")
        if module is not None and (noted := config.stash.get(getattr(module, key), None)) is not None:
            found.append((noted, getattr(module, collect_all)))
    return found
