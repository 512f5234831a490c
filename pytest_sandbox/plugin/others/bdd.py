"""pytest-bdd: which fixtures the steps of a scenario ask for. Imports pytest, and pytest-bdd not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest


class Steps:
    """Of one run. What a step asks for is found once for all scenarios of a module. bdd: the module `pytest_bdd.scenario`."""

    def __init__(self, bdd: Any) -> None:  # noqa: ANN401  # a module
        self._bdd = bdd
        self._known: dict[object, tuple[str, ...]] = {}

    def ask(self, item: pytest.Item) -> Iterator[str]:
        """The names of those that the steps of an item ask for; nothing where that is no scenario."""
        with suppress(AttributeError, KeyError, TypeError):  # of another version, or no function: found when it is asked for
            template = self._bdd.scenario_wrapper_template_registry.get(item.obj)  # type: ignore[attr-defined]
            if template is not None:
                example = getattr(getattr(item, "callspec", None), "params", {}).get("_pytest_bdd_example", {})
                for step in template.render(example).steps:
                    yield from self._of(step, item)

    def _of(self, step: Any, item: pytest.Item) -> tuple[str, ...]:  # noqa: ANN401  # pytest-bdd's
        key = item.parent, step.type, step.name
        if key not in self._known:
            self._known[key] = tuple(self._find(step, item))
        return self._known[key]

    def _find(self, step: Any, item: pytest.Item) -> Iterator[str]:  # noqa: ANN401  # the same
        manager = item.session._fixturemanager
        for definition in self._bdd.find_fixturedefs_for_step(step=step, fixturemanager=manager, node=item):
            context = self._bdd.step_function_context_registry[definition.func]
            parsed = context.parser.parse_arguments(step.name) or {}
            yield from (name for name in self._bdd.get_required_args(context.step_func) if name not in parsed)
