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


class Home:
    """The machine's directories, opened before the first sandbox: one may write what is around them, and put a link there."""

    def __init__(self, trees: Sequence[Tree]) -> None:
        self._trees = trees
        self.tops: list[int] = []
        try:
            for tree in trees:
                self.tops.append(os.open(tree.path, upper.DIRECTORY))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close them."""
        for top in self.tops:
            os.close(top)
        self.tops.clear()

    def bring(self, layer: int) -> list[str]:
        """Do it; layer: of the overlays over them, which nobody writes to any more. What was not possible, in sentences."""
        problems = []
        for index, (tree, top) in enumerate(zip(self._trees, self.tops, strict=True)):
            lost = [text for entry in upper.walk_tree(layer, index, tree.path) for text in _bring(entry, top)]
            if lost:
                problems.append(f"{len(lost)} of what tests wrote is lost, of which the first is {lost[0]}")
        return problems


def _bring(entry: upper.Entry, top: int) -> list[str]:
    *parents, name = entry.names
    try:
        directory = copying.descend(top, parents)
        try:
            _bring_to(directory, name, entry)
        finally:
            os.close(directory)
        if upper.is_cut(entry):
            return [f"{entry.path}: it lies too deep"]
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
    mode = 0o700 | stat.S_IMODE(entry.status.st_mode) & 0o777
    try:
        os.mkdir(name, mode, dir_fd=directory)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=directory)
            os.mkdir(name, mode, dir_fd=directory)


def _bring_file(entry: upper.Entry, name: str, directory: int) -> None:
    new = f".{secrets.token_hex(8)}"
    try:
        copying.copy_file(entry, directory, new, rights=0o777)
        _keep_group(name, new, directory)
        try:
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except IsADirectoryError:
            _remove(name, directory)
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise


def _keep_group(name: str, new: str, directory: int) -> None:
    """Leave to a group what it could read and write, where a file takes the place of an older one."""
    with contextlib.suppress(OSError):
        old = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(old.st_mode):
            os.chown(new, -1, old.st_gid, dir_fd=directory, follow_symlinks=False)
            os.chmod(new, stat.S_IMODE(old.st_mode) & 0o777, dir_fd=directory)


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        if problem := remove_tree(f"/proc/self/fd/{directory}/{name}"):
            raise OSError(0, problem) from None
