"""The controller's loop: trees of sandboxes, sandboxes that lie, flood or do not listen, and what it leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import re
import secrets
import signal
import socket
import stat
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import Capability, Change, ChangeKind, Ending, Limits, Network, Outcome, Spec, UnavailableError, WireError
from pytest_sandbox.model.errors import TeardownWarning
from pytest_sandbox.primitives.cgroup_layout import V1, V2, find_hierarchies
from pytest_sandbox.sandbox import host, probes
from pytest_sandbox.sandbox.child import Inside
from pytest_sandbox.sandbox.main import fork_into
from pytest_sandbox.sandbox.running import Running
from pytest_sandbox.sandbox.supervisor import Supervisor
from pytest_sandbox.sandbox.wire import encode

Bodies = dict[str, Callable[[Inside], int]]


class Heard:
    """A listener that keeps everything."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.outcome: Outcome | None = None

    def on_frame(self, running: Running, frame: dict[str, Any]) -> None:
        """Keep it."""
        del running
        self.frames.append(frame)

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """Keep it."""
        del running
        self.outcome = outcome


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """A supervisor of its own."""
    with Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", host.make_layout(probes.find_identity())) as one:
        yield one


def scope(bodies: Bodies) -> Callable[[Inside], int]:
    """A body that forks sandboxes as ordered, with the body that the order names, until it is told to end."""

    def body(inside: Inside) -> int:
        while True:
            try:
                frame, descriptors = inside.channel.receive()
            except EOFError:
                return 0
            if frame["op"] == "spawn":
                fork_into(inside, frame, descriptors, scope(bodies) if frame["body"] == "scope" else bodies[frame["body"]])
            elif frame["op"] == "end":
                return 0
            elif frame["op"] == "do":
                inside.channel.send({"op": "did", "code": bodies[frame["body"]](inside)})

    return body


def root(supervisor: Supervisor, body: Callable[[Inside], int], **spec: Any) -> tuple[Running, Heard]:
    """Start an outermost sandbox."""
    heard = Heard()
    return supervisor.start_root(Spec(**spec), body, heard), heard


def below(supervisor: Supervisor, parent: Running, body: str, *, inner: bool = False, **spec: Any) -> tuple[Running, Heard]:
    """Start a sandbox below another."""
    heard = Heard()
    return supervisor.start(parent, Spec(**spec), heard, scope=inner, body=body), heard


def wait(supervisor: Supervisor, *heard: Heard) -> list[Outcome]:
    """Serve until all of these are gone."""
    limit = time.monotonic() + 300
    while any(one.outcome is None for one in heard):
        assert time.monotonic() < limit, "a sandbox does not end"
        supervisor.step(1.0)
    return [one.outcome for one in heard if one.outcome]


def tell(text: str) -> Callable[[Inside], int]:
    """A body that says what a file has."""

    def body(inside: Inside) -> int:
        with open(text, encoding="utf-8") as file:
            inside.channel.send({"op": "said", "text": file.read()})
        return 0

    return body


def write(path: str, text: str) -> Callable[[Inside], int]:
    """A body that writes a file."""

    def body(_: Inside) -> int:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return 0

    return body


def put(text: str, *paths: str) -> None:
    """Write files, with the directories that they lie in."""
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def do(supervisor: Supervisor, running: Running, heard: Heard, name: str) -> None:
    """Have a scope run one of its bodies, and wait until it has."""
    count = len(heard.frames)
    running.send({"op": "do", "body": name})
    supervisor.run_while(lambda: len(heard.frames) == count)


def remove(path: str) -> Callable[[Inside], int]:
    """A body that removes a file."""

    def body(_: Inside) -> int:
        os.unlink(path)
        return 0

    return body


def sleep(seconds: float, status: int = 0) -> Callable[[Inside], int]:
    """A body that takes its time."""

    def body(_: Inside) -> int:
        time.sleep(seconds)
        return status

    return body


def receive(inside: Inside) -> int:
    """A body that waits for a word."""
    inside.channel.receive()
    return 0


# -- trees -------------------------------------------------------------------------------------------------------------


def test_layers(supervisor: Supervisor) -> None:
    """What a scope wrote is seen below; what is written below is seen by nobody else; changes are told against the scope."""
    outer, _ = root(
        supervisor,
        scope({"make": write("/tmp/made", "scope"), "change": write("/tmp/made", "test"), "tell": tell("/tmp/made"),
               "remove": remove("/tmp/made")}),
    )  # fmt: skip
    outer.send({"op": "do", "body": "make"})
    supervisor.run_while(lambda: not outer.listener.frames)  # type: ignore[attr-defined]
    heard = [below(supervisor, outer, name)[1] for name in ("change", "tell", "remove", "tell")]
    outcomes = wait(supervisor, *heard)
    assert [outcome.status for outcome in outcomes] == [0, 0, 0, 0]
    assert [frame["text"] for one in heard for frame in one.frames] == ["scope", "scope"]
    assert [outcome.changes for outcome in outcomes] == [
        (Change("/tmp/made", ChangeKind.MODIFIED, 4),), (), (Change("/tmp/made", ChangeKind.DELETED),), (),
    ]  # fmt: skip
    assert not os.path.exists("/tmp/made")


def test_deleted_by_a_scope_and_made_again(supervisor: Supervisor) -> None:
    """Is new, whatever the machine has there."""

    def make(_: Inside) -> int:
        put("y", "/tmp/x/y")
        return 0

    outer, heard = root(supervisor, scope({"remove": remove("/tmp/x/y"), "make": make}))
    do(supervisor, outer, heard, "make")
    do(supervisor, outer, heard, "remove")
    _, child = below(supervisor, outer, "make")
    assert [change for change in wait(supervisor, child)[0].changes if change.path == "/tmp/x/y"] == [
        Change("/tmp/x/y", ChangeKind.ADDED, 1)
    ]


def test_a_directory_that_a_scope_made_anew(supervisor: Supervisor) -> None:
    """What is made in it is new, though the scope around has a file of that name; so is what takes a file's place."""

    def scene(_: Inside) -> int:
        put("outer", "/tmp/old/x", "/tmp/file")
        return 0

    def anew(_: Inside) -> int:
        os.unlink("/tmp/old/x")
        os.rmdir("/tmp/old")
        os.unlink("/tmp/file")
        os.makedirs("/tmp/old")
        return 0

    def leaf(_: Inside) -> int:
        put("y", "/tmp/old/x", "/tmp/file/y")
        return 0

    bodies: Bodies = {"scene": scene, "anew": anew, "leaf": leaf}
    outer, heard = root(supervisor, scope(bodies))
    do(supervisor, outer, heard, "scene")
    middle, heard = below(supervisor, outer, "scope", inner=True)
    supervisor.run_while(lambda: not middle.below.is_here)
    do(supervisor, middle, heard, "anew")
    _, heard = below(supervisor, middle, "leaf")
    assert set(wait(supervisor, heard)[0].changes) == {
        Change("/tmp/old/x", ChangeKind.ADDED, 1),
        Change("/tmp/file", ChangeKind.ADDED),
        Change("/tmp/file/y", ChangeKind.ADDED, 1),
    }


def test_deep_nesting(supervisor: Supervisor) -> None:
    """Sixteen levels; one more is refused with the reason, and the one around it goes on."""
    bodies: Bodies = {"leaf": lambda _: 7}
    chain = [root(supervisor, scope(bodies))[0]]
    for _ in range(15):
        chain.append(below(supervisor, chain[-1], "scope", inner=True)[0])
    _, heard = below(supervisor, chain[-2], "leaf")
    assert wait(supervisor, heard)[0].status == 7
    last, heard = below(supervisor, chain[-1], "leaf")
    wait(supervisor, heard)
    assert "16 levels are the most" in str(last.problem)
    _, heard = below(supervisor, chain[-2], "leaf")
    assert wait(supervisor, heard)[0].status == 7


def test_a_scope_with_a_thread_can_fork_sandboxes(supervisor: Supervisor) -> None:
    """The thread is not in them."""

    def start_thread(_: Inside) -> int:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        return 0

    def count(inside: Inside) -> int:
        inside.channel.send({"op": "threads", "count": len(os.listdir("/proc/self/task")), "pid": os.getpid()})
        return 0

    outer, above = root(supervisor, scope({"thread": start_thread, "count": count}))
    outer.send({"op": "do", "body": "thread"})
    supervisor.run_while(lambda: not above.frames)
    heard = [below(supervisor, outer, "count")[1] for _ in range(5)]
    assert [outcome.status for outcome in wait(supervisor, *heard)] == [0] * 5
    assert [frame for one in heard for frame in one.frames] == [{"op": "threads", "count": 1, "pid": 3}] * 5


def test_a_scope_without_descriptors(supervisor: Supervisor) -> None:
    """What it has no numbers for does not arrive: however many those are, it says so, and can go on when there are some again."""
    held: list[int] = []

    def hold(_: Inside) -> int:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        return 0

    def release(_: Inside) -> int:
        os.close(held.pop())
        return len(held)

    outer, above = root(supervisor, scope({"hold": hold, "release": release, "leaf": lambda _: 7}), limits=Limits(files=64))
    do(supervisor, outer, above, "hold")
    problems = []
    while True:
        running, heard = below(supervisor, outer, "leaf")
        (outcome,) = wait(supervisor, heard)
        if outcome.status == 7:
            break
        problems.append(str(running.problem))
        do(supervisor, outer, above, "release")
    assert len(problems) > 6
    assert {problem.partition(" (")[0] for problem in problems[:-1]} == {"receive descriptors: Too many open files"}
    assert problems[-1].startswith("exchange descriptors: Too many open files (errno 24)")
    assert all("has lowered RLIMIT_NOFILE. Fix: let" in problem for problem in problems)
    assert not outer.ended


def test_a_duplicate_of_the_scopes_stdout(supervisor: Supervisor) -> None:
    """Is each sandbox's own below: what a wider fixture keeps of stdout writes to the test that uses it."""
    kept: list[int] = []

    def keep(inside: Inside) -> int:
        kept.append(os.dup(inside.descriptors.stdout))
        return 0

    def write(inside: Inside) -> int:
        return os.write(kept[0], f"{inside.order.name} ".encode() * 3)

    outer, above = root(supervisor, scope({"keep": keep, "write": write}))
    outer.send({"op": "do", "body": "keep"})
    supervisor.run_while(lambda: not above.frames)
    started = [below(supervisor, outer, "write") for _ in range(3)]
    outcomes = wait(supervisor, *(heard for _, heard in started))
    names = [running.name for running, _ in started]
    assert [outcome.stdout.split() for outcome in outcomes] == [[name.encode()] * 3 for name in names]
    assert outer.read_output()[0] == b""


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
        assert heard.frames[0]["text"] == ["begun", "before", "2 0"]
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


def test_shared_network(supervisor: Supervisor) -> None:
    """`auto` shares where something listens around it, `shared` always, `loopback` never."""
    sockets: list[socket.socket] = []

    def listen(_: Inside) -> int:
        sockets.append(socket.create_server(("127.0.0.1", 9999)))
        return 0

    def connect(_: Inside) -> int:
        return socket.socket().connect_ex(("127.0.0.1", 9999))

    outer, above = root(supervisor, scope({"listen": listen, "connect": connect}))
    heard = [below(supervisor, outer, "connect", network=network)[1] for network in (Network.AUTO, Network.SHARED)]
    refused = [outcome.status for outcome in wait(supervisor, *heard)]
    outer.send({"op": "do", "body": "listen"})
    supervisor.run_while(lambda: not above.frames)
    every = (Network.AUTO, Network.SHARED, Network.LOOPBACK)
    heard = [below(supervisor, outer, "connect", network=network)[1] for network in every]
    outcomes = wait(supervisor, *heard)
    assert refused == [111, 111]
    assert [outcome.status for outcome in outcomes] == [0, 0, 111]
    assert [outcome.usage.network_sent is None for outcome in outcomes] == [True, True, False]


def test_many_at_once(supervisor: Supervisor) -> None:
    """Sixty, each misbehaving in its own way, each with its own verdict."""

    def hang(_: Inside) -> int:
        time.sleep(60)
        return 0

    def shout(inside: Inside) -> int:
        while True:
            os.write(inside.descriptors.stdout, b"x" * 65536)

    def die(_: Inside) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    outer, _ = root(supervisor, scope({"hang": hang, "shout": shout, "die": die, "leave": lambda _: 3}))
    limits = {"hang": Limits(timeout=2.0), "shout": Limits(output=1 << 20), "die": Limits(), "leave": Limits()}
    heard = [below(supervisor, outer, name, limits=limits[name])[1] for name in [*limits] * 15]
    endings = [outcome.ending for outcome in wait(supervisor, *heard)]
    assert endings == [Ending.TIMED_OUT, Ending.TOO_MUCH_OUTPUT, Ending.SIGNALLED, Ending.EXITED] * 15


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
        assert os.getpid() == 3, "not in a sandbox"
        with contextlib.suppress(ProcessLookupError):  # there is nobody but init and itself
            os.kill(-1, signal.SIGKILL)
        return look(inside)

    outer, above = root(supervisor, scope({"delay": delay_forks, "look": look, "kill": kill}))
    outer.send({"op": "do", "body": "delay"})
    supervisor.run_while(lambda: not above.frames)
    killed, first = below(supervisor, outer, "look")
    supervisor.run_while(lambda: killed.pending is not None)
    time.sleep(0.1)  # it is forked by now, and forker sleeps
    killed.kill(None)
    _, second = below(supervisor, outer, "look")
    _, third = below(supervisor, outer, "kill")
    _, fourth = below(supervisor, outer, "look")
    outcomes = wait(supervisor, first, second, third, fourth)
    assert [outcome.ending for outcome in outcomes] == [Ending.NO_REPORT, Ending.EXITED, Ending.EXITED, Ending.EXITED]
    assert [frame["pids"] for one in (second, third, fourth) for frame in one.frames] == [[1, 3]] * 3


def test_the_end_of_a_scope_is_the_end_of_what_is_below(supervisor: Supervisor) -> None:
    """Those that ran, and those that were ordered and not yet made."""
    outer, above = root(supervisor, scope({"hang": sleep(60)}))
    heard = [below(supervisor, outer, "hang")[1] for _ in range(3)]
    outer.kill(None)
    heard += [below(supervisor, outer, "hang")[1]]
    assert {outcome.ending for outcome in wait(supervisor, above, *heard)} == {Ending.NO_REPORT}


# -- sandboxes that are not to be trusted ------------------------------------------------------------------------------


def lies(data: bytes) -> Callable[[Inside], int]:
    """A body that sends bytes of its own."""

    def body(inside: Inside) -> int:
        with contextlib.suppress(OSError):
            inside.channel.socket.sendall(data)
            time.sleep(60)
        return 0

    return body


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n", struct.pack("!I", 0xFFFFFFFF), struct.pack("!I", 3) + b"{]}", struct.pack("!I", 2) + b"[]",
        struct.pack("!I", 200_000) + b"[" * 200_000, encode({"op": "refused", "name": "s1"}),
        encode({"op": "refused", "name": ["s"], "errno": "x"}), encode({"op": "refused", "name": "s2"}),
    ],
    ids=["text", "length", "no json", "no object", "deep", "refuses its parent", "refuses nonsense", "refuses itself"],
)  # fmt: skip
def test_who_lies_fails_alone(supervisor: Supervisor, data: bytes) -> None:
    """It is killed and its problem told, what it said before is heard; its neighbour and its scope go on."""
    outer, _ = root(supervisor, scope({"lie": lies(encode({"op": "true"}) + data), "leave": sleep(0.2, 4)}))
    liar, one = below(supervisor, outer, "lie")
    _, two = below(supervisor, outer, "leave")
    first, second = wait(supervisor, one, two)
    assert first.ending is Ending.NO_REPORT
    assert isinstance(liar.problem, WireError)
    assert first.sentence == str(liar.problem)
    assert one.frames == [{"op": "true"}]
    assert (second.ending, second.status) == (Ending.EXITED, 4)


def test_a_torn_frame_at_the_end_is_no_frame(supervisor: Supervisor) -> None:
    """What was whole counts, the rest does not."""

    def body(inside: Inside) -> int:
        inside.channel.send({"op": "whole"})
        inside.channel.socket.sendall(encode({"op": "torn"})[:-1])
        return 0

    _, heard = root(supervisor, body)
    assert wait(supervisor, heard)[0].status == 0
    assert heard.frames == [{"op": "whole"}]


def test_a_flood_does_not_hold_up_the_others(supervisor: Supervisor, crowd: Callable[[], float]) -> None:
    """Who talks without end keeps neither its own deadline nor its neighbours from being served."""

    def flood(inside: Inside) -> int:
        data = encode({"op": "x"}) * 5000
        while True:
            inside.channel.socket.sendall(data)

    outer, _ = root(supervisor, scope({"flood": flood, "leave": lambda _: 4}))
    _, one = below(supervisor, outer, "flood", limits=Limits(timeout=1.0))
    _, two = below(supervisor, outer, "leave")
    first, second = wait(supervisor, one, two)
    assert (first.ending, second.status) == (Ending.TIMED_OUT, 4)
    assert first.usage.wall < 5 * crowd()


def test_who_does_not_listen_holds_up_nobody(supervisor: Supervisor) -> None:
    """Megabytes for one that sleeps wait in the controller; one that reads late gets all of it."""

    def late(inside: Inside) -> int:
        time.sleep(0.3)
        return sum(len(inside.channel.receive()[0]["text"]) == 1_000_000 for _ in range(5))

    outer, _ = root(supervisor, scope({"late": late, "never": sleep(60), "leave": lambda _: 4}))
    slow, one = below(supervisor, outer, "late")
    deaf, two = below(supervisor, outer, "never", limits=Limits(timeout=1.0))
    for _ in range(5):
        slow.send({"op": "x", "text": "x" * 1_000_000})
        deaf.send({"op": "x", "text": "x" * 1_000_000})
    _, three = below(supervisor, outer, "leave")
    assert [outcome.status for outcome in wait(supervisor, one, three)] == [5, 4]
    assert wait(supervisor, two)[0].ending is Ending.TIMED_OUT


def test_forged_words_of_init(supervisor: Supervisor) -> None:
    """A scope holds the control socket of what it is to make: what it sends there is at most that sandbox's end."""

    def forge(inside: Inside) -> int:
        for words in (
            {"op": "exit", "status": "x"}, {"op": "exit", "leaks": 5}, {"op": "failed", "errno": 1 << 90}, {"op": "ready"},
            {"op": "exit", "status": 0, "leaks": [[1, 2]], "cpu": 1e300, "blocks": None, "network": None, "shares_network": 0},
        ):  # fmt: skip
            _, descriptors = inside.channel.receive()
            os.write(descriptors[0], encode(words))
            for fd in descriptors:
                os.close(fd)
        return 0

    outer, above = root(supervisor, forge)
    heard = [below(supervisor, outer, "x")[1] for _ in range(5)]
    assert len(wait(supervisor, above, *heard)) == 6


def test_done_does_not_lift_limits(supervisor: Supervisor) -> None:
    """Who says that it is done and goes on is still looked at."""

    def body(inside: Inside) -> int:
        inside.channel.send({"op": "done"})
        while True:
            os.write(inside.descriptors.stdout, b"x" * 65536)

    _, heard = root(supervisor, body, limits=Limits(output=1 << 20, timeout=20.0))
    assert wait(supervisor, heard)[0].ending is Ending.TOO_MUCH_OUTPUT


# -- nothing is left ---------------------------------------------------------------------------------------------------


def test_fifty_sandboxes_leave_no_descriptor(supervisor: Supervisor) -> None:
    """Nor a zombie: the controller is as it was after the first."""
    outer, _ = root(supervisor, scope({"leave": lambda _: 0}))
    counts = []
    for _ in range(50):
        _, heard = below(supervisor, outer, "leave")
        wait(supervisor, heard)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[-1]
    roots = []
    for _ in range(10):
        _, heard = root(supervisor, lambda _: 0)
        wait(supervisor, heard)
        roots.append(len(os.listdir("/proc/self/fd")))
    assert roots[0] == roots[-1] == counts[0]


def test_outermost_sandboxes_know_nothing_of_each_other(supervisor: Supervisor) -> None:
    """A second one, made while the first runs, holds no descriptor of it."""
    _, first = root(supervisor, receive)

    def look(inside: Inside) -> int:
        modes = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of listdir itself
                modes.append(os.fstat(int(name)).st_mode)
        inside.channel.send({"op": "found", "sockets": sum(map(stat.S_ISSOCK, modes))})
        return 0

    _, second = root(supervisor, look)
    wait(supervisor, second)
    assert second.frames[0]["sockets"] == 1
    assert first.outcome is None


def test_close_while_all_run(crowd: Callable[[], float]) -> None:
    """Everything is killed, what was only ordered too, and that in no time."""
    one = Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", host.make_layout(probes.find_identity()))
    outer, above = root(one, scope({"hang": sleep(60)}))
    heard = [below(one, outer, "hang")[1] for _ in range(5)]
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < 5 * crowd()
    assert all(each.outcome is not None for each in (above, *heard))


def test_close_at_once() -> None:
    """Before the launcher has done anything."""
    one = Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", host.make_layout(probes.find_identity()))
    root(one, lambda _: 0)
    one.close()


def test_close_with_a_launcher_that_is_stuck(monkeypatch: pytest.MonkeyPatch, crowd: Callable[[], float]) -> None:
    """A launcher that hangs in the kernel's or anybody's hands is killed, and close comes back."""
    from pytest_sandbox.sandbox import launcher

    monkeypatch.setattr(launcher, "_launch", lambda *_: time.sleep(60))
    one = Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", host.make_layout(probes.find_identity()))
    _, heard = root(one, lambda _: 0)
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < 5 * crowd()
    assert heard.outcome is not None
    assert heard.outcome.ending is Ending.NO_REPORT


def spin(_: Inside) -> int:
    """Use CPU time until killed."""
    while True:
        pass


@pytest.mark.needs("cpu_time")
@pytest.mark.parametrize(("cpu_time", "timeout", "first"), [(0.02, 2.0, Ending.CPU_TIME), (0.5, 0.1, Ending.TIMED_OUT)])
def test_which_of_two_times_ran_out_first(supervisor: Supervisor, cpu_time: float, timeout: float, first: Ending) -> None:
    """Also where the controller had no time to look before both were over; of a machine under load it gets a twentieth."""
    running, heard = root(supervisor, spin, limits=Limits(cpu_time=cpu_time, timeout=timeout))
    supervisor.run_while(lambda: running.allowed is None and not running.ended)
    assert heard.outcome is None, heard.outcome
    limit, deadline = time.monotonic() + 300, running.allowed.due if running.allowed else 0
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


class Freezer:
    """A cgroup below this process's own, into which the test moves what it then freezes from outside."""

    def __init__(self, version: int) -> None:
        hierarchies = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        found = [one for one in hierarchies if one.version == version and (version == V2 or "freezer" in one.controllers)]
        if not found or found[0].problem or not os.access(found[0].directory, os.W_OK):
            pytest.skip(f"no freezer of cgroup v{version} that this user may use")
        self._path = Path(found[0].directory, f"frozen-{os.getpid()}-{secrets.token_hex(4)}")
        self._path.mkdir()
        self._v1 = version == V1

    def freeze(self, pids: tuple[int, ...]) -> None:
        """Move them in, and stop them."""
        for pid in pids:
            (self._path / "cgroup.procs").write_text(str(pid))
        self._set("FROZEN", "1")

    def thaw(self) -> None:
        """Let them go on."""
        self._set("THAWED", "0")

    def _set(self, v1: str, v2: str) -> None:
        (self._path / ("freezer.state" if self._v1 else "cgroup.freeze")).write_text(v1 if self._v1 else v2)

    def remove(self) -> None:
        """Of what is still in there nobody survives."""
        self.thaw()
        limit = time.monotonic() + 30
        while (self._path / "cgroup.procs").read_text():
            assert time.monotonic() < limit
            time.sleep(0.01)
        self._path.rmdir()


@pytest.fixture(params=[V1, V2], ids=["v1", "v2"])
def freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    """See `Freezer`."""
    one = Freezer(request.param)
    yield one
    one.remove()


def frozen(supervisor: Supervisor, freezer: Freezer, timeout: float) -> Heard:
    """A sandbox that sleeps, and is frozen from outside."""
    running, heard = root(supervisor, sleep(600), limits=Limits(timeout=timeout))
    supervisor.run_while(lambda: running.allowed is None)
    freezer.freeze(running.cgroup.processes())
    return heard


@pytest.mark.needs("kill")
def test_frozen_from_outside(supervisor: Supervisor, freezer: Freezer) -> None:
    """It is killed when its time is over; version 1's freezer, which keeps it from dying, is waited for."""
    heard = frozen(supervisor, freezer, 0.5)
    thaw = threading.Timer(2.0, freezer.thaw)
    thaw.start()
    assert wait(supervisor, heard)[0].ending is Ending.TIMED_OUT
    thaw.join()


@pytest.mark.needs("kill")
@pytest.mark.parametrize("freezer", [V1], indirect=True)
def test_what_does_not_die_does_not_hold_the_run(
    supervisor: Supervisor, freezer: Freezer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the run goes on without it, and says so; the verdict is known all the same."""
    monkeypatch.setattr("pytest_sandbox.sandbox.running.GONE_TIME", 0.5)
    heard = frozen(supervisor, freezer, 0.5)
    with (
        pytest.warns(TeardownWarning, match=r"s1 cannot be killed, with pids \d+"),
        pytest.warns(TeardownWarning, match="could not be removed: Device or resource busy"),
    ):
        assert wait(supervisor, heard)[0].ending is Ending.TIMED_OUT
    monkeypatch.undo()  # on a machine under load the next one may take longer to be gone
    _, other = root(supervisor, lambda _: 0)
    assert wait(supervisor, other)[0].ok
    freezer.thaw()


# -- what does not come about ------------------------------------------------------------------------------------------


def test_a_scope_that_does_not_fork(supervisor: Supervisor) -> None:
    """It is waited for once, and killed with what it was to make: nothing else could be made there either."""

    def hang(_: Inside) -> int:
        os.register_at_fork(before=lambda: time.sleep(600))
        return 0

    outer, above = root(supervisor, scope({"hang": hang, "leave": lambda _: 0}))
    outer.send({"op": "do", "body": "hang"})
    supervisor.run_while(lambda: not above.frames)
    children = [below(supervisor, outer, "leave") for _ in range(3)]
    supervisor.run_while(lambda: not all(child.being_forked for child, _ in children))
    for child, _ in children:
        child.enter_by = time.monotonic() + 0.1  # in place of two minutes
    outcomes = wait(supervisor, above, *(heard for _, heard in children))
    assert {outcome.ending for outcome in outcomes} == {Ending.NO_REPORT}
    assert "does not come to an end of it" in outcomes[0].sentence


def test_a_limit_that_cannot_be_held_after_all(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for is refused where the cgroup does not take it, whatever the machine was found to do."""
    known = host.capabilities()
    lost = next((name for name in ("memory_high", "hugetlb", "cpus", "memory") if not known[name].available), None)
    if lost is None:
        pytest.skip("this machine holds every limit")
    monkeypatch.setattr(host, "capabilities", lambda: {**known, lost: Capability(lost, True)})
    changed: dict[str, Any] = {lost: 1 if lost == "cpus" else 64 << 20}
    limits, said = Limits(**changed), list[list[str]]()
    for _ in range(2):  # also when it was told before
        with pytest.raises(UnavailableError, match=lost):
            supervisor.start_root(Spec(limits=limits, asked=frozenset({lost})), scope({}), Heard())
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            _, heard = root(supervisor, lambda _: 0, limits=limits)
        wait(supervisor, heard)
        said.append([str(one.message) for one in told if one.category is TeardownWarning])
    assert len(said[0]) == 1
    assert f"the limit {lost} is not enforced" in said[0][0]
    assert said[1] == []


def test_a_distant_deadline(supervisor: Supervisor) -> None:
    """A time limit of a month is one."""
    _, heard = root(supervisor, sleep(0.1), limits=Limits(timeout=3e6, output=None))
    assert wait(supervisor, heard)[0].status == 0
