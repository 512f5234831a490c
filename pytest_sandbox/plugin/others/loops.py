"""Event loops of wider scopes (pytest-asyncio's, anyio's, one's own): each sandbox has its own. Imports `primitives`.

A fork of a loop shares with it, and with its siblings, what the kernel keeps for it: what it waits for (see `polls`), and the
socket pair by which threads and signals wake it, whose bytes any sibling may read. asyncio's loops are Python objects, and their
pairs are renewed; for other loops there is what `polls` does, which knows no owner.
"""

from __future__ import annotations

import sys
import weakref
from _socket import socketpair  # the one of `socket` uses what a fixture may have replaced
from collections.abc import Sequence
from gc import get_objects
from os import dup2
from typing import Any

from pytest_sandbox.primitives import polls


class Loops:
    """Those that the calling process has, and its forks inherit."""

    def __init__(self) -> None:
        self._polls: list[int] = []
        self._loops: dict[int, weakref.ref[Any]] = {}  # by id: not every class can be hashed

    def note(self) -> None:
        """Find those that were made since the last gc.freeze(), which hides objects: after what may have made some."""
        self._polls = polls.find()
        kind = getattr(sys.modules.get("asyncio.selector_events"), "BaseSelectorEventLoop", None)
        if self._polls and kind is not None:
            self._loops |= {id(one): weakref.ref(one) for one in get_objects() if issubclass(type(one), kind)}

    def renew(self) -> None:
        """After a fork: have them share nothing with those of other processes."""
        for loop in self._loops.values():
            ends = [getattr(loop(), name, None) for name in ("_ssock", "_csock")]
            pair = [end.fileno() for end in ends if end is not None]
            if len(pair) == 2 and min(pair) >= 0:  # it is open
                _renew_pair(pair)
        polls.renew(self._polls)


def _renew_pair(pair: Sequence[int]) -> None:
    """Under the same numbers, which the loop, its selector and signal.set_wakeup_fd() know."""
    for old, new in zip(pair, socketpair(), strict=True):
        new.setblocking(False)
        dup2(new.fileno(), old, inheritable=False)
        new.close()
