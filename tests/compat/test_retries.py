"""flaky and pytest-retry run a test again in its sandbox: outcomes are right, and what is not is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

SAID = "will lack what it notes of tests in sandboxes; outcomes are right"
SUITES = {
    "flaky.flaky_pytest_plugin": ("flaky", "Flaky Test Report", "@flaky(max_runs=2)"),
    "pytest_retry.retry_plugin": ("pytest-retry", "test retry report", "@pytest.mark.flaky(retries=2)"),
}


@pytest.fixture(params=list(SUITES))
def plugins(request: pytest.FixtureRequest) -> list[str]:
    """One of them."""
    return [request.param]


@pytest.fixture
def needed(plugins: list[str]) -> list[str]:
    """Its package."""
    return [plugins[0].partition(".")[0]]


def test_said(compat: Compat, plugins: list[str]) -> None:
    """A test that passes the second time passes; that the report has nothing of it is said, if there is such a test."""
    name, title, again = SUITES[plugins[0]]
    suite = (
        "import pytest\n{0}tries = []\n{1}\ndef test_1():\n    tries.append(1)\n    assert len(tries) > 1\ndef test_2(): pass\n"
    )
    compat.pytester.makepyfile(test_it=suite.format("from flaky import flaky\n" if name == "flaky" else "", again))
    plain, boxed = compat.both(same=False)
    assert boxed.status == plain.status == 0
    assert [one for one in boxed.outcomes() if one[1:] == ("call", "passed")] == [
        ("test_it.py::test_1", "call", "passed"),
        ("test_it.py::test_2", "call", "passed"),
    ]
    assert title in plain.text
    assert SAID not in plain.text
    assert boxed.line(SAID) == f"sandbox: the report of {name} {SAID}"
    compat.pytester.makepyfile(test_it="def test_2(): pass\n")
    assert SAID not in compat.one().text
