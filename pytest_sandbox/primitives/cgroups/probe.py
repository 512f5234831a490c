"""What cgroups can do here, found by doing it in a throw-away cgroup. Imports `model` and what lies beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Callable, Mapping, Sequence

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.model.errors import SetupError
from pytest_sandbox.model.spec import MIB, Limits
from pytest_sandbox.model.units import format_cpus
from pytest_sandbox.primitives.cgroups.controllers import LIMIT_ROLES
from pytest_sandbox.primitives.cgroups.layout import Problem, cause_of
from pytest_sandbox.primitives.cgroups.member import Cgroup
from pytest_sandbox.primitives.cgroups.run import CgroupRun

NO_LIMITS = Limits(memory=None, swap=None, pids=None, disk=None, inodes=None, output=None)

#: What most runs ask about, and so is looked at at once.
_USUAL: Mapping[str, Limits] = {
    "memory": dataclasses.replace(NO_LIMITS, memory=64 * MIB),
    "swap": dataclasses.replace(NO_LIMITS, memory=64 * MIB, swap=0),
    "pids": dataclasses.replace(NO_LIMITS, pids=16),
    "cpus": dataclasses.replace(NO_LIMITS, cpus=0.5),
    "cpu_time": NO_LIMITS,
    "io": NO_LIMITS,
    "kill": NO_LIMITS,
}
#: A rule for a disk that is far above what it can do.
_NO_RULE = 1 << 40
_RARE: Mapping[str, Limits] = {
    "memory_high": dataclasses.replace(NO_LIMITS, memory_high=64 * MIB),
    "hugetlb": dataclasses.replace(NO_LIMITS, hugetlb=0),
    "cpuset": dataclasses.replace(NO_LIMITS, cpuset=format_cpus(os.sched_getaffinity(0))),
    "io_read": dataclasses.replace(NO_LIMITS, io_read=_NO_RULE),
    "io_write": dataclasses.replace(NO_LIMITS, io_write=_NO_RULE),
    "io_read_ops": dataclasses.replace(NO_LIMITS, io_read_ops=_NO_RULE >> 20),
    "io_write_ops": dataclasses.replace(NO_LIMITS, io_write_ops=_NO_RULE >> 20),
}


@dataclasses.dataclass(frozen=True, slots=True)
class CgroupCapability:
    """Whether something can be done here: which hierarchy does it ("v1 memory", "v2"), or why not."""

    name: str
    available: bool
    hierarchy: str = ""
    problem: Problem | None = None

    @property
    def reason(self) -> str:
        """Why not; "" where it can be done."""
        return self.problem.reason if self.problem else ""


USUAL, RARE = tuple(_USUAL), tuple(_RARE)


def capabilities(
    announce: Callable[[Sequence[str]], None] = lambda _: None, *, rare: bool = False
) -> Mapping[str, CgroupCapability]:
    """What can be limited (memory, swap, pids, cpus), counted (cpu_time, io) and killed as a whole (kill); rare: all else.

    Makes a cgroup for each, sets the limit, and removes it again: about 2 ms. Never raises for what is missing. announce: as for
    `CgroupRun.open`.
    """
    with contextlib.closing(CgroupRun.open(f"probe-{os.getpid()}-{secrets.token_hex(4)}", announce=announce)) as run:
        return {name: _try(run, name, limits) for name, limits in (_RARE if rare else _USUAL).items()}


def _try(run: CgroupRun, name: str, limits: Limits) -> CgroupCapability:
    role = "io" if name == "io" else LIMIT_ROLES.get(name, "usage")
    try:
        cgroup = run.create(name, limits)
    except SetupError as error:
        run_directory = os.path.dirname(error.object)
        refusal = Problem(str(error), cause_of(error.errno), os.path.dirname(run_directory))
        return CgroupCapability(name, available=False, problem=refusal)
    try:
        problem = cgroup.unenforced.get(name) or run.problems.get(role) or _missing(cgroup, name)
    finally:
        cgroup.remove()
    if name == "kill" and cgroup.directories:
        return CgroupCapability(name, available=True, hierarchy="v2" if cgroup.unified_directory else "v1")
    if problem:
        return CgroupCapability(name, available=False, problem=problem)
    hierarchy = run.hierarchy(role) or ""
    return CgroupCapability(name, available=True, hierarchy=hierarchy)


def _missing(cgroup: Cgroup, name: str) -> Problem | None:
    """Why a controller that was found does not count what it is for."""
    field = {"cpu_time": "cpu", "io": "bytes_read"}.get(name, "")
    missing = cgroup.read().missing
    # The role has a controller, or that it has none were the problem: then it is the controller that lacks the file.
    return Problem(missing[field], Cause.NO_FILE) if field in missing else None
