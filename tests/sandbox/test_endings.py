"""Every ending of the vocabulary, for real, with the figures in its sentence."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from pytest_sandbox import Ending, Sandbox
from pytest_sandbox.model.spec import MIB
from tests.sandbox.conftest import ending_of, python, run


def test_exited() -> None:
    """A program's status and output are its own."""
    result = run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.ending, result.status, result.sentence) == (Ending.EXITED, 3, "exited with status 3")
    assert (result.stdout, result.stderr, result.ok) == (b"out\n", b"err\n", False)
    assert run("true").ok


def test_a_program_that_is_not_there() -> None:
    """127, as in a shell, and its name."""
    result = run("/no/such/program")
    assert (result.status, result.stderr) == (127, b"/no/such/program: No such file or directory\n")


def test_value() -> None:
    """A function's value comes out; tuples stay tuples, bytes bytes."""
    value = {"a": (1, b"x", {2, 3}, [None, True, 1.5]), 7: frozenset("b"), "\udce9": "\n\U0001f600"}
    assert Sandbox().call(lambda: value) == value


def test_exception() -> None:
    """A function's exception is told with its traceback; it is no ending of the sandbox."""

    def fail() -> None:
        raise KeyError("lost")

    error = ending_of(fail)
    assert "KeyError: 'lost'" in str(error)
    assert "in fail" in str(error)
    assert error.outcome.ending is Ending.EXITED


def test_a_value_that_cannot_leave() -> None:
    """What is no plain data is named."""
    assert "a _thread.lock cannot leave a sandbox" in str(ending_of(threading.Lock))


@pytest.mark.parametrize("code", [0, 7, None, "text"])
def test_exit_in_a_function(code: object) -> None:
    """sys.exit() in a function gives no value, whatever its code."""
    assert "SystemExit" in str(ending_of(lambda: sys.exit(code)))  # type: ignore[arg-type]


def test_no_report() -> None:
    """os._exit(0) in a function is no success: it gave no value."""
    error = ending_of(lambda: os._exit(0))
    assert str(error) == "ended without a report: its main process left with exit status 0 and no value"
    assert error.outcome.ending is Ending.NO_REPORT


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGRTMIN + 3])
def test_signalled(number: int) -> None:
    """Its signal is named, also one that a pid 1 would ignore, and one without a name."""
    result = python(f"import os; os.kill(os.getpid(), {int(number)})")
    name = number.name if isinstance(number, signal.Signals) else f"signal {number}"
    assert (result.ending, result.status) == (Ending.SIGNALLED, -number)
    own = "; it was for no limit of the sandbox" if number == signal.SIGKILL and result.usage.oom_kills is not None else ""
    assert result.sentence == f"killed by {name}: its main process died of signal {int(number)}{own}"


def test_crash_of_a_function_has_a_stack() -> None:
    """faulthandler's stack of a crash is in the outcome."""

    def crash_here() -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    outcome = ending_of(crash_here).outcome
    assert outcome.ending is Ending.SIGNALLED
    assert "in crash_here" in outcome.stacks


HOG = "held = []\nfor _ in range(1000): held.append(b'x' * (1 << 20))"


@pytest.mark.needs("memory", "swap")
def test_out_of_memory() -> None:
    """Named with the limit, the peak and, where the kernel's log can be read, the process."""
    result = python(HOG, memory=64 * MIB)
    assert result.ending is Ending.OUT_OF_MEMORY
    assert "limit 64M, peak 64M" in result.sentence
    assert result.usage.oom_kills
    if os.access("/dev/kmsg", os.R_OK) and os.geteuid() == 0:
        assert "the kernel killed python" in result.sentence or "which one" in result.sentence


@pytest.mark.needs("memory", "swap")
def test_out_of_memory_several_times() -> None:
    """The kernel's log is asked for the last one, its count for how many there were."""
    source = f"import subprocess, sys\nfor _ in range(3): subprocess.run([sys.executable, '-c', {HOG!r}])"
    result = python(source, memory=64 * MIB)
    assert result.usage.oom_kills == 3
    assert re.search(r" pid \d+ and 2 others, limit 64M|the kernel killed 3 processes \(which ones", result.sentence)


@pytest.mark.needs("memory", "swap")
def test_out_of_memory_in_a_grandchild() -> None:
    """Also where the main process survives it, and says that all is well."""
    source = f"import subprocess, sys\nsubprocess.run(['sh', '-c', 'exec \"$0\" -c \"$1\"; true', sys.executable, {HOG!r}])"
    result = python(source, memory=64 * MIB)
    assert (result.ending, result.ok) == (Ending.OUT_OF_MEMORY, False)
    # None: init, a fork of this large process, was the kernel's choice, which only CAP_SYS_RESOURCE can prevent.
    assert result.status in (0, None)


@pytest.mark.needs("memory", "swap")
def test_out_of_memory_in_a_function() -> None:
    """The same by `call`."""
    error = ending_of(lambda: len([b"x" * (1 << 20) for _ in range(1000)]), memory=64 * MIB)
    assert error.outcome.ending is Ending.OUT_OF_MEMORY
    assert str(error) == error.outcome.sentence


def test_timed_out(crowd: Callable[[], float]) -> None:
    """After the limit, and not much later."""
    result = run("sleep", "60", timeout=0.3)
    assert result.ending is Ending.TIMED_OUT
    assert result.sentence.startswith("timed out: killed after ")
    assert result.sentence.endswith(", limit 300ms")
    assert 0.3 <= result.usage.wall < 3 * crowd()


@pytest.mark.needs("cpu_time")
@pytest.mark.parametrize("source", ["while True: pass", "import os\nos.fork()\nos.fork()\nwhile True: pass"])
def test_cpu_time(source: str) -> None:
    """All processes together; sleeping is free."""
    result = python(source, cpu_time=0.3)
    assert result.ending is Ending.CPU_TIME
    assert result.sentence.startswith("cpu time: ended after ")
    assert result.sentence.endswith(" of CPU, limit 300ms")
    assert result.usage.cpu is not None
    assert 0.3 <= result.usage.cpu < 3


@pytest.mark.needs("cpu_time")
@pytest.mark.usefixtures("true_cpu_clock")
def test_sleep_takes_no_cpu_time() -> None:
    """Wall time is not CPU time: of that it may have what a sandbox takes anyway, and more."""
    idle = run("sleep", "0").usage.cpu
    assert idle is not None
    limit = 0.5 + 2 * idle
    assert run("sleep", str(limit + 0.1), cpu_time=limit).ok


@pytest.mark.needs("pids")
def test_too_many_processes() -> None:
    """A fork that is refused, and named with the limit."""

    def bomb() -> None:
        while True:
            if os.fork() == 0:
                time.sleep(60)

    error = ending_of(bomb, pids=20)
    assert error.outcome.ending is Ending.TOO_MANY_PROCESSES
    assert "limit 20" in str(error)
    assert "Resource temporarily unavailable" in str(error)


@pytest.mark.needs("pids")
def test_threads_count_as_processes() -> None:
    """The kernel counts tasks; where nobody counts refusals, what threading says of one is understood."""

    def bomb() -> None:
        for _ in range(100):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    outcome = ending_of(bomb, pids=20).outcome
    assert outcome.ending is Ending.TOO_MANY_PROCESSES
    if outcome.usage.pids_peak is not None:
        assert outcome.usage.pids_peak == 20


def test_fork_bomb_in_a_shell() -> None:
    """The default limit ends it, and the timeout what is left."""
    result = run("sh", "-c", "f() { f | f & }; f; sleep 60", timeout=1.0)
    assert result.ending in (Ending.TIMED_OUT, Ending.TOO_MANY_PROCESSES)


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/dev/shm"])
def test_disk_full(place: str) -> None:
    """Bytes, wherever they are written."""
    result = python(f"with open('{place}/big', 'wb') as file: file.write(bytes(1 << 23))", disk=MIB)
    assert result.ending is Ending.DISK_FULL
    assert result.sentence.startswith("disk full: limit 1M, ")
    assert result.usage.overlay_bytes == MIB


def test_out_of_inodes() -> None:
    """Files and directories, however small."""
    result = python("for i in range(1000): open(f'/tmp/empty{i}', 'w').close()", inodes=100)
    assert result.ending is Ending.OUT_OF_INODES
    assert re.fullmatch(r"out of inodes: limit 100, \S+ in \d+ inodes left at the end", result.sentence)
    assert 90 <= len([change for change in result.changes if "/empty" in change.path]) <= 100


def fill() -> None:
    """Write more than a disk of 4M takes."""
    with open("/tmp/big", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def fill_and_unlink() -> None:
    """The same with a file that is gone with the process."""
    file = os.open("/tmp/big", os.O_CREAT | os.O_WRONLY)
    os.unlink("/tmp/big")
    while True:
        os.write(file, bytes(1 << 16))


def make() -> None:
    """Make more files than there are 100 inodes for."""
    for number in range(1000):
        open(f"/tmp/{number}", "x").close()


def clean_up_after(call: Callable[[], None]) -> Callable[[], None]:
    """Do something, and leave nothing of it."""

    def body() -> None:
        before = os.listdir("/tmp")
        try:
            call()
        finally:
            for name in set(os.listdir("/tmp")).difference(before):
                os.unlink(f"/tmp/{name}")

    return body


def share_memory() -> None:
    """Have more segments than a namespace may have, which is ENOSPC too: shmget(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    while libc.shmget(0, 1, 0o600) >= 0:
        pass
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (fill, "disk full: limit 4M, "),
        (fill_and_unlink, "disk full: limit 4M, "),
        (make, "out of inodes: limit 100, "),
        (clean_up_after(fill), "exited with status 1"),
        (clean_up_after(make), "exited with status 1"),
        (share_memory, "exited with status 1"),
    ],
    ids=["disk", "an unlinked file", "inodes", "disk, cleaned up", "inodes, cleaned up", "neither"],
)
def test_which_room_it_lacked(call: Callable[[], None], sentence: str) -> None:
    """What the controller has seen used up, of two limits that are both small; where it has not, neither is blamed."""
    error = ending_of(call, disk=4 * MIB, inodes=100)
    assert error.outcome.sentence.startswith(sentence)
    assert "No space left on device" in str(error)


@pytest.mark.parametrize("stream", [1, 2])
def test_too_much_output(stream: int) -> None:
    """A writer without end is killed early, and what it wrote first is kept."""
    result = run("sh", "-c", f"yes >&{stream}", output=MIB)
    assert result.ending is Ending.TOO_MUCH_OUTPUT
    assert result.sentence.startswith("too much output: ended at ")
    assert result.sentence.endswith(", limit 1M")
    assert len(result.stdout if stream == 1 else result.stderr) == MIB


def test_too_much_output_of_what_ends_at_once() -> None:
    """Nobody slips through between two looks."""
    result = run("sh", "-c", "head -c 2000000 /dev/zero", output=MIB)
    assert (result.ending, result.ok) == (Ending.TOO_MUCH_OUTPUT, False)


@pytest.mark.needs("memory")
def test_output_beats_memory() -> None:
    """Output lies in memory: where it is both too much for the one and the other, it is the output that is named."""
    result = run("sh", "-c", "yes", output=MIB, memory=32 * MIB)
    assert result.ending is Ending.TOO_MUCH_OUTPUT


def test_output_survives_sigkill() -> None:
    """What Python and a subprocess wrote before."""
    source = "import os, subprocess\nprint('mine', flush=True)\nsubprocess.run(['echo', 'its'])\nos.kill(os.getpid(), 9)"
    assert python(source).stdout == b"mine\nits\n"


def test_outer_processes_are_untouched() -> None:
    """kill(-1) inside reaches nobody outside."""
    outer = subprocess.Popen(["sleep", "60"])
    try:
        host = os.stat("/proc/self/ns/pid").st_ino

        def kill_all() -> None:
            assert os.stat("/proc/self/ns/pid").st_ino != host
            subprocess.Popen(["sleep", "60"])  # or there is nobody to kill: ESRCH
            os.kill(-1, signal.SIGKILL)

        Sandbox().call(kill_all)
        assert outer.poll() is None
    finally:
        outer.kill()
        outer.wait()
