"""Which items share what, by pytest's own collection."""

from __future__ import annotations

import pytest

from pytest_sandbox.plugin.planning import resolve, scopes
from pytest_sandbox.plugin.planning.scopes import Unit


def collect(pytester: pytest.Pytester, **files: str) -> list[Unit | int]:
    """The units of a suite."""
    pytester.makepyfile(**files)
    items, _ = pytester.inline_genitems("--sandbox", "--collect-only", "-p", "no:cacheprovider")
    config = items[0].config
    return scopes.units(items, resolve.plans(items, resolve.settings(config)))


def shape(units: list[Unit | int]) -> list[object]:
    """Per unit: its items, the names of its chain, and what lives above it."""
    found: list[object] = []
    for unit in units:
        if isinstance(unit, int):
            found.append(unit)
        else:
            chain = [type(node).__name__ for node in unit.chain]
            found.append((unit.items, chain, [need.name for need in unit.above]))
    return found


def test_plain_items(pytester: pytest.Pytester) -> None:
    """Without fixtures above function scope every item is forked from the session."""
    units = collect(pytester, test_a="def test_1(tmp_path): pass\nclass TestIt:\n    def test_2(self): pass\n")
    assert shape(units) == [((0,), ["Session"], ["tmp_path_factory"]), ((1,), ["Session"], [])]


def test_a_node_has_a_sandbox_for_all_of_its_items(pytester: pytest.Pytester) -> None:
    """A module where one test needs a module fixture has a sandbox; all of its tests are forked from it."""
    module = """
        import pytest
        @pytest.fixture(scope="module")
        def value(): pass
        def test_1(): pass
        def test_2(value): pass
    """
    units = collect(pytester, test_a=module, test_b="def test_3(): pass\n")
    assert shape(units) == [
        ((0,), ["Session", "Module"], []),
        ((1,), ["Session", "Module"], ["value"]),
        ((2,), ["Session"], []),
    ]


def test_xunit_functions_are_needs(pytester: pytest.Pytester) -> None:
    """setup_module, setup_class and setUpClass give their nodes sandboxes; setup_method does not."""
    units = collect(
        pytester,
        test_a="""
        import unittest
        class TestMethods:
            def setup_method(self): pass
            def test_1(self): pass
        class TestClass:
            @classmethod
            def setup_class(cls): pass
            def test_2(self): pass
        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls): pass
            def test_3(self): pass
        """,
        test_b="def setup_module(): pass\ndef test_4(): pass\n",
    )
    chains = [unit.chain[-1].name for unit in units if isinstance(unit, Unit)]
    assert chains == ["", "TestClass", "Case", "test_b.py"]


def test_scopes_and_groups(pytester: pytest.Pytester) -> None:
    """scope= and group= make units of several items; what lives inside their node is not above them."""
    units = collect(
        pytester,
        test_a="""
        import pytest
        pytestmark = pytest.mark.sandbox(scope="module")
        @pytest.fixture(scope="session")
        def outer(): pass
        @pytest.fixture(scope="module")
        def inner(): pass
        def test_1(outer, inner): pass
        def test_2(inner): pass
        """,
        test_b="""
        import pytest
        @pytest.mark.sandbox(group="g")
        def test_3(): pass
        @pytest.mark.sandbox(enabled=False)
        def test_4(): pass
        @pytest.mark.sandbox(group="g")
        def test_5(): pass
        """,
    )
    assert shape(units) == [((0, 1), ["Session"], ["outer"]), ((2, 4), ["Session"], []), 3]


def test_parameters(pytester: pytest.Pytester) -> None:
    """A parametrized fixture is another need for each value, and one for equal values."""
    units = collect(
        pytester,
        test_a="""
        import pytest
        @pytest.fixture(scope="session", params=["a", "b"])
        def value(request): pass
        def test_1(value): pass
        def test_2(value): pass
        """,
    )
    needs = [unit.above[0] for unit in units if isinstance(unit, Unit)]
    assert [need.parameter for need in needs] == [
        "a",
        "b",
        "a",
        "b",
    ]  # in the order of collection: pytest has not sorted them yet
    assert needs[0].has("a")
    assert not needs[0].has("b")


def test_overrides(pytester: pytest.Pytester) -> None:
    """An override that asks for what it overrides needs both; one that does not, needs itself only."""
    units = collect(
        pytester,
        test_a="""
        import pytest
        @pytest.fixture(scope="session")
        def value(): pass
        class TestAsks:
            @pytest.fixture(scope="class")
            def value(self, value): pass
            def test_1(self, value): pass
        class TestNot:
            @pytest.fixture(scope="class")
            def value(self): pass
            def test_2(self, value): pass
        """,
    )
    found = [[(need.name, need.depth, need.node.name) for need in unit.above] for unit in units if isinstance(unit, Unit)]
    assert found == [[("value", 0, "TestAsks"), ("value", 1, "")], [("value", 0, "TestNot")]]
