"""System calls that Python's os module lacks, as functions that raise OSError with the call and its object.

Each is named as in section 2 of the manual. Source: the man page of that name and include/uapi/linux.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from os import strerror
from typing import Any

from pytest_sandbox._linux._abi import ffi
from pytest_sandbox._linux.flags import AT_FDCWD, PR_CAP_AMBIENT_RAISE, At, Attr, Clone, Mount, Prctl

_libc: Any = ffi.dlopen(None)

#: Asked when this is imported: what a fixture makes of `platform` later is no business of ours.
MACHINE = platform.machine()

# From clone3 on every architecture gives a call the same number; pivot_root is older than that.
_OPEN_TREE, _MOVE_MOUNT, _CLONE3, _MOUNT_SETATTR = 428, 429, 435, 442
_PIVOT_ROOT = {
    "x86_64": 155, "aarch64": 41, "riscv64": 41, "loongarch64": 41, "ppc64le": 203, "s390x": 217, "i686": 217,
    "armv7l": 218,
}  # fmt: skip
_KEYCTL = {
    "x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280, "i686": 288,
    "armv7l": 311,
}  # fmt: skip
_KEYCTL_JOIN_SESSION_KEYRING = 1
_CAPABILITY_VERSION_3 = 0x2008_0522
_SECCOMP_MODE_FILTER = 2
_SIGCHLD = 17
_EPOLL_CTL_ADD = 1
_EPOLL_EVENT = struct.Struct("=IQ" if MACHINE == "x86_64" else "=I4xQ")  # packed there
_MADV_COLLAPSE = 25


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ffi.errno, strerror(ffi.errno), what)
    return result


def _text(value: str | None) -> Any:
    return ffi.NULL if value is None else os.fsencode(value)


def _int(value: int) -> Any:
    """An int for a variadic call, which cffi cannot type by itself."""
    return ffi.cast("long", value)


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    result = _libc.mount(_text(source), _text(target), _text(fstype), flags, _text(data))
    if result < 0:  # not by _check: the text would be made each of a hundred times that nothing goes wrong
        _check(result, f"mount {fstype or 'bind'} {source or ''} on {target} ({data or Mount(flags).name or flags})")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_text(target), flags), f"umount2 {target}")


def unshare(flags: Clone) -> None:
    """unshare(2)."""
    _check(_libc.unshare(int(flags)), f"unshare {flags!r}")


def setns(fd: int, flags: Clone) -> None:
    """setns(2)."""
    _check(_libc.setns(fd, int(flags)), f"setns {flags!r}")


def prctl(option: Prctl, a: int = 0, b: int = 0) -> int:
    """prctl(2)."""
    result: int = _libc.prctl(int(option), a, b, 0, 0)
    return result if result >= 0 else _check(result, f"prctl {option.name} {a}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    number = _PIVOT_ROOT[MACHINE]
    new, old = ffi.new("char[]", _text(new_root)), ffi.new("char[]", _text(put_old))
    _check(_libc.syscall(number, new, old), f"pivot_root {new_root}")


def join_new_session_keyring() -> None:
    """keyctl(2), KEYCTL_JOIN_SESSION_KEYRING: an empty session keyring in the place of the inherited one."""
    number = _KEYCTL[MACHINE]
    _check(_libc.syscall(number, _int(_KEYCTL_JOIN_SESSION_KEYRING), ffi.NULL), "keyctl KEYCTL_JOIN_SESSION_KEYRING")


def open_tree(path: str, *, recursive: bool = False) -> int:
    """open_tree(2), of a detached clone of the mount at `path`, with what is mounted below if `recursive`; a descriptor."""
    flags = At.OPEN_TREE_CLONE | At.OPEN_TREE_CLOEXEC | (At.RECURSIVE if recursive else 0)
    return _check(_libc.syscall(_OPEN_TREE, _int(AT_FDCWD), ffi.new("char[]", _text(path)), _int(flags)), f"open_tree {path}")


def move_mount(tree: int, target: str) -> None:
    """move_mount(2), of the detached `tree` onto `target`."""
    empty = ffi.new("char[]", b"")
    result = _libc.syscall(
        _MOVE_MOUNT, _int(tree), empty, _int(AT_FDCWD), ffi.new("char[]", _text(target)), _int(At.MOVE_MOUNT_F_EMPTY_PATH)
    )
    _check(result, f"move_mount on {target}")


def mount_setattr(path: str | int, attributes: Attr, userns: int = 0, *, recursive: bool = False) -> None:
    """mount_setattr(2), setting `attributes` on the mount at a path or behind a descriptor."""
    attr = ffi.new("struct mount_attr *", {"attr_set": int(attributes), "userns_fd": userns})
    fd, name = (path, "") if isinstance(path, int) else (AT_FDCWD, path)
    flags = (At.EMPTY_PATH if isinstance(path, int) else 0) | (At.RECURSIVE if recursive else 0)
    result = _libc.syscall(
        _MOUNT_SETATTR, _int(fd), ffi.new("char[]", _text(name)), _int(flags), attr, _int(ffi.sizeof("struct mount_attr"))
    )
    _check(result, f"mount_setattr {attributes!r} {path}")


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
            "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


# PyDLL keeps the GIL over the call: the child then owns it, as after os.fork(). cffi would release it.
_python = ctypes.PyDLL(None, use_errno=True)
_python.syscall.restype = ctypes.c_long


def clone3(flags: Clone) -> int:
    """clone3(2) as a fork into new namespaces: 0 in the child, its pid in the parent.

    Only for a process of one thread, or whose others rest (`process.undisturbed`): nothing takes malloc's locks for the child, as
    fork(3) would. Nor are Python's hooks of os.fork() run (they would touch, and so copy, half a megabyte): the child must run
    only code of ours, and foreign code in a child that it makes by os.fork().
    """
    args = _CloneArgs(flags=int(flags), exit_signal=_SIGCHLD)
    pid = int(_python.syscall(ctypes.c_long(_CLONE3), ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args))))
    errno = ctypes.get_errno()
    if pid < 0:
        raise OSError(errno, os.strerror(errno), f"clone3 {flags!r}")
    return pid


def fork() -> int:
    """fork(3) without Python's hooks of os.fork(), for a process of one thread."""
    pid = int(_python.fork())
    errno = ctypes.get_errno()
    if pid < 0:
        raise OSError(errno, os.strerror(errno), "fork")
    return pid


def collapse(address: int, length: int) -> None:
    """madvise(2), MADV_COLLAPSE: anonymous memory into huge pages. EINVAL: before Linux 6.1, or it is smaller than one."""
    result = _libc.madvise(ffi.cast("void *", address), length, _MADV_COLLAPSE)
    _check(result, f"madvise MADV_COLLAPSE {address:#x} {length:#x}")


def epoll_add(epoll: int, fd: int, events: int, data: int) -> None:
    """epoll_ctl(2), EPOLL_CTL_ADD, with any 64 bits of data: `select.epoll` has the descriptor's number there."""
    event = ffi.from_buffer(_EPOLL_EVENT.pack(events, data))
    _check(_libc.epoll_ctl(epoll, _EPOLL_CTL_ADD, fd, event), f"epoll_ctl EPOLL_CTL_ADD {fd}")


def set_filter(program: bytes) -> None:
    """PR_SET_SECCOMP with SECCOMP_MODE_FILTER, of this thread and all that it makes; `program` is struct sock_filter[]."""
    code = ffi.from_buffer(program)
    header = ffi.from_buffer(struct.pack("@HP", len(program) // 8, int(ffi.cast("uintptr_t", code))))
    prctl(Prctl.SET_SECCOMP, _SECCOMP_MODE_FILTER, int(ffi.cast("uintptr_t", header)))


def set_capabilities(capabilities: Iterable[int]) -> None:
    """capset(2): effective, permitted and inheritable sets of the caller become `capabilities`, `()` in the inheritable."""
    low = high = 0
    for capability in capabilities:
        if capability < 32:
            low |= 1 << capability
        else:
            high |= 1 << (capability - 32)
    header = ffi.new("struct cap_header *", {"version": _CAPABILITY_VERSION_3})
    data = ffi.new("struct cap_data[2]", [[low, low, 0], [high, high, 0]])
    _check(_libc.capset(header, data), "capset")


def raise_ambient(last: int) -> None:
    """Make every capability up to `last` inheritable, and so ambient: what a program that is executed has; capabilities(7)."""
    low, high = (1 << min(last + 1, 32)) - 1, (1 << max(last - 31, 0)) - 1
    header = ffi.new("struct cap_header *", {"version": _CAPABILITY_VERSION_3})
    _check(_libc.capset(header, ffi.new("struct cap_data[2]", [[low] * 3, [high] * 3])), "capset")
    for capability in range(last + 1):
        prctl(Prctl.CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def drop_bounding_set(keep: Iterable[int], last: int) -> None:
    """PR_CAPBSET_DROP of every capability up to `last` (/proc/sys/kernel/cap_last_cap) that is not in `keep`."""
    kept = set(keep)
    for capability in range(last + 1):
        if capability not in kept:
            prctl(Prctl.CAPBSET_DROP, capability)
