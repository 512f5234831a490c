"""However the controller ends, nothing is left a second later: kill -9 at any moment, Ctrl-C, an exception."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_sandbox.primitives.cgroup_layout import find_hierarchies

SCRIPT = """
import sys, time
from pytest_sandbox import Limits, Sandbox, Spec
print("begun", flush=True)
kwargs = {"scratch": sys.argv[1], "limits": Limits(disk=None, inodes=None)} if sys.argv[1:] else {}
while True:
    Sandbox(Spec(**kwargs)).run(["sh", "-c", "mkdir -p /tmp/a/b; chmod 0 /tmp/a/b; sleep 4711 & setsid sleep 4711 & sleep 0.05"])
"""


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Starts a controller that makes one sandbox after the other; in a session of its own, as a shell would start it.

    All processes of it have a mark in common, by which the machine can be searched for them.
    """
    monkeypatch.setenv("SANDBOX_TEST_MARK", str(tmp_path))
    started = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def left(pid: int) -> list[str]:
    """Cgroups that carry the controller's pid, and its processes: all have its environment's mark."""
    hierarchies = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    found = []
    for directory in {each.directory for each in hierarchies if each.directory}:
        found += [f"{directory}/{name}" for name in os.listdir(directory) if f"-{pid}-" in name and "sandbox" in name]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                environ = Path(f"/proc/{entry}/environ").read_bytes()
                state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, IndexError):
                continue
            if f"SANDBOX_TEST_MARK={os.environ['SANDBOX_TEST_MARK']}\0".encode() in environ and state != "Z":
                found.append(f"process {entry}")
    return [one for one in found if one != f"process {os.getpid()}"]


def end(process: subprocess.Popen[str], number: signal.Signals, *, group: bool = False) -> None:
    """Send the signal, and assert that a second later nothing is left."""
    (os.killpg if group else os.kill)(process.pid, number)
    process.wait(30)
    process.communicate()
    limit = time.monotonic() + 1.0
    while (found := left(process.pid)) and time.monotonic() < limit:
        time.sleep(0.02)
    assert found == []


@pytest.mark.parametrize("seed", range(30))
def test_kill_9(seed: int, start: Start) -> None:
    """At a random moment of a sandbox's life, the controller alone or its whole process group."""
    process = start()
    time.sleep(random.Random(seed).uniform(0, 0.25))
    end(process, signal.SIGKILL, group=seed % 3 == 0)


@pytest.mark.needs("xattr")
@pytest.mark.parametrize("seed", range(5))
def test_kill_9_with_scratch(seed: int, start: Start, tmp_path: Path) -> None:
    """The run's directory goes too, locked directories and all."""
    process = start(str(tmp_path))
    time.sleep(random.Random(seed).uniform(0, 0.25))
    end(process, signal.SIGKILL)
    limit = time.monotonic() + 1.0
    while os.listdir(tmp_path) and time.monotonic() < limit:
        time.sleep(0.02)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("seed", range(5))
def test_ctrl_c(seed: int, start: Start) -> None:
    """KeyboardInterrupt reaches the caller when all is cleaned up."""
    process = start()
    time.sleep(random.Random(seed).uniform(0.05, 0.25))
    end(process, signal.SIGINT, group=True)
    assert process.returncode == -signal.SIGINT


def test_sigterm(start: Start) -> None:
    """Whose default action gives the controller no chance."""
    process = start()
    time.sleep(0.1)
    end(process, signal.SIGTERM)
