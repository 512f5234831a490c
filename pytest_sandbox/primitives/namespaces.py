"""User namespaces: who a process is inside, and how its ids are mapped. Imports `_linux` only.

Sources: user_namespaces(7), mount_setattr(2) (ID-mapped mounts).
"""

from __future__ import annotations

import enum
import functools
import os

from pytest_sandbox._linux.flags import Clone

# An unused range of the host's ids, above what distributions, systemd and containers give out (systemd's UIDS-GIDS.md
# ends dynamic ranges at 0x77777777); nothing on disk ever carries one of them.
HOST_BASE = 0x7A6B_0000
MAPPED_IDS = 65536


class Identity(enum.Enum):
    """Who a sandbox's processes are on the machine.

    MAPPED: started as root, ids on an unused host range. SAME: started as root where the tree cannot be id-mapped; each id is
    itself. USER: started as an ordinary user, who is mapped to himself.
    """

    MAPPED = "id-mapped"
    SAME = "identity"
    USER = "user"


def same_ids(text: str) -> str:
    """Lines for a uid_map or gid_map that map each id to itself that this text of that file has.

    All ids on a machine of one's own, but some only in the user namespace of a container, where to name another is EPERM.
    """
    ranges = (line.split() for line in text.splitlines())
    return "\n".join(f"{first} {first} {count}" for first, _, count in ranges)


def id_map(identity: Identity, depth: int, inside: int, same: str) -> str:
    """The lines for uid_map or gid_map of the namespace at `depth` (0 is the outermost), for a caller with id `inside`.

    same: what `same_ids` says of the caller's own.
    """
    if identity is Identity.USER:
        return f"{inside} {inside} 1"
    if identity is Identity.SAME:
        return same
    return f"0 {HOST_BASE if depth == 0 else 0} {MAPPED_IDS}"


def maps(identity: Identity, depth: int, uid: int, gid: int) -> dict[str, str]:
    """What goes into which file of /proc/PID, in this order; "" is nothing. For the controller, whose own ids SAME is about."""
    deny = "deny" if identity is Identity.USER else ""
    ids = {"uid_map": uid, "gid_map": gid}
    return {"setgroups": deny} | {name: id_map(identity, depth, inside, _own(name)) for name, inside in ids.items()}


@functools.cache
def _own(name: str) -> str:
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        return same_ids(file.read())


def write_maps(pid: int | str, identity: Identity, depth: int, uid: int, gid: int) -> None:
    """Give the user namespace of process `pid` its ids. OSError: EPERM where the caller may not (see the doctor)."""
    for name, text in maps(identity, depth, uid, gid).items():
        if text:
            _write(f"/proc/{pid}/{name}", text)


def fresh(*, shares_network: bool) -> Clone:
    """The namespaces that a sandbox is cloned into; a cgroup namespace begins later, where its main process is."""
    flags = Clone.NEWUSER | Clone.NEWNS | Clone.NEWPID | Clone.NEWIPC | Clone.NEWUTS
    return flags if shares_network else flags | Clone.NEWNET


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
