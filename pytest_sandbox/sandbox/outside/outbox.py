"""What the controller still has to say to one sandbox, which may not be listening. Imports `wire` and below.

A sandbox that does not read must hold up nobody: what its socket does not take waits here, up to a bound.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Sequence

from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.model.errors import WireError
from pytest_sandbox.sandbox.wire.frames import LONGEST, Frame, encode

#: What a frame that waits takes besides its bytes.
_OVERHEAD = 256


class Outbox:
    """Frames for a non-blocking socket, in order, each with its descriptors on its first byte.

    closed: nothing is sent until `open`, since nobody is there yet who would know what to make of it. most: how many bytes may
    wait, but for a single frame that is longer.
    """

    def __init__(self, sock: Socket, *, closed: bool = False, most: int = LONGEST) -> None:
        self._closed = closed
        self._most = most
        self._socket = sock
        self._frames: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._size = 0

    @property
    def waiting(self) -> bool:
        """Whether something could not be sent yet."""
        return bool(self._frames) and not self._closed

    def open(self, first: bytes) -> None:
        """Send these bytes, and after them all that was put here so far."""
        self._frames.appendleft((memoryview(first), ()))
        self._size += len(first) + _OVERHEAD
        self._closed = False
        self.flush()

    def put(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """Send a frame, at once if there is room; the caller may close the descriptors.

        Raises WireError past the bound, and OSError where it must wait and no descriptor is left for what it comes with.
        """
        data = memoryview(encode(frame))
        if self._size and self._size + len(data) > self._most:
            raise WireError(f"it does not read: {self._size} bytes wait for it")
        sent = 0 if self._frames or self._closed else self._send(data, descriptors)
        if sent < len(data):
            self._frames.append((data[sent:], () if sent else _copies(descriptors)))
            self._size += len(data) - sent + _OVERHEAD

    def _send(self, data: memoryview, descriptors: Sequence[int]) -> int:
        """How many bytes the socket takes; all where nobody is there any more, whose end tells all. Raises WireError."""
        try:
            return self._socket.say(data, descriptors)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            return len(data)
        except OSError as error:  # ETOOMANYREFS: it keeps the descriptors that were sent to it in its socket
            raise WireError(f"nothing can be sent to it: {error.strerror}") from error

    def flush(self) -> None:
        """Send what the socket takes. Raises WireError where it takes nothing that can be sent."""
        while self._frames and not self._closed:
            data, descriptors = self._frames[0]
            sent = self._send(data, descriptors)
            if not sent:
                return
            self._close(descriptors)
            self._size -= sent
            self._frames[0] = data[sent:], ()
            if sent == len(data):
                self._frames.popleft()
                self._size -= _OVERHEAD

    def descriptors(self) -> set[int]:
        """Those that wait with their frames."""
        return {fd for _, descriptors in self._frames for fd in descriptors}

    def close(self) -> None:
        """Forget what waits."""
        for _, descriptors in self._frames:
            self._close(descriptors)
        self._frames.clear()
        self._size = 0

    @staticmethod
    def _close(descriptors: Sequence[int]) -> None:
        for fd in descriptors:
            with contextlib.suppress(OSError):
                os.close(fd)


def _copies(descriptors: Sequence[int]) -> tuple[int, ...]:
    with contextlib.ExitStack() as undo:
        copies = list[int]()
        for fd in descriptors:
            copies.append(os.dup(fd))
            undo.callback(os.close, copies[-1])
        undo.pop_all()
    return tuple(copies)
