"""pytest-randomly under --sandbox: wider fixtures draw what they draw in a plain run.

It seeds all generators before an item's set-up and before its teardown, of which the fixtures of wider scopes are a part. Here
scopes set those up and tear them down, in the item's name: the first process that sets up anything for an item has the plugin
seed, and those after it go on where that one was. Imports pytest and `generators`, and pytest-randomly not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from pytest_sandbox.plugin.builtin.generators import Generators
from pytest_sandbox.plugin.others import loaded
from pytest_sandbox.sandbox.wire.frames import Frame


class Seeds:
    """What the calling process knows of items that have a part of their set-up behind them, and its forks inherit."""

    def __init__(self, config: pytest.Config) -> None:
        plugin = loaded(config, "pytest_randomly")
        self._plugin = plugin if config.getoption("randomly_reset_seed", default=False) else None
        self._hooks = config.hook
        self._after: dict[pytest.Item, Generators] = {}
        #: Whose set-up was the last: generators of other libraries, which are memory, are where that left them.
        self._last: pytest.Item | None = None

    def take_over(self) -> None:
        """In the outermost sandbox: know when the plugin would seed for the rest of an item's set-up."""
        for implementation in self._hooks.pytest_runtest_setup.get_hookimpls() if self._plugin is not None else ():
            if implementation.plugin is self._plugin:  # in its place in the order of hooks
                implementation.function = self._rest  # type: ignore[misc]  # Final, says pluggy

    def forget(self) -> None:
        """There was an attempt at the item before: it has its set-up behind it, and this one begins anew."""
        self._after.clear()

    @contextlib.contextmanager
    def set_up(self, item: pytest.Item) -> Iterator[None]:
        """Within: what a scope sets up for an item."""
        if self._plugin is None:
            yield
            return
        self._go_on(item, self._after.get(item))
        try:
            yield
        finally:
            self._after[item] = Generators()
            self._after[item].note()

    def tear_down(self, item: pytest.Item, generators: Generators, handed: Frame | None) -> None:
        """Before what a scope tears down for its last item. handed: where the item's own teardown was, if that is known."""
        if self._plugin is not None:
            self._plugin.pytest_runtest_teardown(item)
            generators.put(handed)

    def _rest(self, item: pytest.Item) -> None:
        self._go_on(item, self._after.pop(item, None))

    def _go_on(self, item: pytest.Item, after: Generators | None) -> None:
        if after is None or self._last is not item:
            self._plugin.pytest_runtest_setup(item)  # type: ignore[union-attr]  # asked by who calls
        if after is not None:
            after.restore_all()
        self._last = item
