"""Limits that hold, limits that are refused, and figures that are true or None with a reason."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest

from pytest_sandbox import Limits, Network, Result, Sandbox, Spec, UnavailableError, capabilities
from pytest_sandbox.model.spec import MIB
from pytest_sandbox.sandbox import bodies
from pytest_sandbox.sandbox.host import unenforced

PYTHON = sys.executable


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip, with the capability's own reason, where this machine does not have it."""
    lacking = [capabilities()[name] for name in names if not capabilities()[name].available]
    return pytest.mark.skipif(bool(lacking), reason="; ".join(f"{c.name}: {c.reason}. Fix: {c.fix}" for c in lacking))


def run(*argv: str, network: Network = Network.AUTO, **limits: Any) -> Result:
    """Run a program in a sandbox with these limits."""
    return Sandbox(Spec(limits=Limits(**limits), network=network, asked=frozenset(limits))).run(argv)


@needs("cpus")
def test_cpus_are_throttled() -> None:
    """A quarter of a CPU is a quarter of its time, and the time lost is told."""
    result = run("timeout", "1", "sh", "-c", "while :; do :; done", cpus=0.25)
    assert result.usage.throttled  # how much depends on what else this machine has to do
    assert result.usage.cpu is not None
    assert 0 < result.usage.cpu < 0.25 * result.usage.wall + 0.1


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
    assert run(PYTHON, "-c", "b'x' * (200 << 20)", memory=64 * MIB, swap=0).usage.oom_kills


@pytest.mark.parametrize(("name", "value"), [("memory", 64 * MIB), ("swap", 0), ("pids", 10), ("cpus", 0.5), ("cpu_time", 1.0)])
def test_what_cannot_be_enforced_is_refused(name: str, value: float) -> None:
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
    with pytest.raises(UnavailableError, match="disk"):
        Sandbox(Spec(scratch=str(tmp_path), asked=frozenset({"disk"})))


# -- usage -------------------------------------------------------------------------------------------------------------


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
    usage = run(PYTHON, "-c", "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.2)").usage
    assert 0.5 <= usage.wall < 5
    assert usage.cpu is not None
    assert 0.3 <= usage.cpu < 1


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


@needs("memory")
def test_memory_parts() -> None:
    """Anonymous memory and files apart, as they stand when a function is done; the peak is above both."""
    held: list[bytes] = []

    def use() -> None:
        held.append(b"x" * (40 << 20))
        with open("/tmp/file", "wb") as file:
            file.write(bytes(20 << 20))

    usage = Sandbox()._make(bodies.function(use, (), {}))[0].usage
    assert usage.memory_anon is not None
    assert usage.memory_file is not None
    assert 40 * MIB <= usage.memory_anon < 80 * MIB
    assert 20 * MIB <= usage.memory_file < 40 * MIB
    if usage.memory_peak is not None:
        assert usage.memory_peak >= 60 * MIB


@needs("memory")
def test_memory_parts_of_what_ran_out_of_time() -> None:
    """They are read before the kill."""
    usage = run("sleep", "60", timeout=0.2).usage
    assert usage.memory_anon


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
print(usage.memory_peak, usage.oom_kills, usage.pids_peak, "not delegated" in usage.missing["memory_peak"], usage.cpu > 0)
"""
    user = ["setpriv", "--reuid", "4711", "--regid", "4711", "--clear-groups", PYTHON, "-c", script]
    probe = subprocess.run([*user[:6], PYTHON, "-c", "import pytest_sandbox"], cwd="/", capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"another user cannot run this Python: {probe.stderr.decode()[-200:]}")
    output = subprocess.run(user, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert output.stdout.splitlines() == [
        "TOO_MANY_PROCESSES TIMED_OUT DISK_FULL",
        "refused: the limit memory / refused: the limit cpu_time / refused: the limit cpus",
        "None None None True True",
    ], output.stderr
