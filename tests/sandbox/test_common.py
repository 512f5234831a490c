"""Directories that sandboxes have in common: what of them comes home, and what a machine's directory is not given."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pytest_sandbox import Limits, Sandbox, SetupError, Spec, TeardownWarning
from tests.sandbox.conftest import root_only, shell


@pytest.mark.needs("xattr")
def test_common(place: Path) -> None:
    """Regular files, directories and deletions come home; what a machine's directory must not be given does not."""
    common = place / "directory"
    for name in ("gone/file", "anew/file", "turned/file"):
        (common / name).parent.mkdir()
        (common / name).write_text("before")
    (common / "own-link").symlink_to(place / "file")
    script = """cd "$COMMON"; cat inner own-link; echo new > new; echo more >> inner; chmod 4777 new; mkfifo fifo
    ln -s "$PLACE/file" link; rm -r gone anew turned; mkdir anew; echo x > anew/other; echo x > turned
    mkdir -p a/b/c; echo deep > a/b/c/d; rm own-link; echo mine > own-link"""
    spec = Spec(common=(str(common),))
    with pytest.warns(TeardownWarning, match="2 of what tests wrote is lost, .*/fifo: it is neither a file nor a directory"):
        result = Sandbox(spec).run(["sh", "-c", script], env={**os.environ, "COMMON": str(common), "PLACE": str(place)})
    assert (result.ok, result.stdout, result.changes) == (True, b"innercontent", ()), result.stderr
    left = {str(path.relative_to(common)): path.lstat() for path in common.rglob("*")}
    files = {name for name, status in left.items() if stat.S_ISREG(status.st_mode)}
    assert files == {"new", "inner", "anew/other", "turned", "a/b/c/d", "own-link"}
    assert set(left) - files == {"anew", "a", "a/b", "a/b/c"}
    assert stat.S_IMODE(left["new"].st_mode) == 0o755
    assert {status.st_uid for status in left.values()} == {os.getuid()}
    assert (common / "inner").read_text() == "innermore\n"
    assert (place / "file").read_text() == "content"


@root_only
@pytest.mark.parametrize("owner", [200_000, 4321])
def test_common_of_others(place: Path, owner: int) -> None:
    """What belongs to somebody who has no id inside is copied; it can be changed, and what was there stays as it was else."""
    common = place / "directory"
    os.chown(common, owner, owner)
    os.chown(common / "inner", owner, owner)
    shell(f"cd {common}; cat inner; echo more >> inner; echo new > new", Spec(common=(str(common),)))
    assert ((common / "inner").read_text(), (common / "new").read_text()) == ("innermore\n", "new\n")
    assert (common.stat().st_uid, (common / "inner").stat().st_gid) == (owner, owner)


@pytest.mark.needs("xattr")
def test_common_keeps_modes_and_depth(place: Path) -> None:
    """Rights of a group stay; what lies deeper than is looked is told."""
    common = place / "directory"
    (common / "inner").chmod(0o664)
    script = f"umask 002; cd {common}; echo more >> inner; mkdir made; echo new > new; {'mkdir d; cd d;' * 70} echo deep > file"
    before = os.umask(0o002)
    try:
        with pytest.warns(TeardownWarning, match="too deep"):
            shell(script, Spec(common=(str(common),)))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((common / name).stat().st_mode) for name in ("inner", "made", "new")}
    assert modes == {"inner": 0o664, "made": 0o775, "new": 0o664}


def test_common_and_writable_in_it(place: Path) -> None:
    """What is let through below is the machine's own, at once."""
    (place / "directory" / "own").mkdir()
    spec = Spec(common=(f"{place}/directory",), writable=(f"{place}/directory/own", f"{place}/directory/inner"))
    shell(f"cd {place}/directory; ln -s x own/link; echo more >> inner; echo new > new", spec)
    assert os.readlink(place / "directory" / "own" / "link") == "x"
    assert (place / "directory" / "inner").read_text() == "innermore\n"
    assert (place / "directory" / "new").exists()


def test_common_by_another_way(place: Path) -> None:
    """Who may write what is around it puts a link there: what comes home goes to where the directory was."""
    outside, around = place / "outside", place / "around"
    (outside / "in").mkdir(parents=True)
    (around / "sub" / "in").mkdir(parents=True)
    spec = Spec(common=(f"{around}/sub/in",), writable=(str(around),))
    script = (
        f"echo new > {around}/sub/in/new; cd {place}; mv around/sub around/old 2>&1; ln -s {outside} around/sub; ls -l around"
    )
    shell(script, spec)
    assert os.listdir(outside / "in") == []
    assert os.listdir(around / "old" / "in") == ["new"]


def test_common_is_limited(place: Path) -> None:
    """By what one sandbox may write; its own layer has that besides."""
    spec = Spec(limits=Limits(disk=4 << 20), common=(f"{place}/directory",))
    script = f"head -c 8000000 /dev/zero > {place}/directory/big; head -c 3000000 /dev/zero > {place}/big"
    result = Sandbox(spec).run(["sh", "-c", script])
    assert result.ok
    assert b"No space left" in result.stderr
    assert (place / "directory" / "big").stat().st_size <= 4 << 20
    assert [change.path for change in result.changes] == [f"{place}/big"]


def test_common_that_is_not_there(place: Path) -> None:
    """No sandbox, and the path in the error."""
    with pytest.raises(SetupError, match="missing"):
        Sandbox(Spec(common=(f"{place}/missing",))).run(["true"])
