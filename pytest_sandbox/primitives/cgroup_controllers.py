"""What each cgroup controller is told and asked, as tables: v1 and v2 differ in data only. Imports `model` only.

A `Controller` is the small interface that every backend shares; a backend (pure v2, hybrid, pure v1, none) is what
`choose` makes of the hierarchies found: for every role the v2 controller where it is, else the v1 one, else a
`Problem`. All of this is pure, but for the lists of disks and of huge pages, and can be tested for machines that are not at hand.

Rests on Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids,cpuacct,cpusets,hugetlb,blkio-controller}.rst.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

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

    lacks: limits that it cannot hold, or not always, and why. inherits: files that a new cgroup has empty, and must have from
    its parent before a process can be in it. parts: what memory consists of at a moment.
    """

    version: int
    name: str
    writes: Callable[[Limits], tuple[Write, ...]]
    gauges: tuple[Gauge, ...]
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    inherits: tuple[str, ...] = ()
    parts: tuple[Gauge, ...] = ()


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
    if limits.memory_high is not None:
        writes.append(Write("memory_high", "memory.high", str(limits.memory_high)))
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


def _cpuset(limits: Limits) -> tuple[Write, ...]:
    return () if limits.cpuset is None else (Write("cpuset", "cpuset.cpus", limits.cpuset),)


#: Of each limit the key in io.max, and the file of v1.
_THROTTLES = {
    "io_read": ("rbps", "blkio.throttle.read_bps_device"),
    "io_write": ("wbps", "blkio.throttle.write_bps_device"),
    "io_read_ops": ("riops", "blkio.throttle.read_iops_device"),
    "io_write_ops": ("wiops", "blkio.throttle.write_iops_device"),
}


def disks() -> tuple[str, ...]:
    """Every disk with something on it, as "8:0": rules are taken for whole disks only; sysfs-block."""
    found = []
    for disk in sorted(Path("/sys/block").glob("*")):
        with contextlib.suppress(OSError, ValueError):
            if int((disk / "size").read_text(encoding="ascii")):
                found.append((disk / "dev").read_text(encoding="ascii").strip())
    return tuple(found)


def _throttle_v2(limits: Limits) -> tuple[Write, ...]:
    given = {limit: getattr(limits, limit) for limit in _THROTTLES if getattr(limits, limit) is not None}
    return tuple(
        Write(limit, "io.max", f"{disk} {_THROTTLES[limit][0]}={rate}") for limit, rate in given.items() for disk in disks()
    )


def _throttle_v1(limits: Limits) -> tuple[Write, ...]:
    given = {limit: getattr(limits, limit) for limit in _THROTTLES if getattr(limits, limit) is not None}
    return tuple(Write(limit, _THROTTLES[limit][1], f"{disk} {rate}") for limit, rate in given.items() for disk in disks())


_NO_DISK = dict.fromkeys(_THROTTLES, "no disk is to be seen in /sys/block")


def _huge_pages() -> Iterator[str]:
    """The sizes of huge pages, as the names of files have them: "2MB"; mm/hugetlb_cgroup.c, mem_fmt."""
    for directory in sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        size = int(directory.name.removeprefix("hugepages-").removesuffix("kB"))
        unit = next(index for index in (2, 1, 0) if size >= _STEP**index)
        yield f"{size // _STEP**unit}{('KB', 'MB', 'GB')[unit]}"


_STEP = 1024
_NO_HUGE_PAGES = {"hugetlb": "this kernel has no huge pages that could be reserved"}


def _hugetlb(ending: str) -> Callable[[Limits], tuple[Write, ...]]:
    """Of pages in use, and of those reserved: a mapping over the limit is then refused, and no touch of it is a SIGBUS."""

    def writes(limits: Limits) -> tuple[Write, ...]:
        if limits.hugetlb is None:
            return ()
        files = [f"hugetlb.{size}.{kind}{ending}" for size in _huge_pages() for kind in ("", "rsvd.")]
        return tuple(Write("hugetlb", file, str(limits.hugetlb), optional="rsvd" in file) for file in files)

    return writes


def _stall(kind: bytes) -> Callable[[bytes], int]:
    """The total of a line of a pressure file, "some avg10=0.00 ... total=7", in microseconds."""

    def total(content: bytes) -> int:
        for line in content.splitlines():
            if line.startswith(kind):
                return int(line.rpartition(b"total=")[2])
        raise KeyError(kind.decode())

    return total


def _stalls() -> Iterator[Gauge]:
    for what in ("cpu", "memory", "io"):
        yield Gauge(f"{what}_stalled", f"{what}.pressure", _stall(b"some"), 1e-6)
        yield Gauge(f"{what}_stalled_fully", f"{what}.pressure", _stall(b"full"), 1e-6)


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
        Gauge("memory_high_events", "memory.events", _key(b"high")),
        Gauge("faults", "memory.stat", _key(b"pgfault")),
        Gauge("major_faults", "memory.stat", _key(b"pgmajfault")),
    ),
    parts=tuple(Gauge(name, "memory.stat", _key(name.encode())) for name in ("anon", "file", "kernel")),
)
MEMORY_V1 = Controller(
    V1,
    "memory",
    _memory_v1,
    (
        Gauge("memory_peak", "memory.max_usage_in_bytes", int),
        Gauge("oom_kills", "memory.oom_control", _key(b"oom_kill"), local=True),
        Gauge("memory_max_events", "memory.failcnt", int),
        Gauge("faults", "memory.stat", _key(b"total_pgfault")),
        Gauge("major_faults", "memory.stat", _key(b"total_pgmajfault")),
    ),
    lacks={
        "memory_high": "cgroup v1 has no memory.high",
        "swap": "v1 bounds memory and swap together, and memory has no limit",
    },
    parts=(
        Gauge("anon", "memory.stat", _key(b"total_rss")),
        Gauge("file", "memory.stat", _key(b"total_cache")),
        Gauge("kernel", "memory.kmem.usage_in_bytes", int),
    ),
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
        Gauge("reads", "io.stat", _sum_after(b"rios")),
        Gauge("writes", "io.stat", _sum_after(b"wios")),
    ),
)
_BYTES, _OPERATIONS = "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"
_IO_V1 = (
    Gauge("bytes_read", _BYTES, _sum_after(b"Read")),
    Gauge("bytes_written", _BYTES, _sum_after(b"Write")),
    Gauge("reads", _OPERATIONS, _sum_after(b"Read")),
    Gauge("writes", _OPERATIONS, _sum_after(b"Write")),
)
IO_V1 = Controller(V1, "blkio", _nothing, _IO_V1)
THROTTLE_V2 = Controller(V2, "io", _throttle_v2, (), lacks=_NO_DISK)
# With a rule it counts, in kernels where IO_V1 does not (see CgroupRun).
THROTTLE_V1 = Controller(V1, "blkio", _throttle_v1, _IO_V1, lacks=_NO_DISK)
CPUSET_V2 = Controller(V2, "cpuset", _cpuset, ())
CPUSET_V1 = Controller(V1, "cpuset", _cpuset, (), inherits=("cpuset.mems", "cpuset.cpus"))
HUGETLB_V2 = Controller(V2, "hugetlb", _hugetlb("max"), (), lacks=_NO_HUGE_PAGES)
HUGETLB_V1 = Controller(V1, "hugetlb", _hugetlb("limit_in_bytes"), (), lacks=_NO_HUGE_PAGES)
CORE_V2 = Controller(V2, "", _nothing, (Gauge("cpu", "cpu.stat", _key(b"usage_usec"), 1e-6), *_stalls()))
CPUACCT_V1 = Controller(V1, "cpuacct", _nothing, (Gauge("cpu", "cpuacct.usage", int, 1e-9),))

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
"""Roles that a sandbox has only if it asks for them: a cgroup of the cpu controller changes how the scheduler shares."""
LIMIT_ROLES = {
    "memory": "memory", "memory_high": "memory", "swap": "memory", "hugetlb": "hugetlb", "pids": "pids", "cpus": "cpu",
    "cpuset": "cpuset", "cpu_time": "usage", **dict.fromkeys(_THROTTLES, "throttle"),
}  # fmt: skip


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
    asked = {role for limit, role in LIMIT_ROLES.items() if getattr(limits, limit) is not None}
    return [choice for role, choice in choices.items() if role not in LAZY_ROLES or role in asked]
