"""A pytest plugin for ends.py: writes what the controller took, and when, to the JSON file that $ENDS names.

Imports pytest only. Runs in the process that pytest was started in; what a sandbox does is not its business.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest


def resident() -> int:
    """The memory of this process in kB (VmRSS of proc_pid_status(5))."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def descriptors() -> int:
    """How many file descriptors this process has, but for the one that this takes to find out."""
    return len(os.listdir("/proc/self/fd")) - 1


class Probe:
    """Notes the time and the memory at the end of each test, and descriptors at both ends of the run."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._pid = os.getpid()
        self._before = 0
        self._times: list[float] = []
        self._memory: list[int] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Count what is open before the first test."""
        self._before = descriptors()

    def pytest_runtest_logfinish(self) -> None:
        """Note the end of a test."""
        if os.getpid() == self._pid:
            self._times.append(time.perf_counter())
            self._memory.append(resident())

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Write everything, after all others have cleaned up."""
        if os.getpid() != self._pid:
            return
        result = {"times": self._times, "memory": self._memory, "fds": [self._before, descriptors()]}
        self._target.write_text(json.dumps(result))


def pytest_configure(config: pytest.Config) -> None:
    """Register the probe."""
    config.pluginmanager.register(Probe(Path(os.environ["ENDS"])), "ends-probe")
