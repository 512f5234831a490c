"""Figures that are true, or None with a reason: programs that consume a known amount, and what is said of them."""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import Limits, Network, Result, Sandbox, Spec, Usage
from pytest_sandbox.model.spec import MIB
from pytest_sandbox.sandbox.inside import bodies

PYTHON = sys.executable


def run(*argv: str, network: Network = Network.AUTO, **limits: Any) -> Result:
    """Run a program in a sandbox with these limits."""
    return Sandbox(Spec(limits=Limits(**limits), network=network, asked=frozenset(limits))).run(argv)


def test_none_has_a_reason_and_a_figure_has_none() -> None:
    """Never 0 because nobody looked."""
    usage = run("true").usage
    for field in dataclasses.fields(usage):
        if field.name != "missing":
            assert (getattr(usage, field.name) is None) == (field.name in usage.missing), field.name
    assert all(usage.missing.values())


def test_of_what_was_killed_too() -> None:
    """Init says nothing any more: what only it knows has a reason."""
    usage = run("sleep", "60", timeout=0.2).usage
    for field in dataclasses.fields(usage):
        if field.name != "missing":
            assert (getattr(usage, field.name) is None) == (field.name in usage.missing), field.name


def test_wall_and_cpu() -> None:
    """In seconds; also for a user without cgroups, by what init has reaped."""
    idle = run(PYTHON, "-c", "import time").usage.cpu
    began = time.monotonic()
    usage = run(PYTHON, "-c", "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.2)").usage
    assert 0.5 <= usage.wall <= time.monotonic() - began
    assert usage.cpu is not None
    assert idle is not None
    assert 0.3 <= usage.cpu < 0.6 + 2 * idle


def test_overlay() -> None:
    """Bytes and files of what was written, and none for what was only read."""
    usage = run("sh", "-c", "cat /etc/passwd > /dev/null").usage
    assert (usage.overlay_bytes, usage.overlay_inodes) == (0, 0)
    usage = run("sh", "-c", "mkdir /tmp/d; head -c 1000000 /dev/zero > /tmp/d/f").usage
    assert usage.overlay_bytes is not None
    assert 1_000_000 <= usage.overlay_bytes < 1_100_000
    assert usage.overlay_inodes is not None
    assert 2 <= usage.overlay_inodes <= 5


@pytest.mark.needs("xattr")
def test_overlay_in_scratch(tmp_path: Any) -> None:
    """The same where the layer is a directory among others of a file system."""
    limits = Limits(disk=None, inodes=None)
    result = Sandbox(Spec(limits=limits, scratch=str(tmp_path))).run(["sh", "-c", "head -c 1000000 /dev/zero > /tmp/f"])
    assert result.usage.overlay_bytes is not None
    assert 1_000_000 <= result.usage.overlay_bytes < 1_100_000
    assert [change.path for change in result.changes] == ["/tmp/f"]


def test_network_bytes() -> None:
    """What went over the loopback is counted, both ways; a network of its own that was not used is 0 by measurement."""
    usage = run("true").usage
    assert (usage.network_received, usage.network_sent) == (0, 0)
    source = "import socket\na = socket.create_server(('127.0.0.1', 80))\nb = socket.create_connection(('127.0.0.1', 80))\n"
    source += "c, _ = a.accept()\nb.sendall(bytes(100_000))\nn = 0\nwhile n < 100_000: n += len(c.recv(65536))"
    source = source if os.geteuid() == 0 else source.replace("80", "8080")
    result = run(PYTHON, "-c", source)
    assert result.ok, result.stderr
    assert result.usage.network_received is not None
    assert result.usage.network_sent is not None
    assert 100_000 < result.usage.network_sent == result.usage.network_received < 200_000


def test_network_bytes_of_a_network_that_is_not_its_own() -> None:
    """None, since others use it too."""
    usage = run("true", network=Network.HOST).usage
    assert usage.network_sent is None
    assert usage.missing["network_sent"] == "it had no network of its own, but shared the one around it"


@pytest.mark.needs("memory")
def test_memory_parts() -> None:
    """Anonymous memory and files apart, as they stand when a function is done, within 5 %; the peak is above both."""
    held: list[bytes] = []

    def use() -> None:
        held.append(b"x" * (40 << 20))
        with open("/tmp/file", "wb") as file:
            file.write(bytes(20 << 20))

    usage = Sandbox()._make(bodies.function(use, (), {}))[0].usage
    assert usage.memory_anon is not None
    assert usage.memory_file is not None
    assert 40 * MIB <= usage.memory_anon < 80 * MIB
    assert 19 * MIB <= usage.memory_file < 40 * MIB  # the kernel sums up 64 pages of each CPU at a time
    if usage.memory_peak is not None:
        assert usage.memory_peak >= 60 * MIB


@pytest.mark.needs("memory")
def test_memory_parts_of_what_ran_out_of_time() -> None:
    """They are read before the kill, when it has had the time to come to be."""
    usage = run("sleep", "60", timeout=1.0).usage
    assert usage.memory_anon


BEGIN = "import ctypes, mmap, os, sys, threading, time\n"


def figures(source: str, *, writable: tuple[str, ...] = (), **limits: Any) -> Usage:
    """What a program has used that runs this source after BEGIN."""
    spec = Spec(limits=Limits(**limits), writable=writable, asked=frozenset(limits))
    result = Sandbox(spec).run([PYTHON, "-I", "-c", BEGIN + source])
    assert result.ok, result.stderr.decode()
    return result.usage


@functools.cache
def nothing() -> Usage:
    """What one has used that does nothing: of the two, the second, which finds everything in the page cache."""
    figures("pass")
    return figures("pass")


def more(usage: Usage, name: str) -> float:
    """How much more of something than by doing nothing; skips where it is not counted here, with the reason."""
    if getattr(usage, name) is None:
        pytest.skip(f"{name}: {usage.missing[name]}")
    return float(getattr(usage, name) - getattr(nothing(), name))


#: Pages of one's own, one by one: without huge pages, whose faults are few.
ALLOCATE = """
size = {size} << 20
held = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
try: held.madvise(15)  # MADV_NOHUGEPAGE
except OSError: pass  # a kernel without
for offset in range(0, size, mmap.PAGESIZE): held[offset] = 1
"""


def test_peak() -> None:
    """100 MiB that were touched, within 5 %."""
    assert more(figures(ALLOCATE.format(size=100)), "memory_peak") == pytest.approx(100 * MIB, rel=0.05)


def of_function(call: Callable[[], object]) -> Usage:
    """What a function has used: what it holds is there when memory is looked at, as a program's is not."""
    return Sandbox()._make(bodies.function(call, (), {}))[0].usage


def test_anonymous_memory() -> None:
    """100 MiB that are held to the end, within 5 %."""
    held: list[bytes] = []
    usage, idle = of_function(lambda: held.append(b"x" * (100 * MIB))), of_function(lambda: None)
    if usage.memory_anon is None or idle.memory_anon is None:
        pytest.skip(usage.missing["memory_anon"])
    assert usage.memory_anon - idle.memory_anon == pytest.approx(100 * MIB, rel=0.05)


def test_memory_of_files() -> None:
    """50 MiB written to the layer are 50 MiB of memory and of the layer, both within 5 %."""
    usage = of_function(lambda: Path("/tmp/pytest-sandbox-written").write_bytes(bytes(50 * MIB)))
    assert usage.overlay_bytes == pytest.approx(50 * MIB, rel=0.05)
    if usage.memory_file is None:
        pytest.skip(usage.missing["memory_file"])
    assert usage.memory_file == pytest.approx(50 * MIB, rel=0.05)


def test_memory_of_the_kernel() -> None:
    """200 threads have 200 stacks in the kernel, of 16 KiB each at least: it is told apart."""

    def threads() -> None:
        for _ in range(200):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    many, none = of_function(threads), of_function(lambda: None)
    if many.memory_kernel is None or none.memory_kernel is None:
        pytest.skip(many.missing["memory_kernel"])
    assert many.memory_kernel - none.memory_kernel >= 200 * (16 << 10)


def test_faults() -> None:
    """One for each page that was touched, within 5 %.

    Of three: since Linux 6.17 an update that races with a flush of the cgroups above is summed up by the next only (the note at
    css_rstat_updated, kernel/cgroup/rstat.c), of which a cgroup that is gone has none: one CPU's share is missing then.
    """
    counted = statistics.median(more(figures(ALLOCATE.format(size=100)), "faults") for _ in range(3))
    assert counted == pytest.approx(100 * MIB / os.sysconf("SC_PAGESIZE"), rel=0.05)


@pytest.mark.usefixtures("true_cpu_clock")
@pytest.mark.parametrize("processes", [1, 4])
def test_cpu(processes: int) -> None:
    """600 ms, of one process or of four, all gone, within 5 %: by the clock that the kernel bills.

    And what Python took to begin, which differs from run to run: it says so itself. What else a sandbox takes, which is little
    but on an emulated processor, is what it takes with nothing to do. Of three, for the reason that faults have.
    """
    source = f"""
import resource
for _ in range({processes}):
    if os.fork() == 0:
        before = time.process_time()
        while time.process_time() - before < {{seconds}} / {processes}: pass
        os._exit(0)
for _ in range({processes}): os.wait()
every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
os.write(1, str(sum(one.ru_utime + one.ru_stime for one in every)).encode())
os._exit(0)
"""

    def unexplained(seconds: float) -> float:
        result = Sandbox().run([PYTHON, "-I", "-c", BEGIN + source.format(seconds=seconds)])
        assert result.usage.cpu is not None
        assert float(result.stdout) >= seconds
        return result.usage.cpu - float(result.stdout)

    idle = statistics.median(unexplained(0) for _ in range(3))
    assert statistics.median(unexplained(0.6) for _ in range(3)) == pytest.approx(idle, abs=0.03 + idle / 3)


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """All that this process starts runs on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.needs("cpus")
@pytest.mark.usefixtures("true_cpu_clock", "one_cpu")
def test_throttled() -> None:
    """Who wants one CPU and has a fiftieth of it waits for the rest, which is told: nearly all that passes but is not used.

    Nearly, since a part is spent in the queue of a machine under load: of each period of 100 ms the quota lasts 2 on an idle CPU,
    and 40 where 19 others want it, so that 60 of the 98 that are not used are the quota's. Of a fifth nothing would be left.
    All on one CPU, since the kernel adds up what it holds back on each; and it is held back too until it is all set up.
    """
    began = time.monotonic()
    usage, (passed, used) = of_spinning(0.03, cpus=0.02)
    whole = time.monotonic() - began
    assert usage.throttled is not None
    assert passed > 1  # of 15 periods; the kernel lends some for a tick
    assert 0.6 * (passed - used) <= usage.throttled <= whole - used


def of_spinning(seconds: float, **limits: Any) -> tuple[Usage, tuple[float, float]]:
    """What a function has used that takes so much CPU time, and by its own clocks: the time that passed, and that it used."""

    def spin() -> tuple[float, float]:
        began, before = time.monotonic(), time.process_time()
        while time.process_time() - before < seconds:
            pass
        return time.monotonic() - began, time.process_time() - before

    result, frame = Sandbox(Spec(limits=Limits(**limits), asked=frozenset(limits)))._make(bodies.function(spin, (), {}))
    return result.usage, bodies.value_of(frame, result)


@pytest.mark.needs("pids")
def test_processes() -> None:
    """Of 30 at once 30, and of threads too; what a limit refused is counted."""
    fork = "pids = [os.fork() or time.sleep(60) for _ in range(30)]\nfor pid in pids: os.kill(pid, 9)\nfor _ in pids: os.wait()"
    assert more(figures(fork), "pids_peak") == 30
    threads = "end = threading.Event()\nfor _ in range(30): threading.Thread(target=end.wait).start()\nend.set()"
    assert more(figures(threads), "pids_peak") == 30
    refuse = "try:\n    while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    usage = figures(refuse + "except RuntimeError: pass", pids=20)
    if usage.pids_max_events is None:
        pytest.skip(usage.missing["pids_max_events"])
    assert usage.pids_max_events == 1
    if usage.pids_peak is not None:
        assert usage.pids_peak == 20


@pytest.mark.parametrize("kind", ["read", "write"])
def test_disk(on_disk: Path, direct: Callable[..., Result], kind: str) -> None:
    """2 MiB past the page cache, in operations of 64 KiB, within 5 %: of three, since what the cache has lost is read again."""
    direct(on_disk, kind, 0)  # from now on the page cache has all that Python takes to begin
    found = [(direct(on_disk, kind, 2 * MIB).usage, direct(on_disk, kind, 0).usage) for _ in range(3)]
    name, operations = {"read": ("bytes_read", "reads"), "write": ("bytes_written", "writes")}[kind]
    if not os.path.exists("/proc/self/io") and getattr(found[0][0], name) is None:
        assert name in found[0][0].missing  # there is no such controller here, and the kernel does not count it by process
        return
    done = statistics.median(getattr(usage, name) - getattr(idle, name) for usage, idle in found)
    assert done == pytest.approx(2 * MIB, rel=0.05)
    if getattr(found[0][0], operations) is not None:
        done = statistics.median(getattr(usage, operations) - getattr(idle, operations) for usage, idle in found)
        assert done == pytest.approx(32, rel=0.05)


@pytest.mark.needs("memory")
def test_events_without_an_end(on_disk: Path) -> None:
    """Page cache over the limit is given back: the limit was met, the peak is the limit, and nobody was killed."""
    path = on_disk.with_name("cached")
    try:
        with path.open("wb") as file:
            file.write(bytes(64 * MIB))
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # or its pages are billed to who has written it
        usage = figures(f"file = open({str(path)!r}, 'rb')\nwhile file.read(1 << 16): pass", memory=32 * MIB)
    finally:
        path.unlink(missing_ok=True)
    assert usage.oom_kills == 0
    assert usage.memory_max_events
    if usage.memory_peak is not None:
        assert usage.memory_peak == pytest.approx(32 * MIB, rel=0.05)


def stalled(usage: Usage, what: str) -> float:
    """For how long somebody waited for it, and not everybody for longer; skips where the kernel does not say."""
    some, full = getattr(usage, f"{what}_stalled"), getattr(usage, f"{what}_stalled_fully")
    if some is None:
        pytest.skip(usage.missing[f"{what}_stalled"])
    assert full is None or full <= some
    return float(some)


# Each on one CPU: of a process that wanders the kernel tells less, since it averages over CPUs by how long each was used (psi.c,
# collect_percpu_times). A second that it waited on each of two is one.


@pytest.mark.usefixtures("one_cpu")
def test_stalls_for_a_cpu() -> None:
    """Of two that want the same, one waits for as long as both are there: as long as each says that it waited, and no longer."""

    def compete() -> list[float]:
        read, write = os.pipe()
        for _ in range(2):
            if os.fork() == 0:
                began, before = time.monotonic(), time.process_time()
                while time.process_time() - before < 0.5:
                    pass
                os.write(write, f"{time.monotonic() - began - (time.process_time() - before)} ".encode())
                os._exit(0)
        for _ in range(2):
            os.wait()
        time.sleep(1)
        return list(map(float, os.read(read, 100).split()))

    result, frame = Sandbox()._make(bodies.function(compete, (), {}))
    one, other = bodies.value_of(frame, result)
    # It slept for a second; a tenth is for what came before the clock of `wall`.
    assert 0.9 * max(one, other) <= stalled(result.usage, "cpu") <= result.usage.wall - 1 + 0.1


@pytest.mark.needs("memory_high")
@pytest.mark.usefixtures("one_cpu")
def test_stalls_for_memory() -> None:
    """Who has more than `memory_high` and nowhere to swap to waits with each page more: for most of what it takes.

    Of that, 80 % of what it does not use itself; more where the kernel uses it to look for pages.
    """
    source = """
held = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for offset in range(0, 16 << 20, mmap.PAGESIZE): held[offset] = 1  # which there is room for
began, before = time.monotonic(), time.process_time()
for offset in range(16 << 20, 64 << 20, mmap.PAGESIZE):
    held[offset] = 1
    if time.monotonic() - began > 2 + time.process_time() - before: break
os.write(1, f"{time.monotonic() - began} {time.process_time() - before}".encode())
"""
    found = []
    for high in (32 * MIB, 200 * MIB):
        limits = Limits(memory=400 * MIB, memory_high=high)
        result = Sandbox(Spec(limits=limits)).run([PYTHON, "-I", "-c", BEGIN + source])
        found.append((*map(float, result.stdout.split()), stalled(result.usage, "memory")))
    (passed, used, said), (_, _, idle) = found
    assert passed - used > 2
    assert 0.8 * (passed - used) <= said <= passed + 0.05
    assert idle < 0.05


@pytest.mark.needs("io_read")
@pytest.mark.usefixtures("one_cpu")
def test_stalls_for_a_disk(on_disk: Path, direct: Callable[..., Result]) -> None:
    """2 MiB at 1 MiB a second are all waited for, within 10 %; without a limit no more than they take."""
    slow = direct(on_disk, "read", 2 * MIB, io_read=MIB)
    assert stalled(slow.usage, "io") == pytest.approx(float(slow.stdout), rel=0.1)
    quick = direct(on_disk, "read", 2 * MIB)
    assert stalled(quick.usage, "io") <= float(quick.stdout) + 0.05
