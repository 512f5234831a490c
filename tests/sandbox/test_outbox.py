"""The controller's outbox: what waits for who does not read, in order, within bounds, and with its descriptors."""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import Any

import pytest

from pytest_sandbox._linux.sockets import pair
from pytest_sandbox.model.errors import WireError
from pytest_sandbox.sandbox.outside.outbox import Outbox
from pytest_sandbox.sandbox.wire.frames import Channel


def test_outbox_waits_for_who_does_not_read() -> None:
    """It never blocks, keeps the order, and sends the descriptors with the frame that they belong to."""
    here, there = pair(socket.SOCK_STREAM)
    reading, writing = os.pipe()
    found: list[tuple[dict[str, Any], list[int]]] = []

    def read() -> None:
        channel = Channel(there)
        found.extend(channel.receive() for _ in range(3))

    with here, there:
        here.setblocking(False)
        outbox = Outbox(here)
        for op, descriptors in (("large", ()), ("fds", (reading, writing)), ("last", ())):
            outbox.put({"op": op, "text": "x" * 1_000_000}, descriptors)
        assert outbox.waiting
        os.close(reading)
        os.close(writing)
        reader = threading.Thread(target=read)
        reader.start()
        while outbox.waiting:
            select.select([], [here], [])
            outbox.flush()
        reader.join()
    assert [(frame["op"], len(frame["text"]), len(fds)) for frame, fds in found] == [
        ("large", 1_000_000, 0), ("fds", 1_000_000, 2), ("last", 1_000_000, 0),
    ]  # fmt: skip
    inner_reading, inner_writing = found[1][1]
    os.write(inner_writing, b"hello")
    assert os.read(inner_reading, 5) == b"hello"
    os.close(inner_reading)
    os.close(inner_writing)


def test_outbox_has_a_bound() -> None:
    """Who never reads does not fill the controller's memory."""
    here, there = pair(socket.SOCK_STREAM)
    with here, there:
        here.setblocking(False)
        outbox = Outbox(here, most=4 << 20)
        for _ in range(3):
            outbox.put({"op": "x", "text": "x" * (1 << 20)})
        with pytest.raises(WireError, match="does not read"):
            outbox.put({"op": "x", "text": "x" * (2 << 20)})
        outbox.close()


def test_outbox_of_who_is_gone() -> None:
    """Nothing waits, and no descriptor stays."""
    here, there = pair(socket.SOCK_STREAM)
    there.close()
    with here, open(os.devnull, "rb") as file:
        here.setblocking(False)
        outbox = Outbox(here)
        outbox.put({"op": "x"}, (file.fileno(),))
        assert not outbox.waiting
