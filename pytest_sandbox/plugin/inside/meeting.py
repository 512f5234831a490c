"""Open files by which tests would meet: all inherit the one that a wider fixture has opened. Imports nothing of ours.

Of a connection each reads what another has asked for; of a database in a file each writes past its own layer. Sources: fork(2),
"How To Corrupt An SQLite Database File" (sqlite.org).
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, getdefaulttimeout, setdefaulttimeout, socket
from collections.abc import Collection
from contextlib import closing
from fcntl import F_GETFL, fcntl
from os import O_ACCMODE, O_RDWR, dup, fstat, listdir, pread, readlink
from stat import S_ISREG, S_ISSOCK

#: An open file, by device and inode.
File = tuple[int, int]
_SQLITE = b"SQLite format 3\0"


def found(known: Collection[File] = ()) -> dict[File, str]:
    """What each leads to, of those of this process that are not known."""
    files = dict[File, str]()
    try:
        numbers = [int(name) for name in listdir("/proc/self/fd")]
    except OSError:  # a fixture has changed the root directory
        return files
    for fd in numbers:
        try:
            status = fstat(fd)
            file = status.st_dev, status.st_ino
            what = "" if file in known else _peer(fd) if S_ISSOCK(status.st_mode) else _database(fd, status.st_mode)
        except OSError:  # the directory itself, what is not connected, or cannot be read
            continue
        if what:
            files[file] = what
    return files


def _peer(fd: int) -> str:
    timeout = getdefaulttimeout()
    setdefaulttimeout(None)  # with one, Python makes it non-blocking, for whoever else has it too
    try:
        one = socket(fileno=dup(fd))
    finally:
        setdefaulttimeout(timeout)
    with closing(one):
        if one.type != SOCK_STREAM:
            return ""
        peer = one.getpeername()
        if one.family in (AF_INET, AF_INET6):
            return f"a connection to {peer[0]} port {peer[1]}"
        return f"a connection to {peer!r}" if one.family == AF_UNIX and peer else ""  # a pair has no name: it leads nowhere else


def _database(fd: int, mode: int) -> str:
    if not S_ISREG(mode) or fcntl(fd, F_GETFL) & O_ACCMODE != O_RDWR or pread(fd, len(_SQLITE), 0) != _SQLITE:
        return ""
    return f"the database {readlink(f'/proc/self/fd/{fd}')}"
