"""What scopes have logged as they set up for an item, kept for `caplog` in the item's own process. Imports pytest only."""

from __future__ import annotations

import logging

import pytest
from _pytest.logging import caplog_handler_key, caplog_records_key

_LOGGED: pytest.StashKey[list[logging.LogRecord]] = pytest.StashKey()


def note(item: pytest.Item, when: str) -> None:
    """In a scope, after a phase in an item's name: its records are those of the item's."""
    if when == "setup":
        item.stash.setdefault(_LOGGED, []).extend(item.stash[caplog_records_key].get(when, ()))


def hand_on(item: pytest.Item) -> None:
    """In the item's own process, as its set-up begins, once: it was begun by the scopes."""
    handler = item.stash.get(caplog_handler_key, None)
    if handler is not None and _LOGGED in item.stash:
        for record in item.stash[_LOGGED]:
            handler.handle(record)
        del item.stash[_LOGGED]
