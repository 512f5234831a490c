"""Limits that hold, and limits that are refused."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import Limits, Network, Result, Sandbox, Spec, SpecError, UnavailableError, capabilities
from pytest_sandbox.model.spec import MIB
from pytest_sandbox.sandbox.machine.host import unenforced

PYTHON = sys.executable


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip, with the capability's own reason, where this machine does not have it."""
    lacking = [capabilities()[name] for name in names if not capabilities()[name].available]
    return pytest.mark.skipif(bool(lacking), reason="; ".join(f"{c.name}: {c.reason}. Fix: {c.fix}" for c in lacking))


def run(*argv: str, network: Network = Network.AUTO, **limits: Any) -> Result:
    """Run a program in a sandbox with these limits."""
    return Sandbox(Spec(limits=Limits(**limits), network=network, asked=frozenset(limits))).run(argv)


@needs("cpus")
@pytest.mark.usefixtures("true_cpu_clock")
def test_cpus_are_throttled() -> None:
    """A fiftieth of a CPU is a fiftieth of its time, and the time lost is told.

    Of a machine under load it would get more: who may have a quarter may never have it, and so need not wait.
    """
    result = run("timeout", "2", "sh", "-c", "while :; do :; done", cpus=0.02)
    assert result.usage.throttled  # how much depends on what else this machine has to do
    assert result.usage.cpu is not None
    assert 0 < result.usage.cpu < 0.02 * result.usage.wall + 0.1


def test_open_files() -> None:
    """RLIMIT_NOFILE, which nobody inside can raise."""
    source = "import resource, os\nassert resource.getrlimit(resource.RLIMIT_NOFILE) == (30, 30)\n"
    source += "try:\n    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\nexcept (ValueError, OSError): pass\n"
    source += "else: raise SystemExit(9)\n"
    source += "while True: os.dup(0)"
    result = run(PYTHON, "-c", source, files=30)
    assert (result.status, b"Too many open files" in result.stderr) == (1, True)


@needs("swap")
def test_swap_is_bounded_with_memory() -> None:
    """With swap=0 what is over the limit of memory is killed, not swapped out."""
    if Path("/proc/swaps").read_text().count("\n") == 1:
        pytest.skip("this machine has nowhere to swap to")
    assert run(PYTHON, "-c", "b'x' * (200 << 20)", memory=64 * MIB, swap=0).usage.oom_kills


@needs("memory_high")
def test_memory_high_slows_down_and_kills_nobody() -> None:
    """What is above it goes to swap or is waited for; how often is told."""
    result = run(PYTHON, "-c", "held = b'x' * (40 << 20)", memory_high=40 * MIB, memory=200 * MIB)
    assert result.ok
    assert result.usage.memory_high_events


@needs("cpuset")
def test_cpuset() -> None:
    """The CPUs are those, and no process can get at others."""
    first, *others = sorted(os.sched_getaffinity(0))
    source = "import os\nprint(os.sched_getaffinity(0))\n"
    source += "\n".join(f"try: os.sched_setaffinity(0, {{{cpu}}})\nexcept OSError as e: print(e.errno)" for cpu in others)
    result = run(PYTHON, "-c", source, cpuset=str(first))
    assert result.stdout.decode().splitlines() == [str({first}), *["22"] * len(others)], result.stderr


@needs("cpuset")
def test_cpuset_of_cpus_that_are_not_there() -> None:
    """Version 2 would take it and mean something else."""
    with pytest.raises(UnavailableError, match="CPU 8000 is not there"):
        run("true", cpuset="0,8000")


@pytest.mark.parametrize("kind", ["read", "write"])
@needs("io_read", "io_write", "io_read_ops", "io_write_ops")
def test_io_is_throttled(on_disk: Path, direct: Callable[..., Result], kind: str) -> None:
    """2 MiB at 1 MiB a second, and 32 operations at 16 a second, take time: by the limit, no matter what else there is to do."""
    slow = direct(on_disk, kind, 2 * MIB, **{f"io_{kind}": MIB})
    assert float(slow.stdout) > 1
    slow = direct(on_disk, kind, 2 * MIB, **{f"io_{kind}_ops": 16})
    assert float(slow.stdout) > 1


@needs("hugetlb")
def test_huge_pages() -> None:
    """As many as the limit can be mapped and used; one more is refused when it is mapped, until another is given back."""
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if not pool.exists() or int(pool.read_text()) < 3:
        pytest.skip("this machine has reserved no 2 MiB pages (vm.nr_hugepages), as guests of tests/vm have")
    source = """
import mmap
def take(): return mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)  # MAP_HUGETLB
held = [take(), take()]
for page in held: page[0] = 1
try: take()
except OSError as error: print(error.errno)
held.pop().close()
take()[0] = 1
"""
    result = run(PYTHON, "-c", source, hugetlb=4 * MIB)
    assert result.ok, result.stderr
    assert result.stdout == f"{errno.ENOMEM}\n".encode()
    assert run(PYTHON, "-c", source, hugetlb=6 * MIB).stdout == b""


@needs("bandwidth")
def test_bandwidth() -> None:
    """Of its own loopback device: what is above the rate waits."""
    source = "import socket, time\na = socket.create_server(('127.0.0.1', 0))\nb = socket.create_connection(a.getsockname())\n"
    source += "c, _ = a.accept()\nbegan = time.monotonic()\nimport threading\n"
    source += "threading.Thread(target=lambda: b.sendall(bytes(1 << 19))).start()\nn = 0\n"
    source += "while n < 1 << 19: n += len(c.recv(65536))\nprint(time.monotonic() - began)"
    result = run(PYTHON, "-c", source, bandwidth=256 << 10)
    assert result.ok, result.stderr
    assert float(result.stdout) > 1  # 2 s, but for a burst of 128 KiB


@needs("bandwidth")
def test_bandwidth_of_a_network_that_is_not_its_own() -> None:
    """Cannot be limited, and is refused."""
    with pytest.raises(SpecError, match="bandwidth and network=host exclude each other"):
        run("true", network=Network.HOST, bandwidth=256 << 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory", 64 * MIB), ("memory_high", 64 * MIB), ("swap", 0), ("hugetlb", 0), ("pids", 10), ("cpus", 0.5),
        ("cpuset", "0"), ("cpu_time", 1.0), ("io_read", MIB), ("io_write", MIB), ("io_read_ops", 100), ("io_write_ops", 100),
        ("bandwidth", MIB),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused(name: str, value: float | str) -> None:
    """Before anything runs: what, why and the fix. Where it can be enforced, it is accepted."""
    spec = Spec(limits=dataclasses.replace(Limits(), **{name: value}), asked=frozenset({name}))  # type: ignore[arg-type]
    if capabilities()[name].available:
        Sandbox(spec)
        return
    with pytest.raises(UnavailableError) as caught:
        Sandbox(spec)
    assert caught.value.capability == f"the limit {name}"
    assert caught.value.reason == capabilities()[name].reason
    assert caught.value.fix


def test_a_default_that_cannot_be_enforced_is_no_error() -> None:
    """It is for the header to name; the sandbox runs."""
    assert Sandbox().run(["true"]).ok


def test_scratch_has_no_size(tmp_path: Any) -> None:
    """disk= and inodes= are sizes of a tmpfs: with scratch= they are refused if asked for."""
    spec = Spec(scratch=str(tmp_path))
    assert [capability.name for capability in unenforced(spec, capabilities())[-2:]] == ["disk", "inodes"]
    with pytest.raises(SpecError, match=r"disk and scratch .* exclude each other"):
        Sandbox(Spec(scratch=str(tmp_path), asked=frozenset({"disk"})))


def test_as_a_user_without_cgroups() -> None:
    """Processes, disk and time are bounded all the same; memory is refused; what is not known has a reason."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    script = """
import dataclasses, os, time
from pytest_sandbox import CallError, Ending, Limits, Sandbox, Spec, UnavailableError
def bomb():
    while True:
        if os.fork() == 0: time.sleep(60)
def ending(call, **limits):
    try: Sandbox(Spec(limits=Limits(**limits), asked=frozenset(limits))).call(call)
    except CallError as error: return error.outcome.ending.name
    except UnavailableError as error: return "refused: " + error.capability
def fill(): open(f"/tmp/fill-{os.getpid()}-of-sandbox", "wb").write(bytes(1 << 22))
print(ending(bomb, pids=20), ending(lambda: time.sleep(9), timeout=0.2), ending(fill, disk=1 << 20))
print(ending(bomb, memory=1 << 26), "/", ending(bomb, cpu_time=1.0), "/", ending(bomb, cpus=1.0))
usage = Sandbox().run(["true"]).usage
print(usage.memory_peak, usage.oom_kills, usage.pids_peak, bool(usage.missing["memory_peak"]), usage.cpu > 0)
"""
    # No number that tests/run.py takes, which runs this suite as such a user at the same time.
    user = ["setpriv", "--reuid", "62711", "--regid", "62711", "--clear-groups", PYTHON, "-c", script]
    probe = subprocess.run([*user[:6], PYTHON, "-c", "import pytest_sandbox"], cwd="/", capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"another user cannot run this Python: {probe.stderr.decode()[-200:]}")
    output = subprocess.run(user, cwd="/", capture_output=True, text=True, timeout=300, check=False)
    assert output.stdout.splitlines() == [
        "TOO_MANY_PROCESSES TIMED_OUT DISK_FULL",
        "refused: the limit memory / refused: the limit cpu_time / refused: the limit cpus",
        "None None None True True",
    ], output.stderr


def test_what_somebody_has_chosen_is_asked_for() -> None:
    """A limit that is not the usual one is refused where nothing enforces it, whoever forgets to say that it was asked for."""
    known = capabilities()
    name = next((name for name in ("memory_high", "hugetlb", "cpus", "memory") if not known[name].available), None)
    if name is None:
        pytest.skip("this machine holds every limit")
    chosen: dict[str, Any] = {name: 1.0 if name == "cpus" else 64 * MIB}
    with pytest.raises(UnavailableError, match=name):
        Sandbox(Spec(limits=Limits(**chosen)))
    with pytest.raises(SpecError, match="pids=1 is too few"):
        Sandbox(Spec(limits=Limits(pids=1)))
    with pytest.raises(TypeError, match=r"is no Spec: write Sandbox\(Spec"):
        Sandbox(Limits())  # type: ignore[arg-type]


@needs("pids")
def test_processes_are_counted_alike(pytester: pytest.Pytester) -> None:
    """The main process and its children, whether a cgroup counts them or RLIMIT_NPROC: not init."""
    pytester.makepyfile(
        """
        import pytest, subprocess
        @pytest.mark.sandbox(pids=10)
        def test_it():
            started = []
            with pytest.raises(OSError):
                while True: started.append(subprocess.Popen(["sleep", "60"]))
            assert len(started) == 9
            for one in started: one.kill(); one.wait()
        """
    )
    pytester.runpytest_subprocess("--sandbox").assert_outcomes(passed=1)
