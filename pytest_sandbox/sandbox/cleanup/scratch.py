"""A run's own directory below the spec's `scratch`: made, locked, removed, if need be by a later run. Imports `removal`.

What else is below `scratch` is the user's. Removed is what has a run's name and mark, the caller for its owner, and no lock.
"""

from __future__ import annotations

import contextlib
import os
import re

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.errors import UnavailableError, warn_of_teardown
from pytest_sandbox.primitives.locks import Locks, left
from pytest_sandbox.sandbox.cleanup.removal import remove_tree

_NAME = re.compile(r"pytest-sandbox-\d+-[0-9a-f]{8}")
_MARK = "user.pytest-sandbox"
#: How long the controller, which serves no sandbox meanwhile, removes what one has left, or a run, in seconds.
REMOVAL_TIME = 10.0
_FIX = "name a directory that you may write, on a file system with room and user attributes (ext4, xfs, btrfs)"


def path_of(scratch: str, run: str) -> str:
    """Where a run of this name, PID-HEX, has its own."""
    return os.path.join(scratch, f"pytest-sandbox-{run}")


def make(path: str, locks: Locks) -> None:
    """Make it, and try whether layers can lie there; UnavailableError where they cannot."""
    try:
        locks.make(path)
        os.setxattr(path, _MARK, b"1")
        probe = os.path.join(path, "probe")
        with open(probe, "xb") as file:
            file.write(bytes(1 << 16))
        os.setxattr(probe, "user.overlay.probe", b"1")
        os.unlink(probe)
    except OSError as error:
        remove_tree(path)
        raise UnavailableError("scratch", f"{os.path.dirname(path)}: {error.strerror}", _FIX) from error


def remove_left(scratch: str) -> None:
    """Remove what the caller's runs have left below `scratch` that were killed together with their janitors, or had no time."""
    until = monotonic() + REMOVAL_TIME
    with contextlib.suppress(OSError):
        for name in os.listdir(scratch):
            if _NAME.fullmatch(name):
                _remove_if_left(os.path.join(scratch, name), until)


def _remove_if_left(path: str, until: float) -> None:
    with left(path) as alone:
        if not alone or os.lstat(path).st_uid != os.geteuid():
            return
        try:
            os.getxattr(path, _MARK, follow_symlinks=False)
        except OSError:
            with contextlib.suppress(OSError):  # killed before it was marked, or not a run's: then there is something in it
                os.rmdir(path)
            return
        remove_or_warn(path, until)


def remove_or_warn(path: str, until: float | None = None) -> None:
    """Remove a directory below `scratch`, or say that it stays; until: see `remove_tree`, REMOVAL_TIME from now else."""
    problem = remove_tree(path, monotonic() + REMOVAL_TIME if until is None else until)
    if problem:
        again = "the next run with this scratch tries again, if it is not removed by hand"
        warn_of_teardown(f"could not remove {problem}; {again}")
