"""One sandbox's cgroup: its limits, membership, kill, and what it consumed. Imports `model` and what lies beside it.

Rests on cgroups(7) and the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_sandbox._linux.proc import parse_cgroup
from pytest_sandbox.model.errors import SetupError
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.model.units import cpus_in, format_cpus
from pytest_sandbox.primitives.cgroups import files
from pytest_sandbox.primitives.cgroups.controllers import LIMIT_ROLES, ROLES, Choice
from pytest_sandbox.primitives.cgroups.gauges import Gauge
from pytest_sandbox.primitives.cgroups.layout import V1, V2, Problem
from pytest_sandbox.primitives.cgroups.limits import is_gone
from pytest_sandbox.primitives.cgroups.pids import Refused, refused_for


@dataclasses.dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """Bytes of anonymous memory, of page cache (files, tmpfs, shared memory) and of the kernel's own for it.

    None where unknown; missing: why, by name.
    """

    anon: int | None = None
    file: int | None = None
    kernel: int | None = None
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def none(cls, why: str) -> MemorySnapshot:
        """Nothing is known, for one reason."""
        return cls(missing=dict.fromkeys(("anon", "file", "kernel"), why))


@dataclasses.dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What a cgroup consumed since it was made. Times in seconds, sizes in bytes.

    A field that could not be measured is None and its reason is in `missing`. memory_peak includes page cache.
    memory_max_events: how often usage met the memory limit (v1 failcnt), memory_oom_events: how often giving back page cache was
    not enough then. pids_max_events: forks refused.
    bytes_read, bytes_written, reads, writes: block I/O; v1 bills buffered writes to nobody. throttled: time waited for CPU
    quota. ..._stalled: PSI.
    """

    cpu: float | None = None
    memory_peak: int | None = None
    oom_kills: int | None = None
    memory_max_events: int | None = None
    memory_high_events: int | None = None
    memory_oom_events: int | None = None
    faults: int | None = None
    major_faults: int | None = None
    pids_peak: int | None = None
    pids_max_events: int | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None
    reads: int | None = None
    writes: int | None = None
    throttled: float | None = None
    cpu_stalled: float | None = None
    cpu_stalled_fully: float | None = None
    memory_stalled: float | None = None
    memory_stalled_fully: float | None = None
    io_stalled: float | None = None
    io_stalled_fully: float | None = None
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Cgroup:
    """One sandbox's cgroup, in as many hierarchies as it needs. Made by `CgroupRun.create`.

    unenforced: limits that were given and that nothing here enforces, with the reason.
    """

    def __init__(
        self,
        name: str,
        choices: Sequence[Choice],
        directories: Mapping[str, str],
        problems: Mapping[str, Problem],
        *,
        leaf: bool = False,
    ) -> None:
        self.name = name
        self.unenforced: dict[str, Problem] = {}
        self._choices = tuple(choices)
        self._directories = dict(directories)
        self._problems = problems
        self._leaf = "/leaf" if leaf else ""
        # By hierarchy: v1 controllers may share one (cpu,cpuacct), v2's always do.
        self._places = {self._directories[c.role]: c.hierarchy for c in self._choices}

    @property
    def directories(self) -> tuple[str, ...]:
        """The directory in each hierarchy."""
        return tuple(self._places)

    @property
    def unified_directory(self) -> str | None:
        """The v2 directory where its processes are, to be opened for clone3's CLONE_INTO_CGROUP; None on pure v1."""
        return next((path + self._leaf for path, place in self._places.items() if place.version == V2), None)

    @property
    def log_name(self) -> str:
        """The end of the path that the kernel's log calls it by: RUN/NAME, for `oom_kill`."""
        return "/".join(next(iter(self._places), f"/{self.name}").split("/")[-2:])

    def make(self, limits: Limits) -> None:
        """Make the directories and set the limits; called once, by `CgroupRun.create`. All or nothing."""
        with contextlib.ExitStack() as undo:
            for directory in self._places:
                with _refusal("make cgroup", directory):
                    os.mkdir(directory, 0o755)
                    undo.callback(files.remove, [directory])
                    files.inherit(directory, self._inherits(directory))
            held = self._limit_all(limits, flat=False)
            for directory in self._places if self._leaf else ():
                with _refusal("make cgroup", directory + self._leaf):
                    os.mkdir(directory + self._leaf, 0o755)
                    files.inherit(directory + self._leaf, self._inherits(directory))
            held |= self._limit_all(limits, flat=True)
            self._note_unenforced(limits, held)
            undo.pop_all()

    def _inherits(self, directory: str) -> tuple[str, ...]:
        return tuple(file for c in self._choices if self._directories[c.role] == directory for file in c.controller.inherits)

    def _limit_all(self, limits: Limits, *, flat: bool) -> set[str]:
        choices = [choice for choice in self._choices if choice.controller.flat is flat]
        return {limit for choice in choices for limit in self._limit(choice, limits)}

    def _note_unenforced(self, limits: Limits, written: set[str]) -> None:
        lacks = {limit: why for choice in self._choices for limit, why in choice.controller.lacks.items()}
        for limit, role in LIMIT_ROLES.items():
            if getattr(limits, limit) is None or limit in written | self.unenforced.keys():
                continue
            if problem := self._problems.get(limit) or self._problems.get(role):
                self.unenforced[limit] = problem
            elif limit in lacks and not _holds_by_itself(limit):
                self.unenforced[limit] = lacks[limit]

    def _limit(self, choice: Choice, limits: Limits) -> set[str]:
        """Write one controller's limits; returns the names of those that hold now."""
        held = set()
        if choice.role == "cpuset" and limits.cpuset is not None:
            self._refuse_cpus(choice, limits.cpuset)
        for one in choice.controller.writes(limits):
            path = f"{self._directories[choice.role]}{self._leaf if choice.controller.flat else ''}/{one.file}"
            try:
                files.write(path, one.value)
            except OSError as error:
                if is_gone(one, error):
                    continue
                if not one.optional or error.errno != errno.ENOENT:
                    raise SetupError(f"limit {one.limit} to {one.value}", path, error.errno or 0) from error
                if one.without and not _holds_by_itself(one.limit):
                    self.unenforced[one.limit] = one.without
            held.add(one.limit)
        return held

    def _refuse_cpus(self, choice: Choice, wanted: str) -> None:
        """Refuse CPUs that the run does not have: version 2 takes any, and falls back to the run's where none is there."""
        file = "cpuset.cpus.effective" if choice.controller.version == V2 else "cpuset.effective_cpus"
        run = os.path.dirname(self._directories[choice.role])
        lacking = cpus_in(wanted) - cpus_in(files.read(f"{run}/{file}").decode())
        if lacking:
            raise SetupError(f"limit cpuset to {wanted}", f"CPU {format_cpus(lacking)} is not there for us", errno.EINVAL)

    def attach(self, pid: int) -> None:
        """Move a process (host pid), with all its threads, into this cgroup, and verify that it is there.

        Raises SetupError: ESRCH where it has ended, ESTALE where something else moved it on (some CI runners do).
        """
        for directory in self._places:
            with _refusal("attach to cgroup", f"pid {pid}, {directory}"):
                files.write(f"{directory}{self._leaf}/cgroup.procs", str(pid))
        self.verify(pid)

    @property
    def has_no_tasks(self) -> bool:
        """Whether a process must be attached somewhere, since it cannot enter by itself (v2)."""
        return any(place.version != V1 for place in self._places.values())

    def attach_to_v2(self, pid: int) -> None:
        """Attach a process where there is no `tasks`; the rest it enters by itself. Raises SetupError as `attach` does."""
        for directory, place in self._places.items():
            if place.version != V1:
                with _refusal("attach to cgroup", f"pid {pid}, {directory}"):
                    files.write(f"{directory}{self._leaf}/cgroup.procs", str(pid))

    def admit(self, pid: int) -> None:
        """Finish what the child began with `enter`: attach it where there is no `tasks` (v2), and verify all.

        Raises SetupError as `attach` does.
        """
        self.attach_to_v2(pid)
        self.verify(pid)

    def open_tasks(self) -> tuple[int, ...]:
        """Open the v1 hierarchies' `tasks`, for a child that goes in by itself with `enter`; the caller closes them.

        Why: a write to cgroup.procs takes a lock of all forks and exits, which waits for an RCU grace period (measured: 10
        to 16 ms, unless another such write was a few ms ago). A thread that moves itself, by "0", does not take it (Linux
        5.5, cgroup_procs_write_start): 50 us. v2 has no such file; a process is born there by clone3 with
        CLONE_INTO_CGROUP and `unified_directory`. Permission is the opener's, so the child may be in a user namespace.
        Call `verify` afterwards.
        """
        with contextlib.ExitStack() as undo:
            opened = []
            for directory, place in self._places.items():
                if place.version == V1:
                    path = f"{directory}{self._leaf}/tasks"
                    with _refusal("open", path):
                        opened.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                    undo.callback(os.close, opened[-1])
            undo.pop_all()
        return tuple(opened)

    def verify(self, pid: int) -> None:
        """Raise SetupError unless the process is in this cgroup, in every hierarchy; /proc/PID/cgroup, cgroups(7)."""
        if not self._places:
            return
        with _refusal("verify cgroup", f"pid {pid}"):
            lines = parse_cgroup(os.fsdecode(files.read(f"/proc/{pid}/cgroup")))
        actual = {key: path for _, key, path in lines}
        for directory, place in self._places.items():
            path, tail = actual.get(place.key, ""), directory[len(place.directory) :] + self._leaf
            if path != place.path.rstrip("/") + tail:
                raise SetupError("verify cgroup", f"pid {pid} is in {place.name} {path}, not {directory}", errno.ESTALE)

    def processes(self) -> tuple[int, ...]:
        """Host pids of what is in here or below, zombies left out."""
        # In each hierarchy: whoever has a way in may have used it in one of them only.
        return tuple(dict.fromkeys(pid for directory in self._places for pid in files.pids_below(directory)))

    def kill(self, seconds: float = files.KILL_SECONDS) -> tuple[int, ...]:
        """SIGKILL everything in here and wait until it is dead; returns the pids that still are not after `seconds`.

        Stopped and (v2) frozen processes die too. No process can be forked in here afterwards.
        """
        return files.kill_below(self._places, seconds)

    def snapshot(self) -> MemorySnapshot:
        """What the memory is made of at this moment."""
        choice = next((c for c in self._choices if c.role == "memory"), None)
        if choice is None:
            return MemorySnapshot.none(self._why("memory"))
        found: dict[str, int] = {}
        missing: dict[str, str] = {}
        contents: dict[str, bytes] = {}
        for gauge in choice.controller.parts:
            _note(gauge, _measure(gauge, self._directories["memory"], "", contents), found, missing)
        return MemorySnapshot(**found, missing=missing)

    def figure(self, field: str) -> float | None:
        """One of the figures of `read`, at a fraction of its cost; None where no hierarchy has it."""
        return self.figures(field).get(field)

    def figures(self, *fields: str) -> Mapping[str, float]:
        """Some of them, as far as they are there; a file that has several is read once."""
        found: dict[str, float] = {}
        for choice in self._choices:
            contents: dict[str, bytes] = {}
            for gauge in choice.controller.gauges:
                if gauge.field in fields and gauge.field not in found:
                    _note(gauge, _measure(gauge, self._directories[choice.role], self._leaf, contents), found, {})
        return found

    def read(self) -> CgroupUsage:
        """Everything that can be measured, now."""
        found: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for choice in self._choices:
            contents: dict[str, bytes] = {}
            for gauge in choice.controller.gauges:
                _note(gauge, _measure(gauge, self._directories[choice.role], self._leaf, contents), found, missing)
        missing = {name: why for name, why in missing.items() if name not in found}
        for name, role in _ROLE_OF.items():
            if name not in found:
                missing.setdefault(name, self._why(role))
        return CgroupUsage(**found, missing=missing)

    def _why(self, role: str) -> str:
        if role in self._problems:
            return self._problems[role].reason
        if role in self._directories:
            return "cgroup v1 does not measure it"
        return f"no sandbox had a {role} limit when this was made, and so it has no {role} cgroup"

    def refused(self) -> Refused:
        """For whose limit the forks were refused that are counted here (pids_max_events), of which there must be some."""
        return refused_for(self._directories["pids"])

    def remove_empty(self) -> bool:
        """Remove the directories at once; whether none is left, as where nobody is in there."""
        return files.remove_empty(self._all)

    def remove(self) -> None:
        """Remove the directories; what was in them must be dead or dying. Warns TeardownWarning for those that stay."""
        files.remove(self._all)

    @property
    def _all(self) -> list[str]:
        leaves = [directory + self._leaf for directory in self._places] if self._leaf else []
        return [*leaves, *self._places]


#: The role that is to measure a field: the first that can.
_ROLE_OF: dict[str, str] = {}
for _role, _pair in ROLES.items():
    for _gauge in (*_pair[0].gauges, *_pair[1].gauges):
        _ROLE_OF.setdefault(_gauge.field, _role)


def _note(gauge: Gauge, measured: int | str, found: dict[str, Any], missing: dict[str, str]) -> None:
    """Put a figure, in seconds if it is a time, into `found`, or the reason why there is none into `missing`."""
    if isinstance(measured, str):
        missing[gauge.field] = measured
    else:
        found[gauge.field] = measured if gauge.unit is None else measured * gauge.unit


def _measure(gauge: Gauge, directory: str, leaf: str, contents: dict[str, bytes]) -> int | str:
    """The figure, or why there is none. contents: the files of this directory that were read already, by name."""
    try:
        if gauge.file not in contents:
            contents[gauge.file] = files.read(f"{directory}/{gauge.file}")
        value = gauge.extract(contents[gauge.file])
        if leaf and gauge.local:
            value += gauge.extract(files.read(f"{directory}{leaf}/{gauge.file}"))
        return value
    except OSError as error:
        return f"{gauge.file}: {os.strerror(error.errno or 0)}"
    except KeyError:
        return f"this kernel's {gauge.file} does not have it"


def enter(tasks: Sequence[int]) -> None:
    """Move the calling thread into a cgroup, in the child of a fork, by descriptors of `Cgroup.open_tasks`; closes them.

    The process must have one thread: the others would stay behind. Raises SetupError.
    """
    for fd in tasks:
        with _refusal("enter cgroup", f"tasks, descriptor {fd}"):
            os.write(fd, b"0")
        os.close(fd)


@contextlib.contextmanager
def _refusal(step: str, obj: str) -> Iterator[None]:
    """Give an OSError the name of the step and of its object."""
    try:
        yield
    except OSError as error:
        raise SetupError(step, obj, error.errno or 0) from error


def _holds_by_itself(limit: str) -> bool:
    """Whether it is that on swap, and the machine has nowhere to swap to; proc_swaps(5): the first line is a heading."""
    try:
        return limit == "swap" and files.read("/proc/swaps").count(b"\n") == 1
    except OSError:
        return False
