"""Layers that are not to be trusted: walked, copied out and removed without following or waiting for anything."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_sandbox import Change, ChangeKind
from pytest_sandbox.primitives.overlay import Tree, TreeKind
from pytest_sandbox.sandbox.cleanup.removal import remove_tree
from pytest_sandbox.sandbox.files import copying, upper

TREES = (Tree("/", TreeKind.OVERLAY), Tree("/nowhere", TreeKind.BIND))


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """The upper of a layer's only overlay; removed at the end, since pytest's own removal of old directories is not deep."""
    top = tmp_path / "layer" / "u" / "0"
    top.mkdir(parents=True)
    yield top
    assert remove_tree(str(tmp_path / "layer")) == ""


@pytest.fixture
def layer(top: Path) -> Iterator[int]:
    """The layer's descriptor."""
    fd = os.open(top.parent.parent, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def deep(path: Path, levels: int = 10_000) -> None:
    """So many directories in each other, which no path could name."""
    source = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(int(sys.argv[2])):\n    os.mkdir('d'); os.chdir('d')"
    subprocess.run([sys.executable, "-c", source, path, str(levels)], check=True)


def trap(path: Path) -> None:
    """A link out, a FIFO without a writer, a socket, a device where allowed, a locked directory, odd names, a link loop."""
    (path / "link").symlink_to("/etc")
    (path / "file link").symlink_to("/etc/passwd")
    (path / "loop").symlink_to("loop")
    os.mkfifo(path / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        directory = os.open(path, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    if os.geteuid() == 0:
        os.mknod(path / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero, which has no end
    (path / "locked").mkdir()
    (path / "locked" / "inner").write_text("inner")
    (path / "locked").chmod(0)
    (path / "new\nline\t\"'\\ \udcff").write_text("odd")
    (path / ("x" * 255)).write_text("long")


def test_changes_follow_nothing(top: Path, layer: int) -> None:
    """Each entry is told as itself; whiteouts are deletions."""
    (top / "zone").mkdir()
    trap(top / "zone")
    changes, cut = upper.changes(layer, TREES)
    paths = {change.path.removeprefix("/zone/") for change in changes}
    assert not cut
    assert {"link", "loop", "fifo", "socket", "locked", "locked/inner", "new\nline\t\"'\\ \udcff", "x" * 255} <= paths
    assert not any(path.startswith("link/") for path in paths)
    assert stat.S_IMODE((top / "zone" / "locked").stat().st_mode) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device")
def test_whiteout(top: Path, layer: int) -> None:
    """A character device 0/0 is a deletion, another one is not."""
    os.mknod(top / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(top / "there", stat.S_IFCHR, os.makedev(1, 3))
    assert upper.changes(layer, TREES)[0] == (Change("/gone", ChangeKind.DELETED), Change("/there", ChangeKind.ADDED))


def test_a_deep_tree_is_cut(top: Path, layer: int) -> None:
    """Neither recursion nor descriptors run out, and it is said that there is more."""
    deep(top)
    before = len(os.listdir("/proc/self/fd"))
    changes, cut = upper.changes(layer, TREES)
    assert cut
    assert 60 < len(changes) < 70
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_wide_directory_is_read_in_parts(top: Path, layer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out, nor are all names held at once: it is the test that says how many there are."""
    monkeypatch.setattr(upper, "MOST_COUNTED", 50)
    everything = {f"{number:0200}" for number in range(2000)}
    for name in everything:
        (top / name).touch()
    tracemalloc.start()
    try:
        assert sum(1 for _ in upper.walk(layer, TREES)) == len(everything)
        assert upper.fill_by_walking(layer, TREES) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(everything) * 200 / 2
    changes, cut = upper.changes(layer, TREES)
    assert ({change.path[1:] for change in changes} < everything, cut) == (True, True)
    (tmp_path / "target").mkdir()
    assert copying.copy_out(layer, TREES, "/", str(tmp_path / "target")) == len(everything)


def test_copy_out_follows_nothing(top: Path, layer: int, tmp_path: Path) -> None:
    """Files, directories and links (as links) only; nothing is waited for."""
    (top / "zone").mkdir()
    trap(top / "zone")
    target = tmp_path / "target"
    target.mkdir()
    copying.copy_out(layer, TREES, "/zone", str(target))
    found = {path.name for path in target.rglob("*")}
    assert {"link", "file link", "loop", "locked", "inner", "x" * 255} <= found
    assert not found & {"fifo", "socket", "device", "passwd"}
    assert os.readlink(target / "link") == "/etc"
    assert (target / "locked" / "inner").read_text() == "inner"


def test_copy_out_of_a_deep_tree(top: Path, layer: int, tmp_path: Path) -> None:
    """Ends."""
    deep(top)
    target = tmp_path / "target"
    target.mkdir()
    assert copying.copy_out(layer, TREES, "/", str(target)) > 10
    assert remove_tree(str(target)) == ""


def test_an_entry_that_changes_while_it_is_read(top: Path, layer: int) -> None:
    """A layer that lives may be looked at: whatever is gone in between is left out."""
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            (top / "a").mkdir(exist_ok=True)
            (top / "a" / "f").write_text("x")
            (top / "a" / "f").unlink()
            (top / "a").rmdir()
            (top / "a").symlink_to("/etc")
            (top / "a").unlink()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            changes, _ = upper.changes(layer, TREES)
            assert {change.path for change in changes} <= {"/a", "/a/f"}
    finally:
        stop.set()
        thread.join()


def wide(path: Path) -> None:
    """Many directories side by side."""
    for number in range(2000):
        (path / str(number)).mkdir()


@pytest.mark.parametrize("fill", [trap, deep, wide])
def test_remove_tree(tmp_path: Path, fill: Callable[[Path], object]) -> None:
    """All of it, and nothing that a link leads to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "out").symlink_to(outside)
    (tree / "1").mkdir()
    (tree / "1" / "1").mkdir()
    (tree / "1" / "1" / "2").mkdir()
    (tree / "1" / "1" / "2" / "f").write_text("")
    (tree / "fill").mkdir()
    fill(tree / "fill")
    before, seconds, whys = len(os.listdir("/proc/self/fd")), 1e-4, [remove_tree(str(tree), 0.0)]
    assert (tree / "fill").exists()
    while whys[-1]:  # wherever it is out of time, the next one goes on
        whys.append(remove_tree(str(tree), time.monotonic() + seconds))
        seconds *= 2
    assert set(whys) == {f"{tree}: there is too much in it for the time that is left", ""}
    assert not tree.exists()
    assert (outside / "kept").exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_remove_tree_of_nothing(tmp_path: Path) -> None:
    """What is not there is removed; what is no directory is not, and named."""
    assert remove_tree(str(tmp_path / "missing")) == ""
    (tmp_path / "link").symlink_to("/etc")
    assert "Not a directory" in remove_tree(str(tmp_path / "link"))
