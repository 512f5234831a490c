"""Forks of a test without a sandbox that come back into pytest. Imports `inside.reporter`, which ends those in sandboxes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from pytest_sandbox.plugin.inside.reporter import end_fork


class _Forks:
    """Ends a fork of this process that comes back into pytest, where it would be a second controller of its sandboxes."""

    def __init__(self) -> None:
        self._owner = os.getpid()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """A fork's report is nobody's."""
        if os.getpid() != self._owner:
            end_fork(call)


@contextlib.contextmanager
def ending_forks(config: pytest.Config) -> Iterator[None]:
    """Within: a fork of this process ends where its report would be made."""
    forks = _Forks()
    config.pluginmanager.register(forks)
    try:
        yield
    finally:
        config.pluginmanager.unregister(forks)
