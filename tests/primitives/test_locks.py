"""Locked directories: they are their maker's as long as he lives, and nobody's afterwards."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_sandbox.primitives.locks import Locks, left


def is_left(path: Path) -> bool:
    """Whether nobody has it."""
    with left(str(path)) as alone:
        return alone


def test_left_when_it_is_released(tmp_path: Path) -> None:
    """Not before; and what does not exist is not left either."""
    path, locks = tmp_path / "one", Locks()
    assert not is_left(path)
    locks.make(str(path))
    assert not is_left(path)
    locks.release()
    assert is_left(path)


def test_two_do_not_take_the_same_one(tmp_path: Path) -> None:
    """Whoever has found it left has it to himself."""
    with left(str(tmp_path)) as alone:
        assert alone
        assert not is_left(tmp_path)
    assert is_left(tmp_path)


def test_a_link_is_nothing_that_was_left(tmp_path: Path) -> None:
    """It would lead to a directory that nobody here has made."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert not is_left(tmp_path / "link")


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    """By anybody."""
    with pytest.raises(FileExistsError):
        Locks().make(str(tmp_path))


def test_what_cannot_be_locked_is_not_left(tmp_path: Path) -> None:
    """For want of a descriptor: nobody would know of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Locks().make(str(tmp_path / "one"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_fork_has_no_part_in_it(tmp_path: Path) -> None:
    """Neither does it unlock what its parent has, nor keep it, nor have a descriptor of it."""
    path, locks = tmp_path / "one", Locks()
    locks.make(str(path))
    told, tell = os.pipe()
    end, hold = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hold)
        targets = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                targets.append(os.readlink(f"/proc/self/fd/{name}"))
        os.write(tell, b"yes" if str(path) in targets else b"no")
        os.read(end, 1)
        os._exit(0)
    os.close(tell)
    os.close(end)
    try:
        assert os.read(told, 3) == b"no"
        assert not is_left(path)
        locks.release()
        assert is_left(path)
    finally:
        os.close(told)
        os.close(hold)
        os.waitpid(child, 0)


def test_left_when_its_maker_is_killed(tmp_path: Path) -> None:
    """By the kernel's own hand, whatever ended him."""
    path = tmp_path / "one"
    source = "import sys, time\nfrom pytest_sandbox.primitives.locks import Locks\nlocks = Locks()\nlocks.make(sys.argv[1])\n"
    source += "print('made', flush=True)\ntime.sleep(600)"
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", source, str(path)], stdout=subprocess.PIPE, env=environment) as maker:
        assert maker.stdout
        assert maker.stdout.readline() == b"made\n"
        assert not is_left(path)
        maker.kill()
    assert is_left(path)


def test_whoever_makes_one_has_it_although_others_remove_what_they_find(tmp_path: Path) -> None:
    """Between mkdir and lock it looks like one that was left: it is made again, and then nobody removes it."""
    path, done, removed = tmp_path / "one", threading.Event(), 0

    def remove_what_is_left() -> None:
        nonlocal removed
        while not done.is_set():
            with left(str(path)) as alone:
                if alone:
                    path.rmdir()
                    removed += 1

    remover = threading.Thread(target=remove_what_is_left)
    remover.start()
    try:
        while removed < 20:
            locks = Locks()
            with contextlib.suppress(FileExistsError):
                locks.make(str(path))
                assert path.is_dir()
                assert not is_left(path)
            locks.release()
    finally:
        done.set()
        remover.join()
