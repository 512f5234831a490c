"""Cgroups on the real kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.model.errors import SetupError, SpecError, TeardownWarning
from pytest_sandbox.model.spec import MIB, Limits
from pytest_sandbox.primitives import cgroup_files, cgroup_limits
from pytest_sandbox.primitives.cgroup_controllers import choose
from pytest_sandbox.primitives.cgroup_delegation import leave_leaf
from pytest_sandbox.primitives.cgroup_layout import V1, V2, find_hierarchies
from pytest_sandbox.primitives.cgroup_limits import disks
from pytest_sandbox.primitives.cgroup_pids import Refused, refused_for
from pytest_sandbox.primitives.cgroup_probe import NO_LIMITS
from pytest_sandbox.primitives.cgroups import Cgroup, CgroupRun, CgroupUsage, capabilities, enter, oom_kill, remove_run

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


# -- the kernel enforces ---------------------------------------------------------------------------------------------


@pytest.mark.needs("memory", "swap")
@pytest.mark.parametrize("leaf", [False, True])
def test_memory_hog_is_killed_at_its_limit(run: CgroupRun, child: type[Child], *, leaf: bool) -> None:
    """The kernel kills it, counts one OOM kill, and the peak is the limit."""
    started = time.monotonic()
    cgroup = run.create("hog", dataclasses.replace(NO_LIMITS, memory=64 * MIB, swap=0), leaf=leaf)
    hog = child(cgroup, "held = []\nfor _ in range(400): held.append(b'x' * (1 << 20))\nprint('survived')")
    status, output = hog.wait()
    usage = cgroup.read()
    assert (status, output) == (-signal.SIGKILL, "")
    assert usage.oom_kills == 1
    assert usage.memory_max_events
    assert usage.memory_oom_events in ((1,) if run.hierarchy("memory") == "v2" else (None,))
    if usage.memory_peak is not None:
        assert 60 * MIB < usage.memory_peak <= 64 * MIB
    if os.access("/dev/kmsg", os.R_OK) and os.geteuid() == 0:
        kill = oom_kill(cgroup.log_name, started)
        # The kernel prints 10 such lines in 5 s at most, so there may be none; a wrong one there may not be.
        assert kill is None or (kill.victim.endswith(f"pid {hog.process.pid}") and kill.own)
    cgroup.remove()


@pytest.mark.needs("memory", "swap")
def test_a_sandbox_within_its_limit_has_no_oom_kill(run: CgroupRun, child: type[Child]) -> None:
    """Counters are 0 because they were read, and the peak is what was touched."""
    cgroup = run.create("modest", dataclasses.replace(NO_LIMITS, memory=256 * MIB, swap=0))
    modest = child(cgroup, "held = b'x' * (50 << 20)\nprint('holding', flush=True)\ntime.sleep(60)")
    assert modest.line() == "holding"
    now, usage = cgroup.snapshot(), cgroup.read()
    assert now.anon is not None
    assert 50 * MIB <= now.anon < 80 * MIB
    assert now.file is not None
    assert not now.missing
    assert usage.oom_kills == 0
    if usage.memory_peak is not None:
        assert usage.memory_peak >= 50 * MIB
    assert cgroup.kill() == ()


@pytest.mark.needs("pids")
@pytest.mark.parametrize("leaf", [False, True])
def test_forks_beyond_the_pids_limit_are_refused(run: CgroupRun, child: type[Child], *, leaf: bool) -> None:
    """EAGAIN at the limit; the event is counted and the peak is the limit."""
    cgroup = run.create("forks", dataclasses.replace(NO_LIMITS, pids=5), leaf=leaf)
    forker = child(
        cgroup,
        """
        made = 0
        try:
            while made < 50:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                made += 1
        except BlockingIOError:
            print("refused after", made, flush=True)
        time.sleep(60)
        """,
    )
    assert forker.line() == "refused after 4"
    assert len(cgroup.processes()) == 5
    usage = cgroup.read()
    assert usage.pids_max_events == 1
    assert usage.pids_peak == 5 or "pids_peak" in usage.missing
    assert cgroup.kill() == ()
    assert cgroup.processes() == ()


MET, LESS = {"max": 9, "peak": 9}, {"max": 9, "peak": 8}
OUTER, EVENTS = "{outer} (pids.max 9)", {"max": 5, "peak": 4, "events.local": ""}


@pytest.mark.parametrize(
    ("own", "outer", "root", "expected"),
    [
        pytest.param({"max": 5, "peak": 5}, MET, {}, Refused(own=True), id="both"),
        pytest.param({"max": 5, "peak": 4}, MET, {}, Refused(own=False, around=OUTER), id="around"),
        pytest.param({"max": "max", "peak": 4}, MET, {}, Refused(own=False, around=OUTER), id="around, none of its own"),
        pytest.param({"max": 5, "peak": 4}, MET, {"max": 8, "peak": 8}, Refused(False, "{root} (pids.max 8)"), id="least"),
        pytest.param({"max": 5, "peak": 4}, LESS, {}, Refused(own=True), id="none but two forks at once"),
        pytest.param({"max": 5, "peak": 4}, LESS, None, Refused(own=False), id="none that is seen"),
        pytest.param({"max": 5}, {"max": 9}, {}, Refused(own=None, around=OUTER), id="no peaks"),
        pytest.param({"max": 5}, {"max": "max"}, {}, Refused(own=True), id="no peaks, no limit around"),
        pytest.param({"max": 5}, {"max": "max"}, None, Refused(own=None), id="no peaks, and not all is seen"),
        pytest.param(EVENTS, MET, {}, Refused(own=True), id="counted where it is met"),
    ],
)
def test_for_whose_limit_forks_were_refused(
    tmp_path: Path, own: dict[str, object], outer: dict[str, object], root: dict[str, object] | None, expected: Refused
) -> None:
    """By limits and peaks, on kernels that count a refusal where the fork was. root: None where that cannot be seen."""
    places = [tmp_path / "root", tmp_path / "root/outer", tmp_path / "root/outer/own"]
    for place, files in zip(places, (root, outer, own), strict=True):
        place.mkdir()
        if files is not None:
            (place / "cgroup.procs").touch()
        for name, value in (files or {}).items():
            (place / f"pids.{name}").write_text(f"{value}\n")
    around = expected.around.format(outer=places[1], root=places[0])
    assert refused_for(str(places[2])) == dataclasses.replace(expected, around=around)


@pytest.mark.needs("pids")
def test_a_limit_around_pytest_is_not_the_own(run: CgroupRun, child: type[Child], tmp_path: Path) -> None:
    """In the report of a test whose forks a cgroup around pytest refuses, with that cgroup and its limit."""
    hierarchy = run.hierarchy("pids")
    if hierarchy is None:
        pytest.skip("no cgroup counts processes")
    forks = "def test_it():\n    for _ in range(60): subprocess.Popen(['sleep', '9'])\n"
    (tmp_path / "test_it.py").write_text(f"import subprocess\n{forks}def test_after(): pass\n")
    outer = run.create("outer", dataclasses.replace(NO_LIMITS, pids=30))
    command = [sys.executable, "-m", "pytest", "--sandbox", "-p", "no:cacheprovider", str(tmp_path)]
    status, output = child(outer, f"os.execv({sys.executable!r}, {command!r})").wait()
    assert status == 1
    assert "1 failed, 1 passed" in output
    place = next(directory for directory in outer.directories if os.path.exists(f"{directory}/pids.max"))
    around = f"that of a cgroup around pytest was met, {place} (pids.max 30)"
    if os.path.exists(f"{place}/pids.events.local"):
        assert "too many processes" not in output  # it is counted where the limit is
    elif os.path.exists(f"{place}/pids.peak"):
        assert re.search(f"refused within its limit of 512, peak [12].: {re.escape(around)}", output), output
    else:
        assert f"(or {around}: which it was, this kernel does not tell)" in output


@pytest.mark.needs("cpus", "cpu_time")
def test_cpu_quota_throttles(run: CgroupRun, child: type[Child]) -> None:
    """A busy loop under a fiftieth of a CPU gets a fiftieth of the wall time, and the wait is counted in seconds.

    Of a machine under load it would get more: who may have a quarter may never have it, and so need not wait.
    """
    cgroup = run.create("fiftieth", dataclasses.replace(NO_LIMITS, cpus=0.02))
    busy = child(cgroup, "print('busy', flush=True)\nwhile True: pass")
    assert busy.line() == "busy"
    started, before = time.monotonic(), cgroup.figure("cpu")
    time.sleep(2)
    after, wall = cgroup.figure("cpu"), time.monotonic() - started
    assert before is not None
    assert after is not None
    assert 0 < after - before < wall * 0.02 + 0.1
    usage = cgroup.read()
    assert usage.throttled is not None
    # How much depends on what else the machine has to do; a wrong unit would be out by a thousand.
    assert 0 < usage.throttled < 60
    assert cgroup.kill() == ()


@pytest.fixture
def loop_device() -> Iterator[str]:
    """A loop device on a file of 2 MiB on a disk, past whose page cache it goes."""
    place, device = "/var/tmp", os.stat("/var/tmp").st_dev
    if not os.path.exists(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"):
        pytest.skip(f"{place} lies on no disk")
    with tempfile.NamedTemporaryFile(dir=place) as file:
        file.write(os.urandom(2 * MIB))
        os.fsync(file.fileno())
        command = ["losetup", "--find", "--show", "--direct-io=on", file.name]
        found = subprocess.run(command, check=False, capture_output=True, text=True)
        if found.returncode:
            pytest.skip(f"no loop device: {found.stderr.strip()}")
        yield found.stdout.strip()
        subprocess.run(["losetup", "--detach", found.stdout.strip()], check=True)


@pytest.mark.needs("io")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a loop device")
def test_io_of_a_disk_on_a_disk_is_counted_once(run: CgroupRun, child: type[Child], loop_device: str) -> None:
    """2 MiB, in operations of 64 KiB, though the kernel bills them to the loop device and to the disk below."""
    cgroup = run.create("loop", NO_LIMITS)
    read = f"""
        import mmap
        fd, buffer = os.open({loop_device!r}, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 1 << 16)
        print(sum(os.preadv(fd, [buffer], offset) for offset in range(0, 2 << 20, 1 << 16)))
    """
    assert child(cgroup, read).wait() == (0, f"{2 * MIB}\n")
    usage = cgroup.read()
    assert usage.bytes_read == pytest.approx(2 * MIB, rel=0.05)
    assert usage.reads == pytest.approx(32, rel=0.1)


@pytest.mark.needs("cpu_time")
def test_cpu_time_counts_processes_that_are_gone(run: CgroupRun, child: type[Child]) -> None:
    """What a grandchild burnt is still there when it is dead and reaped."""
    cgroup = run.create("burn", NO_LIMITS)
    burner = child(
        cgroup,
        """
        pid = os.fork()
        if pid == 0:
            while time.process_time() < 0.2: pass
            os._exit(0)
        os.waitpid(pid, 0)
        """,
    )
    assert burner.wait()[0] == 0
    used, usage, later = cgroup.figure("cpu"), cgroup.read(), cgroup.figure("cpu")
    assert used is not None
    assert usage.cpu is not None
    assert later is not None
    assert 0.2 <= used <= usage.cpu <= later < 5  # who is reaped may have its last moment billed yet
    cgroup.remove()


@pytest.mark.usefixtures("true_cpu_clock")
@pytest.mark.parametrize("version", [V1, V2])
def test_cpu_time_by_either_version(child: type[Child], version: int) -> None:
    """600 ms of four processes, within 5 % of what the kernel billed them. On a hybrid machine each version can be asked."""
    everywhere = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    choices, problems = choose(tuple(each for each in everywhere if each.version == version), frozenset())
    if "usage" not in choices:
        pytest.skip(f"of version {version} no hierarchy counts CPU time here: {problems['usage'].reason}")
    with contextlib.closing(CgroupRun(unique(), {"usage": choices["usage"]}, problems)) as only:
        cgroup = only.create("spin", NO_LIMITS)
        spinner = child(
            cgroup,
            """
            import resource
            for _ in range(4):
                if os.fork() == 0:
                    while time.process_time() < 0.15: pass
                    os._exit(0)
            for _ in range(4): os.wait()
            billed = resource.getrusage(resource.RUSAGE_CHILDREN)
            print(billed.ru_utime + billed.ru_stime)
            """,
        )
        before = cgroup.figure("cpu")
        status, output = spinner.wait()
        after, billed = cgroup.figure("cpu"), float(output)
        assert status == 0
        assert billed >= 0.6
        assert before is not None
        assert after is not None
        assert after - before == pytest.approx(billed, rel=0.05)
        cgroup.remove()


# -- kill and removal ------------------------------------------------------------------------------------------------

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
    with contextlib.closing(CgroupRun.open(unique(), unified=False)) as run:
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
    with contextlib.closing(CgroupRun.open(unique(), unified=False)) as run:
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


@pytest.mark.needs("pids")
def test_a_refused_limit_leaves_nothing(run: CgroupRun) -> None:
    """What the kernel will not take is a SetupError with the file, and the directories are gone again."""
    limits = dataclasses.replace(NO_LIMITS, pids=1)
    object.__setattr__(limits, "pids", 1 << 40)  # `Limits` itself would refuse it
    with pytest.raises(SetupError, match="limit pids to 1099511627776") as caught:
        run.create("bad", limits)
    assert caught.value.errno == errno.EINVAL
    assert [path for path in run.paths if os.path.exists(f"{path}/bad")] == []


@pytest.mark.parametrize(
    ("limit", "value", "files", "held"),
    [
        pytest.param(name, value, files, held, marks=pytest.mark.needs(name))
        for name, value, files, held in (
            ("memory", 1 << 62, ("memory.max", "memory.limit_in_bytes"), 1 << 62),
            ("pids", 1 << 22, ("pids.max",), 1 << 22),
            ("cpus", 8192, ("cpu.max", "cpu.cfs_quota_us"), 819_200_000),
            ("io_read_ops", (1 << 32) - 2, ("io.max", "blkio.throttle.read_iops_device"), (1 << 32) - 2),
            ("io_write_ops", (1 << 32) - 2, ("io.max", "blkio.throttle.write_iops_device"), (1 << 32) - 2),
        )
    ],
)
def test_the_kernel_cuts_no_limit(run: CgroupRun, limit: str, value: int, files: tuple[str, ...], held: int) -> None:
    """What `Limits` takes at most is what the kernel then says that it holds; more is refused (but of memory: it has no more)."""
    if limit in CAPABILITIES and not CAPABILITIES[limit].available:  # what there is of it is an rlimit
        pytest.skip(CAPABILITIES[limit].reason)
    cgroup = run.create("most", dataclasses.replace(NO_LIMITS, **{limit: value}))  # type: ignore[arg-type]
    paths = [Path(directory, file) for directory in cgroup.directories for file in files]
    said = "".join(path.read_text() for path in paths if path.exists())
    assert held in map(int, re.findall(r"\d+", said)), said
    cgroup.remove()
    if limit != "memory":
        with pytest.raises(SpecError, match=f"the limit {limit}={value + 1} is more than the kernel can hold, {value}"):
            Limits(**{limit: value + 1})  # type: ignore[arg-type]


@pytest.mark.needs("io_write")
@pytest.mark.parametrize("listed", [1, 2], ids=["is gone", "is still listed"])
def test_a_disk_that_is_gone(run: CgroupRun, monkeypatch: pytest.MonkeyPatch, listed: int) -> None:
    """What the kernel does not know any more needs no rule; what is still listed and takes none is an error."""
    real = cgroup_limits.disks()
    lists = iter([(*real, "511:0")] * listed + [real] * 9)
    monkeypatch.setattr(cgroup_limits, "disks", lambda: next(lists))
    if listed == 1:
        assert run.create("one", dataclasses.replace(NO_LIMITS, io_write=1 << 30)).unenforced == {}
    else:
        with pytest.raises(SetupError, match="limit io_write to 511:0"):
            run.create("one", dataclasses.replace(NO_LIMITS, io_write=1 << 30))


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
