"""Every test has processes of its own, and takes them with it when it ends."""

import os
import signal
import subprocess
from pathlib import Path


def sleepers():
    """The processes that were started as `sleep 987654`."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", b"987654"]:
            found.append(int(process.parent.name))
    return found


def test_leaks_a_process():
    """Starts a daemon and forgets it: the run's end names it, and it is gone."""
    subprocess.run("setsid sleep 987654 >/dev/null 2>&1 &", shell=True, check=True)


def test_meets_no_one_elses_process():
    """The daemon of the test above is not there."""
    assert sleepers() == []


def test_kills_everything_it_can_see():
    """Which is its own children, and not your editor."""
    child = subprocess.Popen(["sleep", "987654"])
    os.kill(-1, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
