"""Where what tests write lies: a tmpfs, a directory that was named, or one that is found where a tmpfs will not do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_sandbox import Capability, Spec
from pytest_sandbox.sandbox.machine import host, probes

# A kernel before 6.6, as far as the plugin can tell.
OLD = """
from pytest_sandbox import Capability
from pytest_sandbox.sandbox.machine import probes
probes.ALONE["xattr"] = lambda: Capability("xattr", False, "no user attributes on a tmpfs", "a newer kernel")
"""


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a file system that layers can lie on."""
    found = probes.find_scratch()
    if found is None:
        pytest.skip("neither temporary files nor /var/tmp are on ext4, xfs or btrfs")
    with tempfile.TemporaryDirectory(dir=found) as directory:
        yield Path(directory)


def test_a_marker_decides_for_its_test(pytester: pytest.Pytester, disk: Path) -> None:
    """Each test's layer is where its own marker says, and only the tmpfs has a limit, which holds."""
    for name in ("run", "own"):
        (disk / name).mkdir()
    pytester.makepyfile(f"""
        import os, pytest

        def written(size):
            with open("/var/tmp/some", "wb") as file:
                file.write(bytes(size))

        def test_run():
            written(3 << 20)

        @pytest.mark.sandbox(scratch={str(disk / "own")!r})
        def test_own():
            written(3 << 20)

        @pytest.mark.sandbox(scratch="none", disk="1M")
        def test_tmpfs():
            with pytest.raises(OSError, match="No space left"):
                written(3 << 20)

        @pytest.mark.sandbox(scratch="none", disk="1M")
        def test_no_layer_is_seen():
            for name in ("run", "own"):
                (mine,) = os.listdir({str(disk)!r} + "/" + name)
                assert os.listdir({str(disk)!r} + "/" + name + "/" + mine) == []
    """)
    result = pytester.runpytest_subprocess("--sandbox", f"--sandbox-scratch={disk / 'run'}")
    result.assert_outcomes(passed=4)
    assert [os.listdir(disk / name) for name in ("run", "own")] == [[], []]


def test_where_a_tmpfs_has_no_user_attributes(pytester: pytest.Pytester, disk: Path) -> None:
    """Tests write to a disk, so that a directory can be made anew; but where disk is limited on purpose. The header says so."""
    pytester.makeconftest(OLD)
    where = disk / "machine"
    (where / "below").mkdir(parents=True)
    pytester.makepyfile(f"""
        import os, shutil, pytest

        @pytest.mark.sandbox(memory="none")
        def test_again():
            shutil.rmtree({str(where)!r})
            os.mkdir({str(where)!r})
            assert os.listdir({str(where)!r}) == []
            with open("/var/tmp/some", "wb") as file:
                file.write(bytes(3 << 20))

        @pytest.mark.sandbox(disk="1M")
        def test_limited():
            with pytest.raises(OSError, match="No space left"), open("/var/tmp/some", "wb") as file:
                file.write(bytes(3 << 20))

        def test_further(sandbox_factory):
            made = sandbox_factory(disk="1M").run(["sh", "-c", "head -c 3000000 /dev/zero > /var/tmp/some"])
            assert b"No space left" in made.stderr
    """)
    result = pytester.runpytest_subprocess("--sandbox")
    result.assert_outcomes(passed=3)
    found = os.path.realpath(probes.find_scratch() or "")
    result.stdout.fnmatch_lines(
        [
            "sandbox: NOT ENFORCED: disk, inodes: *",
            f"sandbox: NOT COMPLETE: tests write to {found}, wider fixtures to a tmpfs: *--sandbox-scratch=none*",
        ]
    )
    assert (where / "below").is_dir()
    kept = pytester.runpytest_subprocess("--sandbox", "--sandbox-scratch=none", "-k", "limited")
    kept.stdout.fnmatch_lines(["sandbox: NOT COMPLETE: no user attributes on a tmpfs. Fix: *"])
    assert "NOT ENFORCED: disk" not in kept.stdout.str()


def test_settled() -> None:
    """Nothing that was asked for is changed, and nothing on a kernel whose tmpfs will do."""
    old = {"xattr": Capability("xattr", False)}
    new = {"xattr": Capability("xattr", True)}
    assert host.settled(Spec(), new) == Spec()
    assert host.settled(Spec(), old).scratch == probes.find_scratch()
    for asked in ("disk", "inodes", "scratch"):
        assert host.settled(Spec(asked=frozenset({asked})), old).scratch is None
    assert host.settled(Spec(scratch="/a"), old).scratch == "/a"


def test_a_chroot_that_is_no_mount(tmp_path: Path) -> None:
    """What its temporary files lie on is not to be seen there: nothing is found, and nothing goes wrong."""
    for name in ("proc", "tmp", "var/tmp"):
        (tmp_path / name).mkdir(parents=True)
    code = f"""
import os, tempfile
from pytest_sandbox._linux import proc
from pytest_sandbox.sandbox.machine import probes
os.chroot({str(tmp_path)!r})
os.chdir("/")
tempfile.tempdir = "/tmp"
print("/" in [entry.point for entry in proc.visible(proc.mounts())], probes.find_scratch())
"""
    script = f'mount --rbind /proc {tmp_path}/proc; exec "$@"'
    command = ["unshare", "-Urm", "sh", "-ec", script, "sh", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False None\n"


@pytest.mark.parametrize(
    ("release", "numbers"), [("6.18.44-fc", (6, 18)), ("5.4-rc7", (5, 4)), ("5.10+", (5, 10)), ("6.1.0-13-amd64", (6, 1))]
)
def test_what_a_release_says(release: str, numbers: tuple[int, int]) -> None:
    """Its first two numbers, whatever comes after the second."""
    assert probes.kernel(release) == numbers
