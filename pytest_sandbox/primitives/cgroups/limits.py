"""What controllers are told: the files and values that set each limit. Imports `model` and `layout`.

Pure, but for the lists of disks and of sizes of huge pages, which are the machine's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups.layout import Problem


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    """One limit as the kernel takes it.

    optional: the file may be missing, as it is where the kernel was built or booted without. without: why the limit does not
    hold then; None where it holds all the same.
    """

    limit: str
    file: str
    value: str
    optional: bool = False
    without: Problem | None = None


#: A folio of page cache has at most as much as a huge page: mm/readahead.c, MAX_PAGECACHE_ORDER.
_CHARGE = 2 << 20


def _swap(file: str, most: int) -> Write:
    problem = Problem(f"the kernel does not account swap ({file}: ENOENT)", Cause.NO_SWAP)
    return Write("swap", file, str(most), optional=True, without=problem)


def nothing(_: Limits) -> tuple[Write, ...]:
    """A controller that only counts."""
    return ()


def memory_v1(limits: Limits) -> tuple[Write, ...]:
    """cgroup-v1/memory.rst."""
    # memory.limit_in_bytes first: memsw may never be below it, and both start unlimited.
    if limits.memory is None:
        return ()  # memory.swappiness=0 binds only reclaim by such a limit, not the machine's own
    writes = [Write("memory", "memory.limit_in_bytes", str(limits.memory))]
    if limits.swap is not None:
        # memsw is charged first, and where it is the one to refuse, no failcnt counts that (measured on 6.18: 0 with equal
        # limits, also after an OOM kill). So it is as much higher as the kernel charges at once, and what that would let be
        # swapped out stays: reclaim by a limit obeys swappiness 0 (cgroup-v1/memory.rst, 5.3).
        writes.append(_swap("memory.memsw.limit_in_bytes", limits.memory + (limits.swap or _CHARGE)))
        if limits.swap == 0:
            writes.append(Write("swap", "memory.swappiness", "0"))
    return tuple(writes)


def memory_v2(limits: Limits) -> tuple[Write, ...]:
    """cgroup-v2.rst, Memory Interface Files."""
    writes = []
    if limits.memory is not None:
        writes.append(Write("memory", "memory.max", str(limits.memory)))
    if limits.memory_high is not None:
        writes.append(Write("memory_high", "memory.high", str(limits.memory_high)))
    if limits.swap is not None:
        writes.append(_swap("memory.swap.max", limits.swap))
    return tuple(writes)


def pids(limits: Limits) -> tuple[Write, ...]:
    """The same file in both versions: processes and threads."""
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


def cpu_v1(limits: Limits) -> tuple[Write, ...]:
    """Documentation/scheduler/sched-bwc.rst."""
    if limits.cpus is None:
        return ()
    share, period = quota(limits.cpus)
    return Write("cpus", "cpu.cfs_period_us", str(period)), Write("cpus", "cpu.cfs_quota_us", str(share))


def cpu_v2(limits: Limits) -> tuple[Write, ...]:
    """cgroup-v2.rst, CPU Interface Files."""
    return () if limits.cpus is None else (Write("cpus", "cpu.max", "{} {}".format(*quota(limits.cpus))),)


def cpuset(limits: Limits) -> tuple[Write, ...]:
    """The same file in both versions; cpuset(7)."""
    return () if limits.cpuset is None else (Write("cpuset", "cpuset.cpus", limits.cpuset),)


#: Of each limit the key in io.max, and the file of v1.
THROTTLES = {
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


def is_gone(write: Write, refusal: OSError) -> bool:
    """Whether a rule was refused since its disk has gone after it was listed: there is nothing left to be limited."""
    return refusal.errno == errno.ENODEV and write.limit in THROTTLES and write.value.split()[0] not in disks()


def throttle_v2(limits: Limits) -> tuple[Write, ...]:
    """A rule for each disk; cgroup-v2.rst, io.max."""
    return tuple(Write(limit, "io.max", f"{disk} {THROTTLES[limit][0]}={rate}") for limit, rate, disk in _rules(limits))


def throttle_v1(limits: Limits) -> tuple[Write, ...]:
    """A rule for each disk; cgroup-v1/blkio-controller.rst."""
    return tuple(Write(limit, THROTTLES[limit][1], f"{disk} {rate}") for limit, rate, disk in _rules(limits))


def _rules(limits: Limits) -> Iterator[tuple[str, int, str]]:
    for limit in THROTTLES:
        rate = getattr(limits, limit)
        yield from ((limit, rate, disk) for disk in (disks() if rate is not None else ()))


#: Why a limit of a controller that is there may not hold all the same.
NO_DISK = dict.fromkeys(THROTTLES, Problem("no disk is to be seen in /sys/block", Cause.NO_DISK))
NO_HUGE_PAGES = {"hugetlb": Problem("this kernel has no huge pages that could be reserved", Cause.NO_HUGE_PAGES)}
_STEP = 1024


def _huge_pages() -> Iterator[str]:
    """The sizes of huge pages, as the names of files have them: "2MB"; mm/hugetlb_cgroup.c, mem_fmt."""
    for directory in sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        size = int(directory.name.removeprefix("hugepages-").removesuffix("kB"))
        unit = next(index for index in (2, 1, 0) if size >= _STEP**index)
        yield f"{size // _STEP**unit}{('KB', 'MB', 'GB')[unit]}"


def hugetlb(ending: str) -> Callable[[Limits], tuple[Write, ...]]:
    """Of pages in use, and of those reserved: a mapping over the limit is then refused, and no touch of it is a SIGBUS."""

    def writes(limits: Limits) -> tuple[Write, ...]:
        if limits.hugetlb is None:
            return ()
        files = [f"hugetlb.{size}.{kind}{ending}" for size in _huge_pages() for kind in ("", "rsvd.")]
        # Without a limit on reservations (before 5.7) a page too many is a SIGBUS instead.
        return tuple(Write("hugetlb", file, str(limits.hugetlb), optional="rsvd" in file) for file in files)

    return writes
