"""What a machine can do: `Capability`, and the `Cause` of what it cannot. Imports nothing.

Whoever finds that something is missing names reason and cause; what would change it depends on the kind of host as well, which is
known above (`sandbox.fixes`).
"""

from __future__ import annotations

import dataclasses
import enum


@dataclasses.dataclass(frozen=True, slots=True)
class Capability:
    """Something a sandbox needs of the machine: whether it is there, how or why not, and what would change that."""

    name: str
    available: bool
    reason: str = ""
    fix: str = ""


class Cause(enum.Enum):
    """Why something is missing, as far as it decides what to do about it. Some come with a detail: see there."""

    # Of sandboxes as a whole.
    OLD_KERNEL = enum.auto()
    NOT_BUILT = enum.auto()
    FEW_FILES = enum.auto()
    """This process may have too few open files. Detail: how many it needs."""
    SMALL_FILES = enum.auto()
    """No file of this process may be large enough."""
    DEAF = enum.auto()
    """This process ignores SIGCHLD, so that the ends of its children are not told: wait(2)."""
    NO_PROC = enum.auto()
    """There is no /proc, or that of another pid namespace."""
    SEE_ABOVE = enum.auto()
    # Of namespaces and mounts.
    COUNT = enum.auto()
    """A sysctl of user.max_*_namespaces has too small a number. Detail: its name."""
    USERNS_CLONE = enum.auto()
    """Debian's sysctl."""
    APPARMOR = enum.auto()
    """Ubuntu's restriction of user namespaces."""
    PROFILE = enum.auto()
    """An AppArmor profile that pytest is confined by, as engines have one."""
    SECCOMP = enum.auto()
    NO_ADMIN = enum.auto()
    """Root lacks CAP_SYS_ADMIN."""
    MASKED = enum.auto()
    CHROOT = enum.auto()
    REFUSED = enum.auto()
    """Nothing tells who refused."""
    LOCKED = enum.auto()
    """Root of a user namespace among mounts of another one's."""
    STACKED = enum.auto()
    """A third overlay on two. Detail: the directory."""
    NO_ATTRIBUTES = enum.auto()
    """No user attributes on a tmpfs. Detail: a directory that has them."""
    NO_FILTER = enum.auto()
    """No token bucket filter."""
    NO_MEMFD = enum.auto()
    """No program may lie in memory."""
    # Of cgroups.
    READ_ONLY = enum.auto()
    """The cgroup file system is mounted so. Detail: where."""
    NOT_DELEGATED = enum.auto()
    """Of version 2."""
    NOT_DELEGATED_ROOT = enum.auto()
    """The same, of the real root, which passes controllers on though processes are in it."""
    NOT_DELEGATED_V1 = enum.auto()
    NOT_DELEGATED_CPUSET = enum.auto()
    """Of version 1, in the hierarchy that has cpuset. Detail of all four: the directory."""
    SHARED = enum.auto()
    """Other processes are in the cgroup. Detail: the directory."""
    NOT_PASSED_ON = enum.auto()
    """Cgroups above have a controller and do not pass it on. Detail: what to write, and the files, from the top."""
    SHARED_ABOVE = enum.auto()
    """The same, and the first of them cannot: processes are in it. Detail: its directory."""
    OUTSIDE = enum.auto()
    """The process's cgroup is not below the root of its cgroup namespace, or not to be seen."""
    FOREIGN = enum.auto()
    """The cgroup file system is of another cgroup namespace: one of the host's, as a volume."""
    UNMOUNTED = enum.auto()
    """Detail: the directory below /sys/fs/cgroup where it belongs, by its controllers; "" where there is but one hierarchy."""
    NO_CONTROLLER = enum.auto()
    """No cgroup that is to be seen has it. Detail: its name."""
    VERSION_1 = enum.auto()
    """What version 1 does not have."""
    NO_FILE = enum.auto()
    """A controller's file that this kernel does not have, or that it has without what is sought."""
    NO_DISK = enum.auto()
    """None is to be seen, so that nothing can be limited."""
    NO_HUGE_PAGES = enum.auto()
    NO_SWAP = enum.auto()
    NO_SCOPE = enum.auto()
    """systemd would make a scope if it were asked otherwise."""
    BOUNDED = enum.auto()
    """The same, but a limit would be left behind."""
    NO_JEEPNEY = enum.auto()
    MOST_CGROUPS = enum.auto()
    """A cgroup above may not have so many below it, or not so deep. Detail: the directory."""
    NO_ROOM = enum.auto()
    """The kernel has no room for another cgroup."""
    CGROUP = enum.auto()
    """Any other refusal."""
