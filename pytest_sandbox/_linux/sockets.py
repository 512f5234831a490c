"""Sockets that block as their maker says, whatever a test has set. Imports nothing of the package.

Python gives each new one, and each that it makes of a descriptor, the timeout of socket.setdefaulttimeout(), and makes it
non-blocking for it: for everybody who has the same end of it, programs in C among them.
"""

from __future__ import annotations

from _socket import AF_UNIX, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET, socket, socketpair
from collections.abc import Sequence
from struct import pack


class Socket(socket):
    """A new one, or that behind a descriptor, which it takes over; it blocks until it is told otherwise."""

    __slots__ = ()

    def __init__(self, family: int = -1, kind: int = -1, protocol: int = -1, fileno: int | None = None) -> None:
        super().__init__(family, kind, protocol, fileno)
        self.setblocking(True)

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, data: bytes | memoryview, descriptors: Sequence[int] = ()) -> int:
        """Send what it takes of this, with descriptors on the first byte; how many bytes that were.

        OSError as by sendmsg(2): also where a test has given SIGPIPE back what it does to other programs.
        """
        rights = [(SOL_SOCKET, SCM_RIGHTS, pack(f"{len(descriptors)}i", *descriptors))] if descriptors else []
        return self.sendmsg([data], rights, MSG_NOSIGNAL)


def pair(kind: int) -> tuple[Socket, Socket]:
    """Two unix sockets of type `kind` that are connected with each other: socketpair(2)."""
    here, there = socketpair(AF_UNIX, kind)
    return Socket(fileno=here.detach()), Socket(fileno=there.detach())
