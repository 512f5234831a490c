"""Limits of cgroups on the real kernel: each is met by a program, and what is then counted; and those that it does not take."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_sandbox.model.errors import SetupError, SpecError
from pytest_sandbox.model.spec import MIB, Limits
from pytest_sandbox.primitives.cgroups import CgroupRun, oom_kill
from pytest_sandbox.primitives.cgroups import limits as cgroup_limits
from pytest_sandbox.primitives.cgroups.controllers import choose
from pytest_sandbox.primitives.cgroups.layout import V1, V2, find_hierarchies
from pytest_sandbox.primitives.cgroups.pids import Refused, refused_for
from pytest_sandbox.primitives.cgroups.probe import NO_LIMITS
from tests.primitives.conftest import CAPABILITIES, Child, unique

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


# -- the kernel does not take ----------------------------------------------------------------------------------------


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
