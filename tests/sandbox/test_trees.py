"""Trees of sandboxes: what those below see of a scope's files, memory, descriptors and network, and how deep they may lie."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

from pytest_sandbox import Change, ChangeKind, Ending, Limits, Network
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from tests.sandbox.conftest import Bodies, below, do, root, scope, sleep, wait


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


def remove(path: str) -> Callable[[Inside], int]:
    """A body that removes a file."""

    def body(_: Inside) -> int:
        os.unlink(path)
        return 0

    return body


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
    assert outer.written.read_output()[0] == b""


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


def test_the_end_of_a_scope_is_the_end_of_what_is_below(supervisor: Supervisor) -> None:
    """Those that ran, and those that were ordered and not yet made."""
    outer, above = root(supervisor, scope({"hang": sleep(60)}))
    heard = [below(supervisor, outer, "hang")[1] for _ in range(3)]
    outer.kill(None)
    heard += [below(supervisor, outer, "hang")[1]]
    assert {outcome.ending for outcome in wait(supervisor, above, *heard)} == {Ending.NO_REPORT}
