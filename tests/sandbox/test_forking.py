"""The forks by which sandboxes come to be: who is told of them, which threads and locks they meet, and those that take long."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import random
import signal
import struct
import threading
import time
from typing import Any

import pytest

from pytest_sandbox import Ending, Spec
from pytest_sandbox._linux import syscalls
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from tests.sandbox.conftest import Heard, below, do, exhaust, root, scope, wait

#: The pid of a main process in the outermost sandbox, and in one below it.
_OUTER, _BELOW = (1001, 2002) if os.path.exists("/proc/sys/kernel/ns_last_pid") else (2, 3)  # without CONFIG_CHECKPOINT_RESTORE
#: The pid namespace of whoever runs these tests.
_HERE = os.readlink("/proc/self/ns/pid")
#: Number of unshare(2).
_UNSHARE = {"x86_64": 272, "aarch64": 97}[platform.machine()]


def test_a_scope_with_a_thread_can_fork_sandboxes(supervisor: Supervisor) -> None:
    """The thread is not in them."""

    def start_thread(_: Inside) -> int:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        return 0

    def count(inside: Inside) -> int:
        inside.channel.send({"op": "threads", "count": len(os.listdir("/proc/self/task")), "pid": os.getpid()})
        return 0

    outer, above = root(supervisor, scope({"thread": start_thread, "count": count}))
    do(supervisor, outer, above, "thread")
    heard = [below(supervisor, outer, "count")[1] for _ in range(5)]
    assert [outcome.status for outcome in wait(supervisor, *heard)] == [0] * 5
    assert [frame for one in heard for frame in one.frames] == [{"op": "threads", "count": 1, "pid": _BELOW}] * 5


def test_what_a_fork_of_python_runs(supervisor: Supervisor) -> None:
    """os.register_at_fork, once each, on both sides; `random` is seeded anew, and threads can be started."""
    calls: list[str] = []
    os.register_at_fork(
        before=lambda: calls.append("before"),
        after_in_child=lambda: calls.append("child"),
        after_in_parent=lambda: calls.append("parent"),
    )

    def tell_calls(inside: Inside) -> int:
        thread = threading.Thread(target=lambda: calls.append("thread"))
        thread.start()
        thread.join()
        text = [*calls, str(threading.get_native_id() == os.getpid())]
        inside.channel.send({"op": "text", "text": text, "random": random.random()})
        return 0

    def clear(_: Inside) -> int:
        calls.clear()
        return 0

    outer, _ = root(supervisor, scope({"tell": tell_calls, "clear": clear}))
    outer.send({"op": "do", "body": "clear"})
    heard = [below(supervisor, outer, "tell")[1] for _ in range(2)]
    wait(supervisor, *heard)
    first, second = sorted((one.frames[0] for one in heard), key=lambda frame: len(frame["text"]))  # whichever was forked first
    assert first["text"] == ["before", "child", "thread", "True"]
    assert second["text"] == ["before", "parent", "before", "child", "thread", "True"]
    assert first["random"] != second["random"]


@pytest.mark.parametrize("scope", [True, False], ids=["scope", "alone"])
def test_the_outermost_is_one_fork_for_who_is_told_of_forks(supervisor: Supervisor, scope: bool) -> None:
    """Handlers run once in the controller, once in main, which has lost its privileges then, and in no process between."""
    calls = list[str]()

    def in_child() -> None:
        if calls:
            with open("/proc/self/status", encoding="ascii") as status:
                rights = next(line.split()[1] for line in status if line.startswith("CapBnd"))
            calls.append(f"{os.getpid()} {int(rights, 16) >> 21 & 1}")  # CAP_SYS_ADMIN

    def tell(inside: Inside) -> int:
        inside.channel.send({"op": "text", "text": calls})
        return 0

    os.register_at_fork(before=lambda: calls.append("before") if calls else None, after_in_child=in_child)
    calls.append("begun")
    try:
        heard = Heard()
        supervisor.start_root(Spec(), tell, heard, scope=scope)
        wait(supervisor, heard)
        assert heard.frames[0]["text"] == ["begun", "before", f"{_OUTER} 0"]
        assert calls == ["begun", "before"]
    finally:
        calls.clear()


def test_handlers_that_start_busy_threads(supervisor: Supervisor) -> None:
    """Such threads are in main only: what makes sandboxes has one, which waits for no lock that another one holds."""
    busy = list[bool]()

    def labour() -> None:
        while busy:
            sum(range(1000))
            time.sleep(0.0001)

    def start() -> None:
        for _ in range(3 * len(busy)):
            threading.Thread(target=labour, daemon=True).start()

    os.register_at_fork(after_in_child=start)
    busy.append(True)
    try:
        for _ in range(20):
            heard = Heard()
            supervisor.start_root(Spec(), lambda _: threading.active_count(), heard, scope=False)
            assert wait(supervisor, heard)[0].status == 4
    finally:
        busy.clear()


def delay_forks(_: Inside) -> int:
    """Whoever calls fork(3) does not come out of it for a while: a thread was there, so that it has taken locks."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    libc = ctypes.PyDLL(None)  # keeps the GIL
    handler = ctypes.PYFUNCTYPE(None)(lambda: libc.usleep(1_000_000))
    _kept.append(handler)
    libc["__register_atfork"](None, handler, None, None)
    return 0


_kept: list[Any] = []


def test_nobody_is_killed_while_it_fork_is_over(supervisor: Supervisor) -> None:
    """Nor runs: the process in which the fork(3) is still under way shares the scope's memory, and all locks in it."""

    def look(inside: Inside) -> int:
        inside.channel.send({"op": "pids", "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit())})
        return 0

    def kill(inside: Inside) -> int:
        assert os.readlink("/proc/self/ns/pid") != _HERE, "not in a sandbox"
        assert os.getpid() == _BELOW, "not in a sandbox"
        with contextlib.suppress(ProcessLookupError):  # there is nobody but init and itself
            os.kill(-1, signal.SIGKILL)
        return look(inside)

    outer, above = root(supervisor, scope({"delay": delay_forks, "look": look, "kill": kill}))
    do(supervisor, outer, above, "delay")
    killed, first = below(supervisor, outer, "look")
    supervisor.run_while(lambda: killed.entering.pending is not None)
    time.sleep(0.1)  # it is forked by now, and forker sleeps
    killed.kill(None)
    _, second = below(supervisor, outer, "look")
    _, third = below(supervisor, outer, "kill")
    _, fourth = below(supervisor, outer, "look")
    outcomes = wait(supervisor, first, second, third, fourth)
    assert [outcome.ending for outcome in outcomes] == [Ending.NO_REPORT, Ending.EXITED, Ending.EXITED, Ending.EXITED]
    assert [frame["pids"] for one in (second, third, fourth) for frame in one.frames] == [[1, _BELOW]] * 3


def test_who_has_forked_is_seen_by_nobody(supervisor: Supervisor) -> None:
    """It has ended when main goes on, and has a pid of the namespace until the scope, which is stopped here, reaps it."""

    def look(inside: Inside) -> int:
        inside.channel.send({"op": "pids", "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit())})
        return 0

    outer, above = root(supervisor, scope({"delay": delay_forks, "look": look}))
    do(supervisor, outer, above, "delay")
    inner, heard = below(supervisor, outer, "look")
    supervisor.run_while(lambda: inner.entering.pending is not None)
    time.sleep(0.2)  # forker sleeps
    assert outer.main is not None
    os.kill(outer.main, signal.SIGSTOP)
    try:
        supervisor.run_while(lambda: not heard.frames, 1.5)  # of which it sleeps one
    finally:
        os.kill(outer.main, signal.SIGCONT)
    wait(supervisor, heard)
    assert heard.frames[0]["pids"] == [1, _BELOW]


def test_a_scope_that_does_not_fork(supervisor: Supervisor) -> None:
    """It is waited for once, and killed with what it was to make: nothing else could be made there either."""

    def hang(_: Inside) -> int:
        os.register_at_fork(before=lambda: time.sleep(600))
        return 0

    outer, above = root(supervisor, scope({"hang": hang, "leave": lambda _: 0}))
    do(supervisor, outer, above, "hang")
    children = [below(supervisor, outer, "leave") for _ in range(3)]
    supervisor.run_while(lambda: not all(child.entering.being_forked for child, _ in children))
    for child, _ in children:
        child.entering.enter_by = time.monotonic() + 0.1  # in place of two minutes
    outcomes = wait(supervisor, above, *(heard for _, heard in children))
    assert {outcome.ending for outcome in outcomes} == {Ending.NO_REPORT}
    assert "does not come to an end of it" in outcomes[0].sentence


def test_the_reason_of_who_could_not_enter_comes_first(supervisor: Supervisor) -> None:
    """Or last: the sandbox is over before the scope, which is busy, has closed its end of the sandbox's socket."""

    def refuse(_: Inside) -> int:
        """As a fixture with a filter of its own does: no new cgroup namespace."""
        refused = [(32, 0, 0, 0), (21, 0, 1, _UNSHARE), (6, 0, 0, 0x00050000 | errno.EPERM), (6, 0, 0, 0x7FFF0000)]
        syscalls.set_filter(b"".join(struct.pack("=HBBI", *line) for line in refused))
        os.register_at_fork(after_in_parent=lambda: time.sleep(1))
        return 0

    outer, above = root(supervisor, scope({"refuse": refuse, "leave": lambda _: 0}))
    do(supervisor, outer, above, "refuse")
    running, heard = below(supervisor, outer, "leave")
    wait(supervisor, heard)
    assert str(running.problem) == "enter a sandbox: unshare a cgroup namespace: Operation not permitted"
    assert not outer.ended


def test_the_reason_of_who_does_not_fork_may_come_late(supervisor: Supervisor) -> None:
    """Nobody has an end of the sandbox's socket any more, and it is waited for who says why; not for ever."""
    outer, above = root(supervisor, scope({"exhaust": exhaust(1.0), "leave": lambda _: 0}))
    do(supervisor, outer, above, "exhaust")
    running, heard = below(supervisor, outer, "leave")
    wait(supervisor, heard)
    assert str(running.problem).startswith("receive descriptors: Too many open files")
    running, heard = below(supervisor, outer, "leave")
    supervisor.run_while(lambda: not running.entering.deserted)
    running.entering.enter_by = time.monotonic()  # in place of five seconds
    wait(supervisor, heard)
    assert "nobody has entered it, and nobody says why" in str(running.problem)
    assert not outer.ended
