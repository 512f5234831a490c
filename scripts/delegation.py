"""Cgroups of an ordinary user's own, as systemd gives them to a session, made by root for the length of a run.

Without them a user's sandboxes have no limits of memory and processes, and nothing is read about usage: tests of these would
be skipped. Imports only the standard library. See cgroups(7) and Documentation/admin-guide/cgroup-v2.rst, "Delegation".
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# A new cpuset is empty, and takes nobody; the others of v1 limit nothing that a sandbox needs.
CONTROLLERS = {"memory", "pids", "cpu", "cpuacct", "blkio"}
# What a delegatee may write; limits of the delegated cgroup itself stay root's.
FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "tasks")


#: The environment's name for a cgroup with controllers and no processes, for who is started in another (tests/vm/init.sh).
GIVEN = "SANDBOX_TESTS_CGROUP"


def own_cgroups() -> list[Path]:
    """Where this process is in each hierarchy that matters, as far as the hierarchy is mounted from its root."""
    mounted: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in {"cgroup", "cgroup2"} and before.split()[3] == "/":
            controllers = CONTROLLERS & set(options.split(",")) if kind == "cgroup" else {""}
            mounted |= dict.fromkeys(controllers, Path(before.split()[4]))
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        mounts = {mounted[name] for name in names.split(",") if name in mounted}
        found += [mount / path.lstrip("/") for mount in mounts]
    return sorted(found)


@contextlib.contextmanager
def delegated(uid: int | None) -> Iterator[list[Path]]:
    """New cgroups that belong to `uid`, below those of this process; removed at the end, with what is in them.

    An empty list for nobody (None), and where this machine lets nobody make cgroups here, as in most containers. Where one is
    GIVEN, of version 2, even root gets one below that, and in there a leaf to be in: a cgroup with processes can give controllers
    to none below. The leaf is called as a controller's, so that the pytests that the suite starts make their cgroups beside it.
    """
    given = os.environ.get(GIVEN)
    with contextlib.ExitStack() as undo:
        found = []
        for parent in [Path(given)] if given else own_cgroups() if uid is not None else ():
            path = parent / f"sandbox-tests-{os.getpid()}"
            try:
                path.mkdir()
            except OSError:
                continue
            undo.callback(remove, path)
            _give(path, uid or 0)
            if given:
                controllers = (path / "cgroup.controllers").read_text().split()
                (path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
                path /= "pytest-sandbox-controller-suite"
                path.mkdir()
                undo.callback(remove, path)
                _give(path, uid or 0)
            found.append(path)
        yield found


def _give(cgroup: Path, uid: int) -> None:
    for owned in (cgroup, *(cgroup / name for name in FILES if (cgroup / name).exists())):
        os.chown(owned, uid, uid)


_INTO_A_LEAF = """
set -e
scope=/sys/fs/cgroup$(cut -d: -f3- /proc/self/cgroup)
mkdir "$scope/pytest-sandbox-controller-suite"
echo $$ >"$scope/pytest-sandbox-controller-suite/cgroup.procs"
for name in $(cat "$scope/cgroup.controllers"); do echo "+$name" >"$scope/cgroup.subtree_control"; done
exec "$@"
"""


def scope(uid: int | None) -> list[str]:
    """What to put before a command for systemd to run it in a delegated scope: the user's manager, or for None the system's.

    There it is in a leaf, for the reason that `delegated` has. Version 2 only.
    """
    manager = [] if uid is None else ["--user"]
    bus = [] if uid is None else ["env", f"XDG_RUNTIME_DIR=/run/user/{uid}"]
    return [*bus, "systemd-run", *manager, "--scope", "--quiet", "--property=Delegate=yes", "sh", "-c", _INTO_A_LEAF, "sh"]


@contextlib.contextmanager
def inside(cgroups: Sequence[Path]) -> Iterator[None]:
    """Be in these cgroups while a child is started, which then stays there."""
    homes = {home.stat().st_dev: home for home in (own_cgroups() if cgroups else ())}  # each hierarchy is a device of its own
    with contextlib.ExitStack() as undo:
        for path in cgroups:
            undo.callback((homes[path.stat().st_dev] / "cgroup.procs").write_text, "0")
            (path / "cgroup.procs").write_text("0")
        yield


def remove(cgroup: Path) -> None:
    """Remove a cgroup and those below it; says so where a run has left something in it."""
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")
    inner = sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True)
    if inner:
        print(f"left behind: {len(inner)} cgroups in {cgroup}", flush=True)
    for path in [*inner, cgroup]:
        for _ in range(100):
            try:
                path.rmdir()
                break
            except OSError:
                # The last process may not have been reaped yet: EBUSY.
                time.sleep(0.01)
