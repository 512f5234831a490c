"""What outlives a sandbox: tmp_path as its retention policy says, and what a failed test wrote (`keep`). Imports pytest.

Both are copied out of a layer that is not trusted: see `sandbox.upper`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from _pytest.pathlib import _force_symlink
from _pytest.tmpdir import TempPathFactory

from pytest_sandbox.model.errors import TeardownWarning
from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.model.spec import Keep
from pytest_sandbox.sandbox.cleanup.removal import remove_tree
from pytest_sandbox.sandbox.files.copying import CopyError
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor

TMP_FIXTURES = frozenset({"tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory", "pytester", "testdir"})
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


#: Where what sandboxes left of their temporary directories waits for the run's end.
_WAITING: pytest.StashKey[str] = pytest.StashKey()


def keep_tmp_path(config: pytest.Config, supervisor: Supervisor, running: Running, *, used: bool) -> str:
    """Keep for the machine's basetemp what the sandbox left of its temporary directories; see `put_back`. What is lost, or "".

    `tmp_path` itself has removed there what `tmp_path_retention_policy` does not keep.
    """
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None or not used or factory._basetemp is None:
        return ""
    if factory._retention_policy == "none" and factory._given_basetemp is None:
        return ""  # the whole directory is removed at pytest's end
    if _WAITING not in config.stash:
        config.stash[_WAITING] = tempfile.mkdtemp(prefix=".sandbox-", dir=factory._basetemp)
    try:
        supervisor.copy_out(running, str(factory._basetemp), config.stash[_WAITING])
    except CopyError as error:
        return f"some of what was left in temporary directories could not be copied to {factory._basetemp}: {error.strerror}"
    return ""


def put_back(config: pytest.Config) -> None:
    """Put what sandboxes left of temporary directories where it belongs, when no sandbox is left.

    Not before: basetemp is in the lowest layer of all, and what a test adds there to a directory of a wider fixture would be
    seen by later tests. To be called before pytest's own end, which removes what `tmp_path_retention_policy` does not keep.
    """
    waiting = config.stash.get(_WAITING, None)
    if waiting is None:
        return
    del config.stash[_WAITING]
    try:
        _move_into(waiting, os.path.dirname(waiting))
        os.rmdir(waiting)
    except OSError as error:
        text = f"what tests left in temporary directories could not be put back, and is in {waiting}: {error}"
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
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None or factory._basetemp is None:
        return None, ""
    # A name that no test could have guessed, and left a link at, in what was copied out of it before.
    lost, target = "", Path(tempfile.mkdtemp(prefix=f"sandbox-{running.name}-", dir=factory.getbasetemp()))
    try:
        count = supervisor.copy_out(running, "/", os.fspath(target))
    except CopyError as error:
        lost = f"some of what was written could not be kept in {target}: {error.strerror}"
        count = len(os.listdir(target))
    if not count:
        target.rmdir()
        return None, lost
    return target, lost
