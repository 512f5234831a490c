"""What sandboxes do while the controller is busy is heard late, and judged by when it was, not by when it is heard."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from pytest_sandbox import Ending, Limits, Spec
from pytest_sandbox.primitives.process import STACKS_SIGNAL
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from tests.sandbox.conftest import Bodies, Heard, below, do, exhaust, root, scope, wait


class Slow(Heard):
    """Takes so long over each "now" that a sandbox says, as a hook may; and answers questions."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def on_frame(self, running: Running, frame: dict[str, Any]) -> None:
        """See `Listener`."""
        super().on_frame(running, frame)
        if frame["op"] == "now":
            time.sleep(self.seconds)
        if frame["op"] == "question":
            running.send({"op": "answer"})


def say_now(inside: Inside) -> int:
    """Has the controller be busy a moment after this has begun."""
    time.sleep(0.2)
    inside.channel.send({"op": "now"})
    time.sleep(1)
    return 0


def die(_: Inside) -> int:
    """Ends with a signal while the controller is busy."""
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def delay(_: Inside) -> int:
    """From now on each fork takes a while."""
    os.register_at_fork(before=lambda: time.sleep(0.3))
    return 0


def with_one_that_keeps_it_busy(supervisor: Supervisor, **bodies: Callable[[Inside], int]) -> tuple[Running, Heard]:
    """A scope with these bodies, and a sandbox of it that is there."""
    known: Bodies = {"now": say_now, "leave": lambda _: 0, **bodies}
    outer, above = root(supervisor, scope(known))
    supervisor.run_while(lambda: not outer.below.is_here)
    busy = supervisor.start(outer, Spec(), Slow(1.0), body="now")
    supervisor.run_while(lambda: not busy.entering.entered)
    return outer, above


def test_who_has_ended_in_time_is_not_out_of_time(supervisor: Supervisor) -> None:
    """Its time is over when the controller hears of its end, and was not when it ended."""
    outer, _ = with_one_that_keeps_it_busy(supervisor, die=die)
    running, heard = below(supervisor, outer, "die", limits=Limits(timeout=0.8))
    (outcome,) = wait(supervisor, heard)
    assert (outcome.ending, outcome.status) == (Ending.SIGNALLED, -signal.SIGSEGV), running


def test_a_fork_that_is_over_is_not_given_up(supervisor: Supervisor) -> None:
    """Nor is the scope killed for it."""
    outer, above = with_one_that_keeps_it_busy(supervisor, delay=delay)
    do(supervisor, outer, above, "delay")
    running, heard = below(supervisor, outer, "leave")
    supervisor.run_while(lambda: running.entering.pending is not None)
    running.kill(None)
    running.entering.spared_until = time.monotonic() + 0.8  # in place of ten seconds
    wait(supervisor, heard)
    assert outer.problem is None


def test_a_reason_that_was_said_is_heard(supervisor: Supervisor) -> None:
    """Why nobody has entered a sandbox, though it is waited for that no longer."""
    outer, above = with_one_that_keeps_it_busy(supervisor, exhaust=exhaust(0.3))
    do(supervisor, outer, above, "exhaust")
    running, heard = below(supervisor, outer, "leave")
    supervisor.run_while(lambda: not running.entering.deserted)
    running.entering.enter_by = time.monotonic() + 0.9  # in place of five seconds
    wait(supervisor, heard)
    assert str(running.problem).startswith("receive descriptors: Too many open files")


def test_what_init_has_said_of_mains_end_stands(supervisor: Supervisor) -> None:
    """What is left over may take its time to die."""

    def leave(_: Inside) -> int:
        for _number in range(50):
            subprocess.Popen(["sleep", "100"])
        os._exit(3)

    outer, _ = root(supervisor, scope({"leave": leave}))
    running, heard = below(supervisor, outer, "leave", limits=Limits(timeout=60.0))
    supervisor.run_while(lambda: running.last_words is None)
    running.clock.allow(1e-6)
    (outcome,) = wait(supervisor, heard)
    assert (outcome.ending, outcome.status) == (Ending.EXITED, 3)


def test_last_words_are_heard_though_init_has_not_read_all(supervisor: Supervisor) -> None:
    """The kernel says that before it gives what is there: ECONNRESET of unix(7)."""

    def leave(_: Inside) -> int:
        time.sleep(0.1)
        subprocess.Popen(["sleep", "100"])
        os._exit(3)

    outer, heard = root(supervisor, leave)
    supervisor.run_while(lambda: outer.main is None)
    while os.path.exists(f"/proc/{outer.main}"):
        time.sleep(0.001)
    outer.interrupt()
    time.sleep(0.5)
    (outcome,) = wait(supervisor, heard)
    assert (outcome.status, outcome.sentence) == (3, "exited with status 3")
    assert [leak.command for leak in outcome.leaks] == ["sleep 100"]


def test_who_waits_for_an_answer_while_many_others_are_served(supervisor: Supervisor) -> None:
    """Each of them takes little time, and all of them much: that is not the time of the one that waits."""

    def say(inside: Inside) -> int:
        for _ in range(4):
            inside.channel.send({"op": "now"})
        return 0

    def ask(inside: Inside) -> int:
        time.sleep(0.2)
        inside.channel.ask({"op": "question"}, "answer")
        return 0

    outer, _ = root(supervisor, scope({"say": say, "ask": ask}))
    supervisor.run_while(lambda: not outer.below.is_here)
    others = [supervisor.start(outer, Spec(), Slow(0.09), body="say", held=True) for _ in range(14)]
    supervisor.run_while(lambda: not all(other.entering.entered for other in others))
    heard = Slow(0)
    running = supervisor.start(outer, Spec(limits=Limits(timeout=1.0)), heard, body="ask")
    supervisor.run_while(lambda: not running.entering.entered)
    for other in others:
        supervisor.release(other)
    time.sleep(0.15)
    (outcome,) = wait(supervisor, heard)
    assert outcome.ending is Ending.EXITED


def test_stacks_that_were_printed_at_once_were_not_waited_for(supervisor: Supervisor) -> None:
    """Though nobody has looked for them in time."""

    def hang(inside: Inside) -> int:
        faulthandler.register(STACKS_SIGNAL, file=inside.descriptors.stacks, all_threads=True, chain=False)
        time.sleep(100)
        return 0

    outer, _ = root(supervisor, scope({"hang": hang}))
    running, heard = below(supervisor, outer, "hang", limits=Limits(timeout=0.3))
    supervisor.run_while(lambda: running.clock.dying is None)
    time.sleep(2.5)
    (outcome,) = wait(supervisor, heard)
    assert "in hang" in outcome.stacks
    assert "more to print" not in outcome.sentence


def test_no_descriptor_is_left_for_what_waits(supervisor: Supervisor) -> None:
    """That sandbox alone is not made; all that was opened for it is closed again."""
    outer, _ = root(supervisor, scope({"leave": lambda _: 0}))
    supervisor.run_while(lambda: not outer.below.is_here)
    assert outer.main is not None
    os.kill(outer.main, signal.SIGSTOP)
    outer.send({"op": "nothing", "text": "x" * (1 << 20)})
    assert outer.talk.outbox.waiting
    running, heard = below(supervisor, outer, "leave")
    time.sleep(0.5)
    with contextlib.ExitStack() as undo:
        undo.callback(os.kill, outer.main, signal.SIGCONT)
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
        most = max(map(int, os.listdir("/proc/self/fd"))) + 30
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        held: list[int] = []
        undo.callback(lambda: list(map(os.close, held)))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(10):  # enough for what init hands over, and not for copies of all that the scope is to get
            os.close(held.pop())
        supervisor.run_while(lambda: running.entering.pending is not None, 3)
    wait(supervisor, heard)
    assert "order a fork into a sandbox: Too many open files" in str(running.problem)
    assert not outer.ended
