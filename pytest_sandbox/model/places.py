"""Which paths can be writable or hidden at all, as far as their names tell. Imports `errors` only."""

from __future__ import annotations

import os.path
import re
from typing import TypeGuard

from pytest_sandbox.model.errors import SpecError

#: What no sandbox can do without.
_KERNEL = ("/dev", "/proc", "/sys")
#: PATH_MAX, path_resolution(7).
_LONGEST = 4096


def is_plain(path: object) -> TypeGuard[str]:
    """Whether it is an absolute path as it would be without `..`, double slashes and the like."""
    return (
        isinstance(path, str)
        and path.startswith("/")
        and os.path.normpath(path) == path
        and "\0" not in path
        and len(path) < _LONGEST
    )


def refuse_writable(path: str) -> None:
    """Raise SpecError for what must not be the machine's own inside: its root, its kernel's files, all its devices."""
    _refuse_root(path)
    if path == "/dev" or path.startswith(("/proc/", "/sys/")) or path in _KERNEL:
        raise SpecError(
            f"{path} cannot be writable: a test would have the machine's processes, kernel and devices. "
            "Each sandbox has its own; name a single device if one is needed"
        )


def refuse_hidden(path: str) -> None:
    """Raise SpecError for what a sandbox is made with, and for processes, of which each sandbox has its own."""
    _refuse_root(path)
    if path in _KERNEL:
        raise SpecError(f"{path} cannot be hidden: the sandbox is made with it. Name what is meant below it")
    if re.match(r"/proc/(?:[0-9]+|self|thread-self)(?:/|$)", path):
        raise SpecError(f"{path} cannot be hidden: it is of one process, and a sandbox has others, which see none outside")


def _refuse_root(path: str) -> None:
    if path == os.path.dirname(path):
        raise SpecError(f"{path} is the whole machine: name the directories that are meant")
