"""pytest-timeout under --sandbox: its options, marker and ini keys are heeded, and the controller is the one who ends a test.

In a sandbox pytest-timeout itself decides when a timer is set, and for how long (its hooks, of 2.0 and newer). With its method
"thread", which ends the whole process, the controller kills the sandbox in its place: that test fails, with its stacks, and no
other. With "signal" its alarm raises in the test as ever; where that is not heeded (a call that does not come back, signals that
are blocked) the controller follows. Imports pytest-timeout not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.plugin.builtin.settling import INSIDE
from pytest_sandbox.plugin.others import loaded

_NAME = "pytest_timeout"
#: How long after its alarm a test may take to come to its report, in seconds.
GRACE = 5.0


class Timers:
    """A plugin of the sandboxes'; pytest-timeout calls it, if it is there."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._alarm: float | None = None

    def _send(self, seconds: float, grace: float = 0.0) -> None:
        self._config.stash[INSIDE].channel.send({"op": "timer", "seconds": seconds, "grace": grace})

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool | None:  # noqa: ANN401  # pytest-timeout's own
        """Set the controller's timer; with the method "thread" there is no other."""
        is_thread = settings.method == "thread"
        if settings.disable_debugger_detection or not loaded(item.config, _NAME).is_debugging():
            self._alarm = None if is_thread else monotonic() + settings.timeout
            self._send(settings.timeout, 0.0 if is_thread else GRACE)
        return True if is_thread else None

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_cancel_timer(self) -> None:
        """Cancel it; pytest-timeout does the same with its own."""
        self._alarm = None
        self._send(0)

    def ask(self, is_debugging: Callable[..., bool]) -> Callable[..., bool]:
        """Hear what pytest-timeout's alarm finds: where somebody is in a debugger, of which pytest may not know, it lets be."""

        def asked(*args: Any) -> bool:  # noqa: ANN401  # pytest-timeout's own
            found = is_debugging(*args)
            if found and self._alarm is not None:
                self.pytest_timeout_cancel_timer()
            return found

        return asked

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self) -> None:
        """The alarm has come through: what follows has all the time that it has without a sandbox."""
        if self._alarm is not None and monotonic() >= self._alarm:
            self.pytest_timeout_cancel_timer()


def take_over(config: pytest.Config) -> None:
    """In the outermost sandbox: be asked by pytest-timeout, if that is there."""
    if (plugin := loaded(config, _NAME)) is not None:
        timers = Timers(config)
        config.pluginmanager.register(timers, "sandbox-timers")
        plugin.is_debugging = timers.ask(plugin.is_debugging)


@contextlib.contextmanager
def timed(item: pytest.Item) -> Iterator[None]:
    """Within: what pytest-timeout says of the item, for fixtures that are set up for it outside of its protocol."""
    plugin = loaded(item.config, _NAME)
    settings = plugin._get_item_settings(item) if plugin is not None and hasattr(plugin, "_get_item_settings") else None
    if settings is None or not settings.timeout or settings.func_only:
        yield
        return
    item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)
    try:
        yield
    finally:
        item.config.hook.pytest_timeout_cancel_timer(item=item)
