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
    if facts.killed is Ending.TIMED_OUT:
        return facts.killed, f"timed out: killed after {format_seconds(facts.ran)}, limit {_seconds(limits.timeout)}"
    if facts.killed is Ending.CPU_TIME:
        return facts.killed, f"cpu time: ended after {_seconds(usage.cpu)} of CPU, limit {_seconds(limits.cpu_time)}"
    if facts.killed is Ending.TOO_MUCH_OUTPUT:
        return facts.killed, f"too much output: ended at {format_size(facts.output)}, limit {_size(limits.output)}"
    return None


def _by_kernel(facts: Facts) -> tuple[Ending, str] | None:
    if not facts.usage.oom_kills:
        return None
    who = facts.victim or "a process (which one, the kernel's log does not tell us)"
    peak = _size(facts.usage.memory_peak)
    return Ending.OUT_OF_MEMORY, f"out of memory: the kernel killed {who}, limit {_size(facts.limits.memory)}, peak {peak}"


def _by_status(facts: Facts) -> tuple[Ending, str] | None:
    if facts.status is None or facts.status >= 0:
        return None
    number = -facts.status
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    refused = f"; {facts.processes_refused} forks had been refused" if facts.processes_refused else ""
    return Ending.SIGNALLED, f"killed by {name}: its main process died of signal {number}{refused}"


def _by_refusal(facts: Facts) -> tuple[Ending, str] | None:
    """Limits that refuse instead of killing: they are the ending only of what failed."""
    if not facts.failed:
        return None
    limits = facts.limits
    # EAGAIN is also what a socket says: it is a sign only where refusals are not counted.
    suspected = facts.processes_refused is None and facts.errno == errno.EAGAIN and limits.pids is not None
    if facts.processes_refused or suspected:
        peak = f", peak {facts.usage.pids_peak}" if facts.usage.pids_peak else ""
        times = f" ({facts.processes_refused} refused)" if facts.processes_refused else ""
        return Ending.TOO_MANY_PROCESSES, f"too many processes: limit {limits.pids}{peak}{times}"
    if facts.layer_full >= _FULL or facts.errno in (errno.ENOSPC, errno.EDQUOT):
        used = f"{_size(facts.usage.overlay_bytes)} in {facts.usage.overlay_inodes} files left at the end"
        return Ending.DISK_FULL, f"disk full: limit {_size(limits.disk)} and {limits.inodes} files, {used}"
    return None


def _size(value: int | None) -> str:
    return "unknown" if value is None else format_size(value)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else format_seconds(value)
