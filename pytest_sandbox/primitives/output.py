"""Which files this process's output goes to. Imports the standard library only.

The plugin imports this module when pytest loads it, and so before pytest's capture puts files of its own into their place.
"""

from __future__ import annotations

import os

File = tuple[int, int]


def file_of(fd: int) -> File | None:
    """What file a descriptor is open on: device and inode; None where it is not open."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def files() -> set[File | None]:
    """Those of stdout and stderr, now and when this was imported."""
    return {*_AT_FIRST, file_of(1), file_of(2)} - {None}


_AT_FIRST = (file_of(1), file_of(2))
