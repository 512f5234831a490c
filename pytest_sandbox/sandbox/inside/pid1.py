"""What the controller and a sandbox's pid 1 say to each other: packets, as in `_linux/native/init.c`. Imports `layout`.

Nobody else has an end of that socket, so what arrives is believed.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterable, Iterator, Sequence

from pytest_sandbox._linux.proc import counts_disks, network_bytes, readable
from pytest_sandbox.model.errors import SetupError
from pytest_sandbox.model.texts import printable
from pytest_sandbox.primitives.mounts import HideOp, MkdirOp, MountOp, NumberOp, Operation, ReadOnlyOp, WriteOp
from pytest_sandbox.primitives.namespaces import fresh, maps
from pytest_sandbox.primitives.network import bandwidth
from pytest_sandbox.sandbox.files import layout as layouts
from pytest_sandbox.sandbox.files.layout import Layout
from pytest_sandbox.sandbox.inside.child import Order

#: The longest packet that is sent, in bytes: a sixth of what a socket takes by default.
_LONGEST = 32 << 10
_NUMBERS = struct.Struct("=3i")
_LAST = struct.Struct("=i5Q")
_FAILED = struct.Struct("=ii")


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One operation of pid 1, by the letter that `operate` in `init.c` knows it by."""

    code: str
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What it does, for people."""
        return _NAMES[self.code]

    def encode(self) -> bytes:
        """Its length and its bytes. ValueError for a text that init would take for two."""
        if any("\0" in text for text in self.texts):
            raise ValueError(f"a zero byte in {self.texts}")
        numbers = _NUMBERS.pack(*self.numbers, *[0] * (3 - len(self.numbers)))
        texts = [*map(os.fsencode, self.texts), *[b""] * (4 - len(self.texts))]
        data = self.code.encode() + numbers + b"\0".join(texts) + b"\0"
        return struct.pack("=I", len(data)) + data


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """What pid 1 has to do for one kind of sandbox, and what it sends when it is ready: layer, [who listens], namespaces."""

    steps: tuple[Step, ...]
    packets: tuple[bytes, ...]
    descriptors: int


_NAMES = {
    "m": "mount", "b": "show a socket", "d": "mkdir", "r": "mount_setattr", "w": "write", "h": "hide", "e": "pivot_root",
    "p": "make mounts private", "l": "set the loopback device up", "q": "limit the loopback device's bandwidth (tbf)",
    "v": "unshare a mount namespace", "o": "open", "n": "open a netlink socket", "k": "send", "g": "drop privileges",
    "?": "make a sandbox",
}  # fmt: skip
_NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts")


def recipe(layout: Layout, order: Order, sockets: Sequence[str]) -> Recipe:
    """All that makes the root of a sandbox below others. sockets: unix sockets on paths where scopes around it listen."""
    spec, scope, shares_network = order.spec, order.scope, order.shares_network
    operations = layouts.root_operations(layout, spec, order.name, scope=scope, shares_network=shares_network)
    namespaces = [kind for kind in _NAMESPACES if not (kind == "net" and shares_network)]
    steps = [Step("p"), *map(_step, operations)]
    steps += [Step("b", (path, layout.root)) for path in sockets]
    steps += [Step("o", (layout.layer,))]
    if scope:
        steps += [Step("n")]
    steps += [Step("e", (layout.root,))]
    if order.has_loopback:
        steps += [Step("l")]
        if spec.limits.bandwidth is not None:
            steps += [Step("q", (bandwidth(spec.limits.bandwidth).hex(),))]
    steps += map(_step, layouts.hide_operations(spec))
    for kind in namespaces:
        steps += [Step("v", (layouts.INNER_STORE,)) if scope and kind == "mnt" else Step("o", (f"/proc/self/ns/{kind}",))]
    if not scope:
        steps += [Step("g", (), (layout.last_capability,))]
    steps += [Step("k")]
    return Recipe(tuple(steps), tuple(_packets(steps)), 1 + scope + len(namespaces))


def _step(operation: Operation) -> Step:
    match operation:
        case MountOp(source, target, fstype, flags, data):
            return Step("m", (source or "", target, fstype or "", data or ""), (int(flags),))
        case ReadOnlyOp(target, recursive):
            return Step("r", (target,), (int(recursive),))
        case MkdirOp(path, mode, uid, gid):
            return Step("d", (path,), (mode, uid, gid))
        case HideOp(path):
            return Step("h", (path, "/dev/null"))
        case WriteOp(path, text):
            return Step("w", (path, text))
        case NumberOp(path, last):
            return Step("i", (path, str(last)))


def _packets(steps: Iterable[Step]) -> Iterator[bytes]:
    packet = b"b"
    for data in (step.encode() for step in steps):
        if len(packet) + len(data) > _LONGEST:
            yield packet
            packet = b"b"
        packet += data
    yield packet


def clone(layout: Layout, *, shares_network: bool) -> bytes:
    """The packet that makes pid 1 clone another one below it."""
    texts = maps(layout.identity, layout.depth, layout.uid, layout.gid).values()
    flags = struct.pack("=Q", int(fresh(shares_network=shares_network)))
    return b"c" + flags + b"".join(text.encode() + b"\0" for text in texts)


def signal_main(number: int) -> bytes:
    """The packet that makes pid 1 send main a signal."""
    return b"s" + struct.pack("=i", number)


def failure(packet: bytes, recipe: Recipe | None) -> tuple[int | None, SetupError]:
    """What an "f" packet says: which of its clones has failed (None: it has itself), and how."""
    number, which = _FAILED.unpack(packet[1:])
    if which < 0:
        return -which - 1, SetupError("clone into new namespaces", "", number)
    step = recipe.steps[which] if recipe and which < len(recipe.steps) else Step("?")
    return None, SetupError(step.name, " ".join(filter(None, step.texts)), number)


# -- what pid 1 says ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class LastWords:
    """How main ended, who is left over, and what was used.

    status: main's, as of wait(2). leaks: pids inside and command lines. network: bytes received and sent over every interface
    that it saw.
    """

    status: int | None = None
    leaks: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    network: tuple[int, int] | None = None
    _reaped: tuple[int, ...] = ()

    def reaped(self) -> dict[str, float]:
        """By fields of Usage, what all that init has reaped has used: all but what was left over; getrusage(2).

        There in blocks of 512 bytes, and microseconds.
        """
        if not self._reaped:
            return {}
        cpu, read, written, minor, major = self._reaped
        figures = {"cpu": cpu / 1e6, "faults": minor + major, "major_faults": major}
        if counts_disks():
            figures |= {"bytes_read": 512 * read, "bytes_written": 512 * written}
        return figures

    def hear(self, packet: bytes) -> None:
        """Take in one packet of those that pid 1 sends at the end."""
        kind, body = packet[:1], packet[1:]
        if kind == b"n":
            self.network = network_bytes(body.decode("utf-8", "replace"))
        elif kind == b"l":
            (pid,) = struct.unpack_from("=i", body)
            self.leaks.append((pid, printable(readable(body[4:]))))
        elif kind == b"x":
            self.status, *reaped = _LAST.unpack(body)
            self._reaped = tuple(reaped)
