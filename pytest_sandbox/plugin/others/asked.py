"""Fixtures of wider scopes that plugins ask for at run time, named beforehand, so that they are set up once, by their scope.

`request.getfixturevalue(...)` in a test's sandbox sets up what it asks for there, and so for each test anew. Where a plugin does
that for each test with its marker or fixture, and for something dear, as a database, it is known here. Imports pytest.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from pytest_sandbox.plugin.others import loaded

#: What factories of fixtures for servers (pytest-postgresql and its kin) call the fixture that their fixtures ask for.
_PROCESS = "process_fixture_name"


def name_beforehand(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Add what is known of to the items' fixtures."""
    infos = [(item, info.name2fixturedefs) for item in items if (info := getattr(item, "_fixtureinfo", None)) is not None]
    django, factories = loaded(config, "pytest_django.plugin"), _factories(known for _, known in infos)
    for item, known in infos if django or factories else ():
        asked = [factories[made[-1]] for made in known.values() if made[-1] in factories]
        for name in [*(_of_django(item) if django else ()), *asked]:
            _add(item, known, name)


def _of_django(item: pytest.Item) -> Iterator[str]:
    """pytest_django.plugin: `_django_db_marker`, and `_django_setup_unittest` of test cases with databases."""
    case: Any = getattr(item, "cls", None)
    is_case = hasattr(case, "_pre_setup") and getattr(case, "databases", None)
    if item.get_closest_marker("django_db") is not None or is_case:
        yield "django_db_setup"


def _factories(every: Iterable[dict[str, Sequence[Any]]]) -> dict[Any, str]:
    """The fixtures that a factory has made, each looked at once, with what they ask for."""
    found: dict[Any, str] = {}
    for definition in {definitions[-1] for known in every for definitions in known.values()}:
        function = definition.func
        if _PROCESS in getattr(getattr(function, "__code__", None), "co_freevars", ()):
            name = inspect.getclosurevars(function).nonlocals.get(_PROCESS)
            if isinstance(name, str):
                found[definition] = name
    return found


def _add(item: pytest.Item, known: dict[str, Sequence[Any]], name: str) -> None:
    names: list[str] = item.fixturenames  # type: ignore[attr-defined]
    if name in known:
        return
    definitions = item.session._fixturemanager.getfixturedefs(name, item)
    if definitions:
        known[name] = definitions
        names.append(name)
