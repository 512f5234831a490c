"""What Python cannot do itself, in C: pid 1 as a program of its own (`init.c`), and `fork` into namespaces (`enter.c`).

Both are compiled when the package is built, into files beside their sources. Neither uses Python's API, so one build serves
every version of Python.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import errno
import fcntl
import functools
import os
from collections.abc import Collection, Sequence
from ctypes import byref
from typing import Any, NoReturn

_HERE = os.path.dirname(__file__)
_MFD_EXEC = 0x10
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

#: Where `init.c` looks for its descriptors, and a number above those.
_CONTROL, _VIEW, _ABOVE = 3, 5, 16

_STEPS = (
    "", "clone of a joiner", "setns", "exchange descriptors", "setrlimit", "fork",
)  # fmt: skip


class _Entry(ctypes.Structure):
    """struct entry of `enter.c`."""

    _fields_ = [
        ("cgroups", ctypes.POINTER(ctypes.c_int)),
        ("cgroup_count", ctypes.c_size_t),
        ("namespaces", ctypes.POINTER(ctypes.c_int)),
        ("namespace_count", ctypes.c_size_t),
        ("own", ctypes.POINTER(ctypes.c_int)),
        ("given", ctypes.POINTER(ctypes.c_int)),
        ("file_count", ctypes.c_size_t),
        ("greeting", ctypes.c_char_p),
        ("greeting_length", ctypes.c_size_t),
        ("asks", ctypes.c_int),
        ("directory", ctypes.c_char_p),
        ("limits", ctypes.c_void_p),
        ("limit_count", ctypes.c_size_t),
        ("capabilities", ctypes.c_uint64),
        ("last_capability", ctypes.c_uint32),
        ("before", ctypes.c_void_p),
        ("in_parent", ctypes.c_void_p),
        ("in_child", ctypes.c_void_p),
        ("step", ctypes.c_int),
        ("error", ctypes.c_int),
        ("directories", ctypes.c_int),
    ]


class _Limit(ctypes.Structure):
    """struct limit of `enter.c`."""

    _fields_ = [("resource", ctypes.c_int), ("soft", ctypes.c_uint64), ("hard", ctypes.c_uint64)]


@dataclasses.dataclass(frozen=True, slots=True)
class ForkPlan:
    """Into what to fork.

    cgroups: version 1's `tasks`. namespaces: the user namespace first; the caller must own it (user_namespaces(7)).
    own, given: the caller's files, the first of them a socket, and what the child has under the same numbers. greeting:
    written to that socket by the child when it is in all of them; it comes back from `fork` when a byte comes in answer.
    asks: whether the child says the same before, and waits for a byte, to be put into cgroups by somebody else. directory:
    where it starts, or in "/". limits: of setrlimit(2), soft and hard. keep: capabilities, of those up to last_capability.
    The child has none of the other descriptors that are named here.
    """

    cgroups: Sequence[int]
    namespaces: Sequence[int]
    own: Sequence[int]
    given: Sequence[int]
    greeting: bytes
    asks: bool
    directory: bytes
    limits: Sequence[tuple[int, int, int]]
    keep: Collection[int]
    last_capability: int


class Forked(enum.Enum):
    """Who comes back from `fork`: its caller, or the child; that may have descriptors of directories as the caller saw them."""

    CALLER = enum.auto()
    CHILD = enum.auto()
    CHILD_WITH_DIRECTORIES = enum.auto()


def problem() -> str | None:
    """Why the compiled parts cannot be used; None where they can."""
    try:
        program()
        _library()
    except OSError as error:
        return f"the package's compiled parts do not work here ({error})"
    return None


@functools.cache
def program() -> bytes:
    """The program of `init.c`. OSError where the package was built without it."""
    with open(os.path.join(_HERE, "init"), "rb") as file:
        return file.read()


@functools.cache
def _library() -> Any:
    # PyDLL keeps the GIL over the call: main then owns it, as after os.fork().
    return ctypes.PyDLL(os.path.join(_HERE, "enter.so"))


def become_init(control: int, main: int, view: int | None = None) -> NoReturn:
    """Become the program of `init.c`, which listens to the socket `control` and ends with its child `main`; OSError.

    view: main's mount namespace, for one that is to make further sandboxes.
    """
    reading = open_program()
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE) for fd in (reading, control, *([] if view is None else [view]))]
    os.set_inheritable(moved[0], False)
    for fd, number in zip(moved[1:], (_CONTROL, _VIEW), strict=False):
        os.dup2(fd, number)
    if view is None:
        os.closerange(_VIEW, _VIEW + 1)
    try:
        os.execve(moved[0], ["sandbox-init", str(main)], {})
    except OSError as error:
        error.filename = "execve of a program in memory"
        raise


def open_program() -> int:
    """The program of `init.c` as a file that lies in memory, which no sandbox hides; its descriptor. OSError: it may not be."""
    try:
        writing = _make_file()
    except OSError as error:
        error.filename = "memfd_create"
        raise
    os.write(writing, program())
    fcntl.fcntl(writing, fcntl.F_ADD_SEALS, _SEALS)  # nobody may write to the program of a pid 1
    reading = os.open(f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(writing)  # ETXTBSY while it is open for writing
    return reading


def _make_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("sandbox-init", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create("sandbox-init", flags)  # before Linux 6.3 every one is executable


def _ints(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * len(numbers))(*numbers)


def fork(plan: ForkPlan) -> Forked:
    """As os.fork(), into cgroups and namespaces behind descriptors; the child has a session of its own.

    It is the child of the namespace's pid 1. Also from a process with threads. OSError names the step that failed.
    """
    python, library = ctypes.pythonapi, _library()
    limits = (_Limit * len(plan.limits))(*(_Limit(*limit) for limit in plan.limits))
    entry = _Entry(
        _ints(plan.cgroups),
        len(plan.cgroups),
        _ints(plan.namespaces),
        len(plan.namespaces),
        _ints(plan.own),
        _ints(plan.given),
        len(plan.own),
        plan.greeting,
        len(plan.greeting),
        plan.asks,
        plan.directory,
        ctypes.addressof(limits),
        len(limits),
        sum(1 << capability for capability in plan.keep),
        plan.last_capability,
        *(
            ctypes.cast(function, ctypes.c_void_p)
            for function in (python.PyOS_BeforeFork, python.PyOS_AfterFork_Parent, python.PyOS_AfterFork_Child)
        ),
    )
    result = library.sandbox_enter(byref(entry))
    if result < 0:
        raise OSError(entry.error, os.strerror(entry.error), _STEPS[entry.step])
    if result:
        return Forked.CALLER
    return Forked.CHILD_WITH_DIRECTORIES if entry.directories else Forked.CHILD
