"""From facts to an ending and its one sentence. Pure; imports `model` only.

The order of the rules is the order of trust: what the controller did itself, what the kernel counted, how the main
process ended, and last what the sandbox says of itself.
"""

from __future__ import annotations

import dataclasses
import errno
import signal

from pytest_sandbox.model.outcome import Ending, Usage
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.model.units import format_seconds, format_size

_FULL = 0.99  # of the layer's tmpfs: a page or an inode may be left that no write could use
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_INODE = 512  # bytes of kernel memory that a file of a tmpfs takes at least, its directory entry included


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a sandbox is gone.

    killed: the limit for which the controller killed it. status: of the main process as by `os.waitstatus_to_exitcode`.
    processes_refused: forks that the pids limit refused; None where nobody counts them. layer_full: share of the disk or
    inode limit in use at the end. errno: what the sandbox says its failure was about (0: nothing). output: bytes written to
    stdout and stderr. ran: seconds since the clock of its timeout last started. victim: whom the kernel killed for memory.
    failed: whether it counts as failed by itself. reported: whether its main process said all that it had to.
    """

    limits: Limits
    usage: Usage
    status: int | None
    killed: Ending | None = None
    processes_refused: int | None = 0
    layer_full: float = 0.0
    errno: int = 0
    output: int = 0
    ran: float = 0.0
    victim: str | None = None
    failed: bool = False
    reported: bool = True


def judge(facts: Facts) -> tuple[Ending, str]:
    """The ending, and a sentence with the figures: limit, peak, which process."""
    for rule in (_by_controller, _by_kernel, _by_status, _by_refusal):
        found = rule(facts)
        if found is not None:
            return found
    if facts.status is None:
        return Ending.NO_REPORT, "ended without a report: its main process never came to an end of its own"
    if not facts.reported:
        return Ending.NO_REPORT, f"ended without a report: its main process left with exit status {facts.status}"
    return Ending.EXITED, f"exited with status {facts.status}"


def _by_controller(facts: Facts) -> tuple[Ending, str] | None:
    limits, usage = facts.limits, facts.usage
    # Often the reason why it did not come to its end.
    before = f"; before that the kernel killed {_victim(facts)} for memory" if usage.oom_kills else ""
    if facts.killed is Ending.TIMED_OUT:
        return facts.killed, f"timed out: killed after {format_seconds(facts.ran)}, limit {_seconds(limits.timeout)}{before}"
    if facts.killed is Ending.CPU_TIME:
        return facts.killed, f"cpu time: ended after {_seconds(usage.cpu)} of CPU, limit {_seconds(limits.cpu_time)}{before}"
    if facts.killed is Ending.TOO_MUCH_OUTPUT:
        return facts.killed, f"too much output: ended at {format_size(facts.output)}, limit {_size(limits.output)}{before}"
    return None


def _victim(facts: Facts) -> str:
    return facts.victim or "a process (which one, the kernel's log does not tell us)"


def _by_kernel(facts: Facts) -> tuple[Ending, str] | None:
    if not facts.usage.oom_kills:
        return None
    who, limit, peak = _victim(facts), facts.limits.memory, _size(facts.usage.memory_peak)
    if limit is None or facts.usage.memory_max_events == 0:
        own = "without a limit" if limit is None else f"below its limit of {_size(limit)}"
        around = "the machine's memory, or that of a cgroup around pytest, was used up"
        return Ending.OUT_OF_MEMORY, f"out of memory: the kernel killed {who} {own}, peak {peak}: {around}"
    return Ending.OUT_OF_MEMORY, f"out of memory: the kernel killed {who}, limit {_size(limit)}, peak {peak}"


def _by_status(facts: Facts) -> tuple[Ending, str] | None:
    if facts.status is None or facts.status >= 0:
        return None
    number = -facts.status
    if number == signal.SIGBUS and facts.layer_full >= _FULL:
        return _disk_full(facts, "; its main process died of SIGBUS, writing to a file by mmap")
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    more = f"; {facts.processes_refused} forks had been refused" if facts.processes_refused else ""
    if number == signal.SIGBUS and _may_have_been_full(facts):
        more += f"; perhaps of a disk that was full then (limit {_size(facts.limits.disk)}), as it wrote to a file by mmap"
    return Ending.SIGNALLED, f"killed by {name}: its main process died of signal {number}{more}"


def _by_refusal(facts: Facts) -> tuple[Ending, str] | None:
    """Limits that refuse instead of killing: they are the ending only of what failed."""
    if not facts.failed:
        return None
    limits = facts.limits
    if facts.errno == errno.EMFILE and limits.files is not None:
        return Ending.TOO_MANY_OPEN_FILES, f"too many open files: limit {limits.files} descriptors a process"
    # EAGAIN is also what a socket says: it is a sign only where refusals are not counted.
    suspected = facts.processes_refused is None and facts.errno == errno.EAGAIN and limits.pids is not None
    processes, disk = bool(facts.processes_refused) or suspected, _was_full(facts)
    if disk and (facts.errno in _NO_ROOM or not processes):  # of two limits that were met, the one that it failed of
        return _disk_full(facts)
    if processes:
        peak = f", peak {facts.usage.pids_peak}" if facts.usage.pids_peak else ""
        times = f" ({facts.processes_refused} refused)" if facts.processes_refused else ""
        return Ending.TOO_MANY_PROCESSES, f"too many processes: limit {limits.pids}{peak}{times}"
    return None


def _was_full(facts: Facts) -> bool:
    """Whether there was no room on the disk, at the end or before it was cleaned up: that, only ENOSPC tells.

    Watches, namespaces and semaphores are refused by ENOSPC too.
    """
    if facts.layer_full >= _FULL:
        return True
    return facts.errno in _NO_ROOM and _may_have_been_full(facts)


def _may_have_been_full(facts: Facts) -> bool:
    """Whether it has ever had the memory that a full tmpfs takes."""
    limits, peak = facts.limits, facts.usage.memory_peak
    least = [most for most in (limits.disk, limits.inodes and limits.inodes * _INODE) if most is not None]
    return peak is None or not least or peak >= min(least)


def _disk_full(facts: Facts, more: str = "") -> tuple[Ending, str]:
    limits, usage = facts.limits, facts.usage
    used = f"{_size(usage.overlay_bytes)} in {usage.overlay_inodes} files left at the end"
    limit = f"{_size(limits.disk)} and {limits.inodes} files"
    # Where it is still so at the end. The layer itself has a few directories.
    no_files = limits.inodes is not None and (usage.overlay_inodes or 0) >= limits.inodes - 4
    no_bytes = limits.disk is not None and (usage.overlay_bytes or 0) > 0.9 * limits.disk
    if no_files is not no_bytes:
        limit = f"{limits.inodes} files (inodes)" if no_files else _size(limits.disk)
    return Ending.DISK_FULL, f"disk full: limit {limit}, {used}{more}"


def _size(value: int | None) -> str:
    return "unknown" if value is None else format_size(value)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else format_seconds(value)
