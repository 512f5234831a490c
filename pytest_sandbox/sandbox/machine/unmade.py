"""Why a sandbox could not be made though each of its parts can be had: by this machine's mounts. Imports `probes`, `layout`."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Sequence

from pytest_sandbox._linux import proc, syscalls
from pytest_sandbox._linux.flags import Clone
from pytest_sandbox.model.capability import Capability, Cause
from pytest_sandbox.model.errors import SetupError
from pytest_sandbox.primitives import mounts, process
from pytest_sandbox.primitives.namespaces import Identity, write_maps
from pytest_sandbox.sandbox.files.layout import Layout
from pytest_sandbox.sandbox.machine import causes
from pytest_sandbox.sandbox.machine.probes import lacks, try_in_child


def explain(error: Exception, layout: Layout | None) -> Capability:
    """The capability "sandbox", which is not there because of `error`. layout: None where already that could not be made."""
    text = str(error)
    if layout is None:
        return lacks("sandbox", text, Cause.SEE_ABOVE)
    number = error.errno if isinstance(error, (SetupError, OSError)) else None
    if number == errno.EINVAL and text.startswith("mount overlay"):
        path = _stacked(text, layout)
        if path is not None:
            rule = f"a third overlay on two ({path} lies on an overlay on an overlay: FILESYSTEM_MAX_STACK_DEPTH is 2)"
            return lacks("sandbox", f"EINVAL of mount(2): {rule}", Cause.STACKED, path)
    if number == errno.EINVAL and text.startswith("open_tree") and layout.identity is not Identity.USER:
        rule = "root of a user namespace, among mounts that belong to another and are locked together (mount_namespaces(7))"
        return lacks("sandbox", f"EINVAL of open_tree(2): {rule}", Cause.LOCKED)
    if number == errno.EPERM and text.startswith("pivot_root") and (filtered := causes.of_filter()):
        # As Docker's does of a root with CAP_SYS_ADMIN: containers/profiles, seccomp_default.go.
        rule = f"{filtered.rule}, which allows mount(2) and not this"
        return lacks("sandbox", f"EPERM of pivot_root(2): {rule}", filtered.cause)
    found = of_process(error) or ((error.reason, error.fix) if isinstance(error, SetupError) and error.fix else None)
    return Capability("sandbox", False, *found) if found else lacks("sandbox", text, Cause.SEE_ABOVE)


_MAPS = re.compile(r"/proc/\d+/(setgroups|[ug]id_map)\b")


def of_process(error: Exception) -> tuple[str, str] | None:
    """The reason and the fix, where it is how this process is: whoever may not be dumped has files in /proc that are root's."""
    if not isinstance(error, SetupError) or error.errno != errno.EACCES or not _MAPS.match(error.step) or process.is_dumpable():
        return None
    fix = "call no prctl(PR_SET_DUMPABLE, 0) in conftest files and plugins, but in tests or their fixtures"
    python = "where Python is a file that its user may execute and not read, let him read it"
    why = f"{error.reason}: pytest's process is not dumpable (prctl(2)), and so its files in /proc are root's"
    return why, f"{fix}; {python}"


_TARGET = re.compile(r" on (\S+) \(")


def _stacked(text: str, layout: Layout) -> str | None:
    """The tree on which an overlay was refused, if it is one on which there can be none."""
    match = _TARGET.search(text)
    target = (match[1].removeprefix(layout.root) or "/") if match else "/"
    error = try_in_child(lambda: _overlay(target))
    return target if error is not None and error.errno == errno.EINVAL else None


def _overlay(path: str) -> None:
    """Mount an overlay over a directory of the file system at `path` that has no mounts below, which would be EINVAL as well."""
    points = [entry.point for entry in proc.visible(proc.mounts())]
    lower = _without_mounts(path, points)
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(Clone.NEWNS if uid == 0 else Clone.NEWUSER | Clone.NEWNS)
    if uid != 0:
        write_maps("self", Identity.USER, 0, uid, gid)
    mounts.make_private()
    below = os.open(lower, os.O_PATH)
    place = tempfile.gettempdir()
    syscalls.mount("tmpfs", place, "tmpfs")
    for name in ("upper", "work", "merged"):
        os.mkdir(f"{place}/{name}")
    data = f"userxattr,lowerdir=/proc/self/fd/{below},upperdir={place}/upper,workdir={place}/work"
    syscalls.mount("overlay", f"{place}/merged", "overlay", 0, data)


def _without_mounts(path: str, points: Sequence[str]) -> str:
    def has_mounts(one: str) -> bool:
        return any(point.startswith(f"{one.rstrip('/')}/") for point in points)

    if not has_mounts(path):
        return path
    below = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    return next((one for one in sorted(below) if one not in points and not has_mounts(one)), path)
