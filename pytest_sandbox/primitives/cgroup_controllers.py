"""What each cgroup controller is told and asked, as tables: v1 and v2 differ in data only. Imports `model` only.

A `Controller` is the small interface that every backend shares; a backend (pure v2, hybrid, pure v1, none) is what
`choose` makes of the hierarchies found: for every role the v2 controller where it is, else the v1 one, else a
`Problem`. All of this is pure and can be tested for machines that are not at hand.

Rests on Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids,cpuacct,blkio-controller}.rst.
"""

from __future__ import annotations

import dataclasses
import itertools
import resource
from collections.abc import Callable, Mapping

from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroup_layout import FIX_CONTROLLER, V1, V2, Hierarchy, Problem

PAGE = resource.getpagesize()


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    """One limit as the kernel takes it. optional: the file is missing where the kernel was built or booted without."""

    limit: str
    file: str
    value: str
    optional: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Gauge:
    """One figure: the field of `CgroupUsage`, the file, how to find it there, and the unit in seconds for times.

    local: a cgroup does not count what happened in those below it (v1's events).
    """

    field: str
    file: str
    extract: Callable[[bytes], int]
    unit: float | None = None
    local: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Controller:
    """A controller in one version of cgroups. name: as in /proc/self/cgroup or cgroup.controllers ("" for v2's core).

    anon, file: keys of memory.stat.
    """

    version: int
    name: str
    writes: Callable[[Limits], tuple[Write, ...]]
    gauges: tuple[Gauge, ...]
    anon: bytes = b""
    file: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Which controller plays a role, and in which hierarchy."""

    role: str
    controller: Controller
    hierarchy: Hierarchy


def keyed(content: bytes, key: bytes) -> int:
    """The number after `key` in a flat keyed file; raises KeyError."""
    for line in content.splitlines():
        name, _, value = line.partition(b" ")
        if name == key:
            return int(value)
    raise KeyError(key.decode())


def _key(key: bytes) -> Callable[[bytes], int]:
    return lambda content: keyed(content, key)


def _sum_after(word: bytes) -> Callable[[bytes], int]:
    """Add up, over all devices, the number that follows `word` ("rbytes=7", or v1's "8:0 Read 7")."""

    def total(content: bytes) -> int:
        words = content.replace(b"=", b" ").split()
        return sum(int(value) for name, value in itertools.pairwise(words) if name == word)

    return total


def _nothing(_: Limits) -> tuple[Write, ...]:
    return ()


def _memory_v1(limits: Limits) -> tuple[Write, ...]:
    # memory.limit_in_bytes first: memsw may never be below it, and both start unlimited.
    if limits.memory is None:
        # v1 bounds memory and swap together; without a bound of memory only "no swapping" can be said.
        return (Write("swap", "memory.swappiness", "0"),) if limits.swap == 0 else ()
    writes = [Write("memory", "memory.limit_in_bytes", str(limits.memory))]
    if limits.swap is not None:
        # One page more: memsw is charged first, and where it is the one to refuse, no failcnt counts that (measured on
        # 6.18: 0 after an OOM kill with equal limits, 36 with this). At most that page can be swapped out.
        both = str(limits.memory + limits.swap + PAGE)
        writes.append(Write("swap", "memory.memsw.limit_in_bytes", both, optional=True))
    return tuple(writes)


def _memory_v2(limits: Limits) -> tuple[Write, ...]:
    writes = []
    if limits.memory is not None:
        writes.append(Write("memory", "memory.max", str(limits.memory)))
    if limits.swap is not None:
        writes.append(Write("swap", "memory.swap.max", str(limits.swap), optional=True))
    return tuple(writes)


def _pids(limits: Limits) -> tuple[Write, ...]:
    return () if limits.pids is None else (Write("pids", "pids.max", str(limits.pids)),)


_LEAST_QUOTA = 1000


def quota(cpus: float) -> tuple[int, int]:
    """(quota, period) in microseconds for so many CPUs.

    The kernel refuses a quota below 1 ms and a period above 1 s (kernel/sched/core.c, min_cfs_quota_period), so
    0.001 CPUs are the least.
    """
    for period in (100_000, 1_000_000):
        share = round(cpus * period)
        if share >= _LEAST_QUOTA:
            return share, period
    return _LEAST_QUOTA, 1_000_000


def _cpu_v1(limits: Limits) -> tuple[Write, ...]:
    if limits.cpus is None:
        return ()
    share, period = quota(limits.cpus)
    return Write("cpus", "cpu.cfs_period_us", str(period)), Write("cpus", "cpu.cfs_quota_us", str(share))


def _cpu_v2(limits: Limits) -> tuple[Write, ...]:
    return () if limits.cpus is None else (Write("cpus", "cpu.max", "{} {}".format(*quota(limits.cpus))),)


def _pids_gauges(*, local: bool) -> tuple[Gauge, ...]:
    return Gauge("pids_peak", "pids.peak", int), Gauge("pids_max_events", "pids.events", _key(b"max"), local=local)


MEMORY_V2 = Controller(
    V2,
    "memory",
    _memory_v2,
    (
        Gauge("memory_peak", "memory.peak", int),
        Gauge("oom_kills", "memory.events", _key(b"oom_kill")),
        Gauge("memory_max_events", "memory.events", _key(b"max")),
    ),
    anon=b"anon",
    file=b"file",
)
MEMORY_V1 = Controller(
    V1,
    "memory",
    _memory_v1,
    (
        Gauge("memory_peak", "memory.max_usage_in_bytes", int),
        Gauge("oom_kills", "memory.oom_control", _key(b"oom_kill"), local=True),
        Gauge("memory_max_events", "memory.failcnt", int),
    ),
    anon=b"total_rss",
    file=b"total_cache",
)
PIDS_V2 = Controller(V2, "pids", _pids, _pids_gauges(local=False))
PIDS_V1 = Controller(V1, "pids", _pids, _pids_gauges(local=True))
CPU_V2 = Controller(V2, "cpu", _cpu_v2, (Gauge("throttled", "cpu.stat", _key(b"throttled_usec"), 1e-6),))
CPU_V1 = Controller(V1, "cpu", _cpu_v1, (Gauge("throttled", "cpu.stat", _key(b"throttled_time"), 1e-9),))
IO_V2 = Controller(
    V2,
    "io",
    _nothing,
    (
        Gauge("bytes_read", "io.stat", _sum_after(b"rbytes")),
        Gauge("bytes_written", "io.stat", _sum_after(b"wbytes")),
    ),
)
_BLKIO = "blkio.throttle.io_service_bytes_recursive"
IO_V1 = Controller(
    V1,
    "blkio",
    _nothing,
    (Gauge("bytes_read", _BLKIO, _sum_after(b"Read")), Gauge("bytes_written", _BLKIO, _sum_after(b"Write"))),
)
CORE_V2 = Controller(V2, "", _nothing, (Gauge("cpu", "cpu.stat", _key(b"usage_usec"), 1e-6),))
CPUACCT_V1 = Controller(V1, "cpuacct", _nothing, (Gauge("cpu", "cpuacct.usage", int, 1e-9),))

ROLES: Mapping[str, tuple[Controller, Controller]] = {
    "usage": (CORE_V2, CPUACCT_V1),
    "memory": (MEMORY_V2, MEMORY_V1),
    "pids": (PIDS_V2, PIDS_V1),
    "io": (IO_V2, IO_V1),
    "cpu": (CPU_V2, CPU_V1),
}
LAZY_ROLES = frozenset({"cpu"})
"""Roles that a sandbox has only if it asks for them: a cgroup of the cpu controller changes how the scheduler shares."""
LIMIT_ROLES = {"memory": "memory", "swap": "memory", "pids": "pids", "cpus": "cpu", "cpu_time": "usage", "io": "io"}


def choose(
    hierarchies: tuple[Hierarchy, ...], unified_controllers: frozenset[str]
) -> tuple[dict[str, Choice], dict[str, Problem]]:
    """Give every role a controller, or a problem. unified_controllers: the words of cgroup.controllers where we are."""
    choices, problems = {}, {}
    for role, candidates in ROLES.items():
        found = _candidates(role, candidates, hierarchies, unified_controllers)
        usable = [choice for choice in found if choice.hierarchy.problem is None]
        if usable:
            choices[role] = usable[0]
        elif found and found[0].hierarchy.problem:
            problems[role] = found[0].hierarchy.problem
        else:
            problems[role] = Problem(f"no cgroup hierarchy here has the controller {candidates[1].name}", FIX_CONTROLLER)
        if role == "usage" and len(usable) > 1 and not unified_controllers & {"memory", "pids", "cpu", "io"}:
            # Hybrid: to count CPU time alone, v2 costs each sandbox the lock of all forks (see Cgroup.open_tasks).
            choices[role] = usable[1]
    return choices, problems


def _candidates(
    role: str,
    controllers: tuple[Controller, Controller],
    hierarchies: tuple[Hierarchy, ...],
    unified_controllers: frozenset[str],
) -> list[Choice]:
    found = []
    for controller in controllers:
        for hierarchy in hierarchies:
            offers = hierarchy.controllers if hierarchy.version == V1 else unified_controllers | {""}
            # What an unusable v2 hierarchy has cannot be read; its problem is the reason unless v1 has the role.
            unknown = hierarchy.version == V2 and hierarchy.problem is not None
            if hierarchy.version == controller.version and (controller.name in offers or unknown):
                found.append(Choice(role, controller, hierarchy))
    return found


def needed(choices: Mapping[str, Choice], limits: Limits) -> list[Choice]:
    """The choices that a sandbox with these limits takes part in."""
    return [c for role, c in choices.items() if role not in LAZY_ROLES or c.controller.writes(limits)]
