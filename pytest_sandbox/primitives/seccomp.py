"""A filter of system calls: nothing in a sandbox may change what is mounted. Imports `_linux` only.

Sources: seccomp(2), ioctl_nsfs(2), Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/filter.h.
"""

from __future__ import annotations

import errno
import struct

from pytest_sandbox._linux import syscalls

_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06  # BPF_LD|W|ABS, ALU|AND|K, JMP|JEQ|K, JMP|JGT|K, RET|K
_NUMBER, _ARCH, _REQUEST = 0, 4, 24  # offsets in struct seccomp_data: nr, arch, and the lower half of args[1]
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000

#: AUDIT_ARCH_*, ioctl's number, and those of mount, umount2, pivot_root and open_by_handle_at (which opens namespaces too).
_MACHINES = {"x86_64": (0xC000_003E, 16, (165, 166, 155, 304)), "aarch64": (0xC000_00B7, 29, (40, 39, 41, 265))}
#: open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, open_tree_attr: the same on every machine.
_EVERYWHERE = (428, 429, 430, 431, 432, 433, 442, 467)
#: The newest call that was looked at (file_setattr, Linux 6.17): what came later may mount in a way of its own. New flags and
#: requests of older calls are to be looked at too when this is raised.
_LAST = 469
#: NS_MNT_GET_NEXT and NS_MNT_GET_PREV without the size of what they return: the way to other mount namespaces.
_REQUESTS = (0xB70B, 0xB70C)


def forbid_mounts() -> None:
    """EPERM from now on for every call that changes what is mounted, whatever capabilities the caller may come to have.

    For this thread and all that it makes. It must not be able to gain privileges (PR_SET_NO_NEW_PRIVS). Calls of another
    architecture (a 32-bit program's), and calls newer than this list, are ENOSYS. OSError: the kernel has no filters.
    """
    syscalls.set_filter(_program(*_MACHINES[syscalls.MACHINE]))


def _program(arch: int, ioctl: int, numbers: tuple[int, ...]) -> bytes:
    """struct sock_filter[]: the three ways out stand at the end, in the order of `ends`."""
    ends = ("allow", "denied", "unknown")
    code = [
        (_LOAD, "next", "next", _ARCH),
        (_EQUAL, "next", "unknown", arch),
        (_LOAD, "next", "next", _NUMBER),
        (_GREATER, "unknown", "next", _LAST),
        *((_EQUAL, "denied", "next", number) for number in (*numbers, *_EVERYWHERE)),
        (_EQUAL, "next", "allow", ioctl),
        (_LOAD, "next", "next", _REQUEST),
        (_AND, "next", "next", 0xFFFF),
        *((_EQUAL, "denied", "next", request) for request in _REQUESTS),
    ]

    def jump(at: int, where: str) -> int:
        return 0 if where == "next" else len(code) + ends.index(where) - at - 1

    lines = [struct.pack("=HBBI", what, jump(at, yes), jump(at, no), k) for at, (what, yes, no, k) in enumerate(code)]
    returned = (_ALLOW, _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS)
    return b"".join([*lines, *(struct.pack("=HBBI", _RETURN, 0, 0, value) for value in returned)])
