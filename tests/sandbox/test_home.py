"""What comes home of directories that sandboxes had in common: bounded in bytes and time, and as it was there before."""

from __future__ import annotations

import os
import signal
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_sandbox.model.spec import MIB
from pytest_sandbox.primitives.interrupts import deferred
from pytest_sandbox.primitives.overlay import Tree, TreeKind
from pytest_sandbox.sandbox.files.home import Home

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Bring = Callable[..., list[str]]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Where sandboxes have written: the upper of the only overlay."""
    directory = tmp_path / "layer" / "u" / "0"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The machine's directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
def bring(written: Path, there: Path) -> Iterator[Bring]:
    """Bring home; what is said of it."""
    home = Home([Tree(str(there), TreeKind.OVERLAY)])

    def call(room: int = MIB, **bounds: float) -> list[str]:
        layer = os.open(written.parent.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return home.bring(layer, room, **bounds)
        finally:
            os.close(layer)

    yield call
    home.close()


def left(directory: Path) -> dict[str, int]:
    """Files by their paths, and their sizes."""
    return {str(path.relative_to(directory)): path.stat().st_size for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["links", "holes"])
def test_no_more_bytes_than_there_is_room(written: Path, there: Path, bring: Bring, kind: str) -> None:
    """Neither many names of one file nor a file of holes make more of what was written; the rest comes, and it is said."""
    first = written / "d0"
    with first.open("wb") as file:
        file.truncate(400_000 if kind == "links" else 1 << 40)
    for number in range(1, 5):
        os.link(first, written / f"d{number}")
    (written / "small").write_text("small")
    problems = bring()
    files = left(there)
    assert files.pop("small") == 5
    assert files == ({"d0": 400_000, "d1": 400_000} if kind == "links" else {})
    count, name = (3, "d2") if kind == "links" else (5, "d0")
    assert problems == [
        f"{count} of what tests wrote is lost, of which the first is {there}/{name}: all of it together may be 1M"
    ]


def test_all_of_it(written: Path, there: Path, bring: Bring) -> None:
    """What lies deep, and what lies beside that; names that nobody can read are no obstacle; nothing else is left."""
    path = written / Path(*"d" * 60)
    path.mkdir(parents=True)
    for number in range(300):
        (path / f"f{number}").write_text(str(number))
    (written / "d" / "z").write_text("z")
    (written / "locked").write_text("locked")
    (written / "locked").chmod(0)
    assert bring() == []
    assert {name.rpartition("/")[2]: size for name, size in left(there).items()} == {
        **{f"f{number}": len(str(number)) for number in range(300)},
        "z": 1,
        "locked": 6,
    }
    assert (there / Path(*"d" * 60) / "f17").read_text() == "17"


def test_a_directory_that_cannot_be_had(written: Path, there: Path, bring: Bring) -> None:
    """It is lost with what is in it, and named; what comes after it is not."""
    for name in ("a/b/c", "d"):
        (written / name).parent.mkdir(parents=True, exist_ok=True)
        (written / name).write_text(name)
    (written / "fifo").parent.mkdir(exist_ok=True)
    os.mkfifo(written / "fifo")
    (there / "a").mkdir()
    (there / "a" / "b").symlink_to(there)
    os.chmod(there / "a", 0o500)
    problems = bring()
    os.chmod(there / "a", 0o700)
    if os.geteuid() == 0:  # who may write everywhere, and follows no link all the same
        assert not (there / "a" / "b").is_symlink()
        assert "a/b/c" in left(there)
        lost = f"1 of what tests wrote is lost, of which the first is {there}/fifo: it is neither a file nor a directory"
    else:
        lost = f"2 of what tests wrote is lost, of which the first is {there}/a/b: Permission denied"
    assert problems == [lost]
    assert "d" in left(there)


def test_a_bound_of_time(written: Path, there: Path, bring: Bring) -> None:
    """What is not home by then is lost, and it is said from where on."""
    (written / "file").write_text("content")
    assert bring(seconds=-1.0) == [f"what tests wrote is lost from {there}/file on: it takes too long"]
    assert left(there) == {}


def test_ctrl_c(written: Path, there: Path, bring: Bring) -> None:
    """Stops it after the file at hand, and is raised when all is said."""
    (written / "file").write_text("content")
    problems = []

    def interrupted() -> None:
        with deferred():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            os.kill(os.getpid(), signal.SIGINT)
            problems.extend(bring())
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert problems == [f"what tests wrote is lost from {there}/file on: SIGINT"]
    assert left(there) == {}


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end(written: Path, there: Path, number: signal.Signals, ignored: bool) -> None:
    """The file at hand comes home, and only then the signal is served; half a file is never left. One that is ignored is."""
    for name in "abc":
        (written / name).write_text(name)
    heard: list[object] = []
    before = signal.signal(number, signal.SIG_IGN if ignored else lambda *_: heard.append(sorted(left(there))))

    def ask(path: str, file: int | None) -> str:
        del file
        if path.endswith("/a"):
            os.kill(os.getpid(), number)
        return ""

    home, layer = Home([Tree(str(there), TreeKind.OVERLAY)], ask), os.open(written.parent.parent, os.O_RDONLY)
    try:
        problems = home.bring(layer, MIB)
    finally:
        home.close()
        os.close(layer)
        signal.signal(number, before)
    if ignored:
        assert (problems, sorted(left(there)), heard) == ([], ["a", "b", "c"], [])
    else:
        assert problems == [f"what tests wrote is lost from {there}/b on: {number.name}"]
        assert (sorted(left(there)), heard) == (["a"], [["a"]])


@pytest.mark.parametrize("mode", [0o664, 0o600])
def test_modes_of_what_was_there(written: Path, there: Path, bring: Bring, mode: int) -> None:
    """A file keeps the mode that it has on the machine."""
    for directory in (written, there):
        (directory / "file").write_text(directory.name)
    (there / "file").chmod(mode)
    assert bring() == []
    assert (there / "file").read_text() == "0"
    assert stat.S_IMODE((there / "file").stat().st_mode) == mode


@root_only
def test_owners_of_what_was_there(written: Path, there: Path, bring: Bring) -> None:
    """A file of another user's stays his, as where root writes to it."""
    for directory in (written, there):
        (directory / "file").write_text(directory.name)
    os.chown(there / "file", 1234, 4321)
    assert bring() == []
    status = (there / "file").stat()
    assert ((there / "file").read_text(), status.st_uid, status.st_gid) == ("0", 1234, 4321)


def test_many_that_are_lost(written: Path, there: Path, bring: Bring) -> None:
    """They are counted, and one of them is named: their names would be gigabytes."""
    path = written / Path(*["d" * 120] * 20)
    path.mkdir(parents=True)
    for number in range(2000):
        os.mkfifo(path / f"{number}")
    tracemalloc.start()
    try:
        problems = bring()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(problems) == 1
    assert problems[0].startswith(f"2000 of what tests wrote is lost, of which the first is {there}/d")
    assert peak < 2 * MIB
