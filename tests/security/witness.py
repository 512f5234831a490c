"""Runs one command and sees to the end what becomes of it: a program, so that it can be a subreaper. Standard library only.

    python witness.py RESULT SECONDS COMMAND...

Every process that the command's end leaves an orphan becomes a child of this one (PR_SET_CHILD_SUBREAPER, prctl(2)), also one
out of a pid namespace that has lost its parent; so the kernel itself says when nothing is left: wait(2), ECHILD. The
command gets SECONDS; what is left PATIENCE after its end is noted, and killed. RESULT is a file of JSON lines: the command's pid,
then its status, how long what was left took to go, and what had to be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
KEYCTL_JOIN_SESSION_KEYRING = 1
PATIENCE = 30.0


def say(result: str, **facts: object) -> None:
    """Append a line to the result."""
    with open(result, "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def children() -> list[tuple[int, str]]:
    """Pid and command line of every child of this process; those that only wait to be reaped have none."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        pids = [int(word) for word in file.read().split()]
    found = []
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            found.append((pid, file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()))
    return found


def wait_for_all(seconds: float) -> bool:
    """Whether every child, own or adopted, has ended within this time."""
    limit = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < limit:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        return False
    return True


def main(result: str, seconds: str, *command: str) -> int:
    """Run it; 0 if it ended in time, whatever its status."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")
    # A session keyring of our own: what attacks put in there is not left in the caller's. add_key(2), keyctl(2).
    number = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None).syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None)
    process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    say(result, pid=process.pid)
    late = False
    try:
        process.wait(float(seconds))
    except subprocess.TimeoutExpired:
        late = True
        process.kill()
        process.wait()
    ended = time.monotonic()
    left = []
    while not wait_for_all(PATIENCE):
        for pid, line in children():
            left.append(line)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    say(result, status=process.returncode, late=late, lingered=time.monotonic() - ended, left=left)
    return int(late)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
