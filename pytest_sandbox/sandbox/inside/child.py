"""What a sandbox is told before it begins, and what its main process finds. Imports no plugin.

    init     pid 1: does what the controller says, over a socket of which only those two have an end; reaps, and when main
    |        has ended says how, who is left over and what was used; its end is the end of all that is left: native/init.c
    +- main  gives up privileges, waits for the controller's "go", and runs the body: main.py

The outermost sandbox's init is forked by the launcher and makes the store, in Python, before it becomes that program
(outermost.py). Every other one is cloned by the init around it. Its main process is a fork of the main process around it,
which enters what the controller has made ready (native/enter.c).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import stat
from typing import TypeAlias

from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.model.spec import Keep, Limits, Network, Spec
from pytest_sandbox.primitives.process import Handler
from pytest_sandbox.sandbox.wire.frames import Channel, Frame


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptors:
    """What main is given: its socket, and files.

    stdout, stderr: what it writes. shown: what it writes past whoever captures its output. stacks: Python's, when it dies.
    """

    wire: int
    stdout: int
    stderr: int
    stacks: int
    shown: int

    def all(self) -> tuple[int, ...]:
        """Every descriptor, in the order in which they travel."""
        return self.wire, self.stdout, self.stderr, self.stacks, self.shown


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """The controller's order to make one sandbox, as it travels.

    scope: whether other sandboxes will be made below it. shares_network: with the scope around it. processes: RLIMIT_NPROC,
    soft and hard, where no cgroup counts processes; files: RLIMIT_NOFILE; None where that of the sandbox around it stays.
    keep: main's capabilities, of those up to last_capability. may_mount: whether main and what it makes may, in a user
    namespace of their own; no one may below one that may not.
    """

    name: str
    spec: Spec
    scope: bool = False
    shares_network: bool = False
    processes: tuple[int, int] | None = None
    files: tuple[int, int] | None = None
    keep: tuple[int, ...] = ()
    last_capability: int = 0
    may_mount: bool = True

    @property
    def has_loopback(self) -> bool:
        """Whether there is a loopback device of its own to be set up."""
        return not self.shares_network and self.spec.network is not Network.NONE

    def to_frame(self) -> Frame:
        """The fields of a frame."""
        own = {name: getattr(self, name) for name in _PLAIN}
        return {"op": "spawn", "spec": _plain(self.spec), **own}

    @classmethod
    def from_frame(cls, frame: Frame) -> Order:
        """The order of a frame that `to_frame` made."""
        data = frame["spec"]
        spec = Spec(
            Limits(**data["limits"]),
            Network(data["network"]),
            tuple(data["writable"]),
            tuple(data["hide"]),
            data["scratch"],
            Keep(data["keep"]),
            frozenset(data["asked"]),
            tuple(data["common"]),
        )
        return cls(spec=spec, **{name: frame[name] for name in _PLAIN})


@functools.lru_cache(maxsize=64)
def _plain(spec: Spec) -> Frame:
    """A spec as JSON has it; the same object each time, which nobody changes."""
    plain = dataclasses.asdict(spec) | {"network": spec.network.value, "keep": spec.keep.value}
    return plain | {"asked": sorted(spec.asked)}


#: The fields of an order that JSON has a form for.
_PLAIN = tuple(field.name for field in dataclasses.fields(Order) if field.name != "spec")


def find_root() -> tuple[int, int]:
    """Which directory is the caller's root: device and inode."""
    status = stat("/")
    return status.st_dev, status.st_ino


@dataclasses.dataclass(frozen=True, slots=True)
class Inside:
    """What main's body finds: its order, its channel and files.

    outermost: those are new to this process. Otherwise it has them in the place of the scope's that it was forked from.
    root: the sandbox's, as of `find_root`.
    """

    order: Order
    channel: Channel
    descriptors: Descriptors
    outermost: bool
    root: tuple[int, int] = dataclasses.field(default_factory=find_root)


@dataclasses.dataclass(frozen=True, slots=True)
class Next:
    """What a body returns that has forked, in the new main process: what that finds, and its body.

    So no body runs upon the stack of another one, however deep the scopes.
    """

    inside: Inside
    body: Body


#: What a main process does: its exit code, or what comes next.
Body: TypeAlias = Callable[[Inside], "int | Next"]


@dataclasses.dataclass(frozen=True, slots=True)
class Control:
    """The outermost init's end of its socket to the controller, while it is still Python: packets as of `pid1`.

    tasks: the way into its cgroups. handlers: of signals, which main gets back.
    """

    socket: Socket
    tasks: tuple[int, ...] = ()
    handlers: Mapping[int, Handler] = dataclasses.field(default_factory=dict)

    def greet(self) -> None:
        """Say who we are, by the kernel's word, and wait until the controller has put us into our cgroups."""
        self.socket.say(b"h")
        if self.socket.recv(1) != b"g":
            os._exit(1)

    def send_ready(self, descriptors: Sequence[int]) -> None:
        """Hand over what `pid1.Recipe` says."""
        self.socket.say(b"r", descriptors)

    def run(self, body: Callable[[], None], *, close: Iterable[int]) -> None:
        """Close what is not this process's, which was just forked, and run `body` in it. Comes back where that does.

        Says what goes wrong, and ends the process then.
        """
        try:
            for fd in close:
                os.close(fd)
            body()
        except BaseException as error:
            with contextlib.suppress(OSError):
                self.socket.say(b"F" + json.dumps(describe(error)).encode())
            os._exit(1)


def describe(error: BaseException) -> Frame:
    """What went wrong, as fields of a frame."""
    if isinstance(error, OSError):
        return {"errno": error.errno or 0, "step": str(error.filename or error), "object": ""}
    return {"errno": 0, "step": "".join(traceback.format_exception_only(error)).strip(), "object": ""}
