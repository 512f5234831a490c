"""What a test's error may have to do with its sandbox, where the error itself does not say so. Imports `model` only.

A hint, and no verdict: the same error has other causes too. docs/limits.md has what is behind each.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path

from pytest_sandbox.model.spec import Network, Spec
from pytest_sandbox.model.units import format_size

_UNREACHABLE = frozenset(
    {errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, socket.EAI_AGAIN, socket.EAI_NONAME}
)
#: What shells, and what strerror(3) and Python, say of a fork or thread that was refused.
_REFUSED = re.compile("cannot fork|resource temporarily unavailable|can't start new thread", re.IGNORECASE)
_WAY_OUT = (
    "\nTo let tests use the machine's network: --sandbox-network=host for the run, "
    "or @pytest.mark.sandbox(enabled=False) for one."
)
_FILES_AGAIN = (
    "The sandbox's limit (files {}) was not met when this was reported. Perhaps files were closed since it was; or it was met in "
    "another process; or the test has set a lower limit of its own (RLIMIT_NOFILE). The kernel says the same where a user's "
    "instances of inotify (fs.inotify.max_user_instances) or message queues (RLIMIT_MSGQUEUE) are used up."
)
_OF_FILES = {
    errno.EXDEV: "A directory that was there before is a layer below the sandbox's own, from which os.rename cannot move it: "
    "shutil.move copies it.",
    errno.EOVERFLOW: "An ordinary user's sandbox knows one user, and cannot write beside what others own, here. "
    "Run pytest in a directory of your own, or name this one by --sandbox-writable.",
}


def hint(number: int, spec: Spec, *, full: bool) -> str | None:
    """What to say of a test that failed by an OSError of this number (of socket.gaierror: an EAI_ one); None: nothing.

    full: whether a limit of disk, inodes or files is seen to be used up, which the verdict will say.
    """
    if number in _OF_FILES:
        return _OF_FILES[number]
    if number == errno.ENOSPC and not full:
        return _room_again(spec)
    if number == errno.EMFILE and not full and spec.limits.files is not None:
        return _FILES_AGAIN.format(spec.limits.files)
    return _of_network(number, spec.network)


def of_output(text: str, pids: int) -> str | None:
    """What to say of a test that failed with this text in its report, where nobody counts refused processes; None: nothing."""
    if _REFUSED.search(text) is None or _started() < pids:
        return None
    return (
        f"Its output may speak of a process that could not be started. Perhaps it has met its limit (pids {pids}): without "
        "cgroups nobody counts how often that was met. To allow more: @pytest.mark.sandbox(pids=...), or --sandbox-pids."
    )


def _started() -> int:
    """How many processes and threads this pid namespace has had: its last pid, which is last in proc_loadavg(5); 0: unknown."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[-1])
    except (OSError, ValueError):  # a test may have anything in the place of /proc, or of files
        return 0


def _room_again(spec: Spec) -> str:
    limits = spec.limits
    disk = "no limit" if limits.disk is None else format_size(limits.disk)
    return (
        f"The sandbox had room when this was reported (disk {disk}, inodes {limits.inodes or 'no limit'}). Perhaps files were "
        "removed since it had none; or it was that of a wider fixture which had none; or the copy did not fit that it takes to "
        f"change a file which was there before.{_of_common(spec)} "
        "The kernel says the same where inotify's watches, semaphores, shared memory or namespaces are used up."
    )


def _of_common(spec: Spec) -> str:
    """Their room is no sandbox's, and asking how much is left would be one question more for each error."""
    if not spec.common:
        return ""
    names = " and ".join(map(os.path.basename, spec.common))
    return f" Or it was written to {names}, where all tests of the run together may write as much as one may elsewhere."


def _of_network(number: int, network: Network) -> str | None:
    if network is Network.HOST:
        return None
    if number in _UNREACHABLE:
        kept = f"A sandbox has a network of its own (network {network.value})"
        return f"{kept}: no other host is there, and no name server.{_WAY_OUT}"
    if number == errno.ECONNREFUSED:
        kept = f"A sandbox has a loopback of its own (network {network.value})"
        return f"{kept}: what listens on the machine's is not there. Start it in a fixture, of whatever scope.{_WAY_OUT}"
    return None
