"""Cgroups on the real kernel: who is in them, what they take and what they lack, and those that a run shares with others."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.model.errors import SetupError
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import CgroupRun, CgroupUsage, capabilities, enter, oom_kill
from pytest_sandbox.primitives.cgroups import files as cgroup_files
from pytest_sandbox.primitives.cgroups.controllers import choose
from pytest_sandbox.primitives.cgroups.delegation import leave_leaf
from pytest_sandbox.primitives.cgroups.layout import V2, find_hierarchies
from pytest_sandbox.primitives.cgroups.limits import disks
from pytest_sandbox.primitives.cgroups.probe import NO_LIMITS
from tests.primitives.conftest import CAPABILITIES, Child, unique

# -- membership ------------------------------------------------------------------------------------------------------


@pytest.mark.needs("kill")
def test_attach_to_a_process_that_ended(run: CgroupRun) -> None:
    """SetupError with ESRCH, the step and the pid."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(SetupError, match=f"attach to cgroup: pid {ended.pid}") as caught:
        run.create("late", NO_LIMITS).attach(ended.pid)
    assert caught.value.errno == errno.ESRCH


@pytest.mark.needs("memory", "pids")
@pytest.mark.skipif(CAPABILITIES["memory"].hierarchy == "v2", reason="v2 has no file `tasks`; see CLONE_INTO_CGROUP")
@pytest.mark.parametrize("leaf", [False, True])
def test_a_child_enters_by_itself(*, leaf: bool) -> None:
    """Descriptors opened outside are enough, also in a user namespace; v1 alone counts CPU time and kills."""
    with contextlib.closing(CgroupRun.open(unique())) as run:
        cgroup = run.create("entered", Limits(), leaf=leaf)
        tasks = cgroup.open_tasks()
        writes = " && ".join(f"printf 0 >&{fd}" for fd in tasks)
        # bash, because dash knows descriptors up to 9 only.
        entering = subprocess.Popen(
            ["unshare", "--user", "bash", "-c", f"{writes} && echo inside && exec sleep 60"],
            pass_fds=tasks,
            stdout=subprocess.PIPE,
        )
        for fd in tasks:
            os.close(fd)
        assert entering.stdout
        assert entering.stdout.readline() == b"inside\n"
        cgroup.verify(entering.pid)
        assert cgroup.unified_directory is None
        assert cgroup.processes() == (entering.pid,)
        assert cgroup.figure("cpu") is not None
        assert cgroup.kill() == ()
        assert entering.wait() == -signal.SIGKILL
        entering.stdout.close()
        cgroup.remove()


@pytest.mark.needs("memory", "pids")
@pytest.mark.skipif(CAPABILITIES["memory"].hierarchy == "v2", reason="v2 has no file `tasks`; see CLONE_INTO_CGROUP")
def test_enter_in_a_forked_child() -> None:
    """The child is in every v1 hierarchy before it goes on, and its descriptors are closed."""
    with contextlib.closing(CgroupRun.open(unique())) as run:
        cgroup = run.create("forked", Limits())
        tasks = cgroup.open_tasks()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                enter(tasks)
                cgroup.verify(os.getpid())
                os._exit(0 if not any(map(os.path.exists, (f"/proc/self/fd/{fd}" for fd in tasks))) else 2)
            os._exit(1)
        for fd in tasks:
            os.close(fd)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        cgroup.remove()


@pytest.mark.needs("kill")
def test_verify_notices_a_process_that_was_moved(run: CgroupRun, child: type[Child]) -> None:
    """ESTALE, with both places."""
    first, second = run.create("first", NO_LIMITS), run.create("second", NO_LIMITS)
    moved = child(first, "time.sleep(60)")
    first.verify(moved.process.pid)
    second.attach(moved.process.pid)
    with pytest.raises(SetupError, match=r"is in .*/second, not .*/first") as caught:
        first.verify(moved.process.pid)
    assert caught.value.errno == errno.ESTALE
    assert second.kill() == ()


@pytest.mark.needs("kill")
def test_a_name_is_used_once(run: CgroupRun) -> None:
    """EEXIST, and the first one stays as it is."""
    first = run.create("same", NO_LIMITS)
    with pytest.raises(SetupError) as caught:
        run.create("same", NO_LIMITS)
    assert caught.value.errno == errno.EEXIST
    assert all(map(os.path.exists, first.directories))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "cgroup.x", "a\nb"])
def test_names_that_are_no_path_component(name: str) -> None:
    """Refused before anything is made."""
    with pytest.raises(ValueError, match="not fit"):
        CgroupRun.open(name)


@pytest.mark.needs("kill")
def test_a_hundred_at_once(run: CgroupRun) -> None:
    """All made, all independent, all removed, and no descriptor is kept: sandboxes are forked and would inherit it."""
    gc.collect()  # what other tests have left open
    before = sorted(os.listdir("/proc/self/fd"))
    cgroups = [run.create(f"n{number}", Limits()) for number in range(100)]
    assert sorted(os.listdir("/proc/self/fd")) == before
    for cgroup in cgroups:
        cgroup.remove()
    assert [path for cgroup in cgroups for path in cgroup.directories if os.path.exists(path)] == []


# -- what is missing -------------------------------------------------------------------------------------------------


@pytest.mark.needs("kill")
def test_every_figure_is_a_value_or_has_a_reason(run: CgroupRun) -> None:
    """None and `missing` go together, for each field."""
    usage = run.create("figures", Limits()).read()
    fields = {field.name: getattr(usage, field.name) for field in dataclasses.fields(usage) if field.name != "missing"}
    assert {name for name, value in fields.items() if value is None} == set(usage.missing)
    assert all(usage.missing.values())


def test_what_is_unavailable_says_why_and_what_to_do() -> None:
    """Every capability is enforced by a named hierarchy, or has a reason and a fix."""
    assert set(CAPABILITIES) == {"memory", "swap", "pids", "cpus", "cpu_time", "io", "kill"}
    for capability in CAPABILITIES.values():
        assert bool(capability.hierarchy) is capability.available
        assert bool(capability.reason) is not capability.available
        assert (capability.problem is None) is capability.available


def test_only_version_1_is_told_to_become_version_2() -> None:
    """On a machine with version 2 alone, whatever is missing is so for another cause, and no disk has its own."""
    every = {**CAPABILITIES, **capabilities(rare=True)}
    causes = {name: one.problem.cause for name, one in every.items() if one.problem}
    layout = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if all(each.version == V2 for each in layout):
        assert Cause.VERSION_1 not in causes.values(), every
    for name in ("io_read", "io_write", "io_read_ops", "io_write_ops"):
        assert (causes.get(name) is Cause.NO_DISK) <= (not disks())
    assert Cause.CGROUP not in causes.values(), every


@pytest.mark.needs("io")
@pytest.mark.skipif(CAPABILITIES["io"].hierarchy == "v2", reason="version 2 counts in every cgroup")
def test_a_new_cgroup_has_not_read_yet(run: CgroupRun) -> None:
    """Which says nothing of the kernel: whether version 1 counts what disks do is seen around it."""
    cgroup = run.create("new", NO_LIMITS)
    told = [f"{path}/blkio.throttle.io_service_bytes_recursive" for path in cgroup.directories]
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            cgroup.attach(os.getpid())
            io = capabilities()["io"]
            counted = [Path(path).read_text(encoding="ascii") for path in told if os.path.exists(path)]
            os.write(write_end, f"{io.available} {io.reason}{[each for each in counted if 'Read' in each]}".encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        assert pipe.read() == "True []"
    os.waitpid(pid, 0)
    cgroup.remove()


def test_a_run_without_any_hierarchy_answers() -> None:
    """Limits are reported as not enforced, figures as missing, and nothing raises."""
    nowhere = CgroupRun("none", *choose((), frozenset()))
    cgroup = nowhere.create("one", Limits(cpus=1))
    assert set(cgroup.unenforced) == {"memory", "swap", "pids", "cpus"}
    assert cgroup.read().cpu is None
    assert cgroup.read().missing.keys() == {field.name for field in dataclasses.fields(CgroupUsage)} - {"missing"}
    assert cgroup.snapshot().missing
    assert cgroup.figure("cpu") is None
    cgroup.attach(os.getpid())
    assert cgroup.processes() == ()
    assert cgroup.kill() == ()
    cgroup.remove()
    nowhere.close()
    assert nowhere.paths == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_an_ordinary_user_is_told_of_delegation() -> None:
    """EACCES becomes a sentence about delegation."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(write_end, capabilities()["pids"].reason.encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        reason = pipe.read()
    os.waitpid(pid, 0)
    if CAPABILITIES["pids"].available:
        assert "not delegated to user 65534" in reason
        assert "EACCES" in reason


def test_oom_kill_in_a_cgroup_that_never_was() -> None:
    """None, soon, whether the log can be read or not."""
    started = time.monotonic()
    assert oom_kill(f"pytest-sandbox-{unique()}/none", started) is None
    assert time.monotonic() - started < 10


# -- pure v2: where a cgroup with children may hold no process -------------------------------------------------------


DELEGATE = """
import os, sys
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import CgroupRun, capabilities, remove_run
base = sys.argv[1]
with open(base + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
def where():
    return open("/proc/self/cgroup").read().strip()
def children():
    return sorted(entry.name for entry in os.scandir(base) if entry.is_dir())
start = where()
assert all(capabilities()[name].available for name in ("memory", "pids", "kill")), capabilities()
assert where() == start and children() == []
run = CgroupRun.open("outer")
assert where() == start + "/pytest-sandbox-controller-outer", where()
assert children() == ["pytest-sandbox-controller-outer", "pytest-sandbox-run-outer"]
cgroup = run.create("one", Limits())
assert cgroup.unenforced == {}, cgroup.unenforced
worker = CgroupRun.open("worker")
assert children() == ["pytest-sandbox-controller-outer", "pytest-sandbox-run-outer", "pytest-sandbox-run-worker"]
worker.create("one", Limits(cpus=0.5)).remove()
pid = os.fork()
if pid == 0:
    import time
    time.sleep(60)
cgroup.attach(pid)
assert cgroup.kill() == ()
assert cgroup.read().pids_max_events == 0
os.waitpid(pid, 0)
worker.close()
run.close()
assert where() == start and children() == [], (where(), children())
assert open(base + "/cgroup.subtree_control").read().strip() == ""
run = CgroupRun.open("killed")
remove_run(run.paths)
assert where() == start and children() == [], (where(), children())
assert open(base + "/cgroup.subtree_control").read().strip() == ""
import subprocess
other = subprocess.run("sleep 60 >&- 2>&- & echo $!", shell=True, stdout=subprocess.PIPE).stdout  # nobody's child
reason = capabilities()["memory"].reason
os.kill(int(other), 9)
while children() or int(other) in map(int, open(base + "/cgroup.procs")):
    pass
assert "other processes are in the cgroup" in reason, reason
assert where() == start and children() == []
print("fine")
"""


@pytest.mark.needs("memory")
@pytest.mark.skipif(CAPABILITIES["memory"].hierarchy != "v2", reason="this machine's memory controller is not on v2")
def test_delegated_cgroup_is_left_for_a_leaf_and_restored(run: CgroupRun) -> None:
    """The controller moves to a leaf, a worker shares its base, and all is put back; other processes are a reason."""
    base = run.create("delegated", dataclasses.replace(NO_LIMITS, cpus=2))
    assert base.unified_directory
    done = subprocess.run(
        [sys.executable, "-c", DELEGATE, base.unified_directory],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
    base.remove()


@pytest.mark.needs("memory", "pids")
@pytest.mark.skipif(CAPABILITIES["memory"].hierarchy != "v2", reason="this machine's memory controller is not on v2")
@pytest.mark.parametrize("kept", ["memory", "pids"])
def test_what_is_left_passes_on_what_another_needs(run: CgroupRun, kept: str) -> None:
    """A controller that another one below passes on cannot be disabled; all others are."""
    base = run.create("divided", NO_LIMITS).unified_directory
    assert base
    cgroup_files.write(f"{base}/cgroup.subtree_control", "+memory +pids")
    for name in ("leaf", "other"):
        os.mkdir(f"{base}/{name}")
    cgroup_files.write(f"{base}/other/cgroup.subtree_control", f"+{kept}")
    leave_leaf(f"{base}/leaf")
    assert cgroup_files.read(f"{base}/cgroup.subtree_control").decode().split() == [kept]
    assert not os.path.exists(f"{base}/leaf")
