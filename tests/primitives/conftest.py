"""Cgroups for tests: a run of them, of which nothing is left, and processes that join one before they do anything."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator

import pytest

from pytest_sandbox.primitives.cgroups import Cgroup, CgroupRun, capabilities

CAPABILITIES = capabilities()


def unique() -> str:
    """A run's name that no other test, nor another checkout's, has."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def run() -> Iterator[CgroupRun]:
    """An open run, of which nothing may be left afterwards."""
    opened = CgroupRun.open(unique())
    paths = opened.paths
    yield opened
    opened.close()
    assert [path for path in paths if os.path.exists(path)] == []


class Child:
    """A Python process that joins a cgroup, asserts that it is there, and only then runs a script."""

    def __init__(self, cgroup: Cgroup, script: str) -> None:
        source = "import os, sys, time, signal\nsys.stdin.readline()\n" + textwrap.dedent(script)
        self.process = subprocess.Popen(
            [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        cgroup.attach(self.process.pid)
        assert self.process.pid in cgroup.processes()
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def wait(self) -> tuple[int, str]:
        """Its status and what else it printed."""
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output


@pytest.fixture
def child() -> Iterator[type[Child]]:
    """`Child`, all of whose processes are dead and reaped afterwards."""
    started: list[Child] = []

    class Reaped(Child):
        def __init__(self, cgroup: Cgroup, script: str) -> None:
            super().__init__(cgroup, script)
            started.append(self)

    yield Reaped
    for one in started:
        one.process.kill()
        one.process.wait()
        # Not communicate(): what it forked may hold the pipe until the run is closed.
        for pipe in (one.process.stdin, one.process.stdout):
            assert pipe
            pipe.close()
