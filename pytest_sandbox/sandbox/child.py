"""What is said to a sandbox before it begins, and what its main process finds. Imports no plugin.

    parent (a scope, or the launcher)      spawn.py
    +- init     pid 1 of the new namespaces: makes the root, waits for the controller's "go", forks main, reaps, and when
       |        main has ended says how, who is left over and what was used; its end is the end of all that is left: init.py
       +- main  pid 2: gives up privileges, takes its own stdout and stderr, and runs the body                      main.py

Each imports only from below; what init needs of its parent's side, to make sandboxes below, is handed down as a function.
Two sockets a sandbox: `control` belongs to init, which the sandboxed code can neither trace nor signal; `wire` to main.
Descriptors arrive with the controller's order to spawn, in the order of `Descriptors`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pytest_sandbox.model.spec import Keep, Limits, Network, Spec
from pytest_sandbox.primitives.mounts import Operation
from pytest_sandbox.primitives.process import Handler
from pytest_sandbox.sandbox.layout import Layout
from pytest_sandbox.sandbox.wire import Channel, Frame


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptors:
    """What a sandbox is given: two sockets, files, and the way into its cgroups.

    stdout, stderr: what it writes. shown: what it writes past whoever captures its output. stacks: Python's, when it dies.
    """

    control: int
    wire: int
    stdout: int
    stderr: int
    stacks: int
    shown: int
    tasks: tuple[int, ...] = ()

    def all(self) -> tuple[int, ...]:
        """Every descriptor, in the order in which they travel."""
        return self.control, self.wire, self.stdout, self.stderr, self.stacks, self.shown, *self.tasks

    def kept(self) -> tuple[int, ...]:
        """Those that stay open once the cgroups are entered."""
        return self.all()[:6]

    @classmethod
    def of(cls, descriptors: Sequence[int]) -> Descriptors:
        """Those that travelled in the order of `all`."""
        control, wire, stdout, stderr, stacks, shown, *tasks = descriptors
        return cls(control, wire, stdout, stderr, stacks, shown, tuple(tasks))


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """The controller's order to make one sandbox, as it travels.

    scope: whether other sandboxes will be made below it. count_pids: RLIMIT_NPROC, where no cgroup counts processes.
    """

    name: str
    spec: Spec
    scope: bool = False
    count_pids: bool = False

    def to_frame(self) -> Frame:
        """The fields of a frame."""
        spec = dataclasses.asdict(self.spec) | {"network": self.spec.network.value, "keep": self.spec.keep.value}
        spec["asked"] = sorted(self.spec.asked)
        return {"op": "spawn", "name": self.name, "spec": spec, "scope": self.scope, "count_pids": self.count_pids}

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
        )
        return cls(frame["name"], spec, frame["scope"], frame["count_pids"])


class Spawner(Protocol):
    """`spawn.spawn`, as it is handed down to whom it makes."""

    def __call__(self, layout: Layout, order: Order, given: Descriptors, body: Body, *, inherited: Sequence[int] = ()) -> int:
        """Make a sandbox; the pid to be waited for."""


@dataclasses.dataclass(slots=True)
class Inside:
    """What main's body finds: its order, the layout for sandboxes below it, its channel and files."""

    order: Order
    layout: Layout
    channel: Channel
    descriptors: Descriptors
    shares_network: bool
    spawner: Spawner
    children: set[int] = dataclasses.field(default_factory=set)

    def spawn(self, frame: Frame, descriptors: Sequence[int], body: Body) -> None:
        """Make a sandbox as ordered by a "spawn" frame; what goes wrong is told to the controller, and not raised."""
        order, given = Order.from_frame(frame), Descriptors.of(descriptors)
        try:
            own = self.descriptors
            inherited = (own.wire, own.stdout, own.stderr, own.stacks, own.shown)
            self.children.add(self.spawner(self.layout, order, given, body, inherited=inherited))
        except OSError as error:
            self.channel.send({"op": "refused", "name": order.name, **describe(error)})
        finally:
            for fd in given.all():
                os.close(fd)

    def reap(self) -> None:
        """Reap the sandboxes that have ended, and nobody else: fixtures wait for processes of their own."""
        for pid in tuple(self.children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self.children.discard(pid)


Body = Callable[[Inside], int]


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """All that init and main have to know, put together by their parent before it clones.

    operations: the mounts of the root. shares_network: whether it stays in its parent's network namespace. handlers: of
    signals, for main.
    """

    layout: Layout
    order: Order
    given: Descriptors
    body: Body
    operations: Sequence[Operation]
    shares_network: bool
    spawner: Spawner
    handlers: Mapping[int, Handler]


def describe(error: BaseException) -> Frame:
    """What went wrong, as fields of a frame."""
    if isinstance(error, OSError):
        return {"errno": error.errno or 0, "step": str(error.filename or error), "object": ""}
    return {"errno": 0, "step": "".join(traceback.format_exception_only(error)).strip(), "object": ""}
