"""Warnings that filters can name, on every platform that has the plugin: no other module has to be imported. Imports pytest."""

from __future__ import annotations

import pytest


class ThreadWarning(pytest.PytestWarning):
    """A fixture of a wider scope starts a thread, and so is set up in each test's sandbox and not once; or a module, in none."""


class LeakWarning(pytest.PytestWarning):
    """A test left processes behind. They are killed; whoever started them should have."""


class CoverageWarning(pytest.PytestWarning):
    """Something that coverage measured is missing from its data."""
