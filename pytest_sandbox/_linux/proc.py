"""Parsers of /proc: mountinfo, sockets, processes. Source: proc(5) and Documentation/filesystems/proc.rst."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Container, Iterator, Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class MountEntry:
    """A line of /proc/self/mountinfo: ids, root within the file system, mount point, type, options of the mount and of that."""

    mount_id: int
    parent_id: int
    root: str
    point: str
    fstype: str
    options: frozenset[str]
    super_options: frozenset[str]


#: A fixture may have replaced the builtin while its scope looks.
_open = open

#: Of a process's states: stopped by a signal, and by whoever traces it.
_STOPPED = "Tt"
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
_OCTAL = re.compile(r"\\([0-7]{3})")


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def parse_mountinfo(text: str) -> tuple[MountEntry, ...]:
    """The mounts of a mountinfo file, in its order."""
    entries = []
    # Only "\n" ends a line and only " " a field: the kernel escapes those two, tabs and backslashes, and nothing else.
    for line in text.split("\n")[:-1]:
        front, _, back = line.partition(" - ")
        fields, (fstype, _, super_options) = front.split(" "), back.split(" ", 2)
        entries.append(
            MountEntry(
                int(fields[0]),
                int(fields[1]),
                _unescape(fields[3]),
                _unescape(fields[4]),
                fstype,
                frozenset(fields[5].split(",")),
                frozenset(super_options.split(",")),
            )
        )
    return tuple(entries)


def mounts() -> tuple[MountEntry, ...]:
    """The mounts of the caller's namespace."""
    with _open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return parse_mountinfo(file.read())


def visible(entries: tuple[MountEntry, ...]) -> tuple[MountEntry, ...]:
    """The mounts that a path can reach, each before those on it: another one hides it from its root, or from a directory above.

    What is mounted on what tells, and not the order: a container's `/` may come after what is in it.
    """
    on: dict[int, dict[str, MountEntry]] = {}
    ids = {entry.mount_id for entry in entries}
    for entry in entries:
        parent = entry.parent_id if entry.parent_id in ids and entry.parent_id != entry.mount_id else _NOWHERE
        on.setdefault(parent, {})[entry.point] = entry
    shown: list[MountEntry] = []
    reached = [entry for entry in on.get(_NOWHERE, {}).values() if not _is_covered(entry.point, on[_NOWHERE])]
    while reached:
        entry = reached.pop()
        above = on.get(entry.mount_id, {})
        if entry.point not in above:
            shown.append(entry)
        reached += [one for one in above.values() if not _is_covered(one.point, above)]
    return tuple(shown)


#: For the parent of the mounts at the top, which is not to be seen.
_NOWHERE = -1


def parse_cgroup(text: str) -> list[tuple[str, str, str]]:
    """Of each hierarchy in /proc/PID/cgroup its number, its controllers and the path there; a newline ends a line: cgroups(7)."""
    return [(number, key, path) for number, key, path in (line.split(":", 2) for line in text.split("\n")[:-1])]


def _is_covered(point: str, points: Container[str]) -> bool:
    """Whether a directory above the point is one of the points."""
    while point != "/":
        point = os.path.dirname(point)
        if point in points:
            return True
    return False


def threads() -> int:
    """The number of threads of the calling process, those that Python did not start included."""
    return os.stat("/proc/self/task").st_nlink - 2


def descriptors(pid: int) -> tuple[int, int] | None:
    """How many descriptors a process may have (RLIMIT_NOFILE), and how many of these it has; None where that cannot be read."""
    try:
        with _open(f"/proc/{pid}/limits", encoding="ascii") as file:
            limit = next(int(line.split()[3]) for line in file if line.startswith("Max open files"))
        return limit, sum(int(name) < limit for name in os.listdir(f"/proc/{pid}/fd"))
    except (OSError, ValueError):  # it has ended, or may not be looked at; there is no limit
        return None


_SO_ACCEPTCON = 0x10000
# Num: RefCount Protocol Flags Type St Inode Path. A path may hold blanks; what follows a newline in one is no row.
_UNIX_ROW = re.compile(r"[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ ([0-9A-F]+) [0-9A-F]+ [0-9A-F]+ +[0-9]+ (.+)")


def _listening_unix(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        match = _UNIX_ROW.fullmatch(line)
        if match and int(match[1], 16) & _SO_ACCEPTCON:
            yield match[2]


def unix_listeners(pid: int | str = "self") -> tuple[str, ...]:
    """Where unix sockets of a process's network namespace listen: paths, and abstract names with a leading "@"."""
    try:
        with _open(f"/proc/{pid}/net/unix", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return tuple(sorted(set(_listening_unix(file.read()))))
    except OSError:  # a kernel without unix sockets, or a process that has ended
        return ()


def network_bytes(text: str) -> tuple[int, int] | None:
    """Bytes received and sent over every interface in a /proc/net/dev, loopback included; None where there is none."""
    counters = [line.partition(":")[2].split() for line in text.split("\n")[2:-1]]
    if not counters:
        return None
    return sum(int(fields[0]) for fields in counters), sum(int(fields[8]) for fields in counters)


def processes(root: str = "/proc") -> Iterator[tuple[int, str]]:
    """Pid and command line of every process in the /proc at `root`; kernel-style [name] where there is no line."""
    for entry in os.listdir(root):
        if entry.isdigit():
            line = command_line(int(entry), root)
            if line is not None:
                yield int(entry), line


def hears(pid: int, number: int) -> bool:
    """Whether a signal does anything to a process as it is now, by its handler or by default; True where nobody can tell.

    Not where the process is stopped, or ignores the signal, or each of its threads blocks it.
    """
    try:
        return any(_hears(_status(f"/proc/{pid}/task/{thread}/status"), number) for thread in os.listdir(f"/proc/{pid}/task"))
    except (OSError, KeyError, ValueError):
        return True


@functools.cache
def counts_disks() -> bool:
    """Whether this kernel counts what each process reads from disks (CONFIG_TASK_IO_ACCOUNTING): else rusage has 0."""
    return os.path.exists("/proc/self/io")


def exists(pid: int) -> bool:
    """Whether there is such a process, be it one that has ended and waits to be reaped."""
    return os.path.exists(f"/proc/{pid}")


def _status(path: str) -> dict[str, str]:
    with _open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        return dict(line.split(":\t", 1) for line in file if ":\t" in line)


def _hears(status: Mapping[str, str], number: int) -> bool:
    """The same of one thread, by its status file."""
    deaf = int(status["SigBlk"], 16) | int(status["SigIgn"], 16)
    return status["State"][0] not in _STOPPED and not deaf >> (number - 1) & 1


def readable(line: bytes) -> str:
    """A command line as people write it."""
    return line.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "backslashreplace")


def command_line(pid: int, root: str = "/proc") -> str | None:
    """A process's command line; its [name] where it has none (a zombie); None where there is no such process."""
    try:
        with _open(f"{root}/{pid}/cmdline", "rb") as file:
            line = file.read(4096)
        if line:
            return readable(line)
        with _open(f"{root}/{pid}/comm", encoding="utf-8", errors="backslashreplace") as text:
            return f"[{text.read().strip()}]"
    except OSError:
        return None


def anonymous_mappings() -> Iterator[tuple[int, int, int]]:
    """The caller's private writable mappings of no file, its heap most of all, but for the stack.

    Where each begins and ends, and how many bytes of it are in memory.
    """
    bounds = None
    with _open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("Rss:") and bounds is not None:
                yield *bounds, int(line.split()[1]) << 10
            elif _MAPPING.match(line):
                span, mode, _, _, inode, *name = line.split(maxsplit=5)
                is_meant = mode == "rw-p" and inode == "0" and not (name and name[0].startswith("[stack"))
                begin, end = (int(number, 16) for number in span.split("-"))
                bounds = (begin, end) if is_meant else None
