"""For whose limit of processes forks were refused that a cgroup counts, by its figures and those around. Imports `files`.

Version 1, and version 2 before Linux 6.11, count a refusal where the fork was tried, whosever limit it was for. Since then
version 2 counts it where the limit is that was met, and has pids.events.local (cgroup-v2.rst; commit 73e75e6fc352), unless it is
mounted with pids_localevents. Elsewhere the peaks tell: a limit refuses only when as many were there.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from pytest_sandbox._linux import proc
from pytest_sandbox.primitives.cgroups.files import read


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """own: whether for the own limit of the cgroup; None: for that or one around. around: that one, where it is seen."""

    own: bool | None
    around: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Bound:
    directory: str
    limit: int
    peak: int | None

    @property
    def may_be_met(self) -> bool:
        return self.peak is None or self.peak >= self.limit


def refused_for(directory: str) -> Refused:
    """Whose limit has refused the forks that are counted in a cgroup, which is still there."""
    if os.path.exists(f"{directory}/pids.events.local") and not _are_events_local():
        return Refused(own=True)
    own, around = _bound(directory), [bound for bound in _around(directory) if bound is None or bound.may_be_met]
    # Two forks at once may leave the lower of their two figures as the peak: where nothing else is, that is no proof.
    if not around or (own is not None and own.peak is not None and own.may_be_met):
        return Refused(own=True)
    seen = min((bound for bound in around if bound is not None), key=lambda bound: bound.limit, default=None)
    text = f"{seen.directory} (pids.max {seen.limit})" if seen else ""
    return Refused(None if own is not None and own.peak is None else False, text)


def _are_events_local() -> bool:
    """Whether version 2 is mounted so that it counts as it did before 6.11, with the file there (pids_localevents)."""
    return any(entry.fstype == "cgroup2" and "pids_localevents" in entry.super_options for entry in proc.mounts())


def _around(directory: str) -> Iterator[_Bound | None]:
    """The limits of the cgroups around one, the nearest first; None: there may be more that are not to be seen from here."""
    while os.path.exists(f"{(directory := os.path.dirname(directory))}/cgroup.procs"):
        if not os.path.exists(f"{directory}/pids.max"):
            return  # the root of all
        if (bound := _bound(directory)) is not None:
            yield bound
    yield None


def _bound(directory: str) -> _Bound | None:
    limit = _number(f"{directory}/pids.max")
    return None if limit is None else _Bound(directory, limit, _number(f"{directory}/pids.peak"))


def _number(path: str) -> int | None:
    """None: none is set, or this kernel does not count it (pids.peak: Linux 6.1)."""
    try:
        return int(read(path))
    except (OSError, ValueError):
        return None
