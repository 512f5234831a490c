"""Removing a directory of the machine whose content a sandbox made: deep, without permissions, full of links. Imports nothing.

shutil.rmtree recurses, and so does not get to the bottom of 10,000 levels; nor, for an ordinary user, into mode 000.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator

from pytest_sandbox._linux.clock import monotonic

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, until: float = math.inf) -> str:
    """Remove the directory `path` and all in it, following no link; why not, where that is not possible.

    Level by level: what is found in a subdirectory and is a directory itself moves up, so that depth is never a matter
    of recursion, of open descriptors or of the length of a path. until: a moment of the monotonic clock, after which the
    rest stays; one file more is still removed, however large it is.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        _empty(top, until)
        os.rmdir(path)
    except OSError as error:
        return ": ".join(str(part) for part in (path, error.filename, error.strerror) if part)
    finally:
        os.close(top)
    return ""


def _empty(top: int, until: float) -> None:
    moved, found = 0, True
    while found:  # what moves up is seen in this pass or the next
        found = False
        for name in _names(top, until):
            found = True
            if not _removed(name, top):
                moved = _hollow(name, top, moved, until)


def _names(directory: int, until: float) -> Iterator[str]:
    """What is in it, without a list of all that; TimeoutError when the time is over."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "there is too much in it for the time that is left")
            yield entry.name


def _removed(name: str, directory: int) -> bool:
    """Remove a file or an empty directory; whether that was possible. OSError for any other obstacle than content."""
    try:
        os.unlink(name, dir_fd=directory)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    try:
        os.rmdir(name, dir_fd=directory)
        return True
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False


def _open_up(name: str, directory: int) -> None:
    """Let a subdirectory be listed and written; what has become a link since is ENOTDIR, and is not followed."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _hollow(name: str, top: int, moved: int, until: float) -> int:
    """Empty a subdirectory: its files go, its directories move up under a number; returns how many have moved by now."""
    _open_up(name, top)
    directory = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for child in _names(directory, until):
            if _removed(child, directory):
                continue
            _open_up(child, directory)  # to move a directory is to write its ".."
            while True:
                moved += 1
                with contextlib.suppress(OSError):
                    os.stat(f"{moved}", dir_fd=top, follow_symlinks=False)
                    continue
                break
            os.rename(child, f"{moved}", src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=top)
    return moved
