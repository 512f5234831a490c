"""How the tests of pytest-xdist look at a run: with all its processes recorded, of which none is left, nor a cgroup of theirs."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_sandbox.primitives.cgroups.layout import CONTROLLER_PREFIX, RUN_PREFIX, find_hierarchies

if TYPE_CHECKING:
    from tests.conftest import Run
    from tests.plugin.conftest import Compare


@pytest.fixture(autouse=True)
def nothing_is_left(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of a run, nor a cgroup of its controller's or of one of its workers."""
    del compare  # it first says where temporary directories are
    pids = Path(os.environ["PYTEST_DEBUG_TEMPROOT"]).parent / "pids"
    pids.mkdir()
    monkeypatch.setenv("PROCESS_RECORD", str(pids))
    yield
    limit = time.monotonic() + 120
    while (found := left(pids)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert found == []


def left(pids: Path) -> list[str]:
    """What a run has left whose processes are recorded there."""
    names = os.listdir(pids)
    mark = f"PROCESS_RECORD={pids}\0".encode()
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            if int(entry) != os.getpid() and state != "Z" and mark in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(f"process {entry}: {Path(f'/proc/{entry}/cmdline').read_bytes()!r}")
    hierarchies = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    for directory in {each.directory for each in hierarchies if each.directory}:
        for name in os.listdir(directory):
            if name.startswith((RUN_PREFIX, CONTROLLER_PREFIX)) and set(re.split("[-.]", name)) & set(names):
                found.append(f"{directory}/{name}")
    return found


def run(compare: Compare, *args: str, sandbox: bool = True, timeout: float = 300) -> Run:
    """One run."""
    return compare.one("-p", "process_recorder", *args, sandbox=sandbox, timeout=timeout)


def workers(text: str) -> set[str]:
    """Those that a run speaks of."""
    return set(re.findall(r"\bgw\d+\b", text))


@pytest.fixture
def notes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that all may write to."""
    path = pytester.path / "notes"
    path.touch()
    monkeypatch.setenv("NOTES", str(path))
    return path
