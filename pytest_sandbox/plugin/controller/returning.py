"""Forks of a test without a sandbox that come back into pytest, where each would be a second controller of its sandboxes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from pytest_sandbox.primitives import process


class _Forks:
    """Ends a fork of this process where a phase of an item comes to its end in it, and had begun before.

    Who forks around an item, as pytest-forked does, has its report made in the fork.
    """

    def __init__(self) -> None:
        self._began = os.getpid()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """A phase begins."""
        self._began = os.getpid()

    pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """A fork's report is nobody's."""
        if os.getpid() != self._began:
            process.leave(0 if call.excinfo is None else 1)


@contextlib.contextmanager
def ending_forks(config: pytest.Config) -> Iterator[None]:
    """Within an item's run: a fork of this process ends at the end of the phase that it was forked in, however that ends."""
    owner, forks = os.getpid(), _Forks()
    config.pluginmanager.register(forks)
    status = 1  # as of pytest.exit(), and Ctrl-C, of which no report is made
    try:
        yield
        status = 0
    finally:
        if os.getpid() != owner:
            process.leave(status)
        config.pluginmanager.unregister(forks)
