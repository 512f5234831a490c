"""Documents whose parts are items that go on with what those before have defined: they share a sandbox by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED: list[str] = []
NEEDED = ["sybil"]


def test_sybil(pytester: pytest.Pytester, compat: Compat) -> None:
    """An example uses what the example before it has made."""
    pytester.makeconftest(
        """
        from sybil import Sybil
        from sybil.parsers.rest import DocTestParser, PythonCodeBlockParser
        pytest_collect_file = Sybil(parsers=[DocTestParser(), PythonCodeBlockParser()], pattern="*.rst").pytest()
        """
    )
    for name in ("one", "two"):
        (pytester.path / f"{name}.rst").write_text(
            "Text\n\n.. code-block:: python\n\n  x = 40\n\n>>> x + 2\n42\n\n>>> x = 3\n\n>>> x\n3\n\n>>> y\n1\n"
        )
    plain, boxed = compat.both()
    assert plain.status == pytest.ExitCode.TESTS_FAILED
    assert len([name for name, when, outcome in boxed.outcomes() if when == "call" and outcome == "passed"]) == 8
