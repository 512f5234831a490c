"""Machines on which no limit held: what the doctor says of their cgroups, and that what it says to type is enough."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Clone
from pytest_sandbox.model.capability import Cause
from pytest_sandbox.primitives.cgroups import files as cgroup_files
from pytest_sandbox.primitives.cgroups.layout import BASE_PREFIX, RUN_PREFIX, V1, find_hierarchies
from pytest_sandbox.sandbox.machine import fixes, hostkind
from tests.plugin.conftest import ROOT, diagnose, run


def limits_refused(said: str, reason: str) -> list[str]:
    """The capabilities that are not there for that reason."""
    lines = [line for line in said.splitlines() if line.startswith("NO ") and reason in line]
    return [name for line in lines for name in line[4 : line.index(reason)].strip().split(", ")]


def memory_hierarchy() -> tuple[str, str]:
    """The name and the directory of this process's cgroup where memory is limited; skips where there is none."""
    texts = [Path(f"/proc/self/{name}").read_text(encoding="utf-8") for name in ("cgroup", "mountinfo")]
    found = [one for one in find_hierarchies(*texts) if not one.problem]
    found.sort(key=lambda one: "memory" not in one.controllers)
    if not found or (found[0].version == V1 and "memory" not in found[0].controllers):
        pytest.skip("no cgroup hierarchy is mounted here")
    return found[0].name, found[0].directory


def test_a_cgroup_file_system_that_is_read_only() -> None:
    """As in most containers: limits are refused for that, not for a want of delegation; what it says to type is enough."""
    memory_hierarchy()
    script = """
    for point in $(sed -n 's/^[^-]* \\(\\/[^ ]*\\) [^-]* - cgroup2\\{0,1\\} .*/\\1/p' /proc/self/mountinfo); do
        mount -o remount,bind,ro "$point"
    done
    """
    apart = ("-m",) if ROOT else ("-Urm",)
    said = diagnose(script, apart=apart)
    problem = "the cgroup file system is mounted read-only (mkdir: EROFS in the v"
    assert "memory" in limits_refused(said, problem)
    if hostkind.here().engine:
        assert f"\n    fix: {fixes.fix(Cause.READ_ONLY, hostkind.here())}" in said
        return
    commands = re.findall(r"^    fix: as root: (mount -o remount,bind,rw /sys/fs/cgroup\S*);", said, re.MULTILINE)
    assert len(commands) == said.count(problem), said
    assert problem not in diagnose("\n".join([script, *commands]), apart=apart)


@pytest.mark.skipif(not ROOT, reason="only root mounts a cgroup file system of the machine's")
def test_a_container_whose_shell_starts_pytest(tmp_path: Path) -> None:
    """It is in the root of the cgroups that the container sees, as pytest is: refused, until docs/host-setup.md is followed."""
    name, directory = memory_hierarchy()
    cgroup = Path(directory, f"doctor-{os.getpid()}")
    cgroup.mkdir()
    try:
        if name != "v2" or "memory" not in (cgroup / "cgroup.controllers").read_text():
            pytest.skip("no cgroup of version 2 with memory can be made here")
        text = (Path(__file__).parents[2] / "docs" / "host-setup.md").read_text(encoding="utf-8")
        recipe = text.partition("### Limits in a container\n")[2].partition("```sh\n")[2].partition("```")[0]
        (tmp_path / "shell").write_text(f"cat /proc/self/cgroup\npytest --sandbox 2>&1 || echo status $?\n{recipe}")
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\nsandbox_memory = 64M\nsandbox_pids = 50\n")
        (tmp_path / "test_it.py").write_text("def test_it(): bytearray(200 << 20)\n")
        container = "umount -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; . ./shell"
        done = subprocess.run(
            ["sh", "-ec", f"echo $$ > {cgroup}/cgroup.procs; exec unshare --cgroup --mount sh -ec '{container}'"],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        cgroup_files.remove([str(cgroup)])
    path, _, said = done.stdout.partition("\n")
    before, _, after = said.partition("status 4\n")
    assert path == "0::/", done.stderr
    assert "other processes are in the cgroup of pytest, and controllers cannot be enabled below it (cgroup.subtree_" in before
    assert "out of memory: the kernel killed" in after, said + done.stderr


class Shell:
    """One that somebody starts pytest from, in cgroups that are new, in a directory with a test that takes too much memory."""

    def __init__(self, cgroups: Sequence[Path], directory: Path, user: int) -> None:
        (directory / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\nsandbox_memory = 64M\n")
        (directory / "test_it.py").write_text("def test_it(): bytearray(200 << 20)\n")
        os.chown(directory, user, user)
        enter = "".join(f"echo $$ > '{cgroup}/cgroup.procs'; " for cgroup in cgroups)
        who = f"setpriv --reuid={user} --regid={user} --clear-groups"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["sh", "-ec", f"{enter}exec {who} sh 2>&1"],
            cwd=directory,
            env=os.environ | {"PATH": path, "HOME": str(directory), "TMPDIR": str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self.do("python -c 'import pytest_sandbox'")
        if said:
            self.close()
            pytest.skip(f"user {user} cannot run this Python: {said}")

    def do(self, command: str) -> str:
        """What a command prints."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\necho; echo ENDED\n")
        self._process.stdin.flush()
        return "".join(iter(self._process.stdout.readline, "ENDED\n")).strip()

    def diagnose(self) -> str:
        """What the doctor says."""
        said = self.do("pytest --sandbox-doctor")
        assert said.startswith("host: "), said
        return said

    def have_root_do(self, command: str) -> None:
        """In a shell that is somewhere else."""
        command = command.replace("SHELL_PID", str(self._process.pid))
        subprocess.run(["sh", "-c", command], check=True, cwd="/")

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)


@pytest.fixture
def fresh() -> Iterator[list[Path]]:
    """New cgroups below this process's own, in each hierarchy, as root makes them; skips where memory is not limited there."""
    memory_hierarchy()
    texts = [Path(f"/proc/self/{name}").read_text(encoding="utf-8") for name in ("cgroup", "mountinfo")]
    made: list[Path] = []
    try:
        for hierarchy in find_hierarchies(*texts):
            if ROOT and not hierarchy.problem:
                made.append(Path(hierarchy.directory, f"doctor-{os.getpid()}"))
                made[-1].mkdir()
                if "cpuset" in hierarchy.controllers:
                    cgroup_files.inherit(str(made[-1]), ("cpuset.mems", "cpuset.cpus"))
        if not any("memory.max" in os.listdir(cgroup) or "memory.limit_in_bytes" in os.listdir(cgroup) for cgroup in made):
            pytest.skip("no cgroup with memory can be made here")
        yield made
    finally:
        cgroup_files.remove(list(map(str, made)))


@pytest.fixture
def shell() -> Iterator[Callable[[int, Sequence[Path]], Shell]]:
    """Starts a `Shell` of a user's, in cgroups."""
    with contextlib.ExitStack() as stack:

        def start(user: int, cgroups: Sequence[Path]) -> Shell:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            directory.chmod(0o755)
            started = Shell(cgroups, directory, user)
            stack.callback(started.close)
            return started

        yield start


OUT_OF_MEMORY = "out of memory: the kernel killed"
SOMEBODY_ELSE = pytest.mark.skipif(
    hostkind.here().systemd or hostkind.here().engine is not None, reason="systemd or an engine is asked for cgroups"
)


def handed_over(said: str) -> list[tuple[str, str]]:
    """What root is to type, and then the user in the shell of theirs, of every fix that hands a cgroup over."""
    by_version_2 = re.findall(r"^    fix: as root: (\(cd .*\)); then, from that shell \([^)]*\), (.*)$", said, re.MULTILINE)
    return by_version_2 + re.findall(r"^    fix: as root: (\(cd .*\)); then (.*) from that shell \([^)]*\)$", said, re.MULTILINE)


@SOMEBODY_ELSE
def test_what_a_user_is_told_is_enough(fresh: list[Path], shell: Callable[[int, Sequence[Path]], Shell]) -> None:
    """Word for word: what root is to do, and what is to be done in the user's own shell then. Once, and again from there."""
    own = shell(65534, fresh)
    said = own.diagnose()
    assert "memory" in limits_refused(said, "this cgroup is not delegated to user 65534"), said
    told = handed_over(said)
    assert len(told) == said.count("\n    fix: as root: (cd ") > 0, said
    for by_root, _ in told * 2:  # as it is done where it was done before
        own.have_root_do(by_root)
    assert OUT_OF_MEMORY in own.do(told[0][1])
    assert "is not delegated" not in own.diagnose()
    if (fresh[-1] / "memory.max").exists():
        said = own.diagnose()
        assert "memory" in limits_refused(said, "other processes are in the cgroup of pytest"), said
        (line,) = re.findall(r"^    fix: (\(cd .*)$", said, re.MULTILINE)
        assert OUT_OF_MEMORY in own.do(line)


@SOMEBODY_ELSE
def test_the_line_for_each_run_works_after_a_kill(fresh: list[Path], shell: Callable[[int, Sequence[Path]], Shell]) -> None:
    """Of pytest and its janitor at once, which leaves its cgroup divided; the next run removes what it had made."""
    cgroup = next((each for each in fresh if (each / "memory.max").exists()), None)
    if cgroup is None:
        pytest.skip("version 1 lets whoever wants to in")
    own = shell(65534, fresh)
    ((by_root, line),) = handed_over(own.diagnose())
    own.have_root_do(by_root)
    own.do("echo 'def test_sleeps(): import time; print(1); time.sleep(600)' > test_sleeps.py")
    own.do(line.replace("pytest --sandbox", "pytest --sandbox test_sleeps.py >killed 2>&1") + " &")
    limit = time.monotonic() + 120
    while not (sandboxes := list(cgroup.glob(f"tests/{BASE_PREFIX}*/{RUN_PREFIX}*/s2"))):
        assert time.monotonic() < limit, own.do("cat killed")
        time.sleep(0.1)
    base = sandboxes[0].parents[1]
    while pids := cgroup_files.pids_below(str(base)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert list(base.glob(f"{RUN_PREFIX}*"))
    own.do("rm test_sleeps.py")
    assert OUT_OF_MEMORY in own.do(line)
    assert not list(base.glob("*/"))


@SOMEBODY_ELSE
def test_a_cgroup_below_one_with_processes(fresh: list[Path], shell: Callable[[int, Sequence[Path]], Shell]) -> None:
    """It has no controllers, and cannot be given any: those around it are moved out of the way first, as the doctor says."""
    cgroup = next((each for each in fresh if (each / "memory.max").exists()), None)
    if cgroup is None:
        pytest.skip("version 1 has no such rule")
    shell(0, [cgroup])
    (cgroup / "tests").mkdir()
    inner = shell(0, [cgroup / "tests"])
    said = inner.diagnose()
    reason = f"a cgroup above does not pass on the controller memory (cgroup.subtree_control in {cgroup})"
    assert "memory" in limits_refused(said, reason), said
    (command,) = set(re.findall(r"^    fix: as root: (\(cd .*\))$", said, re.MULTILINE))
    inner.have_root_do(command)
    (line,) = re.findall(r"^    fix: (\(cd .*)$", inner.diagnose(), re.MULTILINE)
    assert OUT_OF_MEMORY in inner.do(line)


def commands_of_the_page(start: str) -> tuple[str, str]:
    """What root and the user are to type, of the lines that follow these words; in the first, the user is "me"."""
    page = (Path(__file__).parents[2] / "docs" / "host-setup.md").read_text(encoding="utf-8")
    lines = page.partition(start)[2].partition("```console\n")[2].partition("```")[0].splitlines()
    by_root, by_user = ("\n".join(line[2:] for line in lines if line[0] in prompts) for prompts in ("#>", "$"))
    return by_root.replace("me:", "65534").replace("$SHELL_PID", "SHELL_PID"), by_user


@SOMEBODY_ELSE
def test_lines_of_the_page_for_version_1(fresh: list[Path], shell: Callable[[int, Sequence[Path]], Shell]) -> None:
    """Each hierarchy is handed over, where the shell is in it."""
    if not any((one / "memory.limit_in_bytes").exists() for one in fresh):
        pytest.skip("version 1 has no memory here")
    own = shell(65534, fresh)
    by_root, _ = commands_of_the_page("With cgroup version 1, or both versions, ")
    own.have_root_do(by_root)
    assert OUT_OF_MEMORY in own.do("pytest --sandbox")
    assert not limits_refused(own.diagnose(), "this cgroup is not delegated")


@pytest.fixture
def real_root() -> Iterator[Path]:
    """The root of all cgroups, of version 2, if nothing of it is changed but that it has a cgroup `tests` for the time being."""
    root = Path("/sys/fs/cgroup")
    if not ROOT or not (root / "cgroup.subtree_control").exists() or (root / "cgroup.events").exists():
        pytest.skip("it is not to be seen, or not root's to change")
    if (root / "tests").exists() or (root / "cgroup.controllers").read_text() != (root / "cgroup.subtree_control").read_text():
        pytest.skip("there are tests in it, or it would pass on more than it did")
    yield root
    if (root / "tests").exists():
        cgroup_files.remove([str(root / "tests")])


@SOMEBODY_ELSE
@pytest.mark.parametrize("source", ["doctor", "page"])
def test_a_user_in_the_root_of_all_cgroups(real_root: Path, shell: Callable[[int, Sequence[Path]], Shell], source: str) -> None:
    """It passes controllers on as it is; as on a machine that has version 2 and no systemd."""
    own = shell(65534, [real_root])
    said = own.diagnose()
    assert "memory" in limits_refused(said, "this cgroup is not delegated to user 65534"), said
    ((by_root, by_user),) = handed_over(said)
    if source == "page":
        by_root, by_user = commands_of_the_page("Without systemd an administrator makes one by hand")
    own.have_root_do(by_root)
    assert OUT_OF_MEMORY in own.do(by_user)


@pytest.mark.skipif(not ROOT or hostkind.here().engine is not None, reason="only the machine's root mounts what is the machine's")
def test_cgroup_file_systems_that_are_not_mounted() -> None:
    """Each is named, of version 1 by its controllers, and what it says to mount is enough."""
    memory_hierarchy()
    script = "umount -l /sys/fs/cgroup; if grep -q ' - cgroup' /proc/self/mountinfo; then exit 1; fi"
    said = diagnose(script, apart=("-m",))
    assert "memory" in limits_refused(said, "cgroup hierarchy is not mounted"), said
    commands = re.findall(r"^    fix: as root: (mount.*); in a container", said, re.MULTILINE)
    assert len(commands) == said.count("cgroup hierarchy is not mounted")
    said = diagnose("\n".join([script, "set +e", *commands]), apart=("-m",))
    assert "\nyes memory, swap" in said or "other processes are in the cgroup" in said, said
    assert "not mounted" not in said


@pytest.fixture
def astray() -> Iterator[Callable[[], None]]:
    """What takes a process out of the cgroup that its cgroup namespace begins at."""
    _, directory = memory_hierarchy()
    inner = f"{directory}/doctor-{os.getpid()}"
    try:
        os.mkdir(inner)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")

    def enter(cgroup: str) -> None:
        with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))

    def leave() -> None:
        enter(inner)
        uid, gid = os.geteuid(), os.getegid()
        syscalls.unshare(Clone.NEWCGROUP if ROOT else Clone.NEWUSER | Clone.NEWCGROUP)
        for name, line in {} if ROOT else {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}.items():
            Path(f"/proc/self/{name}").write_text(line, encoding="ascii")
        enter(directory)

    yield leave
    os.rmdir(inner)


def test_a_cgroup_outside_of_its_namespace(astray: Callable[[], None]) -> None:
    """Its path begins with /..: whoever was moved there has no cgroup that they could divide."""
    name, _ = memory_hierarchy()
    try:
        _, said = run(["--sandbox-doctor"], astray)
    except subprocess.SubprocessError as error:
        pytest.skip(f"no process can be led astray here: {error}")
    assert "memory" in limits_refused(said, f"this process's {name} cgroup /.. lies outside of its cgroup namespace"), said
