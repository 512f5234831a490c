"""The controller's ends of a sandbox's sockets and files: made, and heard without a word of trust. Imports `child`, `wire`.

Who has spoken is asked of the kernel: SCM_CREDENTIALS of unix(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Sequence

from pytest_sandbox._linux.sockets import Socket, pair
from pytest_sandbox.sandbox.inside.child import Descriptors
from pytest_sandbox.sandbox.wire.frames import descriptors_in

#: How much of a file is read into memory, in bytes.
_MOST_OUTPUT = 64 << 20
#: How much of a socket is read at a time, in bytes.
CHUNK = 1 << 16
_UCRED = struct.Struct("3i")
_SPEAKER = socket.CMSG_SPACE(_UCRED.size)
_MOST_DESCRIPTORS = 8


def make_descriptors(owner: tuple[int, int] | None) -> tuple[Descriptors, Socket, Socket, Socket]:
    """Main's descriptors, init's end of its socket, and the controller's ends of both sockets.

    owner: uid and gid that the sandbox's files get, so that it may open /dev/stdout anew.
    """
    with contextlib.ExitStack() as undo:
        pairs = []
        for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
            pairs.append(pair(kind))
            for sock in pairs[-1]:
                undo.callback(sock.close)
            pairs[-1][0].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            pairs[-1][0].setblocking(False)
        files = list[int]()
        for name in ("stdout", "stderr", "stacks", "shown"):
            files.append(os.memfd_create(f"sandbox-{name}", os.MFD_CLOEXEC))
            undo.callback(os.close, files[-1])
            if owner is not None:
                os.fchown(files[-1], *owner)
        undo.pop_all()
    (control, control_inside), (talk, talk_inside) = pairs
    return Descriptors(talk_inside.detach(), *files), control_inside, control, talk


def is_hung_up(sock: Socket) -> bool:
    """Whether nobody is at the other end any more, though words of his may still be unread: his pid may be another's by now."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def have_news(*fds: int | None) -> bool:
    """Whether something can be read from one of these, or somebody has ended whose pidfd it is."""
    poll = select.poll()
    for fd in fds:
        if fd is not None:
            poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def unread(sock: Socket) -> int:
    """How many bytes wait there: FIONREAD of unix(7), SIOCINQ, is of all of them."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0])
    except OSError:
        return 0


def next_speaker(sock: Socket) -> int | None:
    """The pid of who has said what is to be read next; None where nobody has, or is there no more. Leaves the words there."""
    try:
        data, ancillary, _, _ = sock.recvmsg(1, _SPEAKER, socket.MSG_PEEK)
    except (BlockingIOError, ConnectionResetError):
        return None
    return _speaker(ancillary) if data and not is_hung_up(sock) else None


def hear(sock: Socket) -> tuple[bytes, int | None]:
    """What is to be read next, and the pid of who has said it, if he can be named; no words: nobody is there any more."""
    try:
        data, ancillary, _, _ = sock.recvmsg(CHUNK, _SPEAKER)
    except ConnectionResetError:
        return b"", None
    return data, _speaker(ancillary)


def packet(sock: Socket) -> tuple[bytes, int | None, list[int]] | None:
    """A packet, the pid of who has sent it, and descriptors; no words: nobody is there any more. None: nothing yet."""
    space = _SPEAKER + socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
    try:
        data, ancillary, _, _ = sock.recvmsg(CHUNK, space, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except ConnectionResetError:  # said once, before what is still there, where he has not read all that he was told
        return packet(sock)
    return data, _speaker(ancillary), descriptors_in(ancillary)


def _speaker(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(_UCRED.unpack(value)[0]) or None
    return None


def read(fd: int, limit: int | None, start: int = 0) -> bytes:
    """What is in a file from `start` on, up to `limit` bytes."""
    # Bounded whatever the limit: the size of a sparse file says nothing of what it took to write it.
    end = min(os.fstat(fd).st_size, _MOST_OUTPUT if limit is None else limit, _MOST_OUTPUT)
    return os.pread(fd, end - start, start) if end > start else b""
