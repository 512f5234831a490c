"""A scope asked of systemd: where it would be, why it is not asked for, and, where systemd is pid 1, what it does.

python tests/vm/guest.py --cgroups systemd ...     has such a systemd (tests/vm/suite.py runs the whole suite there)
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_sandbox.primitives.cgroups import systemd as cgroup_systemd
from pytest_sandbox.primitives.cgroups.files import pids_below, pids_in
from pytest_sandbox.primitives.cgroups.layout import RUN_PREFIX, SCOPE_PREFIX, V1, V2, Hierarchy, find_hierarchies
from pytest_sandbox.primitives.cgroups.systemd import Place, find_place
from pytest_sandbox.sandbox.machine import fixes
from pytest_sandbox.sandbox.machine.hostkind import HostKind

UID = os.geteuid()

# -- anywhere ----------------------------------------------------------------------------------------------------------

USER = "/user.slice/user-1000.slice"
MANAGED = f"{USER}/user@1000.service"


@pytest.mark.parametrize(
    ("path", "uid", "place"),
    [
        (f"{USER}/session-3.scope", 1000, Place("", "", 1)),
        (f"{MANAGED}/app.slice/vte-spawn-1.scope", 1000, Place("app.slice", "vte-spawn-1.scope", 1)),
        (f"{MANAGED}/app.slice/app-term.slice/term.service", 1000, Place("app-term.slice", "term.service", 1)),
        (f"{MANAGED}/a.scope", 1000, Place("", "a.scope", 1)),
        (f"{USER}/session-3.scope", 0, Place("user-1000.slice", "session-3.scope", 1)),
        (f"{MANAGED}/app.slice/vte-spawn-1.scope", 0, Place("user-1000.slice", "user@1000.service", 3)),
        (f"{USER}/session-3.scope", 1001, None),
        (f"{MANAGED}/user.slice/libpod-1.scope/container", 1000, None),
        ("/user.slice/x.scope", 1000, None),
        ("/system.slice/runner.service", 1000, None),
        ("/system.slice/runner.service", 0, None),
        ("/machine.slice/libpod-1.scope", 0, None),
        ("/", 0, None),
    ],
)
def test_place(path: str, uid: int, place: Place | None) -> None:
    """In the slice where the process is; nowhere for what is no session or unit of the user's, nor for a part of a unit."""
    assert find_place(path, uid) == place


def asked(path: str, directory: Path) -> tuple[str, str]:
    """The reason and the fix that it takes to ask for a scope from this cgroup."""
    problem = cgroup_systemd.ask(Hierarchy(V2, "", frozenset(), path, str(directory)))
    assert problem
    return problem.reason, fixes.fix(problem.cause, HostKind(systemd=True, uid=1000), problem.detail)


@pytest.fixture
def session(tmp_path: Path) -> tuple[str, Path]:
    """What stands for a cgroup of a session of this user's: nothing bounds it."""
    path = f"/user.slice/user-{UID}.slice/session-{os.getpid()}-{tmp_path.name}.scope"
    unbounded = {
        "cpuset.mems": "",
        "hugetlb.2MB.max": "max",
        "misc.max": "sev max",
        "rdma.max": "a hca_handle=max hca_object=max",
    }
    usual = {"memory.max": "max", "cpu.max": "max 100000", "pids.max": "77", "io.max": ""}
    for name, value in (usual | unbounded).items():
        (tmp_path / name).write_text(value + "\n")
    return path, tmp_path


def test_what_may_hold_pytest_is_not_left(tmp_path: Path) -> None:
    """A service of the system's: what it is good for would not hold any more."""
    reason, fix = asked("/system.slice/runner.service", tmp_path)
    assert "not asked for a scope: /system.slice/runner.service is no session or unit of this user's" in reason
    assert "systemd-run" in fix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory.max", "1048576"),
        ("memory.zswap.max", "0"),
        ("cpu.max", "50000 100000"),
        ("cpuset.mems", "0"),
        ("io.max", "8:0 rbps=1"),
        ("hugetlb.2MB.max", "0"),
        ("misc.max", "sev max\nsev_es 2"),
        ("rdma.max", "mlx4_0 hca_handle=2 hca_object=max"),
    ],
)
def test_a_limit_is_not_escaped(session: tuple[str, Path], name: str, value: str) -> None:
    """A cgroup that bounds something is not left, and the limit is named."""
    path, directory = session
    (directory / name).write_text(value + "\n")
    reason, fix = asked(path, directory)
    assert f"would escape {name} of {directory.name}" in reason
    assert "the limit as another -p" in fix


def test_without_the_library(session: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix is the extra, or what a user can type."""
    monkeypatch.setitem(sys.modules, "jeepney", None)
    reason, fix = asked(*session)
    assert reason == "systemd cannot be asked for a scope without jeepney"
    assert fix.startswith("pip install 'pytest-sandbox[systemd]', or ")
    assert "systemd-run" in fix


@pytest.mark.parametrize("there", [False, True], ids=["no bus", "a file"])
def test_without_a_bus(session: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    """What the attempt to reach it said, and a fix."""
    pytest.importorskip("jeepney", reason="the extra is not installed")
    if there:
        (session[1] / "bus").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session[1]))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={session[1]}/bus")
    reason, fix = asked(*session)
    assert reason.startswith(
        "systemd gave no scope: ConnectionRefusedError" if there else "systemd gave no scope: FileNotFoundError"
    )
    assert "systemd-run" in fix


@pytest.mark.parametrize("answers", [0, 1], ids=["at once", "after it has let us in"])
def test_a_bus_that_hangs(session: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, answers: int) -> None:
    """Wherever it does, pytest goes on."""
    pytest.importorskip("jeepney", reason="the extra is not installed")
    monkeypatch.setattr(cgroup_systemd, "SECONDS", 2.0)  # enough to come so far on a machine under load
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session[1]))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={session[1]}/bus")

    def serve() -> None:
        connection = bus.accept()[0]
        with connection, connection.makefile("rb") as said:
            for _ in range(answers):
                assert b"AUTH" in said.readline()
                connection.send(b"OK 0123456789abcdef0123456789abcdef\r\n")
            said.read()

    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(f"{session[1]}/bus")
        bus.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            reason, fix = asked(*session)
        finally:
            thread.join()
    assert reason.startswith("systemd gave no scope: ")
    assert "systemd-run" in fix


@pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="dbus-daemon is not installed")
def test_a_bus_without_systemd(session: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bus's own words, and a fix."""
    pytest.importorskip("jeepney", reason="the extra is not installed")
    bus = f"unix:path={session[1]}/bus"
    argv = ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={bus}", "--print-address"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert daemon.stdout
            if not daemon.stdout.readline():
                pytest.skip("dbus-daemon does not run for a user without an account")
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(session[1]))
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus)
            reason, _ = asked(*session)
        finally:
            daemon.kill()
    assert reason.startswith("systemd gave no scope: RuntimeError ")
    assert "org.freedesktop.systemd1" in reason


# -- where systemd is pid 1 --------------------------------------------------------------------------------------------

#: For a scope where this user's sessions and units are, not delegated.
MANAGER = ["--user"] if UID else []
STARTER = ["systemd-run", *MANAGER, "--quiet", *([] if UID else ["--slice=user-0.slice"])]
#: The command shares its cgroup with this shell and another process. The command's pid is written first.
SHARED = [
    "sh", "-c", 'sleep 1000 >/dev/null 2>&1 & other=$!; "$@" & echo $!; wait $!; status=$?; kill $other; exit $status', "sh",
]  # fmt: skip
#: Where the process is, then that and the memory limit's reason after it was tried; then waits to be killed if asked to.
LOOK = """
import sys, time
from pytest_sandbox import capabilities
def where():
    return open("/proc/self/cgroup").read().strip().removeprefix("0::")
print(where())
memory = capabilities()["memory"]
print(where())
print(memory.available, memory.reason, flush=True)
if sys.argv[1:]:
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def systemd() -> Iterator[None]:
    """Skip where there is no systemd to ask. A scope stays open: a slice that its last unit leaves refuses others."""
    found = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if not cgroup_systemd.booted():
        pytest.skip("systemd is not pid 1 here; tests/vm/suite.py --cgroups systemd has it")
    if any(each.version == V1 and "memory" in each.controllers for each in found):
        pytest.skip("the memory controller is not of version 2 here")
    pytest.importorskip("jeepney", reason="the extra is not installed")
    argv = [*STARTER, "--scope", "sh", "-c", "echo begun; exec sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as scope:
        try:
            assert scope.stdout
            assert scope.stderr
            if scope.stdout.readline() != "begun\n":
                pytest.skip(f"systemd makes no scope for this user: {scope.stderr.read()}")
            yield
        finally:
            scope.kill()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(systemd: None) -> Iterator[Start]:  # noqa: ARG001
    """Starts a command by systemd-run, with its options, and ends it."""
    with contextlib.ExitStack() as undo:

        def begin(options: Sequence[str], command: Sequence[str]) -> subprocess.Popen[str]:
            argv = [*STARTER, *options, *command]
            env = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
            process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
            )
            undo.callback(process.communicate)
            undo.callback(end, process.pid)
            return process

        yield begin


def end(session: int) -> None:
    """Kill what is left of a command and of what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def look(start: Start, *options: str, shared: bool = True) -> list[str]:
    """The three lines of LOOK, in a scope with these options."""
    process = start(["--scope", *options], [*(SHARED if shared else []), sys.executable, "-c", LOOK])
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    return output.splitlines()[-3:]


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, a minute at most."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "waited for a minute"
        time.sleep(0.02)


def units(name: str) -> str:
    """The units of that name, whatever their state."""
    argv = ["systemctl", *MANAGER, "list-units", "--all", "--no-legend", "--plain", name]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_scope_beside_what_was_left(start: Start) -> None:
    """The process leaves the cgroup that it shares for a scope in the same slice; limits can be had. It ends with the process."""
    before, after, memory = look(start)
    assert os.path.dirname(after) == os.path.dirname(before)
    assert os.path.basename(after).startswith(SCOPE_PREFIX)
    assert memory == "True v2"
    until(lambda: not os.path.exists(f"/sys/fs/cgroup{after}") and units(os.path.basename(after)) == "")


def test_what_can_be_divided_is_not_left(start: Start) -> None:
    """A delegated scope that pytest has for itself is used as it is."""
    before, after, memory = look(start, "--property=Delegate=yes", shared=False)
    assert (after, memory) == (before, "True v2")


def test_a_bounded_cgroup_is_not_left(start: Start) -> None:
    """Its limit would not hold any more."""
    before, after, memory = look(start, "--property=MemoryMax=1G")
    assert after == before
    assert "other processes are in the cgroup of pytest" in memory
    assert "would escape memory.max of" in memory


SUITE = """
import os, time, pytest
@pytest.mark.sandbox(memory="64M")
def test_memory():
    b"x" * (1 << 28)
@pytest.mark.sandbox(pids=10)
def test_pids():
    for _ in range(20):
        if os.fork() == 0:
            time.sleep(600)
@pytest.mark.sandbox(cpus=0.02)
def test_cpus():
    while time.process_time() < 0.04: pass
    assert 0
@pytest.mark.sandbox(timeout=600)
def test_stays():
    time.sleep(600)
"""


def test_limits_hold_in_a_plain_shell(start: Start, pytester: pytest.Pytester) -> None:
    """`pytest --sandbox` where a shell is in the same cgroup: memory, processes and CPU are limited, and nothing stays."""
    path = pytester.makepyfile(SUITE)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--sandbox", "--deselect", f"{path.name}::test_stays"]
    process = start(["--scope", "--property=TasksMax=77"], [*SHARED, *argv])
    output, _ = process.communicate(timeout=300)
    assert "NOT ENFORCED" not in output
    assert "out of memory: the kernel killed" in output
    assert "too many processes: limit 10" in output
    assert "throttled" in output
    assert "3 failed" in output
    pid = output.split(maxsplit=1)[0]
    until(lambda: units(f"{SCOPE_PREFIX}{pid}-*") == "")
    assert below(f"{SCOPE_PREFIX}{pid}-*") == []


def below(pattern: str) -> list[str]:
    """Cgroups of that path, "*" for any part of it, wherever they are; what goes meanwhile is passed over."""
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if fnmatch.fnmatch(path, f"*/{pattern}")]


def test_kill_9_leaves_no_scope(start: Start, pytester: pytest.Pytester) -> None:
    """pytest is killed in a test: its sandboxes, their cgroups and the scope are gone."""
    path = pytester.makepyfile(SUITE)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--sandbox", f"{path.name}::test_stays"]
    process = start(["--scope", "--property=TasksMax=77"], [*SHARED, *argv])
    assert process.stdout
    pid = int(process.stdout.readline())
    scope = f"{SCOPE_PREFIX}{pid}-*"
    until(lambda: any(map(pids_in, below(f"{scope}.scope/{RUN_PREFIX}*/s2*"))))
    (found,) = below(f"{scope}.scope")
    assert Path(found, "pids.max").read_text() == "77\n"
    inside = pids_below(found)
    assert len(inside) > 2
    os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    until(lambda: units(scope) == "" and below(scope) == [])
    until(lambda: not any(map(alive, inside)))


RUNS = """
from pytest_sandbox import Sandbox
for _ in range(3):
    assert Sandbox().call(lambda: 7) == 7
    print(open("/proc/self/cgroup").read().strip())
"""


def test_one_scope_for_all_runs_of_a_process(start: Start) -> None:
    """It stays where the first run has brought it."""
    process = start(["--scope"], [*SHARED, sys.executable, "-c", RUNS])
    output, errors = process.communicate(timeout=60)
    assert errors == ""
    first, second, third = output.splitlines()[1:]
    assert first == second == third
    assert SCOPE_PREFIX in first


@pytest.mark.parametrize("kind", ["scope", "service"])
def test_it_ends_with_the_unit_that_it_left(start: Start, kind: str, tmp_path: Path) -> None:
    """A scope that is stopped, a service whose main process ends: what has left them does not outlive them."""
    unit = f"sandbox-tests-{os.getpid()}.{kind}"
    tell, script = tmp_path / "output", tmp_path / "script"
    # In a file: systemd would expand what begins with a dollar.
    script.write_text(f"exec >{tell} 2>&1; echo $$; {shlex.join([*SHARED, sys.executable, '-c', LOOK, 'stay'])}")
    start([f"--unit={unit}", *(["--scope"] if kind == "scope" else ["--setenv=PYTHONPATH"])], ["sh", str(script)])
    until(lambda: tell.exists() and len(tell.read_text().splitlines()) == 5)
    main, pid, _, after, memory = tell.read_text().splitlines()
    assert memory == "True v2"
    assert alive(int(pid))
    if kind == "scope":
        subprocess.run(["systemctl", *MANAGER, "stop", unit], check=True)
    else:
        os.kill(int(main), signal.SIGKILL)
    until(lambda: not alive(int(pid)) and units(os.path.basename(after)) == "")


def managed_user() -> int | None:
    """An ordinary user whose manager runs."""
    return next((int(bus.parent.name) for bus in Path("/run/user").glob("*/bus") if bus.parent.name != "0"), None)


@pytest.mark.skipif(UID != 0, reason="only root can put another user's process where it may divide nothing")
def test_a_scope_for_a_session(start: Start, tmp_path: Path) -> None:
    """A session's cgroup is root's: its user gets a scope from the manager of their own."""
    user = managed_user()
    if user is None:
        pytest.skip("no ordinary user has a manager here")
    session = f"sandbox-tests-{os.getpid()}.scope"
    tmp_path.chmod(0o755)
    as_user = ["--scope", f"--unit={session}", f"--slice=user-{user}.slice", f"--uid={user}"]
    process = start(as_user, [sys.executable, "-c", LOOK])
    output, errors = process.communicate(timeout=60)
    assert errors == ""
    before, after, memory = output.splitlines()
    assert before == f"/user.slice/user-{user}.slice/{session}"
    assert after.startswith(f"/user.slice/user-{user}.slice/user@{user}.service/app.slice/{SCOPE_PREFIX}")
    assert memory == "True v2"
