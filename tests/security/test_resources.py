"""Resources: whoever takes too much is stopped by the limit, and named as what it was; the next test passes."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from pytest_sandbox import capabilities

BOMB = """
def bomb():
    while True:
        try:
            if os.fork() == 0:
                inner.stop_signals()
        except OSError:
            time.sleep(0.001)
"""
#: What a machine cannot enforce is refused, so it is not asked for.
PIDS = "pids=20, " if capabilities()["pids"].available else ""
SMALL = {"": "", "small": f"@pytest.mark.sandbox({PIDS}disk='4M', inodes=200, output='1M', files=64)\n"}
SMALL_MEMORY = {"": "", "small": "@pytest.mark.sandbox(memory='64M')\n"}
sizes = pytest.mark.parametrize("size", SMALL, ids=["defaults", "small"])


@sizes
def test_fork_bomb(attack: Any, size: str) -> None:
    """A bomb of processes that ignore signals ends with its test, named by the limit of processes."""
    attack.needs("pids")
    attack.write(f"""
def bomb():
    children = 0
    while True:
        if os.fork() == 0:
            inner.stop_signals()
            time.sleep(600)
        children += 1
        assert children < 5000, "nothing stops it"
{SMALL[size]}def test_bomb():
    inner.assert_inside()
    bomb()
""")
    result = attack.run()
    result.failed("test_bomb", "too many processes", "limit 20" if size else "limit 512")
    result.passed("test_next")
    assert attack.processes(attack.token) == []


def test_exponential_fork_bomb(attack: Any) -> None:
    """A bomb whose children bomb too, and never give up, is ended by the timeout; the run goes on at once."""
    attack.needs("pids")
    attack.write(f"""
{BOMB}
@pytest.mark.sandbox(timeout=2)
def test_bomb():
    inner.assert_inside()
    bomb()
""")
    start = time.monotonic()
    result = attack.run()
    result.failed("test_bomb", "timed out", "limit 2")
    result.passed("test_next")
    assert time.monotonic() - start < 20 * attack.crowd()


@sizes
@pytest.mark.parametrize("kind", ["heap", "memfd", "mmap", "child"])
def test_memory_bomb(attack: Any, size: str, kind: str) -> None:
    """Memory of the heap, of a memfd, shared, or of a child: out of memory, by the kernel's count, and nobody else's."""
    attack.needs("memory")
    attack.write(f"""
import mmap
def heap():
    blocks = []
    while len(blocks) < 600:
        blocks.append(b"x" * (8 << 20))
def memfd():
    fd = os.memfd_create("bomb")
    for _ in range(600):
        os.write(fd, b"x" * (8 << 20))
def mapped():
    # MAP_NORESERVE: a machine with less memory would refuse it at once.
    with mmap.mmap(-1, 4800 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x4000) as area:
        for at in range(0, 4800 << 20, 8 << 20):
            area[at : at + (8 << 20)] = b"x" * (8 << 20)
def child():
    if inner.fork(heap):
        raise MemoryError("the child was killed")
{SMALL_MEMORY[size]}def test_bomb():
    inner.assert_inside()
    {"mapped" if kind == "mmap" else kind}()
""")
    result = attack.run()
    result.failed("test_bomb", "out of memory", "out of memory", "limit 64M" if size else "limit 2G")
    result.passed("test_next")


@sizes
@pytest.mark.parametrize("place", ["/tmp", "/dev/shm", "project"])
def test_disk_filler(attack: Any, size: str, place: str) -> None:
    """Writing files without end meets ENOSPC at the limit, wherever it is, and is named as a full disk."""
    attack.facts["place"] = str(attack.project) if place == "project" else place
    attack.write(f"""
{SMALL[size]}def test_fill():
    inner.assert_inside(FACTS["place"])
    with open(FACTS["place"] + "/filler", "wb", buffering=0) as file:
        for _ in range(3000):
            file.write(bytes(1 << 20))
""")
    result = attack.run()
    result.failed("test_fill", "disk full", "disk full", "limit 4M" if size else "limit 1G", "No space left")
    result.passed("test_next")


@sizes
def test_inode_filler(attack: Any, size: str) -> None:
    """Making empty files without end meets ENOSPC at the limit of inodes, and is named so."""
    attack.write(f"""
{SMALL[size]}def test_fill():
    inner.assert_inside("/tmp")
    os.mkdir("/tmp/filler")
    for index in range(300_000):
        os.close(os.open(f"/tmp/filler/{{index}}", os.O_CREAT | os.O_WRONLY))
""")
    result = attack.run("--sandbox-keep=never")
    result.failed("test_fill", "out of inodes", "out of inodes", "No space left")
    result.passed("test_next")


@sizes
def test_descriptor_exhaustion(attack: Any, size: str) -> None:
    """Opening files without end is EMFILE in the test, also with the limits that the machine gives anyway."""
    attack.write(f"""
{SMALL[size]}def test_open():
    inner.assert_inside()
    opened = []
    for _ in range(3_000_000):
        opened.append(os.open("/dev/null", os.O_RDONLY))
def test_sockets():
    pairs = []
    for _ in range(3_000_000):
        pairs.append(socket.socketpair())
""")
    result = attack.run()
    ending = "too many open files" if SMALL[size] else "exited"  # of a limit of ours, or the machine's
    result.failed("test_open", ending, "Too many open files")
    result.failed("test_sockets", "exited", "Too many open files")
    result.passed("test_next")


@sizes
@pytest.mark.parametrize("how", ["write", "print", "child"])
def test_ten_gigabytes_of_output(attack: Any, size: str, how: str) -> None:
    """Output without end, of the test or of a program that it starts, is too much output soon after the limit."""
    attack.write(f"""
def write():
    for _ in range(10 << 10):
        os.write(1, b"x" * (1 << 20))
def printed():
    for _ in range(10 << 10):
        print("x" * (1 << 20))
def child():
    subprocess.run(["dd", "if=/dev/zero", "of=/dev/stdout", "bs=1M", "count=10240"], check=False)
{SMALL[size]}def test_flood():
    inner.assert_inside()
    {"printed" if how == "print" else how}()
""")
    result = attack.run()
    result.failed("test_flood", "too much output", "too much output", "limit 1M" if size else "limit 64M")
    result.passed("test_next")
    assert len(result.output) < 200 << 20


def test_busy_loop_that_blocks_signals(attack: Any) -> None:
    """A loop in C that blocks every signal is killed when its time is up, and named so."""
    attack.write("""
@pytest.mark.sandbox(timeout=1)
def test_loop():
    inner.assert_inside()
    inner.stop_signals()
    while True:
        pass
@pytest.mark.sandbox(timeout=1)
def test_stopped():
    inner.assert_inside()
    os.kill(os.getpid(), signal.SIGSTOP)
""")
    result = attack.run()
    result.failed("test_loop", "timed out", "timed out", "limit 1")
    result.failed("test_stopped", "timed out", "timed out")
    result.passed("test_next")


def test_cpu_time_of_all_processes_together(attack: Any) -> None:
    """Busy loops in children that nobody waits for are killed when the test's CPU time is used up, and named so."""
    attack.needs("cpu_time")
    attack.write("""
@pytest.mark.sandbox(cpu_time=1, timeout=60)
def test_loops():
    inner.assert_inside()
    for _ in range(4):
        if os.fork() == 0:
            while True:
                pass
    time.sleep(600)
""")
    result = attack.run()
    result.failed("test_loops", "cpu time", "cpu time", "limit 1")
    result.passed("test_next")


def test_many_that_misbehave_one_after_the_other(attack: Any) -> None:
    """A hundred sandboxes, each ended in another way than the one before it: every verdict is right."""
    attack.write("""
KINDS = ["passes", "fails", "exits", "killed", "leaks", "times-out", "fills"]
LATE = pytest.mark.sandbox(timeout=1)
@pytest.mark.sandbox(disk="1M")
@pytest.mark.parametrize("n", [pytest.param(n, marks=LATE if KINDS[n % 7] == "times-out" else ()) for n in range(100)])
def test_one(n):
    inner.assert_inside()
    kind = KINDS[n % 7]
    if kind == "fails": assert False
    if kind == "exits": os._exit(0)
    if kind == "killed": inner.fork(lambda: os.kill(-1, signal.SIGKILL)); time.sleep(60)
    if kind == "leaks": inner.daemon(inner.sleeper("x"))
    if kind == "times-out": time.sleep(60)
    if kind == "fills": open("/tmp/x", "wb").write(bytes(4 << 20))
""")
    result = attack.run(seconds=300)
    expected = [
        ("passed", "exited"), ("failed", "exited"), ("failed", "no report"), ("failed", "signalled"), ("passed", "exited"),
        ("failed", "timed out"), ("failed", "disk full"),
    ]  # fmt: skip
    for number in range(100):
        case = result.cases[f"test_one[{number}]"]
        assert (case.outcome, case.ending) == expected[number % 7], (number, case.text)
    result.passed("test_next")


def test_time_is_not_won_by_errors(attack: Any) -> None:
    """Who says again and again that he had no room, and had, has no more time than his limit."""
    attack.write("""
@pytest.mark.sandbox(timeout="1s")
def test_says_so(subtests):
    for number in range(4):
        with subtests.test(number=number):
            try: raise OSError(errno.ENOSPC, "no room")
            except OSError: pytest.skip("no room here")
        time.sleep(2.0)
""")
    if not hasattr(pytest, "Subtests"):
        pytest.skip("this pytest has no subtests")
    result = attack.run()
    assert re.search(r"test_says_so - timed out: killed after 1\.\d+s, limit 1s", result.output), result.output
    result.passed("test_next")


def test_the_file_of_stacks_is_output(attack: Any) -> None:
    """Who fills it, or claims to, is ended at the limit of output."""
    attack.write("""
def descriptor():
    found = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}")}
    return next(fd for fd, path in found.items() if "sandbox-stacks" in path)
@pytest.mark.sandbox(output="1M", timeout="60s")
def test_fills():
    os.write(descriptor(), bytes(4 << 20))
    time.sleep(100)
@pytest.mark.sandbox(output="1M", timeout="60s")
def test_claims():
    os.ftruncate(descriptor(), 1 << 40)
    time.sleep(100)
""")
    result = attack.run()
    result.failed("test_fills", "too much output", "limit 1M")
    result.failed("test_claims", "too much output", "limit 1M")
    result.passed("test_next")


def test_a_crash_is_no_output(attack: Any) -> None:
    """What Python prints of it is not what a test writes."""
    attack.write("""
import ctypes
def fall(depth): return fall(depth - 1) if depth else ctypes.string_at(0)
@pytest.mark.sandbox(output="4k")
def test_crashes(): fall(80)
""")
    result = attack.run()
    result.failed("test_crashes", "signalled", "killed by SIGSEGV")


def test_time_is_not_won_by_work_for_the_controller(attack: Any) -> None:
    """Who keeps it busy with its own questions is killed in time, or soon."""
    attack.write("""
import threading
@pytest.mark.sandbox(timeout="2s")
def test_asks(sandbox, tmp_path):
    for number in range(20000): open(tmp_path / str(number), "w").close()
    channel = sandbox._inside.channel
    threading.Thread(target=lambda: [channel.receive() for _ in range(10**6)], daemon=True).start()
    while True: channel.send({"op": "changes?"})
""")
    result = attack.run()
    case = result.cases["test_asks"]
    assert case.outcome == "failed", result.output
    assert float(case.properties["sandbox_wall"]) < 20
    result.passed("test_next")


def test_the_controllers_work_is_nobody_elses_time(attack: Any) -> None:
    """While it copies what one test has left, others that ask it something have time."""
    attack.write("""
def test_big(tmp_path):
    for number in range(15000): open(tmp_path / str(number), "w").close()
@pytest.mark.parametrize("number", range(3))
@pytest.mark.sandbox(timeout="5s")
def test_asks(number, sandbox):
    for _ in range(20):
        sandbox.usage()
        time.sleep(0.02)
""")
    result = attack.run("--sandbox-jobs=2")
    result.passed("test_big", *(f"test_asks[{number}]" for number in range(3)), "test_next")
