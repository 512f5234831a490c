"""Where this process stands in each cgroup hierarchy, found from two files of /proc. Pure; imports `model` and `proc`.

/proc/self/cgroup says in which cgroup this process is, /proc/self/mountinfo where that hierarchy can be seen.
Neither suffices: a mount may show a hierarchy from below its root ("mount root"), and in a cgroup namespace both
are relative to the namespace's root. See cgroups(7), cgroup_namespaces(7), proc(5).
"""

from __future__ import annotations

import dataclasses
import errno
import os

from pytest_sandbox._linux.proc import parse_cgroup, parse_mountinfo
from pytest_sandbox.model.capability import Cause

V1, V2 = 1, 2
RUN_PREFIX = "pytest-sandbox-run-"
#: Of the leaf that a controller moves itself to on pure v2, where a cgroup with children may hold no process.
CONTROLLER_PREFIX = "pytest-sandbox-controller-"
#: Of a cgroup that somebody has made for one run, as docs/host-setup.md has it.
BASE_PREFIX = "pytest-sandbox-base-"
#: Of a scope that systemd has made for us.
SCOPE_PREFIX = "pytest-sandbox-scope-"
_VERSIONS = {"cgroup": V1, "cgroup2": V2}


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why something cannot be done here, with the errno or rule; the cause decides what to do about it (`sandbox.fixes`)."""

    reason: str
    cause: Cause
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Hierarchy:
    """One cgroup hierarchy as this process sees it.

    key: the second field of its lines in /proc/PID/cgroup ("" for v2). controllers: those of a v1 hierarchy; for
    v2 the caller reads cgroup.controllers. path, directory: of the cgroup below which run directories belong, as
    /proc/PID/cgroup spells it and as a path of the file system. leaf: the controller's leaf that this process is
    in. real_root: directory is the machine's own root, for the caller to find out. problem: set, and directory empty, where the
    hierarchy cannot be used.
    """

    version: int
    key: str
    controllers: frozenset[str]
    path: str
    directory: str = ""
    leaf: str | None = None
    real_root: bool = False
    problem: Problem | None = None

    @property
    def name(self) -> str:
        """What messages call it: "v1 cpu,cpuacct" or "v2"."""
        return f"v1 {self.key}" if self.version == V1 else "v2"


@dataclasses.dataclass(frozen=True, slots=True)
class _Mount:
    """options: of version 1, words among which are the controllers: cgroup1_show_options of kernel/cgroup/cgroup-v1.c."""

    version: int
    options: frozenset[str]
    root: str
    point: str
    writable: bool


def find_hierarchies(cgroup: str, mountinfo: str) -> tuple[Hierarchy, ...]:
    """Parse the text of /proc/self/cgroup and /proc/self/mountinfo; named v1 hierarchies are left out."""
    mounts = _mounts(mountinfo)
    lines = parse_cgroup(cgroup)
    beside = "unified" if any(number != "0" for number, _, _ in lines) else ""
    found = []
    for number, key, path in lines:
        version = V2 if number == "0" and not key else V1
        if not key.startswith("name="):
            controllers = frozenset(key.split(",")) if key else frozenset[str]()
            found.append(_place(Hierarchy(version, key, controllers, path), mounts, beside))
    return tuple(found)


def _place(hierarchy: Hierarchy, mounts: list[_Mount], beside: str) -> Hierarchy:
    """beside: what the directory of version 2 is called where those of version 1 lie beside it."""
    path = hierarchy.path
    if path == "/.." or path.startswith("/../"):
        reason = f"this process's {hierarchy.name} cgroup {path} lies outside of its cgroup namespace"
        return dataclasses.replace(hierarchy, problem=Problem(reason, Cause.OUTSIDE))
    mine = [m for m in mounts if m.version == hierarchy.version and hierarchy.controllers <= m.options]
    if not mine:
        reason = f"the {hierarchy.name} cgroup hierarchy is not mounted"
        return dataclasses.replace(hierarchy, problem=Problem(reason, Cause.UNMOUNTED, hierarchy.key or beside))
    showing = [m for m in mine if _below(path, m.root) is not None]
    if not showing:
        reason = f"{mine[-1].point} shows {mine[-1].root} of the {hierarchy.name} hierarchy; this process is in {path}"
        foreign = mine[-1].root.startswith("/..")
        return dataclasses.replace(hierarchy, problem=Problem(reason, Cause.FOREIGN if foreign else Cause.OUTSIDE))
    # The last mount covers those before it on the same point; a read-only one serves only to name the reason.
    mount = max(enumerate(showing), key=lambda pair: (pair[1].writable, pair[0]))[1]
    inner = _below(path, mount.root) or ""
    if inner and os.path.basename(path).startswith(CONTROLLER_PREFIX):
        leaf = mount.point + inner
        parent = os.path.dirname(path)
        return dataclasses.replace(hierarchy, path=parent, directory=os.path.dirname(leaf), leaf=leaf)
    return dataclasses.replace(hierarchy, directory=mount.point + inner)


def _below(path: str, root: str) -> str | None:
    """What is left of `path` below `root`: "" or "/a/b"; None where it is not below."""
    root, path = root.rstrip("/"), path.rstrip("/")
    return path[len(root) :] if path == root or path.startswith(root + "/") else None


def _mounts(text: str) -> list[_Mount]:
    """Those of type cgroup and cgroup2, in order."""
    found = []
    for entry in parse_mountinfo(text):
        if entry.fstype in _VERSIONS:
            writable = "ro" not in entry.options | entry.super_options
            found.append(_Mount(_VERSIONS[entry.fstype], entry.super_options, entry.root, entry.point, writable))
    return found


def explain(error: OSError, hierarchy: Hierarchy) -> Problem:
    """Translate what the kernel said about making or writing a cgroup into a reason and its cause."""
    code = error.errno or 0
    said = f"{_what(str(error.filename or ''))}{errno.errorcode.get(code, code)} in the {hierarchy.name} cgroup {hierarchy.path}"
    if code == errno.EROFS:
        mount = hierarchy.directory.removesuffix(hierarchy.path.rstrip("/"))
        return Problem(f"the cgroup file system is mounted read-only ({said})", Cause.READ_ONLY, mount)
    if code in (errno.EACCES, errno.EPERM):
        reason = f"this cgroup is not delegated to user {os.geteuid()} ({said})"
        return Problem(reason, _not_delegated(hierarchy), hierarchy.directory)
    if code == errno.EBUSY:
        reason = f"other processes are in the cgroup of pytest, and controllers cannot be enabled below it ({said})"
        return Problem(reason, Cause.SHARED, hierarchy.directory)
    if code == errno.ENOENT:
        return Problem(f"the kernel does not have it, or its parent does not pass it on ({said})", Cause.NO_CONTROLLER)
    return Problem(f"{os.strerror(code)} ({said})", cause_of(code), hierarchy.directory)


def _not_delegated(hierarchy: Hierarchy) -> Cause:
    if hierarchy.version == V2:
        return Cause.NOT_DELEGATED_ROOT if hierarchy.real_root else Cause.NOT_DELEGATED
    return Cause.NOT_DELEGATED_CPUSET if "cpuset" in hierarchy.controllers else Cause.NOT_DELEGATED_V1


def cause_of(code: int) -> Cause:
    """Of a refusal that is no matter of rights or of other processes; cgroup_mkdir and mem_cgroup_alloc of the kernel."""
    known = {
        errno.ENOENT: Cause.NO_FILE,
        errno.EAGAIN: Cause.MOST_CGROUPS,
        errno.ENOSPC: Cause.NO_ROOM,
        errno.ENOMEM: Cause.NO_ROOM,
    }
    return known.get(code, Cause.CGROUP)


def _what(path: str) -> str:
    """The file, or mkdir: a run's directories have another name in each run, and reasons are to be the same."""
    name = os.path.basename(path)
    if name.startswith((RUN_PREFIX, CONTROLLER_PREFIX)):
        return "mkdir: "
    return f"{name}: " if name else ""
