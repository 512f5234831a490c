"""A plugin: all tests of a run share one sandbox. See inner_sandbox.py."""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        item.add_marker(pytest.mark.sandbox(scope="session"))
