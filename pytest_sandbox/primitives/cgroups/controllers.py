"""What each cgroup controller is told and asked, as tables: v1 and v2 differ in data only. Imports `gauges`, `limits`, `layout`.

A `Controller` is the small interface that every backend shares; a backend (pure v2, hybrid, pure v1, none) is what
`choose` makes of the hierarchies found: for every role the v2 controller where it is, else the v1 one, else a
`Problem`. All of this is pure, but for what `limits` looks up, and can be tested for machines that are not at hand.

Rests on Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids,cpuacct,cpusets,hugetlb,blkio-controller}.rst.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import limits as told
from pytest_sandbox.primitives.cgroups.gauges import Gauge, key, pids_gauges, stalls, sum_after
from pytest_sandbox.primitives.cgroups.layout import V1, V2, Hierarchy, Problem
from pytest_sandbox.primitives.cgroups.limits import NO_DISK, NO_HUGE_PAGES, THROTTLES, Write


@dataclasses.dataclass(frozen=True, slots=True)
class Controller:
    """A controller in one version of cgroups. name: as in /proc/self/cgroup or cgroup.controllers ("" for v2's core).

    never: limits that it cannot hold, and why. lacks: those that it may not hold, though it is there. inherits: files that a
    new cgroup has empty, and must have from its parent before a process can be in it. parts: what memory consists of at a
    moment. flat: what it is told does not hold for cgroups below.
    """

    version: int
    name: str
    writes: Callable[[Limits], tuple[Write, ...]]
    gauges: tuple[Gauge, ...]
    never: Mapping[str, Problem] = dataclasses.field(default_factory=dict)
    lacks: Mapping[str, Problem] = dataclasses.field(default_factory=dict)
    inherits: tuple[str, ...] = ()
    parts: tuple[Gauge, ...] = ()
    flat: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Which controller plays a role, and in which hierarchy."""

    role: str
    controller: Controller
    hierarchy: Hierarchy


MEMORY_V2 = Controller(
    V2,
    "memory",
    told.memory_v2,
    (
        Gauge("memory_peak", "memory.peak", int),
        Gauge("oom_kills", "memory.events", key(b"oom_kill")),
        Gauge("memory_max_events", "memory.events", key(b"max")),
        Gauge("memory_high_events", "memory.events", key(b"high")),
        Gauge("memory_oom_events", "memory.events", key(b"oom")),
        Gauge("faults", "memory.stat", key(b"pgfault")),
        Gauge("major_faults", "memory.stat", key(b"pgmajfault")),
    ),
    parts=tuple(Gauge(name, "memory.stat", key(name.encode())) for name in ("anon", "file", "kernel")),
)
MEMORY_V1 = Controller(
    V1,
    "memory",
    told.memory_v1,
    (
        Gauge("memory_peak", "memory.max_usage_in_bytes", int),
        Gauge("oom_kills", "memory.oom_control", key(b"oom_kill"), local=True),
        Gauge("memory_max_events", "memory.failcnt", int),
        Gauge("faults", "memory.stat", key(b"total_pgfault")),
        Gauge("major_faults", "memory.stat", key(b"total_pgmajfault")),
    ),
    never={"memory_high": Problem("cgroup v1 has no memory.high", Cause.VERSION_1)},
    lacks={"swap": Problem("v1 bounds memory and swap together, and memory has no limit", Cause.VERSION_1)},
    parts=(
        Gauge("anon", "memory.stat", key(b"total_rss")),
        Gauge("file", "memory.stat", key(b"total_cache")),
        Gauge("kernel", "memory.kmem.usage_in_bytes", int),
    ),
)
PIDS_V2 = Controller(V2, "pids", told.pids, pids_gauges(local=False))
PIDS_V1 = Controller(V1, "pids", told.pids, pids_gauges(local=True))
CPU_V2 = Controller(V2, "cpu", told.cpu_v2, (Gauge("throttled", "cpu.stat", key(b"throttled_usec"), 1e-6),))
CPU_V1 = Controller(V1, "cpu", told.cpu_v1, (Gauge("throttled", "cpu.stat", key(b"throttled_time"), 1e-9),))
IO_V2 = Controller(
    V2,
    "io",
    told.nothing,
    (
        Gauge("bytes_read", "io.stat", sum_after(b"rbytes")),
        Gauge("bytes_written", "io.stat", sum_after(b"wbytes")),
        Gauge("reads", "io.stat", sum_after(b"rios")),
        Gauge("writes", "io.stat", sum_after(b"wios")),
    ),
)
_BYTES, _OPERATIONS = "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"
_IO_V1 = (
    Gauge("bytes_read", _BYTES, sum_after(b"Read")),
    Gauge("bytes_written", _BYTES, sum_after(b"Write")),
    Gauge("reads", _OPERATIONS, sum_after(b"Read")),
    Gauge("writes", _OPERATIONS, sum_after(b"Write")),
)
IO_V1 = Controller(V1, "blkio", told.nothing, _IO_V1)
THROTTLE_V2 = Controller(V2, "io", told.throttle_v2, (), lacks=NO_DISK)
# With a rule it counts, in kernels where IO_V1 does not (see CgroupRun).
THROTTLE_V1 = Controller(V1, "blkio", told.throttle_v1, _IO_V1, lacks=NO_DISK, flat=True)
CPUSET_V2 = Controller(V2, "cpuset", told.cpuset, ())
CPUSET_V1 = Controller(V1, "cpuset", told.cpuset, (), inherits=("cpuset.mems", "cpuset.cpus"))
HUGETLB_V2 = Controller(V2, "hugetlb", told.hugetlb("max"), (), lacks=NO_HUGE_PAGES)
HUGETLB_V1 = Controller(V1, "hugetlb", told.hugetlb("limit_in_bytes"), (), lacks=NO_HUGE_PAGES)
CORE_V2 = Controller(V2, "", told.nothing, (Gauge("cpu", "cpu.stat", key(b"usage_usec"), 1e-6), *stalls()))
CPUACCT_V1 = Controller(V1, "cpuacct", told.nothing, (Gauge("cpu", "cpuacct.usage", int, 1e-9),))

ROLES: Mapping[str, tuple[Controller, Controller]] = {
    "usage": (CORE_V2, CPUACCT_V1),
    "memory": (MEMORY_V2, MEMORY_V1),
    "pids": (PIDS_V2, PIDS_V1),
    "io": (IO_V2, IO_V1),
    "cpu": (CPU_V2, CPU_V1),
    "cpuset": (CPUSET_V2, CPUSET_V1),
    "throttle": (THROTTLE_V2, THROTTLE_V1),
    "hugetlb": (HUGETLB_V2, HUGETLB_V1),
}
LAZY_ROLES = frozenset({"cpu", "cpuset", "throttle", "hugetlb"})
"""Roles that sandboxes have only if one of the run asks for them: one of the cpu controller changes how the scheduler shares."""
LIMIT_ROLES = {
    "memory": "memory", "memory_high": "memory", "swap": "memory", "hugetlb": "hugetlb", "pids": "pids", "cpus": "cpu",
    "cpuset": "cpuset", "cpu_time": "usage", **dict.fromkeys(THROTTLES, "throttle"),
}  # fmt: skip


def choose(
    hierarchies: tuple[Hierarchy, ...], unified_controllers: frozenset[str]
) -> tuple[dict[str, Choice], dict[str, Problem]]:
    """Give every role a controller, or a problem. unified_controllers: the words of cgroup.controllers where we are.

    Problems are also of limits that what plays their role can never hold, whether or not it can be used here.
    """
    choices: dict[str, Choice] = {}
    problems: dict[str, Problem] = {}
    for role, candidates in ROLES.items():
        found = _candidates(role, candidates, hierarchies, unified_controllers)
        usable = [choice for choice in found if choice.hierarchy.problem is None]
        if found:
            problems |= (usable or found[-1:])[0].controller.never
        if usable:
            choices[role] = usable[0]
        elif found and found[-1].hierarchy.problem:
            # Of version 1, where a hierarchy has the controller: then version 2, of which it is not known, has not.
            problems[role] = found[-1].hierarchy.problem
        else:
            name = _name(candidates)
            problems[role] = Problem(f"no cgroup hierarchy here has the controller {name}", Cause.NO_CONTROLLER, name)
        if role == "usage" and len(usable) > 1 and not unified_controllers & {"memory", "pids", "cpu", "io"}:
            # Hybrid: to count CPU time alone, v2 costs each sandbox the lock of all forks (see Cgroup.open_tasks).
            choices[role] = usable[1]
    return choices, problems


def _name(controllers: tuple[Controller, Controller]) -> str:
    """What version 2 calls it, if it is a controller there."""
    return controllers[0].name or controllers[1].name


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


def needed(choices: Mapping[str, Choice], limits: Limits, active: Collection[str] = ()) -> list[Choice]:
    """The choices that a sandbox with these limits takes part in.

    active: roles that other sandboxes of the run have. Who is forked in such a one would share its limit, if it had no cgroup of
    its own there (version 1).
    """
    asked = {role for limit, role in LIMIT_ROLES.items() if getattr(limits, limit) is not None}
    return [choice for role, choice in choices.items() if role not in LAZY_ROLES or role in asked or role in active]
