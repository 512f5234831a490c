"""Frames between the controller and a sandbox: a length of four bytes, then a JSON object. Imports `_linux` and `model`.

Descriptors travel with a frame (SCM_RIGHTS, unix(7)) towards the sandbox, never out of it. JSON, since what comes from a
sandbox is not trusted: no pickle. What runs beside tests names functions of the standard library here and in other files as it
found them (`from os import getpid`): a fixture may have put something else into the module since.
"""

from __future__ import annotations

import json
import math
import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import _exit, getpid
from threading import RLock
from typing import Any, TypeVar

from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.model.errors import SandboxError, WireError

Frame = dict[str, Any]
_T = TypeVar("_T")

_HEADER = struct.Struct("!I")
#: The longest frame that is read, in bytes: a report with all the output that a test may make.
LONGEST = 256 << 20
#: The most that one sandbox may say in all, in bytes: what is said is kept, as reports, until the run's end.
MOST = 1 << 30
_DESCRIPTORS = socket.CMSG_SPACE(4 * 32)
#: How long a thread waits for its turn, in seconds; then it leaves its frame to whose turn it is: that one may be in a signal
#: handler that waits for the thread.
_PATIENCE = 0.1
#: No bomb fits into so few bytes, nor is one so flat.
_SMALL, _DEEPEST = 1 << 20, 200
_MOST_STRUCTURE, _MOST_STRINGS = 16 << 20, 1 << 20
# Also one that does not end.
_STRING = re.compile(rb'"[^"]*"?')
_BRACKET = re.compile(rb"[][{}]")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is no number of this machine")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(default=repr, ensure_ascii=False)


def descriptors_in(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Those that came with a message of recvmsg(2): SCM_RIGHTS of unix(7)."""
    found = list[int]()
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += memoryview(value[: len(value) - len(value) % 4]).cast("i").tolist()
    return found


def encode(frame: Frame) -> bytes:
    """The bytes of a frame; what JSON has no form for is sent as its repr."""
    body = _ENCODER.encode(frame).encode("utf-8", "surrogatepass")
    return _HEADER.pack(len(body)) + body


def _check_structure(body: bytes) -> None:
    """Refuse a frame that would be many times as large in memory, or deeper than Python can walk: a bomb.

    Text costs memory as it is long; brackets, commas and short strings cost up to 30 times as much.
    """
    if len(body) <= _SMALL and body.count(b"[") + body.count(b"{") <= _DEEPEST:
        return
    # Without escapes each quote begins or ends a string. A pattern that knew them would take 40 bytes for each that it passes.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    strings = plain.count(b'"') // 2
    if strings > _MOST_STRINGS:  # which a substitution would list
        raise WireError(f"a frame of {len(body)} bytes has {strings} strings")
    bare = _STRING.sub(b'""', plain)
    if len(bare) > _MOST_STRUCTURE:
        raise WireError(f"a frame of {len(body)} bytes has {len(bare)} that are no text")
    depth = deepest = 0
    for bracket in _BRACKET.findall(bare):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise WireError(f"a frame is {deepest} levels deep")


def _decode(body: bytes) -> Frame:
    _check_structure(body)
    try:
        frame = _DECODER.decode(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a frame of {len(body)} bytes is no JSON: {error}") from None
    if not isinstance(frame, dict) or not isinstance(frame.get("op"), str):
        raise WireError("a frame is no object with an 'op'")
    return frame


class Decoder:
    """Turns a stream of bytes into frames, one when it is asked for: those before one that is none are not lost with it.

    size: of the last one, in bytes.
    """

    def __init__(self, longest: int = LONGEST, most: int = MOST) -> None:
        self._pending = bytearray()
        self._longest = longest
        self._most = self._left = most
        self.size = 0

    def forgive(self) -> None:
        """Take as much again as at first."""
        self._left = self._most

    def feed(self, data: bytes) -> None:
        """Take the next part of the stream."""
        self._pending += data

    @property
    def is_due(self) -> bool:
        """Whether `next` has a frame or an error, and needs no more of the stream."""
        length = self._length()
        return length is not None and (bool(self._wrong(length)) or len(self._pending) >= _HEADER.size + length)

    def next(self) -> Frame | None:
        """The next frame, None where none is whole yet; WireError for what is none, and what comes after it is none either."""
        length = self._length()
        if length is None:
            return None
        if wrong := self._wrong(length):
            raise WireError(wrong)
        end = _HEADER.size + length
        if len(self._pending) < end:
            return None
        body = bytes(self._pending[_HEADER.size : end])
        del self._pending[:end]
        self._left -= end
        self.size = length
        return _decode(body)

    def _length(self) -> int | None:
        """How many bytes the next frame claims; None: not known yet."""
        return int(_HEADER.unpack_from(self._pending)[0]) if len(self._pending) >= _HEADER.size else None

    def _wrong(self, length: int) -> str:
        """Why a frame of this length is not waited for."""
        if length > self._longest:
            return f"a frame claims {length} bytes"
        if _HEADER.size + length > self._left:
            return "it has said more than a sandbox may, with all its reports"
        return ""


def _keep(values: list[_T], call: Callable[..., _T], *args: object) -> None:
    """Call what is written in C, and have its value in a list: no signal handler that raises comes in between."""
    values.extend(map(call, *((arg,) for arg in args)))


class Channel:
    """A sandbox's end: blocking, and only for the process that it was made in.

    A test that forks and comes back into pytest would send from the wrong process: `send` there does nothing.

    Frames leave it one after the other, whoever sends, and wherever he is interrupted. Threads take turns. A signal handler, or
    a finalizer, leaves its frame to the `send` that it came in between. Where a handler raises in the midst of a frame, whoever
    sends next sends the rest of that first, and who reads next reads the rest.
    """

    def __init__(self, sock: Socket) -> None:
        self.socket = sock
        self.adopt()

    def adopt(self) -> None:
        """Be the calling process's: it was forked, and has another socket under the same number, and none of the threads."""
        self._owner = getpid()
        self._asking = RLock()
        self._kept: list[tuple[Frame, list[int]]] = []
        self._parts: list[tuple[bytes, list[tuple[int, int, bytes]], int, Any]] = []  # of the frame that is being read
        self._turn = RLock()
        self._is_sending = False  # whose turn it is
        self._frames: deque[tuple[memoryview, list[int]]] = deque()  # each with what was sent of it, in bytes

    def send(self, frame: Frame) -> None:
        """Send a frame; a controller that has gone away is no error, since it takes the sandbox with it."""
        if getpid() != self._owner:
            return
        self._frames.append((memoryview(encode(frame)), []))
        patience = _PATIENCE
        while self._frames and self._take_turn(patience):  # and look again: a thread may have left one at the last moment
            patience = 0.0

    def _take_turn(self, patience: float) -> bool:
        """Send all that waits; whether this thread had its turn, and is not within one."""
        taken = list[bool]()
        try:
            _keep(taken, self._turn.acquire, True, patience)
            if not taken[0] or self._is_sending:
                return False
            while self._frames:
                try:
                    self._is_sending = True
                    self._send_some()
                finally:
                    self._is_sending = False
        except (BrokenPipeError, ConnectionResetError):
            _exit(1)
        finally:
            if True in taken:
                self._turn.release()
        return True

    def _send_some(self) -> None:
        if not self._frames:  # since it was looked for, a signal handler has come in between, and had a turn of its own
            return
        data, sent = self._frames[0]
        if (done := sum(sent)) < len(data):
            _keep(sent, self.socket.send, data[done:], socket.MSG_NOSIGNAL)
        else:
            self._frames.popleft()

    def receive(self) -> tuple[Frame, list[int]]:
        """The next frame and its descriptors; EOFError when the controller is gone.

        Raises SandboxError in any other process than its own: it would take an answer that is not its own.
        """
        with self.asking():
            return self._kept.pop(0) if self._kept else self._next()

    def wait_for(self, *ops: str) -> tuple[Frame, list[int]]:
        """The next frame with one of these `op`s, and its descriptors; others are kept for who waits for them. As `receive`."""
        with self.asking():
            for index, (frame, _) in enumerate(self._kept):
                if frame["op"] in ops:
                    return self._kept.pop(index)
            while (found := self._next())[0]["op"] not in ops:
                self._kept.append(found)
            return found

    def ask(self, question: Frame, answer: str) -> Frame:
        """Send a frame, and wait for one with the `op` answer."""
        with self.asking():
            self._kept = [(frame, fds) for frame, fds in self._kept if frame["op"] != answer]  # nobody waited for it to the end
            self.send(question)
            return self.wait_for(answer)[0]

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within, from a question to its answer: no other thread asks, which would take the answer. Raises as `receive`."""
        self._refuse_forks()  # where a thread may hold the lock that is not in the fork
        with self._asking:
            yield

    def _refuse_forks(self) -> None:
        if getpid() != self._owner:
            raise SandboxError("a fork of the test's process cannot ask the controller: ask in the test itself")

    def _next(self) -> tuple[Frame, list[int]]:
        while (lacking := self._lacking()) > 0:
            _keep(self._parts, self.socket.recvmsg, lacking, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
            if not self._parts[-1][0]:
                self._parts.pop()
                raise EOFError
        frame = _decode(b"".join(part[0] for part in self._parts)[_HEADER.size :])
        descriptors = [fd for part in self._parts for fd in descriptors_in(part[1])]
        self._parts = []
        return frame, descriptors

    def _lacking(self) -> int:
        """How many bytes of the header are still to be read, or else of the frame."""
        had = sum(len(part[0]) for part in self._parts)
        if had < _HEADER.size:
            return _HEADER.size - had
        header = b"".join(part[0] for part in self._parts[: _HEADER.size])[: _HEADER.size]  # no part is empty
        return int(_HEADER.unpack(header)[0]) + _HEADER.size - had
