"""Runs a command as it is run in a container: on an overlay, which cannot be id-mapped. Standard library only; root only.

    python overlay_root.py DIRECTORY COMMAND...

In a mount namespace of its own `/` becomes an overlay over the machine's; DIRECTORY, /dev, /proc and /sys are the machine's.
"""

from __future__ import annotations

import ctypes
import os
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS = 1 << 17
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def call(name: str, *args: object) -> None:
    """A function of libc; OSError where it fails."""
    converted = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    if getattr(LIBC, name)(*converted) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def main(directory: str, *command: str) -> None:
    """Make the root, and become the command."""
    call("unshare", CLONE_NEWNS)
    call("mount", None, "/", None, MS_REC | MS_PRIVATE, None)
    os.chdir(directory)
    os.makedirs("container", exist_ok=True)
    call("mount", "x", "container", "tmpfs", 0, None)
    for name in ("upper", "work", "root"):
        os.mkdir(f"container/{name}")
    place = f"{directory}/container"
    data = f"lowerdir=/,upperdir={place}/upper,workdir={place}/work"
    call("mount", "overlay", f"{place}/root", "overlay", 0, data)
    for path in ("/dev", "/proc", "/sys"):
        call("mount", path, f"{place}/root{path}", None, MS_BIND | MS_REC, None)
    call("mount", directory, f"{place}/root{directory}", None, MS_BIND, None)
    os.chdir(f"{place}/root")
    call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", ".", MNT_DETACH)
    os.chdir(f"{directory}/project")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
