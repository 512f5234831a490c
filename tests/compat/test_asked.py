"""Fixtures of wider scopes that nobody's signature names: steps of pytest-bdd ask for them, and lf() of pytest-lazy-fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED = ["pytest_bdd.plugin", "pytest_lazy_fixtures.plugin"]
NEEDED = ["pytest_bdd", "pytest_lazy_fixtures"]

CONFTEST = """
    import pytest
    def log(text):
        with open("log.txt", "a") as file: file.write(text + "\\n")
    @pytest.fixture(scope="session")
    def service():
        log("service")
        yield "service"
    @pytest.fixture(scope="module")
    def table(service):
        log("table")
        yield f"table of {service}"
    @pytest.fixture(scope="session")
    def broken():
        log("broken")
        raise ValueError("on purpose")
    @pytest.fixture
    def own(table): return f"own {table}"
"""
FEATURE = """
    Feature: shelves
      Scenario: a first
        Given a table
        When 3 books are put on it
        Then there are 3 books
      Scenario: a second
        Given a table
        When 4 books are put on it
        Then there are 5 books
      Scenario: what cannot be
        Given a broken thing
        Then there are 0 books
      Scenario Outline: several
        Given a table
        When <many> books are put on it
        Then there are <many> books
        Examples:
          | many |
          | 1    |
          | 2    |
"""
STEPS = """
    from pytest_bdd import given, parsers, scenarios, then, when
    scenarios("shelves.feature")
    @given("a table", target_fixture="shelf")
    def _(table): return {"on": table, "books": 0}
    @given("a broken thing", target_fixture="shelf")
    def _(broken): return broken
    @when(parsers.parse("{count:d} books are put on it"))
    def _(shelf, count): shelf["books"] += count
    @then(parsers.parse("there are {count:d} books"))
    def _(shelf, count, service): assert shelf["books"] == count
"""
LAZY = """
    import pytest
    from pytest_lazy_fixtures import lf, lfc
    @pytest.mark.parametrize("value", [lf("service"), lf("table"), lf("own"), lf("service.upper")])
    def test_one(value): assert value
    @pytest.mark.parametrize("values", [[lf("service"), {"table": lf("table")}], lfc(lambda service: [service])])
    def test_nested(values): assert "service" in str(values)
    @pytest.mark.parametrize("value", [lf("broken")])
    def test_last(value): pass
"""


@pytest.mark.parametrize("how", [(), ("--sandbox-jobs=2",)], ids=["one", "jobs"])
@pytest.mark.parametrize("files", [{"test_bdd": STEPS}, {"test_lazy": LAZY}], ids=["bdd", "lazy"])
def test_they_are_set_up_once(pytester: pytest.Pytester, compat: Compat, files: dict[str, str], how: tuple[str, ...]) -> None:
    """By their scope, as in plain pytest; one that cannot be set up fails where it is asked for."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(**files)
    pytester.makefile(".feature", shelves=FEATURE)
    log = pytester.path / "log.txt"
    log.touch()
    plain = compat.one(sandbox=False)
    expected = sorted(log.read_text().split())
    log.write_text("")
    boxed = compat.one("--sandbox-writable=log.txt", *how)
    assert sorted(log.read_text().split()) == expected == ["broken", "service", "table"]
    assert boxed.outcomes() == plain.outcomes()
    assert boxed.status == plain.status == 1
