"""pytest-dependency: how earlier tests ended, which it keeps in memory, for the sandboxes of later ones that depend on them.

The controller hands on each report's phase and outcome (`generators.Baton`), and each process that is to run tests enters them
as the plugin itself does. Imports pytest and what is beside it.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from pytest_sandbox.plugin.others import loaded
from pytest_sandbox.plugin.others.carried.base import probe

#: Item, by index, phase and outcome.
Entry = tuple[int, str, str]

_ACTIVE: pytest.StashKey[Any] = pytest.StashKey()


def find(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """In the controller, before the first fork. UsageError for a version of it that cannot be served."""
    module = loaded(config, "pytest_dependency")
    if module is None or not any(_counts(module, item) for item in items):
        return
    manager = getattr(module, "DependencyManager", None)
    probe(
        "pytest-dependency",
        "dependency",
        (module, "module", ("DependencyManager", "_automark")),
        (manager, "DependencyManager", ("ScopeCls", "getManager", "addResult")),
    )
    config.stash[_ACTIVE] = module


def is_used(config: pytest.Config) -> bool:
    """Whether tests of this run may depend on how others have ended."""
    return config.stash.get(_ACTIVE, None) is not None


def _counts(module: Any, item: pytest.Item) -> bool:  # noqa: ANN401  # the plugin's module
    return bool(getattr(module, "_automark", False)) or item.get_closest_marker("dependency") is not None


def entries(config: pytest.Config, index: int, item: pytest.Item, reports: Iterable[pytest.TestReport]) -> list[Entry]:
    """What later tests may ask of an item that has ended."""
    module = config.stash.get(_ACTIVE, None)
    if module is None or not _counts(module, item):
        return []
    return [(index, report.when, report.outcome) for report in reports if type(report) is pytest.TestReport]


def ended_here(config: pytest.Config, index: int, item: pytest.Item) -> list[Entry]:
    """The same of an item that has run without a sandbox, in the controller."""
    module = config.stash.get(_ACTIVE, None)
    if module is None or not _counts(module, item):
        return []
    marker = item.get_closest_marker("dependency")
    name = (None if marker is None else marker.kwargs.get("name")) or item.nodeid
    status = module.DependencyManager.getManager(item, scope="session").results.get(name)
    return [] if status is None else [(index, when, outcome) for when, outcome in status.results.items() if outcome]


def enter(session: pytest.Session, handed: Sequence[Entry]) -> None:
    """In a process that is to run tests, or to be forked for them: know how these ended."""
    module = session.config.stash.get(_ACTIVE, None)
    if module is None:
        return
    for index, when, outcome in handed:
        item = session.items[index]
        marker = item.get_closest_marker("dependency")
        name = None if marker is None else marker.kwargs.get("name")
        for scope in module.DependencyManager.ScopeCls:
            manager = module.DependencyManager.getManager(item, scope=scope)
            if manager:
                manager.addResult(item, name, types.SimpleNamespace(when=when, outcome=outcome))
