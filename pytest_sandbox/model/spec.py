"""What a sandbox is asked to be: `Spec` and its `Limits`. Imports nothing of the package but `errors`."""

from __future__ import annotations

import dataclasses
import enum

MIB = 1 << 20


class Network(enum.Enum):
    """Which network a sandbox has.

    AUTO: a private loopback, but the enclosing scope's network where a fixture of that scope listens on it.
    LOOPBACK: a private loopback, always. NONE: no interface is up. SHARED: the enclosing scope's network.
    HOST: the machine's own network; only for a whole run.
    """

    AUTO = "auto"
    LOOPBACK = "loopback"
    NONE = "none"
    SHARED = "shared"
    HOST = "host"


class Keep(enum.Enum):
    """When to save what a sandbox wrote."""

    NEVER = "never"
    FAILED = "failed"
    ALWAYS = "always"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of what one sandbox may use; None is no bound.

    memory, swap, disk, output: bytes. pids: processes and threads. cpus: CPUs' worth of time per wall time.
    cpu_time, timeout: seconds of CPU and of wall time. inodes: files and directories written. files: open
    descriptors a process.
    """

    memory: int | None = 2048 * MIB
    swap: int | None = 0
    pids: int | None = 512
    cpus: float | None = None
    cpu_time: float | None = None
    timeout: float | None = None
    disk: int | None = 1024 * MIB
    inodes: int | None = 200_000
    files: int | None = None
    output: int | None = 64 * MIB


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """Everything that the layers below `plugin/` need to know to make one sandbox.

    writable: absolute paths whose changes go through to the machine. hide: absolute paths that are empty
    inside. scratch: an existing directory for what is written, instead of a tmpfs. asked: names of limits
    that a user set on purpose: where one of these cannot be enforced, making the sandbox is refused.
    """

    limits: Limits = Limits()
    network: Network = Network.AUTO
    writable: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    scratch: str | None = None
    keep: Keep = Keep.FAILED
    asked: frozenset[str] = frozenset()
