"""Bringing home what sandboxes wrote to the directories that they had in common: the machine's are changed as theirs were.

Regular files, directories and deletions only: whoever reads the machine's directory next, pytest among them, follows the links
that are there, and waits for a FIFO. What goes for reading a layer goes here, see `upper`; each file is made beside the old one
and takes its place. Imports `upper`, `copying` and `removal`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Sequence

from pytest_sandbox.primitives.overlay import Tree
from pytest_sandbox.sandbox import copying, upper
from pytest_sandbox.sandbox.removal import remove_tree


def bring(layer: int, trees: Sequence[Tree]) -> list[str]:
    """Do it; layer: of overlays over these directories, which nobody writes to any more. What was not possible, in sentences."""
    return [problem for index, tree in enumerate(trees) if (problem := _bring_tree(layer, index, tree))]


def _bring_tree(layer: int, index: int, tree: Tree) -> str:
    problems = list[str]()
    try:
        top = os.open(tree.path, upper.DIRECTORY)
    except OSError as error:
        return f"{tree.path}: what tests wrote there is lost: {error.strerror}"
    try:
        for entry in upper.walk_tree(layer, index, tree.path):
            problems += _bring(entry, top)
    finally:
        os.close(top)
    return f"{len(problems)} of what tests wrote is lost, of which the first is {problems[0]}" if problems else ""


def _bring(entry: upper.Entry, top: int) -> list[str]:
    *parents, name = entry.path.split("/")[-1 - entry.depth :]
    try:
        directory = copying.descend(top, parents)
        try:
            _bring_to(directory, name, entry)
        finally:
            os.close(directory)
    except OSError as error:
        return [f"{entry.path}: {error.strerror}"]
    return []


def _bring_to(directory: int, name: str, entry: upper.Entry) -> None:
    if upper.is_whiteout(entry.status):
        _remove(name, directory)
    elif stat.S_ISDIR(entry.status.st_mode):
        _bring_directory(entry, name, directory)
    elif stat.S_ISREG(entry.status.st_mode):
        _bring_file(entry, name, directory)


def _bring_directory(entry: upper.Entry, name: str, directory: int) -> None:
    if entry.below is not None and upper.is_opaque(entry.below):
        _remove(name, directory)
    try:
        os.mkdir(name, 0o700 | stat.S_IMODE(entry.status.st_mode) & 0o755, dir_fd=directory)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=directory)
            os.mkdir(name, 0o755, dir_fd=directory)


def _bring_file(entry: upper.Entry, name: str, directory: int) -> None:
    new = f".{secrets.token_hex(8)}"
    try:
        copying.copy_file(entry, directory, new)
        try:
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except IsADirectoryError:
            _remove(name, directory)
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        if problem := remove_tree(f"/proc/self/fd/{directory}/{name}"):
            raise OSError(0, problem) from None
