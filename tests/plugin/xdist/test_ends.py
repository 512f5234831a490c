"""Tests, fixtures, workers and pytest-xdist's controller that are killed: the others go on, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox.primitives.cgroups import files as cgroup_files
from pytest_sandbox.primitives.cgroups.layout import V2, find_hierarchies
from tests.conftest import HELPERS
from tests.plugin.conftest import INSIDE, Compare
from tests.plugin.xdist.conftest import run, workers

pytest.importorskip("execnet")
pytest.importorskip("xdist")


@pytest.mark.needs("memory")
def test_killed_tests_cost_no_worker(pytester: pytest.Pytester, compare: Compare) -> None:
    """Whatever ends a test's process is that test's failure; its worker goes on."""
    pytester.makepyfile(
        f"""
        import ctypes, os, pytest, signal, time
        @pytest.mark.parametrize("n", range(2))
        class TestEnds:
            @pytest.mark.sandbox(memory="64M")
            def test_memory(self, n): bytearray(1 << 30)
            @pytest.mark.sandbox(timeout="2s")
            def test_time(self, n): time.sleep(60)
            def test_exit(self, n): os._exit(0)
            def test_crash(self, n): ctypes.string_at(0)
            def test_kill(self, n): os.kill(os.getpid(), signal.SIGKILL)
            def test_kill_all(self, n): assert {INSIDE}; os.kill(-1, signal.SIGKILL)
            def test_good(self, n): pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(failed=12, passed=2)
    assert workers(found.text) == {"gw0", "gw1"}
    assert "crashed" not in found.text
    for words in ("out of memory", "timed out", "without a report", "SIGSEGV", "SIGKILL"):
        assert words in found.text


def test_fixture_that_dies(pytester: pytest.Pytester, compare: Compare) -> None:
    """A session's fixture that ends its process fails the tests that need it, and no others."""
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.fixture(scope="session")
        def deadly(): os._exit(3)
        @pytest.mark.parametrize("n", range(3))
        def test_dead(deadly, n): pass
        @pytest.mark.parametrize("n", range(3))
        def test_good(n): pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(errors=3, passed=3)
    assert workers(found.text) == {"gw0", "gw1"}


def test_killed_worker(pytester: pytest.Pytester, notes: Path) -> None:
    """A worker that somebody kills is replaced by xdist; its sandboxes and cgroups are gone (see `nothing_is_left`).

    Each is in its first test when that happens, however slow the other was: that is the one which fails.
    """
    pytester.makepyfile(
        """
        import os, pytest, time
        @pytest.mark.parametrize("n", range(6))
        def test_n(n, worker_id):
            with open(os.environ["NOTES"], "a+") as file:
                file.write(f"{worker_id}\\n")
                file.flush()
                while "go" not in (file.seek(0), file.read())[1].split(): time.sleep(0.05)
        """
    )
    process = start(pytester, f"--sandbox-writable={notes}")
    wait_for(lambda: {"gw0", "gw1"} <= set(notes.read_text().split()))
    pids = set(os.listdir(os.environ["PROCESS_RECORD"])) - {str(process.pid)}
    assert len(pids) == 2
    os.kill(int(pids.pop()), signal.SIGKILL)
    with notes.open("a") as file:
        file.write("go\n")
    output, _ = process.communicate(timeout=300)
    assert "replacing crashed worker" in output
    assert "1 failed, 5 passed" in output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_controller(pytester: pytest.Pytester, notes: Path, number: signal.Signals) -> None:
    """However xdist's controller ends, nothing of its workers is left."""
    pytester.makepyfile(
        """
        import os, pytest, time
        @pytest.fixture(scope="session")
        def world(): yield
        @pytest.mark.parametrize("n", range(6))
        def test_n(n, world):
            with open(os.environ["NOTES"], "a") as file: file.write("begun\\n")
            time.sleep(2)
        """
    )
    process = start(pytester, f"--sandbox-writable={notes}")
    wait_for(lambda: len(notes.read_text().split()) >= 2)
    os.kill(process.pid, number)
    process.communicate(timeout=300)
    assert process.returncode != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a cgroup")
def test_the_cgroup_of_a_killed_controller_is_as_before(pytester: pytest.Pytester, notes: Path) -> None:
    """Version 2: its janitor waits for the workers, in whose sandboxes that is divided until they end."""
    texts = [Path(f"/proc/self/{name}").read_text(encoding="utf-8") for name in ("cgroup", "mountinfo")]
    unified = next((one for one in find_hierarchies(*texts) if one.version == V2 and not one.problem), None)
    if unified is None:
        pytest.skip("version 2 is not here")
    cgroup = Path(unified.directory, f"killed-{os.getpid()}")
    cgroup.mkdir()
    try:
        if "memory" not in (cgroup / "cgroup.controllers").read_text().split():
            pytest.skip("version 2 does not limit memory here")
        pytester.makepyfile(
            """
            import os, pytest, time
            @pytest.mark.parametrize("n", range(4))
            def test_n(n):
                with open(os.environ["NOTES"], "a") as file: file.write("begun\\n")
                time.sleep(2)
            """
        )
        process = start(pytester, f"--sandbox-writable={notes}", cgroup=cgroup)
        wait_for(lambda: len(notes.read_text().split()) >= 2)
        assert (cgroup / "cgroup.subtree_control").read_text().split()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=300)
        wait_for(lambda: not list(cgroup.glob("*/")) and not (cgroup / "cgroup.procs").read_text())
        assert (cgroup / "cgroup.subtree_control").read_text().split() == []
    finally:
        cgroup_files.remove([str(cgroup)])


def start(pytester: pytest.Pytester, *args: str, cgroup: Path | None = None) -> subprocess.Popen[str]:
    """A run in the background."""
    command = [sys.executable, "-m", "pytest", "-p", "process_recorder", "--sandbox", "-n2", *args]
    if cgroup is not None:
        command = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(cgroup), *command]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HELPERS), prepend=os.pathsep)
        return subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition: Any) -> None:
    """Until it is true."""
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)
