"""Filters of system calls: nothing in a sandbox may change what is mounted, nor go around its limits. Imports `_linux` only.

Sources: seccomp(2), ioctl_nsfs(2), packet(7), prlimit(2), Documentation/userspace-api/seccomp_filter.rst,
include/uapi/linux/{filter,if_packet}.h.
"""

from __future__ import annotations

import dataclasses
import errno
import struct
from collections.abc import Sequence

from pytest_sandbox._linux import syscalls

_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06  # BPF_LD|W|ABS, ALU|AND|K, JMP|JEQ|K, JMP|JGT|K, RET|K
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
#: The ways out of a program, which stand at its end.
_ENDS = {"allow": _ALLOW, "denied": _ERRNO | errno.EPERM, "unknown": _ERRNO | errno.ENOSYS}

#: An instruction: what, where to go on if so, and if not (a label, an end, or "next"), and with what. Text: a label.
_Line = tuple[int, str, str, int] | str


@dataclasses.dataclass(frozen=True, slots=True)
class _Machine:
    """AUDIT_ARCH_*, and numbers of calls; open_by_handle_at opens namespaces too."""

    arch: int
    ioctl: int
    mounting: tuple[int, ...]  # mount, umount2, pivot_root, open_by_handle_at
    socket: int
    setsockopt: int
    prlimit64: int


_MACHINES = {
    "x86_64": _Machine(0xC000_003E, 16, (165, 166, 155, 304), 41, 54, 302),
    "aarch64": _Machine(0xC000_00B7, 29, (40, 39, 41, 265), 198, 208, 261),
}
#: open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, open_tree_attr: the same on every machine.
_EVERYWHERE = (428, 429, 430, 431, 432, 433, 442, 467)
#: The newest call that was looked at (file_setattr, Linux 6.17): what came later may mount in a way of its own. New flags and
#: requests of older calls are to be looked at too when this is raised.
_LAST = 469
#: NS_MNT_GET_NEXT and NS_MNT_GET_PREV without the size of what they return: the way to other mount namespaces.
_REQUESTS = (0xB70B, 0xB70C)
#: From here on calls of x32, another way to say the same on x86_64.
_X32 = 0x4000_0000
_AF_XDP, _SOL_PACKET = 44, 263
#: PACKET_RX_RING and PACKET_TX_RING, whose memory no cgroup counts; PACKET_QDISC_BYPASS, to send past the limit of bandwidth.
_PACKET_OPTIONS = (5, 13, 20)


def forbid_mounts() -> None:
    """EPERM from now on for every call that changes what is mounted, whatever capabilities the caller may come to have.

    For this thread and all that it makes. It must not be able to gain privileges (PR_SET_NO_NEW_PRIVS). Calls of another
    architecture (a 32-bit program's), and calls newer than this list, are ENOSYS. OSError: the kernel has no filters.
    """
    machine = _MACHINES[syscalls.MACHINE]
    syscalls.set_filter(
        _program(
            [
                (_LOAD, "next", "next", _ARCH),
                (_EQUAL, "next", "unknown", machine.arch),
                (_LOAD, "next", "next", _NUMBER),
                (_GREATER, "unknown", "next", _LAST),
                *((_EQUAL, "denied", "next", number) for number in (*machine.mounting, *_EVERYWHERE)),
                (_EQUAL, "next", "allow", machine.ioctl),
                (_LOAD, "next", "next", _argument(1)),
                (_AND, "next", "next", 0xFFFF),
                *((_EQUAL, "denied", "next", request) for request in _REQUESTS),
            ]
        )
    )


def forbid_evasion() -> None:
    """EPERM from now on for what goes around limits: packet rings, sockets of AF_XDP, and other limits for pid 1, our init.

    As `forbid_mounts`, but calls of a 32-bit program are as they were.
    """
    machine = _MACHINES[syscalls.MACHINE]
    syscalls.set_filter(
        _program(
            [
                (_LOAD, "next", "next", _ARCH),
                (_EQUAL, "next", "allow", machine.arch),
                (_LOAD, "next", "next", _NUMBER),
                (_GREATER, "unknown", "next", _X32 - 1),
                (_EQUAL, "prlimit64", "next", machine.prlimit64),
                (_EQUAL, "socket", "next", machine.socket),
                (_EQUAL, "next", "allow", machine.setsockopt),
                (_LOAD, "next", "next", _argument(1)),
                (_EQUAL, "next", "allow", _SOL_PACKET),
                (_LOAD, "next", "next", _argument(2)),
                *((_EQUAL, "denied", "next", option) for option in _PACKET_OPTIONS[:-1]),
                (_EQUAL, "denied", "allow", _PACKET_OPTIONS[-1]),
                "socket",
                (_LOAD, "next", "next", _argument(0)),
                (_EQUAL, "denied", "allow", _AF_XDP),
                "prlimit64",
                (_LOAD, "next", "next", _argument(0)),
                (_EQUAL, "next", "allow", 1),
                (_LOAD, "next", "next", _argument(2)),
                (_EQUAL, "next", "denied", 0),
                (_LOAD, "next", "next", _argument(2) + 4),
                (_EQUAL, "allow", "denied", 0),
            ]
        )
    )


def _argument(index: int) -> int:
    """The offset of the lower half of an argument: both machines are little-endian."""
    return 16 + 8 * index


def _program(lines: Sequence[_Line]) -> bytes:
    """struct sock_filter[]. Who comes to the end of the lines is allowed."""
    code, labels = list[tuple[int, str, str, int]](), dict[str, int]()
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(code)
        else:
            code.append(line)
    labels |= {name: len(code) + index for index, name in enumerate(_ENDS)}

    def jump(at: int, where: str) -> int:
        return 0 if where == "next" else labels[where] - at - 1

    done = [struct.pack("=HBBI", what, jump(at, yes), jump(at, no), k) for at, (what, yes, no, k) in enumerate(code)]
    return b"".join([*done, *(struct.pack("=HBBI", _RETURN, 0, 0, value) for value in _ENDS.values())])
