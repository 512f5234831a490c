"""A scope of systemd's for this process, where its cgroup cannot be divided. Imports `model`, `layout`, `files`.

Version 2 forbids it where other processes share the cgroup (a shell, make, nox), or where it is root's (a login session). A scope
with Delegate=yes is what systemd offers then (its CGROUP_DELEGATION.md); this process stays in it until it ends, as a user cannot
go back, and systemd removes it when it is empty.

It is asked for only where nothing is lost by leaving: from below user.slice, for a scope in the same slice, if the cgroups left
bound nothing; and it ends with the unit that it comes from (docs/internals/decisions.md). The library for D-Bus is an extra,
pytest-sandbox[systemd], and not imported before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import itertools
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from typing import Any

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox._linux.proc import parse_cgroup
from pytest_sandbox.model.capability import Cause
from pytest_sandbox.primitives.cgroups.files import read
from pytest_sandbox.primitives.cgroups.layout import SCOPE_PREFIX, Hierarchy, Problem

SECONDS = 10.0
"""How long systemd, and the bus before it, may take to answer: 17 to 60 ms in a guest under User-Mode Linux (measured)."""

_BOOTED = "/run/systemd/system"
"""There where systemd is pid 1: sd_booted(3)."""
_BOUNDS = (
    "memory.max", "memory.high", "memory.swap.max", "memory.zswap.max", "cpu.max", "cpuset.cpus", "cpuset.mems", "io.max",
    "hugetlb.*.max", "misc.max", "dmem.max", "rdma.max",
)  # fmt: skip
"""What would no longer hold for a process that leaves its cgroup. Not pids.max: the scope gets the same."""
_INFINITY = (1 << 64) - 1
_MANAGER = "org.freedesktop.systemd1"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a scope would be, and what would be left for it.

    slice: of the manager that is asked, "" for its default. unit: of the same manager's, "" where another has it. depth: how many
    cgroups are left, this process's own and those around it.
    """

    slice: str
    unit: str
    depth: int


def find_place(path: str, uid: int) -> Place | None:
    """By the path of this process's cgroup; None where it is no session or unit of this user's, or for root of any user's.

    A user's own manager is asked, which knows the units below user@UID.service; the system's knows those above. What a unit has
    below itself is a manager's of another kind, such as a container engine, from whom nothing is taken away.
    """
    parts = path.strip("/").split("/")
    if parts[0] != "user.slice" or not parts[-1].endswith((".scope", ".service")):
        return None
    if uid != 0:
        if parts[1] != f"user-{uid}.slice":
            return None
        if parts[2] != f"user@{uid}.service":
            return Place("", "", len(parts) - 2)
        parts = parts[3:]
    slices = list(itertools.takewhile(lambda part: part.endswith(".slice"), parts))
    inner = parts[len(slices) :]
    return Place(slices[-1] if slices else "", inner[0] if inner else "", len(inner))


def ask(hierarchy: Hierarchy) -> Problem | None:
    """Have systemd move this process into a scope of its own; why that was not to be, None where it is done.

    For a process whose cgroup cannot be divided. A cgroup is asked for once: a later call for the same one answers the same.
    """
    return _ask(hierarchy.path, hierarchy.directory)


def booted() -> bool:
    """Whether there is a systemd to ask."""
    return os.path.isdir(_BOOTED)


@functools.cache
def _ask(path: str, directory: str) -> Problem | None:
    place = find_place(path, os.geteuid())
    if place is None:
        return Problem(f"systemd is not asked for a scope: {path} is no session or unit of this user's", Cause.NO_SCOPE)
    left = list(itertools.islice(_upwards(directory), place.depth))
    bound = next(_bounds(left), None)
    if bound is not None:
        return Problem(f"systemd is not asked for a scope: pytest would escape {bound}", Cause.BOUNDED)
    name = f"{SCOPE_PREFIX}{os.getpid()}-{secrets.token_hex(4)}.scope"
    try:
        start_scope(name, place, tasks=_tasks(left))
    except ImportError:
        return Problem("systemd cannot be asked for a scope without jeepney", Cause.NO_JEEPNEY)
    except Exception as error:  # noqa: BLE001  whatever a bus, and the library, may raise is a reason
        return Problem(f"systemd gave no scope: {type(error).__name__} {error}".rstrip(), Cause.NO_SCOPE)
    if not _own_path().endswith(f"/{name}"):
        return Problem(f"systemd made {name}, but this process is not in it", Cause.NO_SCOPE)
    return None


def _upwards(directory: str) -> Iterator[str]:
    while True:
        yield directory
        directory = os.path.dirname(directory)


def _words(path: str) -> list[str]:
    try:
        return read(path).decode().split()
    except OSError:
        # A controller that is not passed on to here bounds nothing.
        return []


def _bounds(left: list[str]) -> Iterator[str]:
    for directory, pattern in itertools.product(left, _BOUNDS):
        for name in glob.glob(pattern, root_dir=directory):
            if _is_bound(name, _words(f"{directory}/{name}")):
                yield f"{name} of {os.path.basename(directory)}"


def _is_bound(name: str, words: list[str]) -> bool:
    """Whether a file of limits has one; of some controllers it names each resource, with its limit (cgroup-v2.rst)."""
    if name in ("misc.max", "dmem.max"):
        return any(word != "max" for word in words[1::2])
    if name == "rdma.max":
        return any("=" in word and not word.endswith("=max") for word in words)
    return words[:1] not in ([], ["max"])


def _tasks(left: list[str]) -> int:
    """The least pids.max of these cgroups."""
    bounds = (word for directory in left for word in _words(f"{directory}/pids.max") if word != "max")
    return min(map(int, bounds), default=_INFINITY)


def _own_path() -> str:
    lines = parse_cgroup(os.fsdecode(read("/proc/self/cgroup")))
    return next((path for number, key, path in lines if number == "0" and not key), "")


def bus_address() -> str:
    """Where this user's manager is on a bus.

    That of the runtime directory first: a session bus of another kind (dbus-run-session) has no systemd on it. What starts tests
    in a clean environment (tox) leaves neither variable; pam_systemd(8) has the directory's name.
    """
    if os.geteuid() == 0:
        return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    path = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}") + "/bus"
    return f"unix:path={path}" if os.path.exists(path) else os.environ.get("DBUS_SESSION_BUS_ADDRESS", f"unix:path={path}")


def start_scope(name: str, place: Place, *, tasks: int) -> None:
    """Have systemd make a scope with this process in it, and wait until that is done.

    Raises ImportError without the library, OSError (TimeoutError) where the bus does not answer, RuntimeError where systemd
    refuses. org.freedesktop.systemd1(5): StartTransientUnit, JobRemoved.
    """
    from jeepney import DBusAddress, MatchRule, MessageType, message_bus, new_method_call

    deadline = monotonic() + SECONDS
    properties = _properties(place, tasks)
    manager = DBusAddress("/org/freedesktop/systemd1", bus_name=_MANAGER, interface=f"{_MANAGER}.Manager")
    removed = MatchRule(type="signal", interface=manager.interface, member="JobRemoved", path=manager.object_path)
    with contextlib.closing(_connect(deadline)) as connection:

        def call(message: object) -> tuple[object, ...]:
            reply = connection.send_and_get_reply(message, timeout=deadline - monotonic())
            if reply.header.message_type is MessageType.error:
                raise RuntimeError(" ".join(map(str, reply.body)))
            return tuple(reply.body)

        call(message_bus.AddMatch(removed))
        with connection.filter(removed, bufsize=None) as signals:
            (job,) = call(new_method_call(manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "fail", properties, [])))
            result = None
            while result is None:
                _, path, _, said = connection.recv_until_filtered(signals, timeout=deadline - monotonic()).body
                result = said if path == job else None
    if result != "done":
        raise RuntimeError(f"{name}: {result}")


def _connect(deadline: float) -> Any:  # noqa: ANN401  # jeepney has no types
    """A connection to the bus. jeepney bounds the authentication, but not the greeting after it: for that the line is cut."""
    from jeepney.bus import get_bus
    from jeepney.io.blocking import DBusConnection, prep_socket

    sock = prep_socket(get_bus(bus_address()), timeout=SECONDS)
    cut = threading.Timer(deadline - monotonic(), sock.shutdown, [socket.SHUT_RDWR])
    cut.start()
    try:
        return DBusConnection(sock)
    except BaseException:
        sock.close()
        raise
    finally:
        cut.cancel()
        cut.join()


def _properties(place: Place, tasks: int) -> list[tuple[str, tuple[str, object]]]:
    """systemd.scope(5), systemd.unit(5). A process is meant by 0: the sender, in whichever pid namespace it is."""
    properties: list[tuple[str, tuple[str, object]]] = [
        ("Description", ("s", "pytest --sandbox")),
        ("PIDs", ("au", [0])),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TasksMax", ("t", tasks)),
    ]
    if place.slice:
        properties.append(("Slice", ("s", place.slice)))
    if place.unit:
        # A service ends with its main process, whatever else is in it; a scope lives as long as anything in it.
        bond = "BindsTo" if place.unit.endswith(".service") else "PartOf"
        properties.append((bond, ("as", [place.unit])))
    return properties
