"""Which tests run now, on a terminal, where several do. Imports `terminal`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.units import format_seconds
from pytest_sandbox.plugin.builtin.terminal import STATUS, has_status

#: How often it is shown anew, and how long a test must run to be named, in seconds.
_EVERY, _LONG = 0.5, 1.0


class Progress:
    """every: how often to show it, in seconds; None: never."""

    def __init__(self, config: pytest.Config, jobs: int) -> None:
        self._config = config
        self.every = _EVERY if jobs > 1 and has_status(config) else None

    def show(self, running: Iterable[tuple[pytest.Item, float]]) -> None:
        """Name those that run for some time: each with the moment, on the monotonic clock, at which it began."""
        if self.every is None:
            return
        now = monotonic()
        names = [f"{item.name} {format_seconds(int(now - began))}" for item, began in running if now - began >= _LONG]
        STATUS.put(self._config, f"running: {', '.join(names)}" if names else "")
