"""A plugin for pytest's own test-suite: every run that one of its tests starts has `--sandbox`; the tests themselves have none.

With SHARED=1 in the environment all tests of such a run share one sandbox: what passes then, and fails otherwise, hands something
on from test to test in memory or on the disk.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from _pytest import pytester

_OPTIONS = "-p pytest_sandbox.plugin.plugin --sandbox"
_plain = pytester.Pytester.__init__


def _sandboxed(self: pytester.Pytester, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # whatever pytest gives it
    _plain(self, *args, **kwargs)
    shared = " -p shared_sandbox" if os.environ.get("SHARED") else ""
    self._monkeypatch.setenv("PYTEST_ADDOPTS", _OPTIONS + shared)


def pytest_configure() -> None:
    """From now on."""
    pytester.Pytester.__init__ = _sandboxed  # type: ignore[method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """As it was."""
    pytester.Pytester.__init__ = _plain  # type: ignore[method-assign]
