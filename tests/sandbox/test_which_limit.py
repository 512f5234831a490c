"""Which of two limits a sandbox has met: of two times the first, and whose memory it was out of."""

from __future__ import annotations

import mmap
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandbox import Ending, Limits
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from tests.sandbox.conftest import root, sleep, wait


def spin(_: Inside) -> int:
    """Use CPU time until killed."""
    while True:
        pass


@pytest.mark.needs("cpu_time")
@pytest.mark.parametrize(("cpu_time", "timeout", "first"), [(0.02, 2.0, Ending.CPU_TIME), (1.5, 1.0, Ending.TIMED_OUT)])
def test_which_of_two_times_ran_out_first(supervisor: Supervisor, cpu_time: float, timeout: float, first: Ending) -> None:
    """Also where the controller had no time to look before both were over; of a machine under load it gets a twentieth."""
    running, heard = root(supervisor, spin, limits=Limits(cpu_time=cpu_time, timeout=timeout))

    def has_begun() -> bool:
        """What it has said and nobody has heard would give it more time."""
        return running.below.is_here if first is Ending.TIMED_OUT else running.clock.limit is not None

    supervisor.run_while(lambda: not has_begun() and not running.ended)
    assert heard.outcome is None, heard.outcome
    limit, deadline = time.monotonic() + 300, running.clock.limit.due if running.clock.limit else 0
    while (used := running.cgroup.figure("cpu") or 0) < cpu_time or time.monotonic() < deadline:
        assert time.monotonic() < limit, f"it has used {used} s of CPU time only"
        time.sleep(0.05)
    assert wait(supervisor, heard)[0].ending is first


def hoard(inside: Inside) -> int:
    """Take a gigabyte, when told so."""
    inside.channel.wait_for("go")
    return len([b"x" * (1 << 20) for _ in range(1000)])


def meet_and_hoard(inside: Inside) -> int:
    """Before that, take more than the limit of what the kernel can take back, as it can page cache: madvise(2), MADV_FREE."""
    with mmap.mmap(-1, 200 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        for start in range(0, len(held), 1 << 20):
            held[start : start + (1 << 20)] = b"x" * (1 << 20)
            held.madvise(mmap.MADV_FREE, start, 1 << 20)
    inside.channel.send({"op": "met"})
    return hoard(inside)


OWN, UNSURE = r"limit 128M, peak \S+", r"limit 128M, peak \S+ \(or the machine's memory, or .* does not tell\)"
AROUND = r"within its limit of 128M, peak \S+: the machine's memory, or .*"


def limit_around(running: Running) -> None:
    """Let the cgroup around it have less than its own limit."""
    memory = Path(running.cgroup._directories["memory"])
    (memory.parent / ("memory.max" if on_v2(running) else "memory.limit_in_bytes")).write_text(str(64 << 20))


def on_v2(running: Running) -> bool:
    """Whether its memory is version 2's, which counts OOMs where the limit is."""
    return Path(running.cgroup._directories["memory"], "memory.max").exists()


def says(sentence: str, words: str) -> bool:
    """Whether a sentence on a kill ends so."""
    return re.fullmatch(f"out of memory: the kernel killed .*?,? {words}", sentence) is not None


@pytest.mark.needs("memory", "swap")
@pytest.mark.parametrize("is_own", [True, False], ids=["its own", "one around it"])
@pytest.mark.parametrize("body", [hoard, meet_and_hoard])
def test_whose_memory_it_is_out_of(supervisor: Supervisor, body: Callable[[Inside], int], *, is_own: bool) -> None:
    """Its own limit is named where it was killed for that, whatever it had met before; where nothing tells, that is said."""
    running, heard = root(supervisor, body, limits=Limits(memory=128 << 20))
    if body is meet_and_hoard:
        supervisor.run_while(lambda: not (heard.frames or heard.outcome))
        assert running.cgroup.figure("memory_max_events")
        assert not running.cgroup.figure("oom_kills")
    if not is_own:
        limit_around(running)
    is_told, known = on_v2(running) or (body is hoard and not is_own), OWN if is_own else AROUND
    running.send({"op": "go"})
    [outcome] = wait(supervisor, heard)
    assert outcome.ending is Ending.OUT_OF_MEMORY
    assert says(outcome.sentence, known if is_told else f"({known}|{UNSURE})"), outcome.sentence


@pytest.mark.needs("memory", "swap")
def test_whose_memory_it_is_out_of_the_next_time(supervisor: Supervisor) -> None:
    """A test that shares its sandbox is not told of its own limit, since an earlier one has met that."""

    def twice(inside: Inside) -> int:
        for _ in range(2):
            inside.channel.wait_for("go")
            if (pid := os.fork()) == 0:
                os._exit(len([b"x" * (1 << 20) for _ in range(1000)]))
            os.waitpid(pid, 0)
            inside.channel.send({"op": "died"})
        return 0

    running, heard = root(supervisor, twice, limits=Limits(memory=128 << 20))
    for count, known in enumerate((OWN, AROUND), 1):
        running.send({"op": "go"})
        supervisor.run_while(lambda: len(heard.frames) < count and heard.outcome is None)  # noqa: B023  # at once
        met = supervisor.met_meanwhile(running, failed=True)
        assert met
        assert met.ending is Ending.OUT_OF_MEMORY
        assert says(met.sentence, known if known == OWN and on_v2(running) else f"({known}|{UNSURE})"), met
        limit_around(running)
    wait(supervisor, heard)


def ask_late(inside: Inside) -> int:
    """Ask something in the midst of its time, and wait for the answer."""
    time.sleep(0.3)
    inside.channel.send({"op": "asks"})
    inside.channel.wait_for("answer")
    return 0


def test_the_controllers_time_is_nobody_elses(supervisor: Supervisor) -> None:
    """Who waits for its answer while it is busy with another's files has not timed out; who waits for nothing has."""
    asks, heard = root(supervisor, ask_late, limits=Limits(timeout=2.0))
    sleeps, slept = root(supervisor, sleep(60.0), limits=Limits(timeout=2.0))
    supervisor.run_while(lambda: not (asks.below.is_here and sleeps.below.is_here))
    time.sleep(3.0)  # in the place of what it has to do
    supervisor.run_while(lambda: not heard.frames and not asks.ended)
    asks.send({"op": "answer"})
    assert wait(supervisor, heard)[0].ending is Ending.EXITED
    assert wait(supervisor, slept)[0].ending is Ending.TIMED_OUT
