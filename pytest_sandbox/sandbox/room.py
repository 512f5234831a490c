"""Room for processes that have sandboxes each: of cgroup version 2, which divides only a cgroup without processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pytest_sandbox.primitives.cgroups import CgroupRun, settle
from pytest_sandbox.sandbox.cleanup.janitor import Janitor


@contextlib.contextmanager
def make_room(name: str) -> Iterator[None]:
    """For this process and those that it starts from now on, until they have ended. Where there can be none, do nothing.

    They live together in the leaf that this process moves to (`cgroups.delegation`), beside which each makes its run's cgroup.
    """
    settle()  # the janitor belongs where this process will be
    with Janitor() as janitor, contextlib.closing(CgroupRun.open(name, announce=janitor.watch_cgroups)):
        yield
