"""`attack`: an inner pytest with --sandbox and defaults, whose tests attack from inside; and a look at the machine afterwards.

Every attack is run in a directory, a home and a TMPDIR of its own, under `witness.py`, which sees every process that is left. The
inner tests know the host's namespaces, and assert that theirs differ before they do harm (`inner.assert_inside`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pytest_sandbox import Capability, capabilities

HERE = Path(__file__).resolve().parent
NAMESPACES = ("user", "mnt", "pid", "net")
#: Where somebody may leave a file who does not ask TMPDIR, which each attack has for itself.
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
#: What nothing of a sandbox may outlive pytest for, in seconds, on a machine that has a CPU free for it. (Measured: 30 ms.)
SOON = 1.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One test of the inner run, as junit has it."""

    name: str
    outcome: str
    text: str
    properties: Mapping[str, str]
    output: str

    @property
    def ending(self) -> str:
        """Why its sandbox ended."""
        return self.properties.get("sandbox_ending", "")


@dataclasses.dataclass(frozen=True)
class Result:
    """The inner run: exit status, terminal output, tests by name, and how long anything outlived pytest, in seconds."""

    status: int
    output: str
    cases: Mapping[str, Case]
    lingered: float
    pid: int
    path: Path

    def passed(self, *names: str) -> None:
        """Assert that these tests passed, and that their sandboxes ended by themselves."""
        for name in names:
            assert name in self.cases, f"{name} was not run\n{self.output}"
            case = self.cases[name]
            assert (case.outcome, case.ending) == ("passed", "exited"), f"{name}: {case.text}\n{case.output}\n{self.output}"

    def failed(self, name: str, ending: str, *parts: str) -> None:
        """Assert that a test failed, how its sandbox ended, and what its report says."""
        assert name in self.cases, f"{name} was not run\n{self.output}"
        case = self.cases[name]
        assert (case.outcome, case.ending) == ("failed", ending), f"{name}: {case.ending}: {case.text}\n{self.output}"
        for part in parts:
            assert part in case.text or part in self.output, f"{part!r} is not in the report of {name}: {self.output}"


class Attack:
    """Writes inner tests, runs them, and looks at what is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token = secrets.token_hex(8)
        self.environment: dict[str, str] = {}
        self.container = False
        self.facts: dict[str, object] = {}
        self.inherit: list[int] = []
        self._before: set[str] = set()
        self.project = path / "project"
        for directory in ("project", "home", "tmp"):
            (path / directory).mkdir()
        shutil.copy(HERE / "inner.py", self.project)
        (self.project / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
        (self.project / "test_zz_after.py").write_text("def test_next(): pass\n")
        self._processes: list[subprocess.Popen[str]] = []
        self._victims: list[subprocess.Popen[bytes]] = []

    def write(self, source: str, name: str = "test_attack.py") -> None:
        """Write a file of the inner project."""
        head = "import errno, os, signal, socket, subprocess, sys, time\nimport pytest\nimport inner\nfrom inner import FACTS\n"
        (self.project / name).write_text(head + source)

    def start(self, *arguments: str, seconds: float = 180.0, program: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start the inner pytest, or a Python program in its place, under the witness; seconds: on a machine that is not slow."""
        self._result.unlink(missing_ok=True)
        self._before = _temporary_files()
        seconds *= _slowness()
        inner = program or ["-m", "pytest", "--sandbox", f"--junitxml={self.path / 'junit.xml'}", "-o", "junit_family=xunit1"]
        with (self.path / "output").open("w") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    str(HERE / "witness.py"),
                    str(self._result),
                    str(seconds),
                    *self._root(),
                    sys.executable,
                    *inner,
                    *arguments,
                ],
                cwd=self.project,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=self.inherit,
            )
        self._processes.append(process)
        return process

    def _root(self) -> list[str]:
        return [sys.executable, str(HERE / "overlay_root.py"), str(self.path)] if self.container else []

    def environ(self) -> dict[str, str]:
        """What the inner run knows of the machine, and little else."""
        facts = {
            "token": self.token,
            "namespaces": {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES},
            "devices": {path: os.stat(path).st_dev for path in ("/", "/tmp", "/dev/shm", str(self.path)) if os.path.exists(path)},
            "path": str(self.path),
            **self.facts,
        }
        kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "LC_ALL", "PYTHONPATH")}
        own = {"HOME": str(self.path / "home"), "TMPDIR": str(self.path / "tmp"), "SECURITY_FACTS": json.dumps(facts)}
        return kept | own | {"PYTHONDONTWRITEBYTECODE": "1"} | self.environment

    @property
    def _result(self) -> Path:
        return self.path / "result"

    @property
    def pid(self) -> int:
        """The inner pytest's; waits until it is there."""
        self.wait_until(lambda: self._result.exists() and "\n" in self._result.read_text())
        return int(json.loads(self._result.read_text().splitlines()[0])["pid"])

    def finish(self, process: subprocess.Popen[str], seconds: float = 90.0, *, cleans_up: bool = True) -> Result:
        """Wait for the end, and assert that nothing is left of the run: no process, cgroup, mount or temporary directory.

        cleans_up: whether somebody is left who can remove its cgroups.
        """
        process.wait(20 * seconds)  # the witness keeps the time
        lines = [json.loads(line) for line in self._result.read_text().splitlines()]
        output = (self.path / "output").read_text(errors="replace")
        assert len(lines) == 2, output
        result = Result(lines[1]["status"], output, self._cases(), lines[1]["lingered"], lines[0]["pid"], self.path)
        assert not lines[1]["late"], f"the inner run did not end in time\n{output}"
        assert not lines[1]["left"], f"still there {lines[1]['left']}\n{output}"
        assert result.lingered < SOON * self.crowd(), f"processes lived for {result.lingered:.1f} s after pytest\n{output}"
        assert not cleans_up or cgroups_of(result.pid) == [], output
        assert self._temporary() <= {f"pytest-of-{name}" for name in (_user(), "unknown")}, output
        if cleans_up and "the next run with this scratch tries again" not in output:
            assert self.files_of(result.pid) == [], output
        assert "INTERNALERROR" not in output, output
        return result

    def run(self, *arguments: str, seconds: float = 180.0, program: Sequence[str] = ()) -> Result:
        """Start, and wait for the end; the mounts of the machine are the same afterwards."""
        before = Path("/proc/self/mountinfo").read_text()
        result = self.finish(self.start(*arguments, seconds=seconds, program=program), seconds + 30)
        assert Path("/proc/self/mountinfo").read_text() == before
        return result

    def _temporary(self) -> set[str]:
        # Python's tempfile tries a directory by an empty file in it: left where Ctrl-C comes just then, before any sandbox.
        found = [entry for entry in os.scandir(self.path / "tmp") if not entry.is_file() or entry.stat().st_size]
        return {entry.name for entry in found}

    def files_of(self, pid: int) -> list[str]:
        """Temporary files that are new since the start and an attack's or a run's own: by its token, or its number in the name.

        What else comes and goes is of other runs on this machine.
        """
        return [path for path in sorted(_temporary_files() - self._before) if self.token in path or f"-{pid}-" in path]

    def _cases(self) -> dict[str, Case]:
        try:
            root = ET.parse(self.path / "junit.xml").getroot()
        except (OSError, ET.ParseError):
            return {}
        return {case.get("name", ""): _case(case) for case in root.iter("testcase")}

    def wait_until(self, condition: Callable[[], bool], seconds: float = 180.0) -> None:
        """Fail unless it becomes true in time."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, (self.path / "output").read_text(errors="replace")
            time.sleep(0.005)

    def is_at(self, moment: str) -> bool:
        """Whether a process is there whose command line has the token and this word; seen from outside of all namespaces."""
        return bool(processes(f"{self.token}-{moment}"))

    def victim(self) -> subprocess.Popen[bytes]:
        """A process of the machine, for attacks to aim at; ended with the test."""
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", f"{self.token}-victim"])
        self._victims.append(process)
        return process

    def crowd(self) -> float:
        """See `_crowd`."""
        return _crowd()

    def stop(self, pid: int) -> None:
        """Stop a process, and wait until it is: a fork that it was in when the signal came is over then, and seen."""
        os.kill(pid, signal.SIGSTOP)
        self.wait_until(lambda: _state(pid) in "TZX")

    def processes(self, word: str) -> list[int]:
        """See `processes`."""
        return processes(word)

    def cgroups_of(self, pid: int) -> list[str]:
        """See `cgroups_of`."""
        return cgroups_of(pid)

    def manifest(self, *paths: str | Path) -> dict[str, tuple[object, ...]]:
        """See `manifest`."""
        return manifest(paths)

    def needs(self, *names: str) -> None:
        """See `needs`."""
        needs(*names)

    def capability(self, name: str) -> Capability:
        """What this machine says of it."""
        return _known()[name]

    def end(self) -> None:
        """Stop what a failed test has left running."""
        for victim in self._victims:
            victim.kill()
            victim.wait()
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(OSError, ValueError, IndexError):
                    os.kill(int(json.loads(self._result.read_text().splitlines()[0])["pid"]), signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(15)
                process.kill()
                process.wait()


def _crowd() -> float:
    """How many processes there are for each CPU, now or lately: what a second of one that ends takes on a machine under load."""
    lately, _, _, now, _ = Path("/proc/loadavg").read_text().split()
    return max(1.0, float(lately) / (os.cpu_count() or 1), int(now.partition("/")[0]) / (os.cpu_count() or 1))


def _state(pid: int) -> str:
    """The letter that the kernel has for what a process does; X for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _slowness() -> float:
    """How many times as long a run may take here: kernels of User-Mode Linux make processes four times as slowly."""
    return _crowd() * (4 if "User Mode Linux" in Path("/proc/cpuinfo").read_text() else 1)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (ImportError, OSError, KeyError):
        return "unknown"


def _case(element: ET.Element) -> Case:
    found = [child for child in element if child.tag in ("failure", "error", "skipped")]
    outcome = {"failure": "failed", "error": "failed", "skipped": "skipped"}[found[0].tag] if found else "passed"
    text = "\n".join(f"{child.get('message', '')}\n{child.text or ''}" for child in found)
    properties = {one.get("name", ""): one.get("value", "") for one in element.iter("property")}
    output = "\n".join(child.text or "" for child in element if child.tag in ("system-out", "system-err"))
    return Case(element.get("name", ""), outcome, text, properties, output)


def _temporary_files() -> set[str]:
    found = set()
    for directory in TEMPORARY:
        with contextlib.suppress(FileNotFoundError):
            found |= {f"{directory}/{name}" for name in os.listdir(directory)}
    return found


def processes(word: str) -> list[int]:
    """Pids of the processes of this machine, in whatever namespace, that have `word` in an argument."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if word.encode() in file.read():
                    found.append(int(name))
    return found


def cgroups_of(pid: int) -> list[str]:
    """Directories of the run of pytest `pid`, in every hierarchy."""
    found = []
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(directory, name) for name in names if name.startswith("pytest-sandbox-") and f"-{pid}-" in name]
    return found


@functools.cache
def _known() -> Mapping[str, Capability]:
    return capabilities()


def needs(*names: str) -> None:
    """Skip a check that this machine cannot express, with its reason."""
    for name in names:
        capability = _known()[name]
        if not capability.available:
            pytest.skip(f"{name}: {capability.reason}")


@pytest.fixture(autouse=True)
def _sandboxes() -> None:
    """Without namespaces there is nothing to attack."""
    needs("platform", "user", "mount", "pid", "net")


@pytest.fixture
def attack() -> Iterator[Attack]:
    """See `Attack`. Its directory is short, and not below pytest's own, which the inner pytest must not take for its."""
    path = Path(tempfile.mkdtemp(prefix="security-"))
    found = Attack(path)
    try:
        yield found
    finally:
        found.end()
        _remove(path)


@pytest.fixture(params=["machine", "container"])
def anywhere(request: pytest.FixtureRequest, attack: Attack) -> Attack:
    """`attack`, on this machine as it is, and as root in a container: there ids cannot be mapped, and root is the machine's."""
    if request.param == "container":
        if os.getuid():
            pytest.skip("only root can make itself a root file system like a container's")
        if not _known()["identity"].reason.startswith("id-mapped"):
            pytest.skip("this machine is such a container")
        attack.container = True
    return attack


def _remove(path: Path) -> None:
    """Remove what attacks have left, following no link: some lead to `/`, on purpose."""
    for directory, names, _ in os.walk(path):
        for name in names:
            inner = os.path.join(directory, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(path)


def manifest(paths: Sequence[str | Path]) -> dict[str, tuple[object, ...]]:
    """Status and content of everything below `paths` that can be read: what "byte for byte" is measured by."""
    found: dict[str, tuple[object, ...]] = {}
    for top in paths:
        for directory, names, files in os.walk(top):
            for name in (*names, *files, "."):
                path = os.path.join(directory, name)
                status = os.lstat(path)
                content: object = os.readlink(path) if os.path.islink(path) else None
                if os.path.isfile(path) and not os.path.islink(path):
                    with contextlib.suppress(OSError):
                        content = Path(path).read_bytes()
                found[path] = (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, content)
    return found
