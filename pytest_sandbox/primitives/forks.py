"""os.fork(), and how to be ahead of what others do in a forked child. Imports the standard library only.

Handlers of `os.register_at_fork()` run in the order in which they were registered. The plugin imports this module when pytest
loads it, so that its own comes before those of conftest files and tests, which may start threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

# Of a thread: another one may fork at the same time.
_asked = threading.local()


def fork(first: Callable[[], object] | None = None) -> int:
    """os.fork(), also from a process with threads.

    first: called in the child, before the handlers that were registered after this module was imported. It may make further
    processes, and return in one of those only: as far as the other handlers can tell, that one is the child.
    """
    import warnings

    _asked.first = first
    try:
        with warnings.catch_warnings():
            # From Python 3.12 on, os.fork() in a process with threads warns; the child here runs only what is written here.
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork()
    finally:
        _asked.first = None


def _run_first() -> None:
    if (first := getattr(_asked, "first", None)) is not None:
        _asked.first = None
        first()


if hasattr(os, "register_at_fork"):  # the plugin is imported on Windows too
    os.register_at_fork(after_in_child=_run_first)
