"""What foreign plugins keep in the memory of the process that runs tests, and use at the run's end: brought to the controller.

A module a plugin, which says what that is and in which versions. A plugin that is not loaded costs a look. Imports pytest,
`model` and what is beside it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.plugin.builtin.terminal import show
from pytest_sandbox.plugin.others.carried.base import Carrier

#: The modules here, and whether what each is for is loaded; only then is it imported.
_LOADED: dict[str, Callable[[pytest.Config], bool]] = {
    "benchmark": lambda config: hasattr(config, "_benchmarksession"),
    "syrupy": lambda config: hasattr(config, "_syrupy"),
    "inline_snapshot": lambda config: config.pluginmanager.hasplugin("inline_snapshot"),
}
_CARRIERS: pytest.StashKey[list[Carrier]] = pytest.StashKey()
_HEARD: pytest.StashKey[set[str]] = pytest.StashKey()


@contextlib.contextmanager
def carrying(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[None]:
    """In the controller, around the run of these sandboxed items. UsageError for what cannot be carried."""
    carriers = config.stash[_CARRIERS] = _find(config, items)
    heard = config.stash[_HEARD] = set()
    try:
        yield
    finally:
        unheard = [item for item in items if item.nodeid not in heard]
        for carrier in carriers:
            carrier.end(unheard)


def _find(config: pytest.Config, items: Sequence[pytest.Item]) -> list[Carrier]:
    modules = [importlib.import_module(f"{__name__}.{name}") for name, is_loaded in _LOADED.items() if is_loaded(config)]
    found: list[Carrier | None] = [module.find(config, items) for module in modules]
    return [carrier for carrier in found if carrier is not None]


def merge(config: pytest.Config, outputs: Sequence[Mapping[str, Any]]) -> None:
    """Where pytest-xdist steers from, before plugins end the run; outputs: what its workers have sent home."""
    if _LOADED["syrupy"](config):
        importlib.import_module(f"{__name__}.syrupy").merge(config, outputs)


def spare(config: pytest.Config) -> None:
    """In the controller: the run is refused before its first test; plugins that end it all the same must not call all unused."""
    if getattr(config.option, "update_snapshots", False):  # syrupy's, of any version
        config.option.update_snapshots = False


def begin(config: pytest.Config) -> None:
    """In a sandbox that was just forked: what is there now is no news of it."""
    for carrier in config.stash[_CARRIERS]:
        carrier.begin()


def news(config: pytest.Config, item: pytest.Item, *, ended: bool) -> dict[str, Any]:
    """In a sandbox: a frame with what is new; {} if there is nothing to say. ended: whether the item has run to its end."""
    carriers = config.stash[_CARRIERS]
    found = {carrier.name: fields for carrier in carriers if (fields := carrier.news(item)) is not None}
    return {"op": "carried", "plugins": found, "ended": ended} if carriers and (found or ended) else {}


def _take(config: pytest.Config, item: pytest.Item, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:  # noqa: BLE001  # of a foreign plugin, for a file, say
        show(config, f"\nsandbox: what another plugin is to know of {item.nodeid} is lost: {error!r}\n")


def from_frame(config: pytest.Config, item: pytest.Item, frame: dict[str, Any]) -> Callable[[], None]:
    """In the controller: what puts a frame's news into the plugins. Raises WireError for what is none of theirs."""
    by_name = {carrier.name: carrier for carrier in config.stash[_CARRIERS]}
    plugins = frame.get("plugins")
    if not isinstance(plugins, dict) or not all(isinstance(fields, dict) for fields in plugins.values()):
        raise WireError("a frame has nothing for plugins")
    if unknown := plugins.keys() - by_name.keys():
        raise WireError(f"a frame has something for {min(unknown)[:100]!r}, which is not carried")
    try:
        steps = [by_name[name].read(item, fields) for name, fields in plugins.items()]
    except WireError:
        raise
    except Exception as error:  # what is nonsense to a foreign plugin's own classes raises what they like
        raise WireError(f"a frame has nothing for plugins: {error!r}") from error

    def remember() -> None:
        for step in steps:
            _take(config, item, step)
        if frame.get("ended") is True:
            config.stash[_HEARD].add(item.nodeid)

    return remember
