"""However the controller ends, soon nothing is left: kill -9 at any moment, Ctrl-C, an exception.

Where the janitor was killed with it, a later run removes what is left, and never what is a live one's.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_sandbox import Limits, Sandbox, Spec
from pytest_sandbox.model.errors import TeardownWarning
from pytest_sandbox.primitives.cgroups.layout import find_hierarchies
from pytest_sandbox.sandbox.cleanup import janitor, scratch

SCRIPT = """
import sys, time
from pytest_sandbox import Limits, Sandbox, Spec
print("begun", flush=True)
kwargs = {"scratch": sys.argv[1], "limits": Limits(disk=None, inodes=None)} if sys.argv[1:] else {}
script = "mkdir -p /tmp/a/b; chmod 0 /tmp/a/b; sleep 4711 & setsid sleep 4711 & sleep "
while True:
    Sandbox(Spec(**kwargs)).run(["sh", "-c", script + (sys.argv[2] if sys.argv[2:] else "0.05")])
"""


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Starts a controller that makes one sandbox after the other; in a session of its own, as a shell would start it.

    Its arguments: a directory for `scratch`, and for how many seconds each sandbox stays, a twentieth else.
    All processes of it have a mark in common, by which the machine can be searched for them.
    """
    monkeypatch.setenv("SANDBOX_TEST_MARK", str(tmp_path))
    started = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def cgroups(pid: int) -> list[str]:
    """Cgroups that carry the controller's pid."""
    hierarchies = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    found = []
    for directory in {each.directory for each in hierarchies if each.directory}:
        found += [f"{directory}/{name}" for name in os.listdir(directory) if f"-{pid}-" in name and "sandbox" in name]
    return found


def left(pid: int) -> list[str]:
    """Cgroups that carry the controller's pid, and its processes: all have its environment's mark."""
    return cgroups(pid) + processes()


def processes() -> list[str]:
    """Those with the environment's mark, but for this one."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                environ = Path(f"/proc/{entry}/environ").read_bytes()
                state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, IndexError):
                continue
            if f"SANDBOX_TEST_MARK={os.environ['SANDBOX_TEST_MARK']}\0".encode() in environ and state != "Z":
                found.append(f"process {entry}")
    return [one for one in found if one != f"process {os.getpid()}"]


def end(process: subprocess.Popen[str], number: signal.Signals, *, group: bool = False) -> None:
    """Send the signal, and assert that soon nothing is left."""
    (os.killpg if group else os.kill)(process.pid, number)
    process.wait(30)
    process.communicate()
    assert_soon_empty(lambda: left(process.pid))


def assert_soon_empty(look: Callable[[], list[str]]) -> None:
    """What is found goes by itself, in five seconds of a machine without other work; where there is, each has its share.

    Of 776 looks, beside 5 to 20 processes for each CPU, half were over within 12 ms, 99 of 100 within 0.2 s, and the longest took
    1.5 s: a tenth of a second of a free machine. The rest is for kernels that are in no hurry to let go of a cgroup. That no
    process outlives pytest for a second is asserted in tests/security.
    """
    began = time.monotonic()
    while (found := look()) and time.monotonic() - began < 5 * max(1.0, os.getloadavg()[0]):
        time.sleep(0.02)
    assert found == []


@pytest.mark.parametrize("seed", range(30))
def test_kill_9(seed: int, start: Start) -> None:
    """At a random moment of a sandbox's life, the controller alone or its whole process group."""
    process = start()
    time.sleep(random.Random(seed).uniform(0, 0.25))
    end(process, signal.SIGKILL, group=seed % 3 == 0)


@pytest.mark.needs("xattr")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["plain", "two\nlines", os.fsdecode(b"no \xff text")])
def test_kill_9_with_scratch(seed: int, name: str, start: Start, tmp_path: Path) -> None:
    """The run's directory goes too, locked directories and all, and whatever its name."""
    scratch = tmp_path / name
    scratch.mkdir()
    process = start(str(scratch))
    time.sleep(random.Random(seed).uniform(0, 0.25))
    end(process, signal.SIGKILL)
    assert_soon_empty(lambda: os.listdir(scratch))


@pytest.mark.parametrize("seed", range(5))
def test_ctrl_c(seed: int, start: Start) -> None:
    """KeyboardInterrupt reaches the caller when all is cleaned up."""
    process = start()
    time.sleep(random.Random(seed).uniform(0.05, 0.25))
    end(process, signal.SIGINT, group=True)
    assert process.returncode == -signal.SIGINT


INTERRUPTED = """
import signal, sys
from pytest_sandbox import Limits, Sandbox, Spec
file, function, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
def interrupt(frame, event, _):
    global number
    if event == "return" and frame.f_code.co_name == function and frame.f_code.co_filename.endswith(file):
        number -= 1
        if number == 0: signal.raise_signal(signal.SIGINT)
sys.setprofile(interrupt)
Sandbox(Spec(limits=Limits(pids=50))).run(["true"])
sys.setprofile(None)
"""


@pytest.mark.needs("pids")
@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize(
    ("file", "function"),
    [("primitives/locks.py", "make"), ("primitives/cgroups/files.py", "remove"), ("primitives/cgroups/member.py", "make")],
)
def test_ctrl_c_when_something_was_just_made(file: str, function: str, number: int, tmp_path: Path) -> None:
    """And before anybody has noted that it was: a probe's or a run's directory."""
    environment = os.environ | {"SANDBOX_TEST_MARK": str(tmp_path)}
    command = [sys.executable, "-c", INTERRUPTED, file, function, str(number)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    process.communicate()
    assert process.returncode in (-signal.SIGINT, 0)  # 0: it does not happen so often here
    assert_soon_empty(lambda: cgroups(process.pid))


def test_sigterm(start: Start) -> None:
    """Whose default action gives the controller no chance."""
    process = start()
    time.sleep(0.1)
    end(process, signal.SIGTERM)


FORKED = """
import os, signal, sys
from pytest_sandbox.sandbox.machine import host, probes
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
with Supervisor(f"{os.getpid()}-0", host.make_layout(probes.find_identity())):
    if not (pid := os.fork()):
        signal.pause()
    print(pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.needs("kill")
def test_kill_9_where_something_that_it_has_forked_lives_on() -> None:
    """As a test without a sandbox may: it holds all that the controller has, the pipe to the janitor too."""
    process = subprocess.Popen([sys.executable, "-c", FORKED], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    forked = int(process.stdout.readline())
    try:
        process.wait()
        assert_soon_empty(lambda: cgroups(process.pid))
    finally:
        os.kill(forked, signal.SIGKILL)
        process.stdout.close()


@contextlib.contextmanager
def forked() -> Iterator[None]:
    """Within: a fork of this process holds what this had open."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("fails", [True, False])
def test_the_end_of_a_janitor_whose_pipe_somebody_holds(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for: the controller's last word is enough, to clean up or to leave."""
    monkeypatch.setattr(janitor, "_LEAVE_TIME", 240.0)  # half of which it is given before it is killed
    (tmp_path / "left").mkdir()
    one, began = janitor.Janitor(), time.monotonic()
    with contextlib.suppress(KeyError), forked(), one:
        one.watch("directory", str(tmp_path / "left"))
        if fails:
            raise KeyError
    assert time.monotonic() - began < 120
    assert os.listdir(tmp_path) == ([] if fails else ["left"])


def kill_with_janitor(process: subprocess.Popen[str]) -> None:
    """SIGKILL the controller and all that it has forked itself: its janitor, and whoever starts a sandbox."""
    os.kill(process.pid, signal.SIGSTOP)  # lest it forks meanwhile
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # a fork that it was in is over then, and seen
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.wait(30)
    process.communicate()


@pytest.mark.needs("kill")
@pytest.mark.parametrize("seed", range(10))
def test_what_a_killed_janitor_has_left(seed: int, start: Start) -> None:
    """Its processes die all the same, and the next run removes its cgroups."""
    process = start()
    limit = time.monotonic() + 30
    while not cgroups(process.pid):
        assert time.monotonic() < limit
        time.sleep(0.001)
    time.sleep(random.Random(seed).uniform(0, 0.1))
    kill_with_janitor(process)
    assert_soon_empty(processes)
    Sandbox().run(["true"])
    assert cgroups(process.pid) == []


@pytest.mark.needs("xattr")
def test_what_a_killed_janitor_has_left_below_scratch(start: Start, tmp_path: Path) -> None:
    """The next run with the same scratch removes that too, locked directories and all; and nothing that only looks like it."""
    others = tmp_path / "pytest-sandbox-1-0badcafe", tmp_path / "pytest-sandbox-checkout"
    for directory in others:
        directory.mkdir()
        (directory / "mine").touch()
    process = start(str(tmp_path), "4711")
    while not list(tmp_path.glob(f"pytest-sandbox-{process.pid}-*/s1/*")):  # what a layer is made of
        assert process.poll() is None
        time.sleep(0.005)
    kill_with_janitor(process)
    assert_soon_empty(processes)
    assert any(f"-{process.pid}-" in name for name in os.listdir(tmp_path))
    Sandbox(Spec(scratch=str(tmp_path), limits=Limits(disk=None, inodes=None))).run(["true"])
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.needs("xattr")
def test_what_takes_too_long_to_be_removed_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on and says that it stays; the next run with the same scratch removes it."""
    sandbox = Sandbox(Spec(scratch=str(tmp_path), limits=Limits(disk=None, inodes=None)))
    monkeypatch.setattr(scratch, "REMOVAL_TIME", 0.0)
    with pytest.warns(TeardownWarning, match=f"could not remove {tmp_path}/.*the next run with this scratch tries again"):
        assert sandbox.run(["sh", "-c", "mkdir -p /tmp/a/b; chmod 0 /tmp/a"]).ok
    assert os.listdir(tmp_path)
    monkeypatch.undo()
    assert sandbox.run(["true"]).ok
    assert os.listdir(tmp_path) == []


@pytest.mark.needs("kill", "xattr")
def test_a_live_run_is_left_alone(start: Start, tmp_path: Path) -> None:
    """Whatever other runs remove meanwhile: its cgroups, its scratch and its processes stay."""
    live = Sandbox(Spec(scratch=str(tmp_path), limits=Limits(disk=None, inodes=None)))
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do mkdir /tmp/$i; touch /tmp/$i/x; sleep 0.1; done; ls /tmp/10/x"
    others = [start(str(tmp_path)), start(str(tmp_path))]
    result = live.run(["sh", "-c", script])
    assert (result.status, result.stdout) == (0, b"/tmp/10/x\n")
    assert [process.poll() for process in others] == [None, None]
    for process in others:
        process.terminate()
        process.communicate()
    assert_soon_empty(processes)


def test_a_janitor_that_is_killed_where_sigpipe_kills() -> None:
    """An error, and not the end of the controller too."""
    with janitor.Janitor() as one:
        before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            os.kill(one._pid, signal.SIGKILL)
            os.waitid(os.P_PID, one._pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(ConnectionError):
                one.watch("directory", "/nowhere")
        finally:
            signal.signal(signal.SIGPIPE, before)
