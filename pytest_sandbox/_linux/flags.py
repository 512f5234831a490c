"""Flags of the system calls, as IntFlags and IntEnums under the kernel's own names (include/uapi/linux)."""

from __future__ import annotations

import enum


class Clone(enum.IntFlag):
    """Namespace flags of clone3(2), unshare(2) and setns(2)."""

    NEWNS = 0x0002_0000
    NEWCGROUP = 0x0200_0000
    NEWUTS = 0x0400_0000
    NEWIPC = 0x0800_0000
    NEWUSER = 0x1000_0000
    NEWPID = 0x2000_0000
    NEWNET = 0x4000_0000


class Mount(enum.IntFlag):
    """Flags of mount(2)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    BIND = 4096
    REC = 16384
    PRIVATE = 1 << 18


class Attr(enum.IntFlag):
    """Attributes of mount_setattr(2)."""

    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    IDMAP = 0x0010_0000


class At(enum.IntFlag):
    """Flags of open_tree(2), move_mount(2) and mount_setattr(2), each under its own name there."""

    OPEN_TREE_CLONE = 0x1
    OPEN_TREE_CLOEXEC = 0o2000000
    MOVE_MOUNT_F_EMPTY_PATH = 0x4
    EMPTY_PATH = 0x1000
    RECURSIVE = 0x8000


AT_FDCWD = -100
MNT_DETACH = 2


class Prctl(enum.IntEnum):
    """Operations of prctl(2)."""

    SET_PDEATHSIG = 1
    GET_DUMPABLE = 3
    SET_DUMPABLE = 4
    SET_SECCOMP = 22
    CAPBSET_READ = 23
    CAPBSET_DROP = 24
    SET_NO_NEW_PRIVS = 38
    CAP_AMBIENT = 47


PR_CAP_AMBIENT_RAISE = 2


class Cap(enum.IntEnum):
    """Capabilities of capabilities(7); only those that the package names."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    FOWNER = 3
    FSETID = 4
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_BIND_SERVICE = 10
    NET_RAW = 13
    SYS_CHROOT = 18
    MKNOD = 27
    AUDIT_WRITE = 29
    SETFCAP = 31
