"""From facts to an ending and its one sentence. Pure; imports `model` and `words`.

The order of the rules is the order of trust: what the controller did itself, what the kernel counted, how the main
process ended, and last what the sandbox says of itself.
"""

from __future__ import annotations

import dataclasses
import errno
import signal
from collections.abc import Sequence

from pytest_sandbox.model.outcome import Ending, Usage
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.model.units import format_seconds, format_size
from pytest_sandbox.sandbox.wire.words import NO_ROOM

FULL = 0.99  # of the layer's file system: a page or an inode may be left that no write could use


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a sandbox is gone.

    killed: the limit for which the controller killed it. status: of the main process as by `os.waitstatus_to_exitcode`.
    processes_refused: forks that the pids limit refused; None where nobody counts them. disk_full, inodes_full: share of
    these limits in use at the end, or when it said that it had no room. files: its limit of descriptors, and how many were in use
    when it said that it had none left, if it was seen to meet that. errno: what the sandbox says its failure was about (0:
    nothing). output: bytes written to stdout and stderr. ran: seconds since the clock of its timeout last started.
    cpu: seconds of CPU time since its limit of that last began.
    waited: how long it was waited for to print its stacks when its time was over, in vain; in seconds. mute: it has printed none.
    victim: whom the kernel killed for memory. own_memory: whether it was for its own limit, if it has one; None: for that or for
    want of memory around it, which cannot be told. own_pids: the same of refused forks. pids_around: where a limit around it is
    that they met, if that can be seen.
    failed: whether it counts as failed by itself. reported: whether its main process said all that it had to.
    """

    limits: Limits
    usage: Usage
    status: int | None
    killed: Ending | None = None
    processes_refused: int | None = 0
    disk_full: float = 0.0
    inodes_full: float = 0.0
    files: tuple[int, int] | None = None
    errno: int = 0
    output: int = 0
    ran: float = 0.0
    cpu: float | None = None
    waited: float = 0.0
    mute: bool = True
    victim: str | None = None
    own_memory: bool | None = None
    own_pids: bool | None = True
    pids_around: str = ""
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
    before = f"; before that the kernel killed {_victims(facts)} for memory" if usage.oom_kills else ""
    if facts.waited:
        how = "did not" if facts.mute else "did not come to an end"
        before += f"; it was given {format_seconds(facts.waited)} more to print its stacks, and {how}"
    if facts.killed is Ending.TIMED_OUT:
        return facts.killed, f"timed out: killed after {format_seconds(facts.ran)}, limit {_seconds(limits.timeout)}{before}"
    if facts.killed is Ending.CPU_TIME:
        return facts.killed, f"cpu time: ended after {_seconds(facts.cpu)} of CPU, limit {_seconds(limits.cpu_time)}{before}"
    if facts.killed is Ending.TOO_MUCH_OUTPUT:
        return facts.killed, f"too much output: ended at {format_size(facts.output)}, limit {_size(limits.output)}{before}"
    return None


def _victims(facts: Facts) -> str:
    """The last one, whom the kernel's log names, and how many more it has counted."""
    more = (facts.usage.oom_kills or 1) - 1
    if facts.victim is None:
        who, which = (f"{more + 1} processes", "ones") if more else ("a process", "one")
        return f"{who} (which {which}, the kernel's log does not tell us)"
    return f"{facts.victim} and {more} other{'s' if more > 1 else ''}" if more else facts.victim


def _by_kernel(facts: Facts) -> tuple[Ending, str] | None:
    if not facts.usage.oom_kills:
        return None
    who, limit, peak = _victims(facts), facts.limits.memory, _size(facts.usage.memory_peak)
    around = "the machine's memory, or that of a cgroup around pytest, was used up"
    if limit is None or facts.own_memory is False:
        own = "without a limit" if limit is None else f"within its limit of {_size(limit)}"
        return Ending.OUT_OF_MEMORY, f"out of memory: the kernel killed {who} {own}, peak {peak}: {around}"
    unsure = "" if facts.own_memory else f" (or {around}: which it was, this kernel does not tell)"
    return Ending.OUT_OF_MEMORY, f"out of memory: the kernel killed {who}, limit {_size(limit)}, peak {peak}{unsure}"


def _by_status(facts: Facts) -> tuple[Ending, str] | None:
    if facts.status is None or facts.status >= 0:
        return None
    number = -facts.status
    if number == signal.SIGBUS and facts.disk_full >= FULL:
        return _no_room(facts, [Ending.DISK_FULL], "; its main process died of SIGBUS, writing to a file by mmap")
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    more = f"; {facts.processes_refused} forks had been refused" if facts.processes_refused else ""
    if number == signal.SIGKILL and facts.usage.oom_kills == 0 and not more:
        more = "; it was for no limit of the sandbox"
    if number == signal.SIGBUS and _may_have_filled_disk(facts):
        more += f"; perhaps of a disk that was full then (limit {_size(facts.limits.disk)}), as it wrote to a file by mmap"
    return Ending.SIGNALLED, f"killed by {name}: its main process died of signal {number}{more}"


def _by_refusal(facts: Facts) -> tuple[Ending, str] | None:
    """Limits that refuse instead of killing: they are the ending only of what failed."""
    if not facts.failed:
        return None
    if facts.errno == errno.EMFILE and facts.files is not None:
        limit, used = facts.files
        return Ending.TOO_MANY_OPEN_FILES, f"too many open files: limit {limit} descriptors a process, {used} in use"
    # EAGAIN is also what a socket says: it is a sign only where refusals are not counted.
    suspected = facts.processes_refused is None and facts.errno == errno.EAGAIN and facts.limits.pids is not None
    processes, lacking = bool(facts.processes_refused) or suspected, _lacking(facts)
    if lacking and (facts.errno in NO_ROOM or not processes):  # of two limits that were met, the one that it failed of
        return _no_room(facts, lacking)
    return (Ending.TOO_MANY_PROCESSES, _refused(facts)) if processes else None


def _refused(facts: Facts) -> str:
    limit, number = facts.limits.pids, facts.processes_refused
    peak = f", peak {facts.usage.pids_peak}" if facts.usage.pids_peak else ""
    around = f"that of a cgroup around pytest was met{facts.pids_around and f', {facts.pids_around}'}"
    if limit is None or facts.own_pids is False:
        own = "without a limit" if limit is None else f"within its limit of {limit}"
        return f"too many processes: {number} refused {own}{peak}: {around}"
    times = f" ({number} refused)" if number else ""
    unsure = "" if facts.own_pids else f" (or {around}: which it was, this kernel does not tell)"
    return f"too many processes: limit {limit}{peak}{times}{unsure}"


def _lacking(facts: Facts) -> list[Ending]:
    """What was seen used up of the disk, bytes or inodes. By ENOSPC alone nothing is known: see `hints.hint`."""
    shares = {Ending.DISK_FULL: facts.disk_full, Ending.OUT_OF_INODES: facts.inodes_full}
    return [ending for ending, share in shares.items() if share >= FULL]


def _may_have_filled_disk(facts: Facts) -> bool:
    """Whether it has ever had the memory that a full disk takes, if that has a limit."""
    size, peak = facts.limits.disk, facts.usage.memory_peak
    return size is not None and (peak is None or peak >= size)


def _no_room(facts: Facts, lacking: Sequence[Ending], more: str = "") -> tuple[Ending, str]:
    """Of the first; the others are told, too."""
    limits, usage = facts.limits, facts.usage
    of = {
        Ending.DISK_FULL: limits.disk and f"limit {_size(limits.disk)}",
        Ending.OUT_OF_INODES: limits.inodes and f"limit {limits.inodes}",
    }
    what = " or ".join(f"{ending.value}: {of[ending] or 'no limit of its own'}" for ending in lacking)
    left = f"{_size(usage.overlay_bytes)} in {_count(usage.overlay_inodes)} inodes left at the end"
    return lacking[0], f"{what}, {left}{more}"


def _size(value: int | None) -> str:
    return "unknown" if value is None else format_size(value)


def _count(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else format_seconds(value)
