"""What every test of this folder is held to: nothing is left of its sandboxes; and trees of them, for those that make such."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import secrets
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import CallError, Limits, Outcome, Result, Sandbox, Spec, capabilities
from pytest_sandbox.model.spec import MIB
from pytest_sandbox.primitives.cgroups.layout import RUN_PREFIX, find_hierarchies
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.inside.main import fork_into
from pytest_sandbox.sandbox.machine import host, probes
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor


def descriptors() -> list[str]:
    """What this process has open, but for the directory that says so."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return sorted(found)


def cgroups() -> list[str]:
    """The cgroups of this process's runs and probes."""
    hierarchies = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    found = []
    for directory in {each.directory for each in hierarchies if each.directory}:
        found += [f"{directory}/{name}" for name in os.listdir(directory) if name.startswith(RUN_PREFIX)]
    return sorted(path for path in found if f"-{os.getpid()}-" in path or f"probe-{os.getpid()}-" in path)


@pytest.fixture
def crowd() -> Callable[[], float]:
    """How many processes there are for each CPU, now or lately, 1 at least: so many times as long may all take that needs one."""

    def processes() -> float:
        lately, _, _, now, _ = Path("/proc/loadavg").read_text().split()
        return max(1.0, float(lately) / (os.cpu_count() or 1), int(now.partition("/")[0]) / (os.cpu_count() or 1))

    return processes


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No descriptor, mount, cgroup or child more than before."""
    before = descriptors(), Path("/proc/self/mountinfo").read_text()
    yield
    assert (descriptors(), Path("/proc/self/mountinfo").read_text()) == before
    assert cgroups() == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


#: Read or write so many bytes of a file on a disk, past the page cache, and say how long that took.
DIRECT = """
import mmap, os, sys, time
path, kind, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(path, os.O_DIRECT | (os.O_RDONLY if kind == "read" else os.O_WRONLY))
buffer = mmap.mmap(-1, 1 << 16)
began = time.monotonic()
for offset in range(0, size, 1 << 16):
    os.preadv(fd, [buffer], offset) if kind == "read" else os.pwritev(fd, [buffer], offset)
print(time.monotonic() - began)
"""


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A file of 4 MiB that lies on a disk which the kernel can throttle."""
    for place in map(Path, (tempfile.gettempdir(), "/var/tmp", os.getcwd())):
        device = place.stat().st_dev
        if Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").exists() and os.access(place, os.W_OK):
            break
    else:
        pytest.skip("no directory for a test lies on a disk")
    path = place / f"on-disk-{uuid.uuid4().hex}"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * MIB)  # in one piece: what lies in several takes more operations
        file.write(os.urandom(4 * MIB))
        os.fsync(file.fileno())
    yield path
    path.unlink()


def run_direct(path: Path, kind: str, size: int, **limits: Any) -> Result:
    """Run DIRECT on a file that is let through."""
    spec = Spec(limits=Limits(**limits), writable=(str(path),), asked=frozenset(limits))
    result = Sandbox(spec).run([sys.executable, "-c", DIRECT, str(path), kind, str(size)])
    assert result.ok, result.stderr
    return result


@pytest.fixture
def direct() -> Callable[..., Result]:
    """`run_direct`, for what cannot import it."""
    return run_direct


# -- what is seen of a place -------------------------------------------------------------------------------------------

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root outside: owners are given away")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a file, a directory with a file, and a link to each."""
    (tmp_path / "file").write_text("content")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "inner").write_text("inner")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dirlink").symlink_to(tmp_path / "directory")
    return tmp_path


def shell(script: str, spec: Spec | None = None, **environ: str) -> str:
    """The output of a shell script in a sandbox."""
    result = Sandbox(spec).run(["sh", "-c", script], env={**os.environ, **environ})
    assert result.ok, (result.sentence, result.stderr)
    return result.stdout.decode()


def run(*argv: str, **limits: Any) -> Result:
    """Run a program in a sandbox with these limits."""
    return Sandbox(Spec(limits=Limits(**limits), asked=frozenset(limits))).run(argv)


def python(source: str, **limits: Any) -> Result:
    """Run Python source."""
    return run(sys.executable, "-c", source, **limits)


def ending_of(call: Any, **limits: Any) -> CallError:
    """The error of a function that does not come to its end."""
    with pytest.raises(CallError) as caught:
        Sandbox(Spec(limits=Limits(**limits), asked=frozenset(limits))).call(call)
    return caught.value


# -- trees -------------------------------------------------------------------------------------------------------------

Bodies = dict[str, Callable[[Inside], int]]


class Heard:
    """A listener that keeps everything."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.outcome: Outcome | None = None

    def on_frame(self, running: Running, frame: dict[str, Any]) -> None:
        """Keep it."""
        del running
        self.frames.append(frame)

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """Keep it."""
        del running
        self.outcome = outcome


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """A supervisor of its own."""
    with Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", host.make_layout(probes.find_identity())) as one:
        yield one


def scope(bodies: Bodies) -> Callable[[Inside], int]:
    """A body that forks sandboxes as ordered, with the body that the order names, until it is told to end."""

    def body(inside: Inside) -> int:
        while True:
            try:
                frame, descriptors = inside.channel.receive()
            except EOFError:
                return 0
            if frame["op"] == "spawn":
                fork_into(inside, frame, descriptors, scope(bodies) if frame["body"] == "scope" else bodies[frame["body"]])
            elif frame["op"] == "end":
                return 0
            elif frame["op"] == "do":
                inside.channel.send({"op": "did", "code": bodies[frame["body"]](inside)})

    return body


def root(supervisor: Supervisor, body: Callable[[Inside], int], **spec: Any) -> tuple[Running, Heard]:
    """Start an outermost sandbox."""
    heard = Heard()
    return supervisor.start_root(Spec(**spec), body, heard), heard


def below(supervisor: Supervisor, parent: Running, body: str, *, inner: bool = False, **spec: Any) -> tuple[Running, Heard]:
    """Start a sandbox below another."""
    heard = Heard()
    return supervisor.start(parent, Spec(**spec), heard, scope=inner, body=body), heard


def do(supervisor: Supervisor, running: Running, heard: Heard, name: str) -> None:
    """Have a scope run one of its bodies, and wait until it has."""
    count = len(heard.frames)
    running.send({"op": "do", "body": name})
    supervisor.run_while(lambda: len(heard.frames) == count)


class _SlowOutput(io.StringIO):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def flush(self) -> None:
        time.sleep(self._seconds)


_held: list[int] = []


def exhaust(seconds: float) -> Callable[[Inside], int]:
    """A body that leaves its scope no descriptors: what the next sandbox is given does not arrive. That is said so much later."""

    def body(_: Inside) -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.suppress(OSError):
            while True:
                _held.append(os.open(os.devnull, os.O_RDONLY))
        sys.stdout = _SlowOutput(seconds)  # which is flushed before a fork
        return 0

    return body


def wait(supervisor: Supervisor, *heard: Heard) -> list[Outcome]:
    """Serve until all of these are gone."""
    limit = time.monotonic() + 300
    while any(one.outcome is None for one in heard):
        assert time.monotonic() < limit, "a sandbox does not end"
        supervisor.step(1.0)
    return [one.outcome for one in heard if one.outcome]


def sleep(seconds: float, status: int = 0) -> Callable[[Inside], int]:
    """A body that takes its time."""

    def body(_: Inside) -> int:
        time.sleep(seconds)
        return status

    return body


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller gave to his pytest is not for the inner one."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


def case(pytester: pytest.Pytester, source: str, *options: str) -> str:
    """Run a module whose test_it fails by its sandbox, and whose test_after passes; the output."""
    pytester.makepyfile("import os, pytest, subprocess, sys, threading, time\n" + source + "\ndef test_after(): pass\n")
    result = pytester.runpytest_subprocess("--sandbox", *options, timeout=100)
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == 1
    return result.stdout.str()


#: Without a cgroup nobody counts refused forks, and EAGAIN of a socket looks like one.
counts_refusals = pytest.mark.skipif("RLIMIT" in capabilities()["pids"].reason, reason="processes are limited by RLIMIT_NPROC")
