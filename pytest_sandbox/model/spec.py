"""What a sandbox is asked to be: `Spec` and its `Limits`. Imports `errors`, `places` and `units`."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import os.path
from typing import Any

from pytest_sandbox.model import places
from pytest_sandbox.model.errors import SpecError
from pytest_sandbox.model.units import LARGEST, MOST_CPUS, cpus_in, format_cpus, parse_cpus

MIB = 1 << 20
_FRACTIONS = ("cpus", "cpu_time", "timeout")
_MAY_BE_NONE_AT_ALL = ("swap", "hugetlb")


class Network(enum.Enum):
    """Which network a sandbox has.

    AUTO: a private loopback, but the enclosing scope's network where a fixture of that scope listens on it.
    LOOPBACK: a private loopback, always. NONE: no interface is up. SHARED: the enclosing scope's network.
    HOST: the machine's own network; only for a whole run.
    """

    AUTO = "auto"
    LOOPBACK = "loopback"
    NONE = "none"
    SHARED = "shared"
    HOST = "host"


class Keep(enum.Enum):
    """When to save what a sandbox wrote."""

    NEVER = "never"
    FAILED = "failed"
    ALWAYS = "always"


#: A quota of a millisecond in a period of a second: Documentation/scheduler/sched-bwc.rst.
LEAST_CPUS = 0.001
#: What the kernel refuses to hold, has not got, or cuts. pids: PID_MAX_LIMIT, proc(5). inodes: a tmpfs counts 1 KiB for each.
#: Operations are 32 bits, of which v1 takes the lower ones without a word; all set are no limit: block/blk-throttle.c.
_MOST = {"pids": 1 << 22, "inodes": 1 << 53, "cpus": MOST_CPUS, "io_read_ops": 2**32 - 2, "io_write_ops": 2**32 - 2}


def most(name: str) -> int:
    """The largest value that a limit can have."""
    return _MOST.get(name, LARGEST)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of what one sandbox may use; None is no bound.

    memory, swap, disk, output: bytes. memory_high: bytes above which its processes are slowed down to give some back.
    hugetlb: bytes in huge pages of each size. pids: processes and threads. cpus: CPUs' worth of time per wall time.
    cpuset: the CPUs to run on, such as "0-3,8". cpu_time, timeout: seconds of CPU and of wall time. inodes: files and
    directories written. files: open descriptors a process. io_read, io_write: bytes a second of each disk, and
    io_read_ops, io_write_ops operations. bandwidth: bytes a second over its own network.
    """

    memory: int | None = 2048 * MIB
    memory_high: int | None = None
    swap: int | None = 0
    hugetlb: int | None = None
    pids: int | None = 512
    cpus: float | None = None
    cpuset: str | None = None
    cpu_time: float | None = None
    timeout: float | None = None
    disk: int | None = 1024 * MIB
    inodes: int | None = 200_000
    files: int | None = None
    output: int | None = 64 * MIB
    io_read: int | None = None
    io_write: int | None = None
    io_read_ops: int | None = None
    io_write_ops: int | None = None
    bandwidth: int | None = None

    def __post_init__(self) -> None:
        """Raise SpecError for what is no limit: of nothing (but of swap and huge pages), negative, or no number at all."""
        for field in dataclasses.fields(self):
            value, whole = getattr(self, field.name), field.name not in _FRACTIONS
            if value is None:
                continue
            if field.name == "cpuset":
                if not isinstance(value, str) or parse_cpus(value) is None:
                    raise SpecError(f"the limit cpuset={value!r} is no list of CPUs such as '0-3,8'; None is no limit")
                continue
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise SpecError(f"the limit {field.name}={value!r} is no {'whole ' if whole else ''}number; None is no limit")
            if not (value >= 0 if field.name in _MAY_BE_NONE_AT_ALL else 0 < value < float("inf")):
                raise SpecError(f"the limit {field.name}={value!r} must be above 0; None is no limit")
            if field.name == "cpus" and value < LEAST_CPUS:
                raise SpecError(f"the limit cpus={value!r} is less than the kernel can hold: write at least {LEAST_CPUS}")
            if value > (held := most(field.name)):
                raise SpecError(f"the limit {field.name}={value!r} is more than the kernel can hold, {held}; None is no limit")

    def within(self, outer: Limits) -> Limits:
        """The stricter of each. Raises SpecError where no CPU is in both sets."""
        pairs = {field.name: (getattr(self, field.name), getattr(outer, field.name)) for field in dataclasses.fields(self)}
        return Limits(**{name: _stricter(*pair) for name, pair in pairs.items()})


def _stricter(one: Any, other: Any) -> Any:  # noqa: ANN401  # a number, or a list of CPUs
    if one is None or other is None:
        return other if one is None else one
    if not isinstance(one, str):
        return min(one, other)
    both = cpus_in(one) & cpus_in(other)
    if not both:
        raise SpecError(f"no CPU is both in cpuset {one} and in {other}")
    return format_cpus(both)


LIMIT_NAMES = tuple(field.name for field in dataclasses.fields(Limits))
#: Those that the tmpfs of a layer enforces, by its size= and nr_inodes= (tmpfs(5)), and nothing else.
OF_TMPFS = ("disk", "inodes")


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """Everything that the layers below `plugin/` need to know to make one sandbox. SpecError for what cannot be meant.

    writable: absolute paths whose changes go through to the machine. hide: absolute paths that are empty inside.
    scratch: an existing directory for what is written, instead of a tmpfs. common: existing directories that all sandboxes
    of a run have in common: what they write there, files and no links, is brought to the machine when all are gone.
    asked: names of limits that a user set on purpose: where one of these cannot be enforced, making the sandbox is
    refused; "scratch" where it was said, be it that there is none.
    """

    limits: Limits = Limits()
    network: Network = Network.AUTO
    writable: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    scratch: str | None = None
    keep: Keep = Keep.FAILED
    asked: frozenset[str] = frozenset()
    common: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise SpecError for a field of another type, a path that cannot be meant, and wishes that exclude each other."""
        self._refuse_other_types()
        for path in (*self.writable, *self.common):
            places.refuse_writable(path)
        for path in self.hide:
            places.refuse_hidden(path)
        self._refuse_contradictions()

    def _refuse_other_types(self) -> None:
        for name, kind in (("limits", Limits), ("network", Network), ("keep", Keep)):
            if not isinstance(value := getattr(self, name), kind):
                raise SpecError(f"{name}={value!r} is no {kind.__name__}: write {_example(kind)}")
        for name in ("writable", "common", "hide"):
            paths = getattr(self, name)
            if not isinstance(paths, tuple) or not all(map(places.is_plain, paths)):
                raise SpecError(f"{name}={paths!r} is no tuple of absolute paths without ..: write ('/a/path',)")
        if self.scratch is not None and not places.is_plain(self.scratch):
            raise SpecError(f"scratch={self.scratch!r} is no absolute path without ..")
        asked: object = self.asked
        if not isinstance(asked, frozenset) or not asked <= _ASKED:
            raise SpecError(f"asked={asked!r} is no frozenset of names of limits: write frozenset({{'memory'}})")

    def _refuse_contradictions(self) -> None:
        for name in OF_TMPFS:
            if self.scratch is not None and name in self.asked:
                raise SpecError(
                    f"{name} and scratch ({self.scratch}) exclude each other: the limit is enforced by the tmpfs that scratch "
                    f"replaces. Leave out one of them, or set {name} or scratch to 'none'"
                )
        if self.network in (Network.HOST, Network.NONE) and "bandwidth" in self.asked:
            raise SpecError(
                f"bandwidth and network={self.network.value} exclude each other: the limit is that of the sandbox's own network. "
                "Leave out one of them"
            )
        for path in set(self.writable) & set(self.hide):
            raise SpecError(f"{path} cannot be both writable and hidden: leave out one of them")
        for writable, hidden in itertools.product(self.writable, self.hide):
            if hidden.startswith(f"{writable}/") and os.path.dirname(hidden) != writable:
                raise SpecError(
                    f"{hidden} cannot be hidden below {writable}, which is writable: a test could rename what is between. "
                    "Hide what lies directly in the writable directory, or let less be written"
                )


#: What a user can have set on purpose, see `Spec`.
_ASKED = frozenset(LIMIT_NAMES) | {"scratch"}


def _example(kind: type) -> str:
    return ", ".join(f"{kind.__name__}.{one.name}" for one in kind) if issubclass(kind, enum.Enum) else f"{kind.__name__}(...)"
