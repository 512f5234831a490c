"""Which threads Python has started in this process: no fork inherits them. Imports only what reads /proc."""

from __future__ import annotations

# Bound at import: a test may replace what modules have.
from _thread import _count as count
from threading import enumerate as living
from time import sleep

from pytest_sandbox._linux import proc
from pytest_sandbox._linux.clock import monotonic

#: How long to wait for a thread that the kernel has, and that may be one of Python's, to say so, in seconds.
_PATIENCE = 0.1


class Threads:
    """Those that there are now, to tell from them which came later."""

    def __init__(self) -> None:
        self._before, self._count, self._tasks = living(), count(), _tasks()

    def started(self) -> list[str]:
        """The names of those that are new; one of `_thread.start_new_thread()` has none, and threading does not know it."""
        return self.named() or ["one without a name"] * self._has_others()

    def named(self) -> list[str]:
        """Of these only those that threading knows, which takes no time."""
        return [thread.name for thread in living() if thread not in self._before]

    def _has_others(self) -> bool:
        """A thread counts itself when it first runs. One of C code, such as those of a library for numbers, never does."""
        until = monotonic() + _PATIENCE
        while count() <= self._count and _tasks() > self._tasks and monotonic() < until:
            sleep(0.001)
        self._tasks = max(self._tasks, _tasks())  # who has been waited for is not waited for again
        return count() > self._count


def _tasks() -> int:
    """How many threads the kernel has; 0 where a fixture has changed the root directory, so that there is no /proc."""
    try:
        return proc.threads()
    except OSError:
        return 0
