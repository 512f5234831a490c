"""Whom the OOM killer chose in a cgroup, and for whose limit, by the kernel's log. Imports nothing."""

from __future__ import annotations

import dataclasses
import os
import re

from pytest_sandbox._linux.clock import monotonic

_SECONDS = 0.5
"""Reading a full ring buffer of 18,000 records takes 30 ms; a machine that logs faster than we read must not hold us."""

# mm/oom_kill.c, dump_oom_victim; mm/memcontrol.c, mem_cgroup_print_oom_context. A task's name may hold any character.
_LINE = re.compile(
    rb"oom-kill:constraint=.*?,(?:oom_memcg=(?P<limited>.*?)|global_oom),task_memcg=(?P<member>.*?),"
    rb"task=(?P<task>.*),pid=(?P<pid>\d+),uid=\d+"
)


@dataclasses.dataclass(frozen=True, slots=True)
class OomKill:
    """One kill. victim: as "python pid 123" (host pid). own: whether it was the limit of the cgroup asked about that was met."""

    victim: str
    own: bool


def oom_kill(cgroup_name: str, since: float) -> OomKill | None:
    """The last one for want of memory in a cgroup.

    cgroup_name: the end of its path, as `Cgroup.log_name`. since: monotonic() when the sandbox began. None where
    nothing is found or the log cannot be read (/dev/kmsg needs root or CAP_SYSLOG where kernel.dmesg_restrict=1), and
    where the kernel was silent: it prints 10 of these lines in 5 s. Takes half a second at most. Format:
    Documentation/ABI/testing/dev-kmsg.
    """
    # The log's clock is not steered by NTP as CLOCK_MONOTONIC is; names differ from run to run, so slack is harmless.
    earliest = (since - 10 - since / 1000) * 1e6
    wanted, last = os.fsencode(f"/{cgroup_name.strip('/')}/"), None
    for stamp, message in _records():
        match = _LINE.search(message) if stamp >= earliest else None
        if not match:
            continue
        # Where the limit of a container around us all was met, or the machine's memory was used up, only the victim is ours.
        limited, member = (wanted in b"/%b/" % (match[group] or b"") for group in ("limited", "member"))
        if limited or member:
            last = OomKill(f"{os.fsdecode(match['task'])} pid {int(match['pid'])}", own=limited)
    return last


def _records() -> list[tuple[int, bytes]]:
    """(microseconds, message) of what the log holds of the OOM killer, oldest first."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    records: list[tuple[int, bytes]] = []
    deadline = monotonic() + _SECONDS
    try:
        while monotonic() < deadline:
            try:
                record = os.read(fd, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:
                # Overwritten before it was read; the next read goes on with what is there.
                continue
            head, _, message = record.partition(b";")
            if message.startswith(b"oom-kill:"):
                records.append((int(head.split(b",")[2]), message))
    except OSError:
        # A kernel or container that opens it and refuses to read: as good as no log.
        return records
    finally:
        os.close(fd)
    return records
