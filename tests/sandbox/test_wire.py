"""Frames: what a stream of bytes becomes, and what is refused, whoever sends it."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox._linux.sockets import Socket, pair
from pytest_sandbox.model.errors import WireError
from pytest_sandbox.sandbox.outside.ends import unread
from pytest_sandbox.sandbox.wire.frames import LONGEST, Channel, Decoder, encode
from pytest_sandbox.sandbox.wire.words import refusal


def raw(*parts: bytes) -> bytes:
    """A body with its length."""
    return b"".join([struct.pack("!I", sum(map(len, parts))), *parts])


def decode(data: bytes, decoder: Decoder | None = None) -> list[dict[str, Any]]:
    """The frames that a stream completes."""
    decoder = decoder or Decoder()
    decoder.feed(data)
    return list(iter(decoder.next, None))


def feed_in_little_memory(data: bytes) -> str:
    """What becomes of a stream in a process that may take eight times as much memory for it: "taken", "refused" or "failed"."""
    said = ["taken", "refused", "failed"]
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + (32 << 20) + 8 * len(data)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            decode(data)
            status = 0
        except WireError:
            status = 1
        finally:
            os._exit(status)
    return said[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


def test_round_trip() -> None:
    """What JSON has, and any text, lone surrogates and control characters included."""
    frame = {"op": "x", "text": "\udc80\0\x1f\u2028\U0001f600", "list": [1, 1.5, None, True], "deep": {"a": {"b": []}}}
    assert decode(encode(frame)) == [frame]


def test_what_json_has_no_form_for_is_shown() -> None:
    """No report is lost for one odd value in it."""
    assert decode(encode({"op": "x", "value": {1, 2}}))[0]["value"] == "{1, 2}"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_torn_frames(size: int) -> None:
    """However the stream is cut, the frames are the same."""
    frames = [{"op": "x", "number": number, "text": "y" * number} for number in range(30)]
    stream = b"".join(map(encode, frames))
    decoder, found = Decoder(), []
    for start in range(0, len(stream), size):
        found += decode(stream[start : start + size], decoder)
    assert found == frames


def test_a_stream_that_ends_within_a_frame() -> None:
    """Gives only what was whole; the rest is waited for."""
    decoder = Decoder()
    assert decode(encode({"op": "x"}) + encode({"op": "y"})[:-1], decoder) == [{"op": "x"}]
    assert not decoder.is_due
    decoder.feed(encode({"op": "y"})[-1:])
    assert decoder.is_due
    assert decoder.next() == {"op": "y"}


@pytest.mark.parametrize("bad", [raw(b"no json"), struct.pack("!I", LONGEST + 1), raw(b'{"op": "' + b"x" * 90)])
def test_what_comes_before_a_bad_frame(bad: bytes) -> None:
    """Is no worse for it."""
    decoder = Decoder(most=100)
    decoder.feed(encode({"op": "x"}) + encode({"op": "y"}) + bad)
    assert [decoder.next(), decoder.next()] == [{"op": "x"}, {"op": "y"}]
    assert decoder.is_due
    with pytest.raises(WireError):
        decoder.next()


@pytest.mark.parametrize(
    "data",
    [
        raw(b""), raw(b"no json"), raw(b"[]"), raw(b"{}"), raw(b'{"op": 1}'), raw(b'"op"'), raw(b"\xff\xfe"), raw(b"NaN"),
        struct.pack("!I", LONGEST + 1), struct.pack("!I", 0xFFFFFFFF), b"GET / HTTP/1.1\r\n\r\n" * 4,
    ],
)  # fmt: skip
def test_garbage(data: bytes) -> None:
    """A WireError, and nothing else."""
    with pytest.raises(WireError):
        decode(data)


def test_too_much_in_sum() -> None:
    """Each frame is small enough, and all of them together are not."""
    decoder, one = Decoder(most=100), encode({"op": "x", "text": "y" * 20})
    assert [decode(one, decoder) for _ in range(2)] == [[{"op": "x", "text": "y" * 20}]] * 2
    with pytest.raises(WireError, match="more than a sandbox may"):
        decode(one, decoder)
    decoder = Decoder(most=100)
    for _ in range(9):
        assert decode(one, decoder)
        decoder.forgive()


def test_random_garbage() -> None:
    """Whatever comes: frames or a WireError."""
    source = random.Random(4711)
    for _ in range(3000):
        body = bytes(source.choice(b'{}[]",:\\u0123op \xff\x00') for _ in range(source.randrange(40)))
        try:
            decode(raw(b'{"op": "x", "y": ' + body + b"}") if source.random() < 0.7 else body)
        except WireError:
            continue


@pytest.mark.parametrize(
    ("first", "many", "times", "last"),
    [
        (b"", b"[", 100_000, b"]" * 100_000),
        (b"", b'{"a":', 100_000, b"1" + b"}" * 100_000),
        (b"", b"[", 100_000, b""),
        (b"[", b"[],", 10_000_000, b"0]"),
        (b"[", b'"",', 10_000_000, b"0]"),
        (b"[", b"1,", 20_000_000, b"0]"),
    ],
    ids=["deep list", "deep object", "open", "wide", "strings", "numbers"],
)
def test_bombs(first: bytes, many: bytes, times: int, last: bytes) -> None:
    """What would be deep, or many times as large in memory, is refused, and in little memory.

    Made here and once: the suite's process would keep them, and a guest of User-Mode Linux has no room for copies.
    """
    assert feed_in_little_memory(raw(b'{"op": "x", "y": ', first, many * times, last, b"}")) == "refused"


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("end", ['"', "x"])
def test_what_is_text(count: int, end: str) -> None:
    """Whatever backslashes and quotes are in it, brackets in a text are no structure, and those behind it are."""
    text = "[" * 1000 + "\\" * count + end + "[" * 1000
    flat: dict[str, Any] = {"op": "x", "text": text, "list": [], "more": text}
    assert decode(encode(flat)) == [flat]
    deep = encode(flat)[4:].replace(b"[]", b"[" * 300 + b"]" * 300)
    with pytest.raises(WireError, match="levels deep"):
        decode(raw(deep))


def test_large_text_is_no_bomb() -> None:
    """The output that a test may make comes through, even if it is all brackets, quotes and commas."""
    frame = {"op": "x", "text": '[{",\\"' * 3_000_000}
    assert decode(encode(frame)) == [frame]
    assert feed_in_little_memory(encode(frame)) == "taken"


def test_a_channel_belongs_to_one_process() -> None:
    """A fork that comes back into the same code sends nothing."""
    here, there = pair(socket.SOCK_STREAM)
    with here, there:
        channel = Channel(there)
        pid = os.fork()
        if pid == 0:
            channel.send({"op": "forged"})
            os._exit(0)
        os.waitpid(pid, 0)
        channel.send({"op": "true"})
        assert decode(here.recv(1000)) == [{"op": "true"}]


# -- who sends at once -------------------------------------------------------------------------------------------------


LARGE = "x" * 1_000_000


class Reader(threading.Thread):
    """Hears what a channel sends, from when it is started."""

    def __init__(self, sock: Socket) -> None:
        super().__init__()
        self.socket = sock
        self.said = bytearray()

    def run(self) -> None:
        """Read to the end."""
        while data := self.socket.recv(1 << 16):
            self.said += data

    def frames(self, channel: Channel) -> list[dict[str, Any]]:
        """All of them, when nobody sends any more."""
        channel.socket.shutdown(socket.SHUT_WR)
        self.join()
        decoder = Decoder()
        found = decode(bytes(self.said), decoder)
        assert sum(len(encode(frame)) for frame in found) == len(self.said), "half a frame is left"
        return found

    def ops(self, channel: Channel) -> list[str]:
        """What they are."""
        return [frame["op"] for frame in self.frames(channel)]


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Reader]]:
    """A channel, and who will hear it."""
    here, there = pair(socket.SOCK_STREAM)
    with here, there:
        yield Channel(there), Reader(here)


@contextlib.contextmanager
def handling(handler: Callable[[], object]) -> Iterator[None]:
    """Within, SIGALRM is handled so; at the end, nothing sends it any more."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before)


def send_interrupted(channel: Channel, reader: Reader) -> None:
    """Send a frame that nobody reads, and have SIGALRM in its midst."""

    def interrupt() -> None:
        while not unread(reader.socket):
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    threading.Thread(target=interrupt).start()
    channel.send({"op": "large", "text": LARGE})


class RaisedError(Exception):
    """By a signal handler, as pytest-timeout does."""


def raise_it() -> None:
    """Do so."""
    raise RaisedError


def test_threads_send_at_once(ends: tuple[Channel, Reader]) -> None:
    """Each frame comes whole, those of a thread in their order, and none is left behind."""
    channel, reader = ends

    def send(name: str) -> None:
        for number in range(30):
            channel.send({"op": name, "number": number, "text": LARGE} if number % 10 == 0 else {"op": name, "number": number})

    threads = [threading.Thread(target=send, args=[name]) for name in "abcd"]
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    frames = reader.frames(channel)
    assert len(frames) == 4 * 30
    for name in "abcd":
        assert [frame["number"] for frame in frames if frame["op"] == name] == list(range(30))


def test_a_signal_handler_sends(ends: tuple[Channel, Reader]) -> None:
    """Its frame comes before or after the one that it has interrupted, and whoever it waits for can send too."""
    channel, reader = ends
    threads: list[threading.Thread] = []

    def handle() -> None:
        channel.send({"op": "handler"})
        threads.append(threading.Thread(target=channel.send, args=[{"op": "thread"}], daemon=True))
        threads[0].start()
        threads[0].join(60)
        reader.start()

    with handling(handle):
        send_interrupted(channel, reader)
    assert not threads[0].is_alive()
    assert reader.ops(channel) == ["large", "handler", "thread"]


def test_signal_handlers_come_all_the_time(ends: tuple[Channel, Reader]) -> None:
    """At every step of a sender, and all are heard."""
    channel, reader = ends
    count = 0

    def handle() -> None:
        nonlocal count
        count += 1
        channel.send({"op": "handler"})

    reader.start()
    with handling(handle):
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(30):
            channel.send({"op": "large", "text": LARGE})
    heard = reader.ops(channel)
    assert (heard.count("large"), heard.count("handler")) == (30, count)


def test_a_signal_handler_raises_in_the_midst_of_a_frame(ends: tuple[Channel, Reader]) -> None:
    """The next sender, which may be a thread, sends the rest of it first."""
    channel, reader = ends
    with handling(raise_it), pytest.raises(RaisedError):
        send_interrupted(channel, reader)
    reader.start()
    thread = threading.Thread(target=channel.send, args=[{"op": "next"}])
    thread.start()
    thread.join()
    assert reader.ops(channel) == ["large", "next"]


def test_a_fork_while_a_thread_sends(ends: tuple[Channel, Reader]) -> None:
    """It has no part in what the thread is at; and where it is a sandbox of its own, it begins anew."""
    channel, reader = ends
    thread = threading.Thread(target=channel.send, args=[{"op": "large", "text": LARGE}])
    thread.start()
    while not unread(reader.socket):
        time.sleep(0.001)
    mine, its = pair(socket.SOCK_STREAM)
    with mine, its:
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            channel.send({"op": "forged"})
            os.dup2(its.fileno(), channel.socket.fileno())
            channel.adopt()
            channel.send({"op": "forked"})
            os._exit(0)
        its.close()
        assert os.waitpid(pid, 0)[1] == 0
        assert decode(mine.recv(1000)) == [{"op": "forked"}]
    reader.start()
    thread.join()
    assert reader.ops(channel) == ["large"]


def test_an_answer_is_for_who_has_asked() -> None:
    """A thread that waits for its own hears what another one is to be told, and leaves it to that one."""
    here, there = pair(socket.SOCK_STREAM)
    answers: list[dict[str, Any]] = []
    with here, there:
        channel = Channel(there)
        asking = threading.Thread(target=lambda: answers.append(channel.ask({"op": "usage?"}, "usage")))
        asking.start()
        assert decode(here.recv(1000)) == [{"op": "usage?"}]
        for op in ("held", "next", "usage"):
            here.send(encode({"op": op}))
        asking.join()
        here.shutdown(socket.SHUT_WR)
        assert channel.wait_for("next")[0] == {"op": "next"}
        assert channel.receive()[0] == {"op": "held"}
        with pytest.raises(EOFError):
            channel.receive()
    assert answers == [{"op": "usage"}]


def test_an_answer_that_nobody_has_waited_for() -> None:
    """Its question was cut short by what a signal handler has raised: it is no answer to the next one."""
    here, there = pair(socket.SOCK_STREAM)
    with here, there:
        channel = Channel(there)
        for frame in ({"op": "usage", "of": 1}, {"op": "next"}):
            here.send(encode(frame))
        channel.wait_for("next")
        here.send(encode({"op": "usage", "of": 2}))
        assert channel.ask({"op": "usage?"}, "usage")["of"] == 2


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [None, "x", -1, 1 << 80, [], 1.5])
def test_a_refusal_with_a_wrong_errno(number: object) -> None:
    """Has none."""
    assert refusal({"op": "failed", "errno": number, "step": ["odd"]}).errno == 0


def test_a_refusal_without_an_errno() -> None:
    """Says what went wrong, and not that nothing did."""
    assert str(refusal({"errno": 0, "step": "RuntimeError: blocked", "object": ""})) == "RuntimeError: blocked"
