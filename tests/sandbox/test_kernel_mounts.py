"""The kernel's own file systems in places where a sandbox makes none: the /proc of a chroot, what autofs would mount."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ROOT = os.geteuid() == 0
SEEN = "import sys; from pytest_sandbox import Sandbox; print(Sandbox().run(['sh', '-c', sys.argv[1]]).stdout.decode(), end='')"
AS_USER = "setpriv --reuid=65534 --regid=65534 --clear-groups" if ROOT else "unshare -U --map-user=1 --map-group=1"
needs_root = pytest.mark.skipif(not ROOT, reason="only root mounts autofs, and is root")
WHO = pytest.mark.parametrize("who", [pytest.param("", marks=needs_root, id="root"), pytest.param(AS_USER, id="user")])
AUTOFS = """
mount -t tmpfs auto /mnt; mkdir /mnt/auto; mkfifo /mnt/pipe
exec 3<>/mnt/pipe 4>/mnt/pipe 3>&-; rm /mnt/pipe  # nobody reads: what is to be mounted cannot be, ENOENT
mount -i -t autofs auto /mnt/auto -o fd=4,minproto=5,maxproto=5,%s
chmod 755 /mnt
"""


def seen(script: str, command: str, who: str) -> list[str]:
    """The lines that a command says in a sandbox, on a machine on which a shell script has run; skips where the script cannot."""
    # Whoever is not in the group of the process that mounts an autofs has things mounted by it.
    code = f'{script}\necho ready\nexec {who} setsid -w "$@"'
    command_line = ["unshare", "-m" if ROOT else "-Urm", "sh", "-ec", code, "sh", sys.executable, "-c", SEEN, command]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False, cwd="/", timeout=120)
    if not done.stdout.startswith("ready\n"):
        pytest.skip(f"the script cannot run here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1:]


@WHO
def test_the_proc_of_a_chroot(who: str) -> None:
    """It is empty, but for what is mounted in it: that is copy-on-write, as elsewhere."""
    script = """
    mount -t tmpfs chroot /mnt; mkdir /mnt/proc; mount --rbind /proc /mnt/proc
    mount -t tmpfs -o mode=777 inner /mnt/proc/fs; echo inner > /mnt/proc/fs/file; chmod 666 /mnt/proc/fs/file
    """
    listing, *rest = seen(script, "cd /mnt/proc; echo *; cat fs/*; echo new > fs/new; ls fs", who)
    assert "fs" in listing.split()
    assert set(listing.split()) <= {"fs", "sys"}  # where binfmt_misc may be mounted
    assert rest == ["inner", "file", "new"]


@needs_root
@WHO
def test_an_automount_that_is_not_yet_mounted(who: str) -> None:
    """Nothing mounts it; there is an empty directory."""
    assert seen(AUTOFS % "direct", "ls -A /mnt; ls -A /mnt/auto", who) == ["auto"]


@needs_root
@WHO
def test_what_autofs_has_mounted(who: str) -> None:
    """It is seen as if anybody had mounted it; the rest of the directory stays as it is."""
    mounting = "mkdir /mnt/auto/home /mnt/auto/idle; mount -t tmpfs home /mnt/auto/home; : > /mnt/auto/home/file"
    assert seen(AUTOFS % "indirect" + mounting, "cd /mnt; find auto | sort", who) == ["auto", "auto/home", "auto/home/file"]
