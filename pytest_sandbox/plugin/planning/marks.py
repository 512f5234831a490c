"""The `sandbox` marks that apply to an item, closest first. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

NAME = "sandbox"


def closest_first(item: pytest.Item) -> list[pytest.Mark]:
    """The item's own and inherited `sandbox` marks, closest first.

    `item.iter_markers` is nearly that: within one node, it lists a function's own marks before those of its
    `pytest.param`, and a base class's before those of the class.
    """
    found: list[pytest.Mark] = []
    for node in item.iter_parents():
        if node.own_markers:
            here = [mark for mark in node.own_markers if mark.name == NAME]
            found += _ordered(node, here) if here[1:] else here
    return found


def _ordered(node: object, marks: list[pytest.Mark]) -> list[pytest.Mark]:
    """The marks of one node by closeness; those that hooks added with `add_marker` keep the places they were given."""
    rank = {id(mark): index for index, mark in enumerate(_by_origin(node))}
    ordered = iter(sorted((mark for mark in marks if id(mark) in rank), key=lambda mark: rank[id(mark)]))
    return [next(ordered) if id(mark) in rank else mark for mark in marks]


def _by_origin(node: object) -> Iterator[pytest.Mark]:
    """Every mark that the node got from the source: of its parameters, then of its function, class and base classes."""
    parameters: Any = getattr(node, "callspec", None)
    if parameters is not None:
        yield from parameters.marks
    owner: object = getattr(node, "obj", None)
    for source in owner.__mro__ if isinstance(owner, type) else (owner,):
        # A class has those of its bases as attributes too: only its own are wanted here.
        marks: Any = vars(source).get("pytestmark", []) if isinstance(source, type) else getattr(source, "pytestmark", [])
        for mark in marks if isinstance(marks, (list, tuple)) else [marks]:
            # Written as pytestmark = pytest.mark.sandbox(...), it is still a MarkDecorator.
            yield mark.mark if isinstance(mark, pytest.MarkDecorator) else mark
