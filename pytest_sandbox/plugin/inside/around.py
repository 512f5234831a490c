"""What pytest's own plugins do around an item's phases, for what a scope does in an item's name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from gc import collect
from typing import Any

import pytest
from _pytest.capture import CaptureManager
from _pytest.logging import LoggingPlugin, caplog_records_key
from _pytest.runner import CallInfo

from pytest_sandbox.plugin.builtin import filters, logs, strays
from pytest_sandbox.plugin.inside.world import World


@contextlib.contextmanager
def around(world: World, item: pytest.Item, when: str) -> Iterator[None]:
    """Within: what pytest's own plugins do around the whole protocol of an item, and around a phase of it."""
    with (
        _named(item, when),
        _within(world.config, "faulthandler", item),
        _caught_warnings(world, item),
        _within(world.config, "assertion", item),
        _captured(world.config, item, when),
    ):
        yield


def tell_strays(world: World, item: pytest.Item) -> None:
    """What has raised as the values of an item's fixtures went, after its teardown, is an error of that, or a warning.

    Plain pytest tells the next test of it, which is in another process.
    """
    if world.reporter.has_failed:
        collect()  # what the traceback has held
    if (report := stray_error(world, item)) is not None:
        world.reporter.add_error(report)


def stray_error(world: World, item: pytest.Item) -> pytest.TestReport | None:
    """Warn of what has raised so; a report of the item's teardown where that is an error."""
    if not strays.any_noted(world.config):
        return None
    with _caught_warnings(world, item):
        call = CallInfo.from_call(partial(strays.tell, world.config), "teardown")
    return None if call.excinfo is None else item.ihook.pytest_runtest_makereport(item=item, call=call)


@contextlib.contextmanager
def _named(item: pytest.Item, when: str) -> Iterator[None]:
    """PYTEST_CURRENT_TEST, unless what is done within takes it away, as a fixture may that clears the environment."""
    from _pytest.runner import _update_current_test_var

    _update_current_test_var(item, when)  # type: ignore[arg-type]  # a phase
    try:
        yield
    finally:
        os.environ.pop("PYTEST_CURRENT_TEST", None)


@contextlib.contextmanager
def _within(config: pytest.Config, name: str, item: pytest.Item) -> Iterator[None]:
    """What a plugin of pytest's own does around an item's protocol: assertions say what differs, a watchdog watches."""
    plugin: Any = config.pluginmanager.getplugin(name)
    if plugin is None:
        yield
        return
    wrapper = plugin.pytest_runtest_protocol(item)
    next(wrapper)
    with contextlib.closing(wrapper):
        yield


@contextlib.contextmanager
def _captured(config: pytest.Config, item: pytest.Item, when: str) -> Iterator[None]:
    """Capture output and logging for the item's report, in the order of the sections that plain pytest has."""
    capture: CaptureManager | None = config.pluginmanager.getplugin("capturemanager")
    logging: LoggingPlugin | None = config.pluginmanager.getplugin("logging-plugin")
    with contextlib.ExitStack() as stack:
        if logging is not None:
            logging.log_cli_handler.set_when(when)
            item.stash.setdefault(caplog_records_key, {})
            made: Any = logging._runtest_for(item, when)
            # pytest 8 has a plain generator here.
            stack.enter_context(made if hasattr(made, "__enter__") else contextlib.contextmanager(lambda: made)())
            stack.callback(logs.note, item, when)
        if capture is not None:
            stack.enter_context(capture.item_capture(when, item))
        yield


def warnings_of_the_run(world: World) -> contextlib.AbstractContextManager[None]:
    """Within: warnings are told that are no test's, but come in its process. To whom they belong the controller knows."""
    return _caught_warnings(world, None)


@contextlib.contextmanager
def _caught_warnings(world: World, item: pytest.Item | None) -> Iterator[None]:
    from _pytest.warnings import catch_warnings_for_item

    if not world.config.pluginmanager.hasplugin("warnings"):
        yield
        return
    hooks = world.config.hook if item is None else item.ihook
    with (
        catch_warnings_for_item(config=world.config, ihook=hooks, when="runtest", item=item),
        contextlib.nullcontext() if item is None else filters.noted(item),
    ):
        yield
