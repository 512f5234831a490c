"""How much memory this machine, or the cgroups that we are in, have left. Imports `cgroups.layout`."""

from __future__ import annotations

import contextlib
import functools
import os

from pytest_sandbox.primitives.cgroups.layout import find_hierarchies

#: What a cgroup's limit is called, and what it has used of it.
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def available() -> int:
    """Bytes that programs can take without swapping: MemAvailable of proc_meminfo(5), or less where a cgroup has less left.

    What a cgroup has used has page cache in it that is given back when memory is asked for: inactive_file of its memory.stat.
    """
    least = _of_machine()
    for directory, limit, usage in _limited():
        with contextlib.suppress(OSError, ValueError, StopIteration):
            least = min(least, _number(f"{directory}/{limit}") - _number(f"{directory}/{usage}") + _inactive_file(directory))
    return max(0, least)


def _of_machine() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))


@functools.cache
def _limited() -> tuple[tuple[str, str, str], ...]:
    """The cgroups around this process that have a limit, and the names of the files which say it and the usage."""
    texts = []
    for path in ("/proc/self/cgroup", "/proc/self/mountinfo"):
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            texts.append(file.read())
    found = []
    for hierarchy in find_hierarchies(*texts):
        directory = hierarchy.directory
        for limit, usage in _FILES:
            around = directory
            while around and os.path.exists(f"{around}/{usage}"):
                with contextlib.suppress(OSError, ValueError):  # "max": none
                    if _number(f"{around}/{limit}") < 1 << 60:
                        found.append((around, limit, usage))
                around = os.path.dirname(around)
    return tuple(found)


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


def _inactive_file(directory: str) -> int:
    with open(f"{directory}/memory.stat", encoding="ascii") as file:
        return max(int(line.split()[1]) for line in file if line.startswith(("inactive_file ", "total_inactive_file ")))
