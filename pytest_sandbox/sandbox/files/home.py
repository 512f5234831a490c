"""Bringing home what sandboxes wrote to the directories that they had in common: the machine's are changed as theirs were.

Regular files, directories and deletions only: whoever reads the machine's directory next, pytest among them, follows the links
that are there, and waits for a FIFO. What goes for reading a layer goes here, see `upper`; each file is made beside the old one
and takes its place. It is done outside of every cgroup: bytes and time are bounded here. Imports `interrupts`, `upper`,
`copying` and `removal`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Sequence

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.units import format_size
from pytest_sandbox.primitives import interrupts
from pytest_sandbox.primitives.overlay import Tree
from pytest_sandbox.sandbox.cleanup.removal import remove_tree
from pytest_sandbox.sandbox.files import copying, upper

#: How long it may take, in seconds. As many files as there usually may be, 200,000, take 15 s of CPU time.
LONGEST = 300.0
#: Why something does not come home, "" where it does: its path, and a descriptor of what is a regular file.
Refuses = Callable[[str, int | None], str]


def takes_all(path: str, file: int | None) -> str:
    """Refuse nothing."""
    del path, file
    return ""


class Home:
    """The machine's directories, opened before the first sandbox: one may write what is around them, and put a link there."""

    def __init__(self, trees: Sequence[Tree], refuses: Refuses = takes_all) -> None:
        self._trees = trees
        self._refuses = refuses
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

    def bring(self, layer: int, room: int, seconds: float = LONGEST) -> list[str]:
        """Do it; layer: of the overlays over them, which nobody writes to any more. What was not possible, in sentences.

        room: the most bytes, of all files together. A signal that asks this process to end is served after the file at hand.
        """
        problems = list[str]()
        bringing = _Bringing(room, monotonic() + seconds, self._refuses)
        with interrupts.held():
            for index, (tree, top) in enumerate(zip(self._trees, self.tops, strict=True)):
                try:
                    if os.fstat(top).st_nlink == 0:
                        problems.append(f"what tests wrote to {tree.path} is lost: somebody has removed it meanwhile")
                        continue
                    bringing.bring(layer, index, tree, top)
                except _OverError as over:
                    return [*problems, *bringing.told(), f"what tests wrote is lost from {over}"]
                problems += bringing.told()
        return problems


class _OverError(Exception):
    """Nothing more comes home, from a path on."""


class _Bringing:
    """What is left of the room, and what is lost by now. way: the machine's directories on the way down, None for a lost one."""

    def __init__(self, room: int, until: float, refuses: Refuses) -> None:
        self._room = self._most = room
        self._until, self._refuses = until, refuses
        self._lost, self._first = 0, ""  # and no more of it: there may be many, and their paths long
        self._way: list[int | None] = []

    def told(self) -> list[str]:
        """What has been lost since this was last asked, in a sentence or none."""
        lost, self._lost = self._lost, 0
        return [f"{lost} of what tests wrote is lost, of which the first is {self._first}"] if lost else []

    def bring(self, layer: int, index: int, tree: Tree, top: int) -> None:
        """Bring home what was written to one directory. _OverError when there is no time any more."""
        self._way = [os.dup(top)]
        try:
            for entry in upper.walk_tree(layer, index, tree.path):
                self._up(entry.depth + 1)
                self._go_on(entry)
                if (directory := self._way[-1]) is not None:
                    self._bring(entry, directory)
        finally:
            self._up(0)

    def _up(self, depth: int) -> None:
        while len(self._way) > depth:
            if (directory := self._way.pop()) is not None:
                os.close(directory)

    def _go_on(self, entry: upper.Entry) -> None:
        if number := interrupts.waiting():
            raise _OverError(f"{entry.path} on: {number.name}")
        if monotonic() > self._until:
            raise _OverError(f"{entry.path} on: it takes too long")

    def _bring(self, entry: upper.Entry, directory: int) -> None:
        is_directory, below, name = stat.S_ISDIR(entry.status.st_mode), None, entry.name
        try:
            if stat.S_ISREG(entry.status.st_mode):
                self._file(entry, directory)
            elif why := self._refuses(entry.path, None):
                self._lose(entry, why)
            elif upper.is_whiteout(entry.status):
                _remove(name, directory, self._until)
            elif is_directory:
                below = self._directory(entry, directory)
            else:
                self._lose(entry, "it is neither a file nor a directory")
        except OSError as error:
            self._lose(entry, str(error.strerror))
        if is_directory:
            self._way.append(below)

    def _lose(self, entry: upper.Entry, why: str) -> None:
        if not self._lost:
            self._first = f"{entry.path}: {why}"
        self._lost += 1

    def _directory(self, entry: upper.Entry, directory: int) -> int:
        name = entry.name
        if entry.below is not None and upper.is_opaque(entry.below):
            _remove(name, directory, self._until)
        mode = 0o700 | stat.S_IMODE(entry.status.st_mode) & 0o777
        try:
            os.mkdir(name, mode, dir_fd=directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
                os.mkdir(name, mode, dir_fd=directory)
        if entry.below is None:
            self._lose(entry, "it cannot be read")
        elif upper.is_cut(entry):
            self._lose(entry, "it lies too deep")
        return os.open(name, upper.DIRECTORY, dir_fd=directory)

    def _file(self, entry: upper.Entry, directory: int) -> None:
        """A name counts with all that its file claims to hold: neither a hole nor a second name may make more of it."""
        size = entry.status.st_size
        if size > self._room:
            self._lose(entry, f"all of it together may be {format_size(self._most)}")
            return
        source = _open_file(entry)
        try:
            if why := self._refuses(entry.path, source):
                self._lose(entry, why)
                return
            self._room -= size
            _put(source, entry, directory, self._until)
        finally:
            os.close(source)


def _open_file(entry: upper.Entry) -> int:
    """Open it, and an ordinary user's own also where he has no right to read it: nobody else is there any more. OSError."""
    try:
        return os.open(entry.name, copying.FILE, dir_fd=entry.parent)
    except PermissionError:
        os.chmod(entry.name, 0o600, dir_fd=entry.parent)
        return os.open(entry.name, copying.FILE, dir_fd=entry.parent)


def _put(source: int, entry: upper.Entry, directory: int, until: float) -> None:
    name, new = entry.name, f".{secrets.token_hex(8)}"
    try:
        copying.copy_file(source, directory, new, 0o600 | stat.S_IMODE(entry.status.st_mode) & 0o777)
        _keep_rights(name, new, directory)
        try:
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except IsADirectoryError:
            _remove(name, directory, until)
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise


def _keep_rights(name: str, new: str, directory: int) -> None:
    """Leave to owner and group what they could read and write, where a file takes the place of an older one."""
    with contextlib.suppress(OSError):
        old = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(old.st_mode):
            owner = old.st_uid if os.geteuid() == 0 else -1
            os.chown(new, owner, old.st_gid, dir_fd=directory, follow_symlinks=False)
            os.chmod(new, stat.S_IMODE(old.st_mode) & 0o777, dir_fd=directory)


def _remove(name: str, directory: int, until: float) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        if problem := remove_tree(f"/proc/self/fd/{directory}/{name}", until):
            raise OSError(0, problem) from None
