"""Fixtures of wider scopes that plugins ask for at run time, named beforehand, so that they are set up once, by their scope.

`request.getfixturevalue(...)` in a test's sandbox sets up what it asks for there, and so for each test anew. Where a plugin does
that for each test with its marker or fixture, and for something dear, as a database, it is known here. Imports pytest.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pytest_sandbox.plugin.others import loaded

#: What factories of fixtures for servers (pytest-postgresql and its kin) call the fixture that their fixtures ask for.
_PROCESS = "process_fixture_name"


def name_beforehand(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Add what is known of to the items' fixtures."""
    django = loaded(config, "pytest_django.plugin")
    for item in items:
        known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", None)
        if known is not None:
            for name in [*(_of_django(item) if django else ()), *_of_factories(known)]:
                _add(item, known, name)


def _of_django(item: pytest.Item) -> Iterator[str]:
    """pytest_django.plugin: `_django_db_marker`, and `_django_setup_unittest` of test cases with databases."""
    case: Any = getattr(item, "cls", None)
    is_case = hasattr(case, "_pre_setup") and getattr(case, "databases", None)
    if item.get_closest_marker("django_db") is not None or is_case:
        yield "django_db_setup"


def _of_factories(known: dict[str, Sequence[Any]]) -> Iterator[str]:
    for definitions in tuple(known.values()):
        function = definitions[-1].func
        if _PROCESS in getattr(getattr(function, "__code__", None), "co_freevars", ()):
            name = inspect.getclosurevars(function).nonlocals.get(_PROCESS)
            if isinstance(name, str):
                yield name


def _add(item: pytest.Item, known: dict[str, Sequence[Any]], name: str) -> None:
    names: list[str] = item.fixturenames  # type: ignore[attr-defined]
    if name in known:
        return
    definitions = item.session._fixturemanager.getfixturedefs(name, item)
    if definitions:
        known[name] = definitions
        names.append(name)
