"""The end of a cgroup on the real kernel: all of its processes are killed, and what has nobody in it is removed."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from pytest_sandbox.model.errors import TeardownWarning
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import CgroupRun, capabilities, remove_run
from pytest_sandbox.primitives.cgroups import files as cgroup_files
from pytest_sandbox.primitives.cgroups.layout import find_hierarchies
from pytest_sandbox.primitives.cgroups.probe import NO_LIMITS
from tests.primitives.conftest import Child, unique

HARD_TO_KILL = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
stopped = os.fork()
if stopped == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(60)
    os._exit(0)
os.waitpid(stopped, os.WUNTRACED)
os.wait()
print("ready", flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether a process runs: zombies do not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon_alive(pids: Iterable[int]) -> list[int]:
    """Which of them are alive, when they have had their turn: who dies leaves its cgroup before it is a zombie (do_exit)."""
    limit = time.monotonic() + 30
    while (rest := [pid for pid in pids if alive(pid)]) and time.monotonic() < limit:
        time.sleep(0.01)
    return rest


@pytest.mark.needs("kill")
def test_kill_reaches_stopped_and_detached_processes(run: CgroupRun, child: type[Child]) -> None:
    """One call, and all are dead; the cgroup can be removed at once."""
    cgroup = run.create("hard", NO_LIMITS)
    assert child(cgroup, HARD_TO_KILL).line() == "ready"
    pids = cgroup.processes()
    assert len(pids) == 3
    assert cgroup.kill() == ()
    assert soon_alive(pids) == []
    cgroup.remove()
    assert [path for path in cgroup.directories if os.path.exists(path)] == []


@pytest.mark.needs("kill", "memory", "pids")
def test_kill_without_cgroup_kill(run: CgroupRun, child: type[Child]) -> None:
    """Where there is no cgroup.kill (v1, or before Linux 5.14), the loop over cgroup.procs ends a fork bomb too."""
    cgroup = run.create("bomb", dataclasses.replace(NO_LIMITS, pids=40))
    without_v2 = [path for path in cgroup.directories if not os.path.exists(f"{path}/cgroup.kill")]
    if not without_v2:
        pytest.skip("every hierarchy of this machine has cgroup.kill")
    bomb = child(
        cgroup,
        """
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            try:
                if os.fork() == 0 and time.time_ns() % 2:
                    os._exit(0)
            except OSError:
                pass
        """,
    )
    assert bomb.line() == "ready"
    time.sleep(0.1)
    assert cgroup_files.kill_below(without_v2, seconds=60) == ()
    assert cgroup.processes() == ()
    cgroup.remove()


@pytest.mark.needs("kill", "memory", "pids")
def test_kill_with_few_descriptors(run: CgroupRun, child: type[Child]) -> None:
    """More processes than there are descriptors left: they die in several turns."""
    cgroup = run.create("many", dataclasses.replace(NO_LIMITS, pids=200))
    directories = [path for path in cgroup.directories if not os.path.exists(f"{path}/cgroup.kill")] or list(cgroup.directories)
    parent = child(cgroup, "[os.fork() or time.sleep(60) for _ in range(100)]; print('ready', flush=True); time.sleep(60)")
    assert parent.line() == "ready"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
    try:
        assert cgroup_files.kill_below(directories, seconds=60) == ()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert cgroup.processes() == ()
    cgroup.remove()


@pytest.mark.needs("kill")
def test_remove_waits_for_processes_that_are_dying(run: CgroupRun, child: type[Child]) -> None:
    """EBUSY right after SIGKILL is waited out, without a warning."""
    cgroup = run.create("dying", NO_LIMITS)
    sleeper = child(cgroup, "held = b'x' * (30 << 20)\nprint('ready', flush=True)\ntime.sleep(60)")
    assert sleeper.line() == "ready"
    sleeper.process.kill()
    cgroup.remove()
    assert [path for path in cgroup.directories if os.path.exists(path)] == []


@pytest.mark.needs("kill")
def test_what_cannot_be_removed_is_named(run: CgroupRun, child: type[Child]) -> None:
    """A TeardownWarning with the directory and the process in it, after a bounded time."""
    cgroup = run.create("kept", NO_LIMITS)
    sleeper = child(cgroup, "time.sleep(60)")
    with pytest.warns(TeardownWarning, match=rf"kept could not be removed: .*\({sleeper.process.pid},\)"):
        cgroup_files.remove(cgroup.directories, seconds=0.05)
    assert cgroup.kill() == ()


@pytest.mark.needs("kill")
def test_close_ends_everything(child: type[Child]) -> None:
    """A run closed with processes and cgroups of their own in it leaves neither; closing twice is nothing."""
    run = CgroupRun.open(unique())
    cgroup = run.create("left", Limits())
    left = child(cgroup, HARD_TO_KILL)
    assert left.line() == "ready"
    for directory in cgroup.directories:
        os.makedirs(f"{directory}/below/further")
    pids, paths = cgroup.processes(), run.paths
    run.close()
    run.close()
    assert [path for path in paths if os.path.exists(path)] == []
    assert soon_alive(pids) == []


@pytest.mark.needs("kill")
def test_close_in_a_forked_process_is_nothing(run: CgroupRun, child: type[Child]) -> None:
    """A sandbox inherits the object; what it does at its end must not end the run."""
    cgroup = run.create("mine", NO_LIMITS)
    sleeper = child(cgroup, "time.sleep(60)")
    pid = os.fork()
    if pid == 0:
        run.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cgroup.processes() == (sleeper.process.pid,)
    assert cgroup.kill() == ()


CONTROLLER = """
import os, subprocess, sys, time
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import CgroupRun
run = CgroupRun.open(sys.argv[1])
sleeper = subprocess.Popen(["sleep", "60"])
run.create("one", Limits()).attach(sleeper.pid)
run.create("two", Limits())
print(sleeper.pid, *run.paths, flush=True)
time.sleep(60)
"""


@pytest.mark.needs("kill")
def test_remove_run_after_the_controller_was_killed() -> None:
    """What a janitor does with the paths after kill -9: processes dead, directories gone."""
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, unique()],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    ) as controller:
        assert controller.stdout
        pid, *paths = controller.stdout.readline().split()
        controller.kill()
    assert alive(int(pid))
    remove_run(paths)
    assert soon_alive([int(pid)]) == []
    assert [path for path in paths if os.path.exists(path)] == []
    remove_run(paths)


def test_remove_run_refuses_what_no_run_made() -> None:
    """A path of something else is an error before anything is killed."""
    with pytest.raises(ValueError, match=r"not a directory of a run: /sys/fs/cgroup/system\.slice"):
        remove_run(["/sys/fs/cgroup/pytest-sandbox-run-x", "/sys/fs/cgroup/system.slice"])


@pytest.mark.needs("kill")
def test_capabilities_leave_nothing_behind() -> None:
    """Probing makes cgroups and removes them, and this process is where it was."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        before = file.read()
    capabilities()
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        assert file.read() == before
    for hierarchy in find_hierarchies(before, cgroup_files.read("/proc/self/mountinfo").decode()):
        if hierarchy.directory:
            assert [name for name in os.listdir(hierarchy.directory) if f"probe-{os.getpid()}-" in name] == []
