"""One sandbox's cgroup: its limits, membership, kill, and what it consumed. Imports `model` and cgroup_*.py beside it.

Rests on cgroups(7) and the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator, Mapping, Sequence

from pytest_sandbox.model.errors import SetupError
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives import cgroup_files as files
from pytest_sandbox.primitives.cgroup_controllers import LIMIT_ROLES, ROLES, Choice, Gauge, keyed
from pytest_sandbox.primitives.cgroup_layout import V1, V2, Problem


@dataclasses.dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """Bytes of anonymous memory and of page cache (files, tmpfs, shared memory); None, and why, where unknown."""

    anon: int | None
    file: int | None
    missing: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What a cgroup consumed since it was made. Times in seconds, sizes in bytes.

    A field that could not be measured is None and its reason is in `missing`. memory_peak includes page cache.
    memory_max_events: how often usage met the memory limit (v1 failcnt). pids_max_events: forks refused.
    bytes_read, bytes_written: block I/O; v1 bills buffered writes to nobody. throttled: time waited for CPU quota.
    """

    cpu: float | None = None
    memory_peak: int | None = None
    oom_kills: int | None = None
    memory_max_events: int | None = None
    pids_peak: int | None = None
    pids_max_events: int | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None
    throttled: float | None = None
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
        self.unenforced: dict[str, str] = {}
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
        """The end of the path that the kernel's log calls it by: RUN/NAME, for `oom_victim`."""
        return "/".join(next(iter(self._places), f"/{self.name}").split("/")[-2:])

    def make(self, limits: Limits) -> None:
        """Make the directories and set the limits; called once, by `CgroupRun.create`. All or nothing."""
        with contextlib.ExitStack() as undo:
            for directory in self._places:
                with _refusal("make cgroup", directory):
                    os.mkdir(directory, 0o755)
                undo.callback(files.remove, [directory])
            self._limit_all(limits)
            for directory in self._places if self._leaf else ():
                with _refusal("make cgroup", directory + self._leaf):
                    os.mkdir(directory + self._leaf, 0o755)
            undo.pop_all()

    def _limit_all(self, limits: Limits) -> None:
        written = {limit for choice in self._choices for limit in self._limit(choice, limits)}
        for limit, role in LIMIT_ROLES.items():
            if getattr(limits, limit, None) is None or limit in written | self.unenforced.keys():
                continue
            if role in self._problems:
                self.unenforced[limit] = self._problems[role].reason
            elif limit == "swap":
                self.unenforced[limit] = "v1 bounds memory and swap together, and memory has no limit"

    def _limit(self, choice: Choice, limits: Limits) -> set[str]:
        """Write one controller's limits; returns the names of those that hold now."""
        held = set()
        for one in choice.controller.writes(limits):
            path = f"{self._directories[choice.role]}/{one.file}"
            try:
                files.write(path, one.value)
            except OSError as error:
                if not (one.optional and error.errno == errno.ENOENT):
                    raise SetupError(f"limit {one.limit} to {one.value}", path, error.errno or 0) from error
                # Without a swap area the bound holds by itself.
                if _swap_areas():
                    self.unenforced[one.limit] = f"the kernel does not account swap ({one.file}: ENOENT)"
            held.add(one.limit)
        return held

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
        """Whether a process must be attached somewhere before it forks, since it cannot enter by itself (v2)."""
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
            lines = os.fsdecode(files.read(f"/proc/{pid}/cgroup")).splitlines()
        actual = dict(line.split(":", 2)[1:] for line in lines)
        for directory, place in self._places.items():
            path, tail = actual.get(place.key, ""), directory[len(place.directory) :] + self._leaf
            if path != place.path.rstrip("/") + tail:
                raise SetupError("verify cgroup", f"pid {pid} is in {place.name} {path}, not {directory}", errno.ESTALE)

    def processes(self) -> tuple[int, ...]:
        """Host pids of what is in here or below, zombies left out."""
        # Any hierarchy will do, for all have the same members; the first is v2 where there is one.
        directory = next(iter(self._places), None)
        return files.pids_below(directory) if directory else ()

    def kill(self, seconds: float = files.KILL_SECONDS) -> tuple[int, ...]:
        """SIGKILL everything in here and wait until it is dead; returns the pids that still are not after `seconds`.

        Stopped and (v2) frozen processes die too. No process can be forked in here afterwards.
        """
        return files.kill_below(self._places, seconds)

    def snapshot(self) -> MemorySnapshot:
        """What the memory is made of at this moment: one read of memory.stat."""
        choice = next((c for c in self._choices if c.role == "memory"), None)
        if choice is None:
            return MemorySnapshot(None, None, self._why("memory"))
        try:
            content = files.read(self._directories["memory"] + "/memory.stat")
            anon, file = (keyed(content, key) for key in (choice.controller.anon, choice.controller.file))
        except (OSError, KeyError) as error:
            return MemorySnapshot(None, None, f"memory.stat: {error}")
        return MemorySnapshot(anon, file)

    def cpu_seconds(self) -> float | None:
        """CPU time of all processes so far, in seconds; None where no hierarchy counts it."""
        for choice in self._choices:
            for gauge in choice.controller.gauges:
                if gauge.field == "cpu":
                    with contextlib.suppress(OSError, KeyError):
                        content = files.read(f"{self._directories[choice.role]}/{gauge.file}")
                        return gauge.extract(content) * (gauge.unit or 1)
        return None

    def read(self) -> CgroupUsage:
        """Everything that can be measured, now."""
        whole: dict[str, int] = {}
        seconds: dict[str, float] = {}
        missing: dict[str, str] = {}
        for choice in self._choices:
            contents: dict[str, bytes] = {}
            for gauge in choice.controller.gauges:
                found = _measure(gauge, self._directories[choice.role], self._leaf, contents)
                if isinstance(found, str):
                    missing[gauge.field] = found
                elif gauge.unit is None:
                    whole[gauge.field] = found
                else:
                    seconds[gauge.field] = found * gauge.unit
        for role, fields in _FIELDS.items():
            if role not in self._directories:
                missing.update(dict.fromkeys(fields, self._why(role)))
        return CgroupUsage(
            cpu=seconds.get("cpu"),
            throttled=seconds.get("throttled"),
            memory_peak=whole.get("memory_peak"),
            oom_kills=whole.get("oom_kills"),
            memory_max_events=whole.get("memory_max_events"),
            pids_peak=whole.get("pids_peak"),
            pids_max_events=whole.get("pids_max_events"),
            bytes_read=whole.get("bytes_read"),
            bytes_written=whole.get("bytes_written"),
            missing=missing,
        )

    def _why(self, role: str) -> str:
        problem = self._problems.get(role)
        return problem.reason if problem else f"this sandbox has no {role} limit, and so no {role} cgroup"

    def remove(self) -> None:
        """Remove the directories; what was in them must be dead or dying. Warns TeardownWarning for those that stay."""
        leaves = [directory + self._leaf for directory in self._places] if self._leaf else []
        files.remove([*leaves, *self._places])


_FIELDS = {role: tuple(dict.fromkeys(g.field for c in pair for g in c.gauges)) for role, pair in ROLES.items()}


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


def _swap_areas() -> bool:
    """Whether the machine has anywhere to swap to; proc_swaps(5): the first line is a heading."""
    try:
        return files.read("/proc/swaps").count(b"\n") > 1
    except OSError:
        return False
