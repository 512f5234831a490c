"""What every test of this folder is held to: nothing is left of its sandboxes, whatever became of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_sandbox.primitives.cgroup_layout import RUN_PREFIX, find_hierarchies


def descriptors() -> list[str]:
    """What this process has open, but for the directory that says so."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return sorted(found)


def cgroups() -> list[str]:
    """The cgroups of this process's runs and probes."""
    hierarchies = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    found = []
    for directory in {each.directory for each in hierarchies if each.directory}:
        found += [f"{directory}/{name}" for name in os.listdir(directory) if name.startswith(RUN_PREFIX)]
    return sorted(path for path in found if f"-{os.getpid()}-" in path or f"probe-{os.getpid()}" in path)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No descriptor, mount, cgroup or child more than before."""
    before = descriptors(), Path("/proc/self/mountinfo").read_text()
    yield
    assert (descriptors(), Path("/proc/self/mountinfo").read_text()) == before
    assert cgroups() == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
