"""Sandboxes that lie, flood or do not listen: each fails alone, and holds up nobody."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable

import pytest

from pytest_sandbox import Ending, Limits, WireError
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from pytest_sandbox.sandbox.wire.frames import encode
from tests.sandbox.conftest import below, root, scope, sleep, wait


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
