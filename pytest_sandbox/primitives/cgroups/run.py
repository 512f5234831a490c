"""The cgroups of one run, and their removal after a crash. Imports `model`, `locks` and what lies beside it.

Nothing outside of the run's own directories is written (but see `delegation` for v2).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import files, systemd
from pytest_sandbox.primitives.cgroups.controllers import IO_V1, Choice, choose, needed
from pytest_sandbox.primitives.cgroups.delegation import Delegation, can_divide, leave_leaf, withheld
from pytest_sandbox.primitives.cgroups.layout import (
    BASE_PREFIX,
    CONTROLLER_PREFIX,
    RUN_PREFIX,
    V2,
    Hierarchy,
    Problem,
    explain,
    find_hierarchies,
)
from pytest_sandbox.primitives.cgroups.member import Cgroup
from pytest_sandbox.primitives.locks import left

#: How old an empty cgroup is, in seconds, of which nobody is on his way in any more.
_YOUNG = 60.0
#: How long workers of pytest-xdist may take to end after their controller was killed, in seconds.
_WORKERS_TIME = 60.0


class CgroupRun:
    """The cgroups of one run: `problems` maps a role (usage, memory, pids, io, cpu), or a limit, to why it is not to be had.

    paths: directories that a janitor hands to `remove_run` after this process was killed; some may never be made.
    To be closed in the process that opened it; see `contextlib.closing`.
    """

    def __init__(self, name: str, choices: Mapping[str, Choice], problems: Mapping[str, Problem]) -> None:
        self._delegation = Delegation(name)
        self._choices = dict(choices)
        self._active: dict[str, str] = {}
        self._problems = dict(problems)
        self._refused: Problem | None = None
        self._generation = _forks.generation
        self.name = name

    @classmethod
    def open(cls, name: str, *, announce: Callable[[Sequence[str]], None] = lambda _: None) -> CgroupRun:
        """Find where this process is and make the run's directories there; raises ValueError for an unfit name.

        announce: called with `paths` before the first of them is made, so that a janitor knows them whenever this process dies.
        """
        _check_name(name)
        refused = settle()
        hierarchies = _find()
        run = cls(name, *choose(hierarchies, _unified_controllers(hierarchies)))
        run._problems |= _withheld(hierarchies, run._problems)
        run._refused = refused
        announce(run.paths)
        _clean({choice.hierarchy.directory for choice in run._choices.values()})
        with contextlib.ExitStack() as undo:
            undo.callback(run.close)
            run._refuse_idle_blkio()
            for choice in needed(run._choices, Limits()):
                run._activate(choice)
            undo.pop_all()
        return run

    @property
    def problems(self) -> Mapping[str, Problem]:
        """Why a role, or a limit of one, cannot be had, for those that cannot."""
        return MappingProxyType(self._problems)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every directory that this run makes or may make directly below this process's own cgroups."""
        paths = [self._delegation.run_directory(choice) for choice in self._choices.values()]
        unified = [choice.hierarchy.directory for choice in self._choices.values() if choice.controller.version == V2]
        paths.extend(map(self._delegation.leaf_directory, unified))
        return tuple(dict.fromkeys(paths))

    def hierarchy(self, role: str) -> str | None:
        """The name of the hierarchy that plays a role, as "v1 memory" or "v2"; None where none does."""
        choice = self._choices.get(role)
        return choice.hierarchy.name if choice else None

    def create(self, name: str, limits: Limits, *, leaf: bool = False) -> Cgroup:
        """Make a sandbox's cgroup and set its limits. What has no controller is in `Cgroup.unenforced`.

        leaf: processes live in a cgroup below the one with the limits, so that a cgroup namespace begun there does not
        show the files of the limits, even to a root that is the host's own.

        Raises SetupError where the kernel refuses a directory or a value; nothing is left then.
        """
        _check_name(name)
        choices = [c for c in needed(self._choices, limits, self._active) if c.role in self._active or self._activate(c)]
        directories = {choice.role: f"{self._active[choice.role]}/{name}" for choice in choices}
        cgroup = Cgroup(name, choices, directories, self.problems, leaf=leaf)
        cgroup.make(limits)
        return cgroup

    def _refuse_idle_blkio(self) -> None:
        """Do without v1 blkio where it counts nothing.

        Since Linux 6.10 ("blk-throttle: delay initialization until configuration") its files say 0 until a device has a
        throttle rule. (Measured: 0 bytes after 8 MB of direct I/O on 6.18.) Our own cgroup may be new, and have read nothing but
        from the page cache; those around it, up to the root, have read something before.
        """
        choice = self._choices.get("io")
        if choice and choice.controller is IO_V1:
            file = IO_V1.gauges[0].file
            if not any("Read" in _text(f"{path}/{file}").split() for path in files.upwards(choice.hierarchy.directory)):
                reason = f"{file} counts nothing: this kernel starts it with the first throttle rule"
                self._problems["io"] = Problem(reason, Cause.VERSION_1)
                del self._choices["io"]

    def _activate(self, choice: Choice) -> bool:
        problem = self._delegation.activate(choice)
        if problem:
            if self._refused and choice.controller.version == V2:
                problem = Problem(f"{problem.reason}; {self._refused.reason}", self._refused.cause)
            self._problems[choice.role] = problem
            del self._choices[choice.role]
            return False
        self._active[choice.role] = self._delegation.run_directory(choice)
        return True

    def close(self) -> None:
        """Kill what is left in this run's cgroups and remove them all; idempotent.

        Does nothing in a process that was forked from the one that opened the run. Warns TeardownWarning, once and
        after all was attempted, for directories that could not be removed.
        """
        if self._generation != _forks.generation:
            return
        try:
            files.kill_below(dict.fromkeys(self._active.values()))
        finally:
            self._active = {}
            self._delegation.close()


def settle() -> Problem | None:
    """Have systemd make a scope for this process, where that is what it takes to divide its cgroup; why it does not.

    None where there is nothing to ask for. The process stays in the scope for the rest of its life; its children do not come
    along, so it is called before the first of them that belongs to a run.
    """
    if not systemd.booted():
        return None
    hierarchies = _find()
    unified = _unified(hierarchies)
    if unified is None or any("memory" in each.controllers for each in hierarchies):
        return None
    if os.statvfs(unified.directory).f_flag & os.ST_RDONLY:  # whose scope could not be divided either
        return None
    return None if can_divide(unified.directory) else systemd.ask(unified)


class _Forks:
    """Tells a process from those forked of it; a pid does not, where a pid namespace begins."""

    generation = 0

    def forked(self) -> None:
        self.generation += 1


_forks = _Forks()
os.register_at_fork(after_in_child=_forks.forked)


def remove_run(paths: Sequence[str]) -> None:
    """Kill all that is in a run's directories (`CgroupRun.paths`), wait for it, and remove them, deepest first.

    For the janitor, after the controller was killed. Directories that do not exist are passed over. A controller's v2
    leaf is emptied into its parent, not killed: the janitor itself is in there. Raises ValueError, before anything is
    done, for a path that no run made; warns TeardownWarning for what stays.
    """
    for path in paths:
        if not os.path.basename(path).startswith((RUN_PREFIX, CONTROLLER_PREFIX)):
            raise ValueError(f"not a directory of a run: {path}")
    leaves = [path for path in paths if os.path.basename(path).startswith(CONTROLLER_PREFIX)]
    runs = [path for path in paths if path not in leaves]
    files.kill_below(runs)
    try:
        files.remove(runs)
    finally:
        for leaf in leaves:
            leave_leaf(leaf, seconds=_WORKERS_TIME)


def _clean(bases: Iterable[str]) -> None:
    """Remove what killed runs have left here, and in cgroups beside that were made for one run each; and those that are idle."""
    beside = [f"{top}/{name}" for top, own in map(os.path.split, bases) if own.startswith(BASE_PREFIX) for name in _names(top)]
    others = [path for path in beside if os.path.basename(path).startswith(BASE_PREFIX) and path not in bases]
    _remove_left([*bases, *others])
    for path in others:
        with contextlib.suppress(OSError):  # EBUSY: a run is in it
            if time.time() - os.stat(path).st_mtime > _YOUNG:
                os.rmdir(path)


def _remove_left(bases: Iterable[str]) -> None:
    """Remove what runs have left below these directories that were killed together with their janitors.

    A leaf that has processes stays: whoever is in there, such as a server that a killed pytest has started, is not ours.
    """
    with contextlib.ExitStack() as stack:
        found = [f"{base}/{name}" for base in bases for name in _names(base) if name.startswith((RUN_PREFIX, CONTROLLER_PREFIX))]
        dead = [path for path in found if stack.enter_context(left(path))]
        remove_run([path for path in dead if os.path.basename(path).startswith(RUN_PREFIX) or not files.pids_in(path)])


def _check_name(name: str) -> None:
    """A name is one path component that cannot be taken for a cgroup's file."""
    if not name or "/" in name or "\n" in name or name.startswith((".", "cgroup.")):
        raise ValueError(f"not fit for the name of a cgroup: {name!r}")


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read())
    except OSError:
        # No /proc/self/cgroup: a kernel without cgroups; none will be found.
        return ""


def _find() -> tuple[Hierarchy, ...]:
    """Where this process is."""
    return tuple(map(_checked, find_hierarchies(_text("/proc/self/cgroup"), _text("/proc/self/mountinfo"))))


def _checked(hierarchy: Hierarchy) -> Hierarchy:
    """Note a problem where the directory is not the cgroup that this process is in, whatever /proc said of it."""
    if hierarchy.problem:
        return hierarchy
    own = hierarchy.leaf or hierarchy.directory
    try:
        if os.getpid() in files.pids_in(own):
            return dataclasses.replace(hierarchy, real_root=hierarchy.version == V2 and files.is_real_root(hierarchy.directory))
        problem = Problem(f"{own} does not list this process: something else is there", Cause.OUTSIDE)
    except OSError as error:
        problem = explain(error, hierarchy)
    return dataclasses.replace(hierarchy, problem=problem)


def _unified(hierarchies: Iterable[Hierarchy]) -> Hierarchy | None:
    """That of version 2, if it can be used."""
    return next((each for each in hierarchies if each.version == V2 and not each.problem), None)


def _unified_controllers(hierarchies: Iterable[Hierarchy]) -> frozenset[str]:
    unified = _unified(hierarchies)
    return frozenset(_text(unified.directory + "/cgroup.controllers").split() if unified else ())


def _withheld(hierarchies: Iterable[Hierarchy], problems: Mapping[str, Problem]) -> dict[str, Problem]:
    """Of the roles whose controller no cgroup here has, those for which a cgroup above has it."""
    unified = _unified(hierarchies)
    absent = {role: problem.detail for role, problem in problems.items() if problem.cause is Cause.NO_CONTROLLER}
    found = {role: withheld(unified.directory, name) for role, name in absent.items()} if unified else {}
    return {role: problem for role, problem in found.items() if problem}
