"""pytest is killed at random points of a run: alone, with its process group, and with the process that cleans up after it.

Half of the points are drawn from the length of a run, half from the controller's own steps: the calls that it makes. Nothing
is left, where need be after a later run. With `--abuse 17` at a hundred points, with `--abuse-seed` at those that a failed test
names:

    python tests/run.py tests/security/test_killed_at_random.py --abuse 17
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import capabilities

SUITE = """
@pytest.fixture(scope="session")
def of_session(tmp_path_factory):
    inner.daemon(inner.sleeper(FACTS["token"] + "-session"))
    path = tmp_path_factory.mktemp("session") / "file"
    path.write_text("x" * 100_000)
    return path
@pytest.fixture(scope="module")
def of_module(of_session):
    inner.daemon(inner.sleeper(FACTS["token"] + "-module"))
    os.truncate(of_session, 10)
    yield of_session
    of_session.unlink()
class TestClass:
    @pytest.fixture(scope="class")
    def of_class(self, of_module): return of_module
    @pytest.mark.parametrize("n", range(3))
    def test_writes(self, of_class, n):
        inner.bury("/tmp", 20)
        of_class.write_text("y")
        with open(f"{FACTS['through']}/{n}", "w") as file: file.write("z")
def test_leaks(of_session): inner.daemon(inner.sleeper(FACTS["token"] + "-leak"))
def test_stops(of_session): inner.fork(lambda: os.fork() or os.kill(os.getpid(), signal.SIGSTOP))
def test_exits(): os._exit(0)
@pytest.mark.sandbox(timeout=0.2)
def test_is_late(of_session): time.sleep(600)
"""
#: Counts what the controller calls, and kills at the step that it was told.
COUNT = """
import os, pathlib, signal, sys
from inner import FACTS
HERE, steps = os.getpid(), 0
def on_call(frame, event, argument):
    global steps
    if event in ("call", "c_call") and "/pytest_sandbox/" in frame.f_code.co_filename:
        steps += 1
        if steps == FACTS["step"]:
            if FACTS["how"] == "group": os.killpg(0, signal.SIGKILL)
            if FACTS["how"] == "janitor":
                for pid in pathlib.Path(f"/proc/self/task/{HERE}/children").read_text().split(): os.kill(int(pid), signal.SIGKILL)
            os.kill(HERE, signal.SIGKILL)
if FACTS["step"] is not None:
    os.register_at_fork(after_in_child=lambda: sys.setprofile(None))
    sys.setprofile(on_call)
def pytest_unconfigure():
    if os.getpid() == HERE and steps: pathlib.Path(FACTS["steps"]).write_text(str(steps))
"""
HOW = ("alone", "group", "janitor")


class Killing:
    """Runs the suite again and again, and knows how long it takes, in seconds and in steps."""

    def __init__(self, attack: Any) -> None:
        self.attack = attack
        self.scratch, self.through = attack.path / "scratch", attack.path / "through"
        for directory in (self.scratch, self.through):
            directory.mkdir()
        self.arguments = ["-q", f"--sandbox-writable={self.through}", "--sandbox-keep=never"]
        if capabilities()["xattr"].available:
            self.arguments += [f"--sandbox-scratch={self.scratch}", "--sandbox-disk=none", "--sandbox-inodes=none"]
        attack.facts |= {"through": str(self.through), "steps": str(attack.path / "steps"), "step": None, "how": ""}
        attack.write(SUITE)
        (attack.project / "conftest.py").write_text(COUNT)
        start = time.monotonic()
        result = attack.run(*self.arguments)
        self.seconds = time.monotonic() - start
        result.passed("test_writes[0]", "test_leaks", "test_stops", "test_next")
        result.failed("test_exits", "no report")
        attack.facts["step"] = -1
        attack.run(*self.arguments)
        self.steps = int((attack.path / "steps").read_text())

    def kill(self, how: str, *, step: int | None = None, after: float = 0.0) -> None:
        """Kill a run; nothing may be left of it."""
        self.attack.facts |= {"step": step, "how": how}
        process = self.attack.start(*self.arguments)
        pid = self.attack.pid
        if step is None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                self._kill(pid, how)
        self.attack.finish(process, 60, cleans_up=how != "janitor")
        if how == "janitor":
            self.attack.facts["step"] = None
            self.attack.run(*self.arguments, "-k", "test_next")
            assert self.attack.cgroups_of(pid) == []
        assert os.listdir(self.scratch) == []

    def _kill(self, pid: int, how: str) -> None:
        if how == "group":
            os.killpg(pid, signal.SIGKILL)
        elif how == "janitor":
            self.attack.stop(pid)  # lest it forks meanwhile
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise AssertionError(where) from error


def test_killed_at_random(attack: Any, request: pytest.FixtureRequest) -> None:
    """Wherever it is: no process, cgroup, mount or file is left."""
    seed = request.config.getoption("--abuse-seed")
    draw = random.Random(seed)
    killing = Killing(attack)
    before = Path("/proc/self/mountinfo").read_text()
    for _ in range(request.config.getoption("--abuse")):
        for how in HOW:
            for point in ({"step": draw.randint(1, killing.steps)}, {"after": draw.uniform(0, killing.seconds)}):
                with _told(f"killed: {how} at {point}, seed {seed}"):
                    killing.kill(how, **point)
    assert Path("/proc/self/mountinfo").read_text() == before
