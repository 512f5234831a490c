"""Django's connections, which no fork may share: each test opens its own, as Django's own parallel runner has it.

Imports Django not at all.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any


def close_connections() -> None:
    """In a scope, before it forks: close what is open, but where a transaction is under way, which its tests are a part of.

    A database in memory is not closed by that.
    """
    module: Any = sys.modules.get("django.db")
    for connection in () if module is None else module.connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            with suppress(Exception):  # a database that has gone: who asks it next will hear that
                connection.close()
