"""Sandboxes misused in every way, many of them in one run: each verdict is right, and the machine is as before.

With `--abuse 110` each ending so often, in a thousand sandboxes; `--abuse-seed` for the very order, or moments, that a failed
test names. As root and as a user, and in guests:

    python tests/run.py tests/security/test_abuse.py --abuse 110
    python tests/vm/suite.py --cgroups v2,none tests/security/test_abuse.py --abuse 110
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import itertools
import json
import math
import random
import textwrap
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import capabilities

HELPERS = """
def endless(): time.sleep(600)
def fill(path, size=256 << 20):
    with open(path, "wb", buffering=0) as file:
        for _ in range(size >> 16): file.write(bytes(1 << 16))
def map_filler():
    import mmap
    with open("/tmp/filler", "wb+") as file:
        file.truncate(8 << 20)
        mmap.mmap(file.fileno(), 0)[:] = b"x" * (8 << 20)
def hoard(size=256 << 20):
    return [b"x" * (1 << 20) for _ in range(size >> 20)]
def bomb(child=endless):
    for _ in range(600):
        if os.fork() == 0: child(); endless()
def hoarder():
    global held
    held = hoard(2 << 20)
def refused():
    try: bomb()
    except BlockingIOError: return
    assert False, "nobody refuses a process"
refusal = None
def full():
    global refusal
    try: fill("/tmp/full")
    except OSError as error: refusal = error
    assert refusal.errno == errno.ENOSPC
def make():
    global refusal
    try:
        for n in range(1000): open(f"/tmp/{n}", "w")
    except OSError as error: refusal = error
    assert refusal.errno == errno.ENOSPC
def clean_up():
    for n in range(1000):
        if os.path.exists(f"/tmp/{n}"): os.unlink(f"/tmp/{n}")
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A test that misbehaves: its marker's arguments, its body, and what must become of it.

    says: what its report must have. needs: capabilities without which nothing limits or counts what it does.
    """

    name: str
    arguments: str
    body: str
    ending: str
    says: str = ""
    outcome: str = "failed"
    needs: tuple[str, ...] = ()


MEMORY, PIDS, CPU = ("memory", "swap"), ("pids",), ("cpu_time",)
BOTH = MEMORY + PIDS
DISK_FULL = "disk full: limit 4M"
NO_MEMORY, NO_ROOM = "limit 48M, peak 4", "No space left on device"
# Floods are small ones: pytest holds what each has written, to the end of a thousand tests.
CASES = (
    # Every ending.
    Case("passes", "", "pass", "exited", outcome="passed"),
    Case("fails", "", "assert False, 'as it must'", "exited", "as it must"),
    Case("exits", "", "os._exit(0)", "no report", "left with exit status 0"),
    Case("exits_3", "", "os._exit(3)", "no report", "left with exit status 3"),
    Case("crashes", "", "import ctypes; ctypes.string_at(0)", "signalled", "killed by SIGSEGV"),
    Case("kills_itself", "", "os.kill(os.getpid(), signal.SIGKILL)", "signalled", "killed by SIGKILL"),
    Case("kills_all", "", "inner.fork(lambda: os.kill(-1, signal.SIGKILL)); endless()", "signalled", "killed by SIGKILL"),
    Case("hoards", "memory='48M'", "hoard()", "out of memory", NO_MEMORY, needs=MEMORY),
    Case("hoards_in_child", "memory='48M'", "inner.fork(hoard)", "out of memory", NO_MEMORY, needs=MEMORY),
    Case("hoards_files", "memory='48M', disk='1G'", "fill('/tmp/filler')", "out of memory", NO_MEMORY, needs=MEMORY),
    Case("hoards_memfd", "memory='48M'", "fd = os.memfd_create('x'); fill(f'/proc/self/fd/{fd}')", "out of memory", NO_MEMORY,
         needs=MEMORY),
    Case("sleeps", "timeout=0.3", "endless()", "timed out", "limit 300ms"),
    Case("ignores_signals", "timeout=0.3", "inner.stop_signals()\nwhile True: pass", "timed out", "limit 300ms"),
    Case("is_stopped", "timeout=0.3", "os.kill(os.getpid(), signal.SIGSTOP)", "timed out", "limit 300ms"),
    Case("spins", "cpu_time=0.2", "while True: pass", "cpu time", "limit 200ms", needs=CPU),
    Case("forks", "pids=20", "bomb()", "too many processes", "limit 20", needs=PIDS),
    Case("forks_deaf", "pids=20", "bomb(inner.stop_signals)", "too many processes", "limit 20", needs=PIDS),
    Case("fills", "disk='4M'", "fill('/tmp/filler')", "disk full", DISK_FULL),
    Case("fills_shm", "disk='4M'", "fill('/dev/shm/filler')", "disk full", DISK_FULL),
    Case("fills_inodes", "inodes=100", "for n in range(1000): open(f'/tmp/{n}', 'w')", "out of inodes", "limit 100"),
    Case("floods", "output='64K'", "while True: os.write(1, bytes(1 << 16))", "too much output", "limit 64k"),
    Case("floods_by_child", "output='64K'", "subprocess.run(['cat', '/dev/zero'])", "too much output", "limit 64k"),
    Case("opens", "files=64", "while True: os.dup(0)", "too many open files", "limit 64"),
    Case("leaks", "", "inner.daemon(inner.sleeper('leak'))", "exited", outcome="passed"),
    Case("leaks_stopped", "", "inner.fork(lambda: os.fork() or os.kill(os.getpid(), signal.SIGSTOP))", "exited",
         outcome="passed"),
    Case("forks_and_returns", "", "os.fork()", "exited", outcome="passed"),
    Case("buries", "", "inner.bury('/tmp', 300)", "exited", outcome="passed"),
    # Two limits that are near each other: the one that was met is named.
    Case("floods_in_little_memory", "output='64K', memory='48M'", "while True: os.write(1, bytes(1 << 16))",
         "too much output", "limit 64k", needs=MEMORY),
    Case("forks_in_little_memory", "pids=8, memory='96M'", "bomb(hoarder)", "too many processes", "limit 8", needs=BOTH),
    Case("hoards_by_forks", "pids=200, memory='48M'", "bomb(hoarder); endless()", "out of memory", NO_MEMORY,
         needs=BOTH),
    Case("fills_in_little_memory", "disk='4M', memory='48M'", "fill('/tmp/filler')", "disk full", DISK_FULL, needs=MEMORY),
    Case("spins_in_time", "cpu_time=0.2, timeout=300", "while True: pass", "cpu time", "limit 200ms", needs=CPU),
    Case("is_late_before_cpu_time", "cpu_time=20, timeout=0.3", "while True: pass", "timed out", "limit 300ms", needs=CPU),
    Case("forks_then_fills", "pids=20, disk='4M'", "refused(); fill('/tmp/filler')", "disk full", DISK_FULL, needs=PIDS),
    Case("fills_then_forks", "pids=20, disk='4M'", "full(); bomb()", "too many processes", "limit 20", needs=PIDS),
    Case("forks_then_hoards", "pids=20, memory='48M'", "refused(); hoard()", "out of memory", NO_MEMORY, needs=BOTH),
    Case("hoards_then_sleeps", "memory='48M', timeout=8", "inner.fork(hoard); endless()", "timed out", "for memory",
         needs=MEMORY),
    Case("hoards_then_passes", "memory='48M'", "inner.fork(hoard)", "out of memory", NO_MEMORY, needs=MEMORY),
    Case("forks_then_passes", "pids=20", "refused()", "exited", outcome="passed", needs=PIDS),
    Case("fills_then_passes", "disk='4M'", "full(); os.unlink('/tmp/full')", "exited", outcome="passed"),
    Case("fills_with_few_inodes", "disk='4M', inodes=100", "fill('/tmp/filler')", "disk full", DISK_FULL),
    Case("makes_files_on_a_small_disk", "disk='4M', inodes=100", "for n in range(1000): open(f'/tmp/{n}', 'w')", "out of inodes",
         "limit 100"),
    Case("fills_both", "disk='4M', inodes=100", "make(); fill('/tmp/0')", "disk full", "limit 4M or out of inodes: limit 100"),
    Case("makes_files_and_cleans_up", "disk='4M', inodes=100", "make(); clean_up(); raise refusal", "exited", NO_ROOM),
    Case("fills_and_cleans_up", "disk='4M', inodes=100", "full(); os.unlink('/tmp/full'); raise refusal", "exited", NO_ROOM),
    Case("fills_by_mmap", "disk='4M'", "map_filler()", "disk full", "died of SIGBUS"),
    # What looks like a limit and is none.
    Case("speaks_of_room", "disk='4M', inodes=100", "raise OSError(errno.ENOSPC, 'no watch')", "exited", "no watch"),
    Case("speaks_of_processes", "pids=20", "raise BlockingIOError(errno.EAGAIN, 'a socket')", "exited", "a socket", needs=PIDS),
    Case("speaks_of_files", "", "raise OSError(errno.EMFILE, 'no watch')", "exited", "no watch"),
    Case("exits_137", "", "os._exit(137)", "no report", "left with exit status 137"),
)  # fmt: skip


def usable() -> list[Case]:
    """Those that this machine can tell."""
    known = capabilities()
    counts = (
        "RLIMIT" not in known["pids"].reason
    )  # without a cgroup nobody counts refused forks, and a socket's EAGAIN looks like one
    return [
        case for case in CASES
        if all(known[name].available for name in case.needs) and (counts or "pids" not in case.needs or case.name == "forks")
    ]  # fmt: skip


def repeated(cases: list[Case], times: int) -> list[Case]:
    """Each of them, and as often as it takes for every ending to come so many times."""
    kinds = collections.Counter(case.ending for case in cases)
    return [case for case in cases for _ in range(math.ceil(times / kinds[case.ending]))]


def source(cases: list[Case]) -> str:
    """A module with a test for each."""
    parts = [HELPERS]
    for number, case in enumerate(cases):
        marker = f"@pytest.mark.sandbox({case.arguments})\n" if case.arguments else ""
        parts.append(f"{marker}def test_{number}_{case.name}():\n    inner.assert_inside('/tmp', '/dev/shm')\n")
        parts.append(textwrap.indent(case.body.replace("; ", "\n"), "    "))
    return "\n".join(parts)


#: What the inner run says of each test: the texts of its reports, but for most of a flood; and what the controller had open
#: before and after.
RECORD = """
import json, os, pathlib, pytest
HERE, said = os.getpid(), {}
def descriptors():
    with os.scandir("/proc/self/fd") as found:
        return sorted(link(fd.path) for fd in found)
def link(path):
    target = os.readlink(path)
    return target if target.startswith("/") else target.partition(":")[0]
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session):
    session.config.opened = descriptors()
    return (yield)
def pytest_runtest_logreport(report):
    name = report.nodeid.rpartition("::")[2]
    texts = [report.longreprtext, *(text for _, text in report.sections)]
    said[name] = "\\n".join([said.get(name, ""), *(text[:5000] for text in texts)])
@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    if os.getpid() == HERE and hasattr(config, "opened"):
        record = {"said": said, "descriptors": [config.opened, descriptors()]}
        pathlib.Path(os.environ["RECORD"]).write_text(json.dumps(record))
"""


def test_every_verdict_is_right(anywhere: Any, request: pytest.FixtureRequest) -> None:
    """Of every ending, however the cases are mixed, and where two limits are near; nothing is left, no descriptor either."""
    seed = request.config.getoption("--abuse-seed")
    cases = repeated(usable(), request.config.getoption("--abuse"))
    random.Random(seed).shuffle(cases)
    anywhere.environment["RECORD"] = str(anywhere.path / "record")
    anywhere.write(RECORD, "conftest.py")
    anywhere.write(source(cases))
    arguments = ("-p", "no:faulthandler", "--sandbox-keep=never", "-q", "--show-capture=no")
    result = anywhere.run(*arguments, seconds=180 + 2 * len(cases))
    assert (anywhere.path / "record").exists(), result.output
    record = json.loads((anywhere.path / "record").read_text())
    wrong = []
    for number, case in enumerate(cases):
        name = f"test_{number}_{case.name}"
        found, said = result.cases[name], record["said"][name]
        if (found.outcome, found.ending) != (case.outcome, case.ending) or case.says not in said:
            wrong.append(f"{case.name}: {found.outcome}, {found.ending}; must be {case.ending}: {case.says}\n{said[-2000:]}")
    assert not wrong, f"seed {seed}: {len(wrong)} of {len(cases)}\n" + "\n".join(wrong)
    before, after = (collections.Counter[str](names) for names in record["descriptors"])
    assert not after - before
    result.passed("test_next")


#: How many sandboxes there are at once, and the case whose right verdict takes a machine that has time for it.
AT_ONCE, WANTS_TIME = 100, "hoards_then_sleeps"


def arguments_of(case: Case) -> dict[str, object]:
    """The arguments of its marker."""
    call = ast.parse(f"f({case.arguments})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}


def of_the_core(case: Case) -> str:
    """How its sandbox ends where nobody waits for a report."""
    return "exited" if case.ending == "no report" else case.ending


def says(case: Case) -> str:
    """What its outcome has then."""
    return "" if case.ending == "no report" else case.says


def test_a_hundred_at_once(anywhere: Any, request: pytest.FixtureRequest) -> None:
    """Each misbehaves in its way at the same time as all others: each verdict is right, the next one is as ever."""
    seed = request.config.getoption("--abuse-seed")
    cases = [case for case in usable() if case.name != WANTS_TIME]
    random.Random(seed).shuffle(cases)
    crowd = {f"{number}_{case.name}": case for number, case in zip(range(AT_ONCE), itertools.cycle(cases), strict=False)}
    given, record = anywhere.path / "cases", anywhere.path / "record"
    sources = [[name, arguments_of(case), f"{HELPERS}\n{case.body.replace('; ', chr(10))}"] for name, case in crowd.items()]
    given.write_text(json.dumps(sources))
    result = anywhere.run(seconds=660, program=[str(Path(__file__).with_name("crowd.py")), str(given), str(record)])
    assert record.exists(), result.output
    told = json.loads(record.read_text())
    assert told["ready"] == AT_ONCE
    wrong = []
    for name, case in crowd.items():
        ending, said = told["found"][name]
        passed = ending == "exited" and said.endswith("passed")
        if (ending, passed) != (of_the_core(case), case.outcome == "passed") or says(case) not in said:
            wrong.append(f"{name}: {ending}, {said[-2000:]}; must be {case.ending}: {case.says}")
    assert not wrong, f"seed {seed}: {len(wrong)} of {len(crowd)}\n" + "\n".join(wrong)
    assert told["found"]["next"][1].endswith("passed")
