"""What the controller still has to say to one sandbox, which may not be listening. Imports `wire`.

A sandbox that does not read must hold up nobody: what its socket does not take waits here, up to a bound.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.sandbox.wire import LONGEST, Frame, encode


class Outbox:
    """Frames for a non-blocking socket, in order, each with its descriptors on its first byte."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._size = 0

    @property
    def waiting(self) -> bool:
        """Whether something could not be sent yet."""
        return bool(self._frames)

    def put(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """Send a frame, at once if there is room; the caller may close the descriptors. Raises WireError past the bound."""
        data = encode(frame)
        if self._size and self._size + len(data) > LONGEST:
            raise WireError(f"it does not read: {self._size} bytes wait for it")
        self._frames.append((memoryview(data), tuple(map(os.dup, descriptors))))
        self._size += len(data)
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes; what is for a sandbox that is gone is dropped, since its end tells all."""
        try:
            while self._frames:
                data, descriptors = self._frames[0]
                sent = socket.send_fds(self._socket, [data], list(descriptors)) if descriptors else self._socket.send(data)
                self._close(descriptors)
                self._size -= sent
                self._frames[0] = data[sent:], ()
                if sent == len(data):
                    self._frames.popleft()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self.close()

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
