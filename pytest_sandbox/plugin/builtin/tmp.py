"""What outlives a sandbox: tmp_path as its retention policy says, and what a failed test wrote (`keep`). Imports pytest.

Both are copied out of a layer that is not trusted: see `sandbox.upper`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from _pytest.pathlib import _force_symlink
from _pytest.tmpdir import TempPathFactory

from pytest_sandbox.model.errors import TeardownWarning
from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.model.spec import Keep
from pytest_sandbox.sandbox.cleanup.removal import remove_tree
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor

#: Of a test's name in that of its directory: `_pytest.tmpdir._mk_tmp`.
_LONGEST = 30


class Numbers:
    """Gives each test's `tmp_path` the number that it has in plain pytest, where the directories of all tests before are seen.

    Otherwise tests would have one directory at the run's end: those of one name, and `test_x` and `test_x1` with the numbers 10
    and 0. (That a test before made none, or that it is removed already, is not foreseen: numbers are left out then.)
    """

    def __init__(self, items: Sequence[pytest.Item]) -> None:
        self._next: dict[str, int] = {}
        self._of: dict[int, tuple[str, int]] = {}
        self._names: set[str] = set()
        for index, item in enumerate(items):
            if {"tmp_path", "tmpdir"}.intersection(getattr(item, "fixturenames", ())):
                name = re.sub(r"[\W]", "_", item.name)[:_LONGEST]
                number = self._free(name, self._next.get(name.lower(), 0))
                self._next[name.lower()] = number + 1
                self._of[index] = name, number
                self._names.add(f"{name}{number}")
        self._now: tuple[str, int] | None = None

    def _free(self, name: str, number: int) -> int:
        """The first number from this one on with which a name is no test's."""
        return next(n for n in itertools.count(number) if f"{name}{n}" not in self._names)

    @contextlib.contextmanager
    def given(self) -> Iterator[None]:
        """Within: pytest takes them, here and in all sandboxes."""
        own = TempPathFactory.mktemp

        def mktemp(factory: TempPathFactory, basename: str, numbered: bool = True) -> Path:  # as pytest's
            name, number = self._now or ("", 0)
            path = factory.getbasetemp() / f"{name}{number}"
            if numbered and basename == name and not path.exists():
                return _make(path, name)
            path = own(factory, basename, numbered)
            if not numbered or path.name not in self._names:
                return path
            path.rmdir()  # it has the name of a test's that is not to be seen here
            number = -1
            while path.name in self._names or path.exists():
                number = self._free(basename, number + 1)
                path = path.with_name(f"{basename}{number}")
            return _make(path, basename)

        TempPathFactory.mktemp = mktemp  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            TempPathFactory.mktemp = own  # type: ignore[method-assign]

    def is_of_others(self, name: str, items: Sequence[int]) -> bool:
        """Whether a directory's name is given to a test, and to none of these."""
        return name in self._names and not any(name == "{}{}".format(*self._of[item]) for item in items if item in self._of)

    def begin(self, index: int, earlier: int) -> None:
        """An item runs, by its index, after so many earlier attempts."""
        name, number = self._of.get(index, ("", 0))
        every = self._next.get(name.lower(), 0)
        number += earlier * every
        while earlier and f"{name}{number}" in self._names:
            number += every
        self._now = (name, number) if name else None


def _make(path: Path, name: str) -> Path:
    """Make a numbered directory as pytest does."""
    path.mkdir(mode=0o700)
    _force_symlink(path.parent, f"{name}current", path)
    return path


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Where on the machine lies what sandboxes left: a directory below basetemp, which they do not have in their view.

    top: its path; itself: the device and inode there. What is kept of a test is there for good, under its sandbox's name.
    """

    top: str
    itself: tuple[int, int]
    numbers: Numbers

    @property
    def basetemp(self) -> str:
        """Where it is."""
        return os.path.dirname(self.top)

    @property
    def waiting(self) -> str:
        """What is to go to basetemp at the run's end."""
        return f"{self.top}/tmp"

    def leaves_out(self, items: Sequence[int]) -> Callable[[str], bool]:
        """What in its basetemp a sandbox in which these items ran may not put there on the machine."""
        return lambda name: name == os.path.basename(self.top) or self.numbers.is_of_others(name, items)


_ROOM: pytest.StashKey[Room] = pytest.StashKey()


def make_room(config: pytest.Config, numbers: Numbers) -> None:
    """Make it before the first sandbox. OSError: it cannot be made."""
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None and factory._basetemp is not None:
        top = tempfile.mkdtemp(prefix="sandbox-", dir=factory._basetemp)
        config.stash[_ROOM] = Room(top, _identity(top), numbers)


def leave_room(config: pytest.Config) -> None:
    """In a run's outermost sandbox: take it out of the view of all, by a whiteout in the layer that is around theirs.

    Not by a mount, which would be one more for each, and a name that is seen. The machine's own stays, where `writable` has let
    it through.
    """
    room = config.stash.get(_ROOM, None)
    with contextlib.suppress(OSError):
        if room is not None and _identity(room.top) != room.itself:
            # Where an outermost sandbox has died and this is another one, there is something in it. (remove_tree renames
            # directories, which an overlay does not do with a lower layer's: EXDEV.)
            shutil.rmtree(room.top)


def without_room(config: pytest.Config, outcome: Outcome) -> Outcome:
    """What has become of a scope, but for that."""
    room = config.stash.get(_ROOM, None)
    if room is None or not outcome.changes:
        return outcome
    return dataclasses.replace(outcome, changes=tuple(change for change in outcome.changes if change.path != room.top))


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path, follow_symlinks=False)
    return status.st_dev, status.st_ino


def keep_tmp_path(config: pytest.Config, supervisor: Supervisor, running: Running, items: Sequence[int] = ()) -> str:
    """Keep for the machine's basetemp what the sandbox left of its temporary directories; see `put_back`. What is lost, or "".

    items: those that ran in it. Most write nothing there; that is seen in the layer, since a test may ask for `tmp_path` as it
    runs. `tmp_path` itself has removed there what `tmp_path_retention_policy` does not keep.
    """
    room = config.stash.get(_ROOM, None)
    if room is None or not supervisor.may_have(running, room.basetemp):
        return ""
    factory = config._tmp_path_factory  # type: ignore[attr-defined]
    if factory._retention_policy == "none" and factory._given_basetemp is None:
        return ""  # the whole directory is removed at pytest's end
    try:
        os.makedirs(room.waiting, exist_ok=True)
        supervisor.copy_out(running, room.basetemp, room.waiting, room.leaves_out(items))
    except OSError as error:
        return f"some of what was left in temporary directories could not be copied to {room.basetemp}: {error.strerror}"
    return ""


def put_back(config: pytest.Config) -> None:
    """Put what sandboxes left of temporary directories where it belongs, when no sandbox is left.

    Not before: basetemp is in the lowest layer of all, and what a test adds there to a directory of a wider fixture would be
    seen by later tests. To be called before pytest's own end, which removes what `tmp_path_retention_policy` does not keep.
    """
    room = config.stash.get(_ROOM, None)
    if room is None:
        return
    del config.stash[_ROOM]
    try:
        if os.path.isdir(room.waiting):
            _move_into(room.waiting, room.basetemp)
            os.rmdir(room.waiting)
        if os.path.isdir(room.top) and not os.listdir(room.top):
            os.rmdir(room.top)
    except OSError as error:
        text = f"what tests left in temporary directories could not be put back, and is in {room.waiting}: {error}"
        warnings.warn(TeardownWarning(text), stacklevel=2)


def _move_into(source: str, target: str) -> None:
    """Move what is in a directory into another; what is there already goes, but for directories. No link is followed."""
    with os.scandir(source) as entries:
        found = list(entries)
    for entry in found:
        place = os.path.join(target, entry.name)
        if _is_directory(place) and entry.is_dir(follow_symlinks=False):
            _move_into(entry.path, place)
            os.rmdir(entry.path)
        else:
            if _is_directory(place):
                remove_tree(place)
            elif entry.is_dir(follow_symlinks=False) and os.path.lexists(place):
                os.unlink(place)
            _rename(entry, place)


def _rename(entry: os.DirEntry[str], place: str) -> None:
    """Move one entry; a directory that its owner may not write to has to be opened for that: rename(2), EACCES."""
    try:
        os.rename(entry.path, place)
    except PermissionError:
        mode = entry.stat(follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            raise
        os.chmod(entry.path, 0o700)
        os.rename(entry.path, place)
        os.chmod(place, stat.S_IMODE(mode))


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def keep_changes(
    config: pytest.Config, supervisor: Supervisor, running: Running, outcome: Outcome, *, failed: bool
) -> tuple[Path | None, str]:
    """Save everything that the sandbox wrote, where its `keep` says so; returns the directory, and what is lost, or ""."""
    keep = running.order.spec.keep
    if not outcome.changes or keep is Keep.NEVER or (keep is Keep.FAILED and not failed):
        return None, ""
    room = config.stash.get(_ROOM, None)
    if room is None:
        return None, ""
    count, lost, target = 0, "", Path(room.top, running.name)
    try:
        target.mkdir(mode=0o700, parents=True)
        count = supervisor.copy_out(running, "/", os.fspath(target))
    except OSError as error:
        lost = f"some of what was written could not be kept in {target}: {error.strerror}"
        count = len(os.listdir(target)) if target.is_dir() else 0
    if not count:
        with contextlib.suppress(OSError):
            target.rmdir()
        return None, lost
    return target, lost
