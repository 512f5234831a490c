"""What foreign plugins keep in the memory of the process that runs tests, and use at the run's end: brought to the controller.

A module a plugin, which says what that is and in which versions. A plugin that is not loaded costs a look. Imports pytest,
`model` and what is beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.plugin.carried import benchmark, inline_snapshot, syrupy
from pytest_sandbox.plugin.carried.base import Carrier

_FINDERS: tuple[Callable[[pytest.Config, Sequence[pytest.Item]], Carrier | None], ...] = (
    benchmark.find,
    syrupy.find,
    inline_snapshot.find,
)
_CARRIERS: pytest.StashKey[list[Carrier]] = pytest.StashKey()
_HEARD: pytest.StashKey[set[str]] = pytest.StashKey()


@contextlib.contextmanager
def carrying(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[None]:
    """In the controller, around the run of these sandboxed items. UsageError for what cannot be carried."""
    found = (find(config, items) for find in _FINDERS)
    config.stash[_CARRIERS] = [carrier for carrier in found if carrier is not None]
    heard = config.stash[_HEARD] = set()
    try:
        yield
    finally:
        unheard = [item for item in items if item.nodeid not in heard]
        for carrier in config.stash[_CARRIERS]:
            carrier.end(unheard)


def begin(config: pytest.Config) -> None:
    """In a sandbox that was just forked: what is there now is no news of it."""
    for carrier in config.stash[_CARRIERS]:
        carrier.begin()


def news(config: pytest.Config, item: pytest.Item, *, ended: bool) -> dict[str, Any]:
    """In a sandbox: a frame with what is new; {} if there is nothing to say. ended: whether the item has run to its end."""
    carriers = config.stash[_CARRIERS]
    found = {carrier.name: fields for carrier in carriers if (fields := carrier.news(item)) is not None}
    return {"op": "carried", "plugins": found, "ended": ended} if carriers and (found or ended) else {}


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
            step()
        if frame.get("ended") is True:
            config.stash[_HEARD].add(item.nodeid)

    return remember
