"""What scopes have logged as they set up for an item, kept for `caplog` in the item's own process. Imports pytest only."""

from __future__ import annotations

import logging

import pytest
from _pytest.logging import caplog_handler_key

#: Records, and what the handler has made of them: a fixture's objects may have another text later, or none.
_LOGGED: pytest.StashKey[list[tuple[list[logging.LogRecord], str]]] = pytest.StashKey()


def note(item: pytest.Item, when: str) -> None:
    """In a scope, after a phase in an item's name: its records are those of the item's."""
    if when == "setup":
        handler = item.stash[caplog_handler_key]
        if handler.records:
            item.stash.setdefault(_LOGGED, []).append((list(handler.records), handler.stream.getvalue()))


def hand_on(item: pytest.Item) -> None:
    """In the item's own process, as its set-up begins, once: it was begun by the scopes."""
    handler = item.stash.get(caplog_handler_key, None)
    if handler is not None and _LOGGED in item.stash:
        for records, text in item.stash[_LOGGED]:
            handler.records.extend(records)
            handler.stream.write(text)
        del item.stash[_LOGGED]
