"""Every test sees the machine's files and may change them: its changes are its own."""

import os
from pathlib import Path

import pytest

HOSTS = Path("/etc/hosts")
# Who may not write a file outside may not write it inside either.
as_root = pytest.mark.skipif(not os.access(HOSTS, os.W_OK), reason="only root may write /etc/hosts")


@as_root
def test_renames_localhost():
    """Writes a file that the whole machine relies on."""
    assert "sandbox.test" not in HOSTS.read_text()
    HOSTS.write_text("127.0.0.1 sandbox.test\n")


@as_root
def test_renames_localhost_as_well():
    """Does the same, and meets no one."""
    assert "sandbox.test" not in HOSTS.read_text()
    HOSTS.write_text("127.0.0.1 sandbox.test\n")


def test_deletes_the_project():
    """Removes everything that it came from."""
    for path in Path(__file__).parent.glob("*.py"):
        path.unlink()
    assert not Path(__file__).exists()


def test_is_still_there():
    """Although the test above removed it."""
    assert Path(__file__).exists()


def test_leaves_a_file_in_tmp():
    """Writes to a place that everyone shares."""
    Path("/tmp/left-by-a-test").write_text("mine")


def test_finds_no_file_in_tmp():
    """Nobody else's is there."""
    assert not Path("/tmp/left-by-a-test").exists()
