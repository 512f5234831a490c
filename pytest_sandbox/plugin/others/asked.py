"""Fixtures of wider scopes that plugins ask for at run time, named beforehand, so that they are set up once, by their scope.

`request.getfixturevalue(...)` in a test's sandbox sets up what it asks for there, and so for each test anew. Where a plugin does
that for each test with its marker or fixture, and for something dear, as a database, it is known here, and becomes a fixture of
the item's. What a test's own text asks for, by steps of pytest-bdd or `lf()` of pytest-lazy-fixtures, it may come to ask for or
not: that becomes a need of the item's (`scopes.LATER`), so that where it cannot be set up it is the call that fails, as it would.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from pytest_sandbox.plugin.others import loaded
from pytest_sandbox.plugin.others.bdd import Steps
from pytest_sandbox.plugin.planning import scopes

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


def name_what_may_be_asked(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Note what may come to be asked for: fixtures above function scope, and what these ask for themselves."""
    lazy = "pytest_lazy_fixtures" in sys.modules
    bdd = None if loaded(config, "pytest_bdd.plugin") is None else sys.modules.get("pytest_bdd.scenario")
    steps = None if bdd is None else Steps(bdd)
    for item in items if steps or lazy else ():
        names = [*(_of_lazy(getattr(item, "callspec", None)) if lazy else ()), *(steps.ask(item) if steps else ())]
        found: dict[str, Sequence[Any]] = {}
        for name in names:
            _find(item, name, found)
        if found:
            item.stash[scopes.LATER] = dict(sorted(found.items(), key=lambda one: one[1][-1]._scope, reverse=True))


def _find(item: pytest.Item, name: str, found: dict[str, Sequence[Any]]) -> None:
    definitions = item.session._fixturemanager.getfixturedefs(name, item)
    if name in found or not definitions or name in item._fixtureinfo.name2fixturedefs:  # type: ignore[attr-defined]
        return
    if definitions[-1].scope != "function" and definitions[-1].params is None:
        for other in definitions[-1].argnames:
            _find(item, other, found)
        found[name] = definitions


def _of_lazy(value: object) -> Iterator[str]:
    """The names in `lf(...)` and `lfc(...)`, wherever in a parameter."""
    if isinstance(name := getattr(value, "fixture_name", None), str):
        yield name
    inner: list[Any] = [value]
    if hasattr(value, "__dict__"):
        inner = [getattr(value, part, ()) for part in ("params", "args", "kwargs")]
    for one in inner:
        if type(one) in (list, tuple, set, dict):
            for part in (*one, *one.values()) if isinstance(one, dict) else one:
                yield from _of_lazy(part)


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
