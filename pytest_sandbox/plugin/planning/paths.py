"""Paths as users write them, to real absolute ones. Imports `model` only.

Relative ones are taken from the directory that the caller names, ~ is expanded, and symlinks are followed now, as
each sandbox would else follow them in a tree of its own. All raise SpecError for what cannot be meant.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pytest_sandbox.model import places
from pytest_sandbox.model.errors import SpecError


def writable(path: str, directory: Path) -> str:
    """A path whose changes go through to the machine: it must exist. See `places.refuse_writable`."""
    found = _real(path, directory)
    places.refuse_writable(found)
    if not os.path.exists(found):
        raise SpecError(f"{path!r} does not exist ({found}): create it first, or correct the path")
    return found


def hidden(path: str, directory: Path) -> str:
    """A path that is to be empty inside. Where there is none, as ~/.ssh on a CI machine, nothing has to be hidden."""
    found = _real(path, directory)
    places.refuse_hidden(found)
    return found


def refuse_absent(hidden_paths: Iterable[str]) -> None:
    """Raise SpecError for a path to hide that is not there: on the command line, which is this machine's, it is a mistake."""
    for path in absent(hidden_paths):
        raise SpecError(
            f"{path} does not exist, so that nothing would be hidden: correct the path, or, if only some machines have it, "
            "name it in the ini key sandbox_hide"
        )


def absent(hidden_paths: Iterable[str]) -> list[str]:
    """Those that are not there."""
    return [path for path in hidden_paths if not os.path.lexists(path)]


def scratch(path: str, directory: Path) -> str:
    """A directory for what tests write. That it has room for a file is tried, with one that has no name."""
    # Most runs have no scratch.
    import tempfile

    found = _real(path, directory)
    if not os.path.isdir(found):
        raise SpecError(f"{path!r} is not a directory ({found}): create it first, or name one that exists")
    try:
        with tempfile.TemporaryFile(dir=found) as file:
            file.write(bytes(4096))
    except OSError as error:
        fix = "name a directory that you may write, with room on its file system"
        raise SpecError(f"{path!r} cannot be written ({found}): {error.strerror}: {fix}") from error
    return found


def _real(path: str, directory: Path) -> str:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise SpecError(f"{path!r}: there is no such home directory: write the path in full")
    return os.path.realpath(os.path.join(directory, expanded))
