"""pytest-xdist: each worker is a controller with its own tree of sandboxes, wherever it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_sandbox import capabilities
from pytest_sandbox.primitives.cgroup_layout import CONTROLLER_PREFIX, RUN_PREFIX, find_hierarchies

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare, Run

execnet = pytest.importorskip("execnet")
pytest.importorskip("xdist")

MODES = ("load", "loadscope", "loadfile", "loadgroup", "worksteal", "each", "no")
#: Something of everything that a report can say.
SUITE = {
    "test_a": """
        import pytest
        @pytest.fixture(scope="session", params=["x", "y"])
        def world(request): return request.param
        @pytest.fixture(scope="module")
        def number(): return 1
        @pytest.mark.parametrize("n", range(3))
        def test_numbers(number, n): assert n < 2
        def test_world(world, number): assert world == "x"
        @pytest.mark.xdist_group("one")
        def test_skipped(): pytest.skip("for a reason")
        @pytest.mark.xdist_group("one")
        @pytest.mark.xfail
        def test_expected(): assert 0
        @pytest.mark.xfail(strict=True)
        def test_unexpected(): pass
        @pytest.fixture
        def broken(): raise ValueError
        def test_broken(broken): pass
        @pytest.fixture
        def breaks():
            yield
            raise ValueError
        def test_breaks(breaks): pass
        """,
    "test_b": """
        import pytest, unittest, warnings
        class TestClass:
            @pytest.fixture(scope="class", autouse=True)
            def state(self): return []
            def test_1(self, state): state.append(1)
            def test_2(self, tmp_path): (tmp_path / "a").write_text("b")
        class TestUnit(unittest.TestCase):
            def test_1(self): pass
            def test_2(self): self.fail("here")
        def test_warns(): warnings.warn("look out")
        def test_prints(record_property):
            print("hello")
            record_property("a", "b")
            assert 0
        @pytest.mark.sandbox(enabled=False)
        def test_outside_1(): pass
        @pytest.mark.sandbox(enabled=False)
        def test_outside_2(tmp_path): assert 0
        def test_last(): pass
        """,
}


@pytest.fixture(autouse=True)
def nothing_is_left(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of a run, nor a cgroup of its controller's or of one of its workers."""
    del compare  # it first says where temporary directories are
    pids = Path(os.environ["PYTEST_DEBUG_TEMPROOT"]).parent / "pids"
    pids.mkdir()
    monkeypatch.setenv("PROCESS_RECORD", str(pids))
    yield
    limit = time.monotonic() + 120
    while (found := left(pids)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert found == []


def left(pids: Path) -> list[str]:
    """What a run has left whose processes are recorded there."""
    names = os.listdir(pids)
    mark = f"PROCESS_RECORD={pids}\0".encode()
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            if int(entry) != os.getpid() and state != "Z" and mark in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(f"process {entry}: {Path(f'/proc/{entry}/cmdline').read_bytes()!r}")
    hierarchies = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    for directory in {each.directory for each in hierarchies if each.directory}:
        for name in os.listdir(directory):
            if name.startswith((RUN_PREFIX, CONTROLLER_PREFIX)) and set(re.split("[-.]", name)) & set(names):
                found.append(f"{directory}/{name}")
    return found


def run(compare: Compare, *args: str, sandbox: bool = True, timeout: float = 300) -> Run:
    """One run."""
    return compare.one("-p", "process_recorder", *args, sandbox=sandbox, timeout=timeout)


def outcomes(found: Run) -> list[tuple[str, str, str]]:
    """What became of each test, in an order that does not depend on who was quicker."""
    return sorted(found.outcomes())


def workers(text: str) -> set[str]:
    """Those that a run speaks of."""
    return set(re.findall(r"\bgw\d+\b", text))


# -- the same outcomes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_modes(pytester: pytest.Pytester, compare: Compare, mode: str) -> None:
    """Each way to distribute tests has the outcomes that it has without sandboxes, the same warnings and the same end."""
    pytester.makepyfile(**SUITE)
    arguments = ("--tx", "2*popen") if mode == "each" else ("-n2",) if mode != "no" else ()
    plain, boxed = (run(compare, *arguments, f"--dist={mode}", sandbox=sandbox) for sandbox in (False, True))
    assert outcomes(boxed) == outcomes(plain)
    assert len(outcomes(boxed)) > 50
    assert boxed.status == plain.status == 1
    # How often those of a class are heard depends on how many workers get tests of it.
    assert {entry[1] for entry in boxed.record["warnings"]} == {entry[1] for entry in plain.record["warnings"]}
    assert "INTERNALERROR" not in boxed.text
    counts = [found.result.parseoutcomes() | {"warnings": 0} for found in (plain, boxed)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("options", [("-n0",), ("--tx", "2*popen")])
def test_no_workers(pytester: pytest.Pytester, compare: Compare, options: tuple[str, ...]) -> None:
    """Where there are none, it is the run that it is without pytest-xdist."""
    pytester.makepyfile("import os\ndef test_1(): assert 'PYTEST_XDIST_WORKER' not in os.environ and os.getpid() < 10\n")
    run(compare, *options).result.assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["-x", "--maxfail=2"])
def test_stop(pytester: pytest.Pytester, compare: Compare, option: str) -> None:
    """-x and --maxfail end the run, in the middle of a shared sandbox too, and scopes are torn down."""
    pytester.makepyfile(
        """
        import os, pytest
        pytestmark = pytest.mark.sandbox(scope="module")
        @pytest.fixture(scope="session", autouse=True)
        def world():
            yield
            with open(os.environ["NOTES"], "a") as file: file.write("closed\\n")
        @pytest.mark.parametrize("n", range(20))
        def test_fails(n): assert 0
        """
    )
    notes = pytester.path / "notes"
    notes.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTES", str(notes))
        found = run(compare, "-n1", option, f"--sandbox-writable={notes}")
    assert found.result.parseoutcomes()["failed"] == {"-x": 1, "--maxfail=2": 2}[option]
    assert "stopping after" in found.text
    assert notes.read_text() == "closed\n"


def test_last_failed(pytester: pytest.Pytester, compare: Compare) -> None:
    """--lf runs what failed under workers before."""
    pytester.makepyfile("def test_1(): assert 0\ndef test_2(): pass\ndef test_3(): assert 0\n")
    run(compare, "-n2")
    again = run(compare, "-n2", "--lf", "--durations=3", "--junitxml=junit.xml", "-o", "junit_family=xunit1")
    again.result.assert_outcomes(failed=2)
    assert "slowest" in again.text
    assert 'name="sandbox_ending"' in (pytester.path / "junit.xml").read_text()


def test_teardown_errors_of_scopes(pytester: pytest.Pytester, compare: Compare) -> None:
    """What a module's and the session's fixtures raise when they are torn down is reported once, where plain pytest does."""
    module = """
        import pytest
        @pytest.fixture(scope="module")
        def module():
            yield
            raise ValueError("of the module")
        def test_1(module): pass
        def test_2(module): pass
        """
    pytester.makepyfile(test_a=module, test_b=module)
    plain, boxed = (run(compare, "-n2", "--dist=loadfile", sandbox=sandbox) for sandbox in (False, True))
    assert outcomes(boxed) == outcomes(plain)
    assert boxed.result.parseoutcomes() == {"passed": 4, "errors": 2}


# -- scopes ------------------------------------------------------------------------------------------------------------

NOTING = """
    import os, pytest, time
    def note(text):
        with open(os.environ["NOTES"], "a") as file: file.write(f"{os.environ['PYTEST_XDIST_WORKER']} {text}\\n")
    @pytest.fixture(scope="session")
    def world(worker_id, testrun_uid, tmp_path_factory):
        assert worker_id == os.environ["PYTEST_XDIST_WORKER"] and testrun_uid == os.environ["PYTEST_XDIST_TESTRUNUID"]
        assert tmp_path_factory.getbasetemp().name == f"popen-{worker_id}"
        note("session")
        (tmp_path_factory.mktemp("world", numbered=False) / "data").write_text(worker_id)
        yield tmp_path_factory.getbasetemp() / "world" / "data"
        note("closed")
    @pytest.fixture(scope="session")
    def late(): note("late")
    """


@pytest.fixture
def notes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that all may write to."""
    path = pytester.path / "notes"
    path.touch()
    monkeypatch.setenv("NOTES", str(path))
    return path


def test_session_fixtures(pytester: pytest.Pytester, compare: Compare, notes: Path) -> None:
    """They are set up and torn down once a worker, as xdist promises; what tests write into what they made is each one's own."""
    pytester.makeconftest(textwrap.dedent(NOTING))
    pytester.makepyfile(
        """
        import pytest, time
        @pytest.fixture(scope="module")
        def module(world): return world.read_text()
        @pytest.mark.parametrize("n", range(12))
        def test_n(module, n, world, worker_id, request):
            if n % 3: request.getfixturevalue("world")
            assert world.read_text() == module == worker_id
            world.write_text("mine")
            time.sleep(0.05)
        def test_late(module, late): pass
        """
    )
    found = run(compare, "-n2", f"--sandbox-writable={notes}")
    found.result.assert_outcomes(passed=13)
    lines = notes.read_text().split("\n")[:-1]
    for worker in ("gw0", "gw1"):
        assert [line for line in lines if line in (f"{worker} session", f"{worker} closed")] == [
            f"{worker} session",
            f"{worker} closed",
        ]
    assert all(lines.count(f"{worker} late") <= 1 for worker in ("gw0", "gw1"))


@pytest.mark.parametrize("mode", ["loadfile", "loadscope"])
def test_shared_sandbox(pytester: pytest.Pytester, compare: Compare, mode: str) -> None:
    """Tests that share one, and are kept together, do so: what one leaves in memory the next finds, one at a time."""
    pytester.makepyfile(
        **{
            f"test_{name}": """
            import os, pytest
            pytestmark = pytest.mark.sandbox(scope="module")
            seen = []
            @pytest.mark.parametrize("n", range(5))
            def test_n(n):
                assert seen == list(range(n))
                seen.append(n)
            def test_crash(): os._exit(0)
            def test_fresh(): assert seen == []; seen.append(0)
            def test_again(): assert seen == [0]
            """
            for name in "ab"
        }
    )
    found = run(compare, "-n2", f"--dist={mode}")
    found.result.assert_outcomes(passed=14, failed=2)
    assert [report["nodeid"].count("test_crash") for report in found.reports if report["outcome"] == "failed"] == [1, 1]


def test_shared_sandbox_that_is_torn_apart(pytester: pytest.Pytester, compare: Compare) -> None:
    """Where tests that share one come to a worker in pieces, each piece has one of its own, with its own fixtures."""
    pytester.makepyfile(
        """
        import pytest
        seen = []
        @pytest.fixture(scope="module")
        def number(): return []
        def make(n):
            @pytest.mark.sandbox(group="even") if n % 2 == 0 else lambda function: function
            def test(number):
                assert len(number) == len(seen)
                seen.append(n); number.append(n)
            return test
        for n in range(10): globals()[f"test_{n}"] = make(n)
        """.replace(
            '@pytest.mark.sandbox(group="even") if n % 2 == 0 else lambda function: function',
            "@(pytest.mark.sandbox(group='even') if n % 2 == 0 else (lambda function: function))",
        )
    )
    run(compare, "-n2").result.assert_outcomes(passed=10)


def test_a_long_wait_for_the_next_item(pytester: pytest.Pytester, compare: Compare) -> None:
    """A sandbox that waits for its next test, or is held ready for it, has all the time there is: timeouts are of tests."""
    pytester.makepyfile(
        test_a="""
        import pytest, time
        @pytest.mark.sandbox(group="slow", timeout="5s")
        @pytest.mark.parametrize("n", range(2))
        def test_shared(n): time.sleep(0.4)
        """,
        test_b="""
        import pytest, time
        @pytest.mark.sandbox(timeout="5s")
        def test_short(): pass
        @pytest.mark.sandbox(timeout="60s")
        def test_long(): time.sleep(8)
        """,
    )
    run(compare, "-n2", "--dist=worksteal").result.assert_outcomes(passed=4)
    run(compare, "-n2", "--dist=loadfile").result.assert_outcomes(passed=4)


def test_recipe_for_once_over_all_workers(pytester: pytest.Pytester, compare: Compare, notes: Path) -> None:
    """xdist's recipe (a lock and a file beside the workers' directories) works for each worker; in a writable one for all."""
    (pytester.path / "shared").mkdir()
    pytester.makeconftest(
        textwrap.dedent(NOTING)
        + textwrap.dedent(
            """
            import fcntl
            from pathlib import Path
            @pytest.fixture(scope="session")
            def data(tmp_path_factory, worker_id, request):
                top = tmp_path_factory.getbasetemp().parent if not SHARED else request.config.rootpath / "shared"
                with open(top / "lock", "w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not (top / "data").exists():
                        note("made")
                        (top / "data").write_text(worker_id)
                    return (top / "data").read_text()
            """
        ).replace("SHARED", '"SHARED" in os.environ')
    )
    pytester.makepyfile(
        """
        import os, pytest, time
        @pytest.mark.parametrize("n", range(8))
        def test_n(data, n, worker_id):
            time.sleep(0.1)
            assert data in (("gw0", "gw1") if "SHARED" in os.environ else (worker_id,))
        """
    )
    run(compare, "-n2", f"--sandbox-writable={notes}").result.assert_outcomes(passed=8)
    assert sorted(notes.read_text().split("\n")[:-1]) == ["gw0 made", "gw1 made"]
    notes.write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARED", "1")
        run(compare, "-n2", f"--sandbox-writable={notes}", "--sandbox-writable=shared").result.assert_outcomes(passed=8)
    assert len(notes.read_text().split("\n")[:-1]) == 1


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.needs("memory")
def test_killed_tests_cost_no_worker(pytester: pytest.Pytester, compare: Compare) -> None:
    """Whatever ends a test's process is that test's failure; its worker goes on."""
    pytester.makepyfile(
        """
        import ctypes, os, pytest, signal, time
        @pytest.mark.parametrize("n", range(2))
        class TestEnds:
            @pytest.mark.sandbox(memory="64M")
            def test_memory(self, n): bytearray(1 << 30)
            @pytest.mark.sandbox(timeout="2s")
            def test_time(self, n): time.sleep(60)
            def test_exit(self, n): os._exit(0)
            def test_crash(self, n): ctypes.string_at(0)
            def test_kill(self, n): os.kill(os.getpid(), signal.SIGKILL)
            def test_kill_all(self, n): assert os.getpid() < 100; os.kill(-1, signal.SIGKILL)
            def test_good(self, n): pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(failed=12, passed=2)
    assert workers(found.text) == {"gw0", "gw1"}
    assert "crashed" not in found.text
    for words in ("out of memory", "timed out", "without a report", "SIGSEGV", "SIGKILL"):
        assert words in found.text


def test_fixture_that_dies(pytester: pytest.Pytester, compare: Compare) -> None:
    """A session's fixture that ends its process fails the tests that need it, and no others."""
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.fixture(scope="session")
        def deadly(): os._exit(3)
        @pytest.mark.parametrize("n", range(3))
        def test_dead(deadly, n): pass
        @pytest.mark.parametrize("n", range(3))
        def test_good(n): pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(errors=3, passed=3)
    assert workers(found.text) == {"gw0", "gw1"}


@pytest.mark.parametrize("tx", ["popen", f"popen//python={sys.executable}"])
def test_usage_error_of_a_marker(pytester: pytest.Pytester, compare: Compare, tx: str) -> None:
    """What only a worker can find is the run's usage error all the same, with its text; no test runs."""
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox(memory='64Q')\ndef test_1(): pass\ndef test_2(): open('ran', 'w')\n")
    found = run(compare, "--dist=load", "--tx", f"2*{tx}")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    errors = found.result.stderr.str()
    assert "ERROR: test_usage_error_of_a_marker.py::test_1: @pytest.mark.sandbox(memory='64Q')" in errors
    assert "INTERNALERROR" not in found.text + errors
    assert "crashed" not in found.text + errors


def test_limit_that_only_a_marker_asks_for(pytester: pytest.Pytester, compare: Compare) -> None:
    """A marker's limit that the machine cannot enforce is refused, with the reason and the fix."""
    lacking = [name for name in ("memory_high", "hugetlb", "io_read", "cpuset") if not capabilities()[name].available]
    if not lacking:
        pytest.skip("this machine can enforce every limit")
    value = repr("0") if lacking[0] == "cpuset" else repr("64M")
    pytester.makepyfile(f"import pytest\n@pytest.mark.sandbox({lacking[0]}={value})\ndef test_1(): pass\n")
    found = run(compare, "-n2")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert capabilities()[lacking[0]].reason in " ".join(found.result.stderr.str().split())


def test_refused_before_a_worker_is_there(pytester: pytest.Pytester, compare: Compare) -> None:
    """What this machine cannot do, the run's controller says itself."""
    pytester.makepyfile("def test_1(): pass\n")
    found = run(compare, "-n2", "--sandbox-require=flight")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert len(os.listdir(os.environ["PROCESS_RECORD"])) <= 1
    assert run(compare, "-n2", "--pdb").status == pytest.ExitCode.USAGE_ERROR


def test_refused_by_a_worker_only(pytester: pytest.Pytester, compare: Compare) -> None:
    """A worker of another interpreter speaks for itself, and is not started again and again."""
    pytester.makepyfile("def test_1(): pass\n")
    found = run(compare, "--dist=load", "--tx", f"popen//python={sys.executable}", "--sandbox-require=flight")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert "flight" in found.result.stderr.str()
    assert len(os.listdir(os.environ["PROCESS_RECORD"])) == 2


def test_worker_without_the_plugin(pytester: pytest.Pytester, compare: Compare) -> None:
    """Where nobody would make sandboxes no test is run, also if only the ini file asks for them."""
    pytester.makepyfile("def test_1(): open('ran', 'w')\n")
    pytester.makeini("[pytest]\nsandbox = true\n")
    bare = pytester.path / "bare"
    bare.write_text(f'#!/bin/sh\nexec env -u PYTHONPATH {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    found = run(compare, "--dist=load", "--tx", f"popen//python={bare}", sandbox=False)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert "pytest-sandbox is not installed for worker gw0" in found.result.stderr.str()
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize(
    ("ini", "words"),
    [
        ("sandbox = true", "without sandboxes"),
        ("sandbox = true\nsandbox_memory = 64M\nsandbox_hide = /etc/hostname", "memory, hide"),
    ],
)
def test_worker_without_the_ini_file(pytester: pytest.Pytester, compare: Compare, ini: str, words: str) -> None:
    """Where the ini file did not come along no test is run, be it without sandboxes or with other limits."""
    inner = pytester.mkdir("inner")
    (inner / "test_1.py").write_text("import pathlib\ndef test_1(): pathlib.Path('ran').touch()\n")
    pytester.makeini(f"[pytest]\n{ini}\n")
    elsewhere = compare.top / "elsewhere"
    elsewhere.mkdir()
    option = ("--sandbox",) if "memory" in ini else ()
    tx = f"popen//chdir={elsewhere}"
    found = run(compare, *option, "--dist=load", "--tx", tx, f"--rsyncdir={inner}", str(inner), sandbox=False)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    errors = found.result.stderr.str()
    assert words in errors
    assert "ini file" in errors
    assert not list(elsewhere.rglob("ran"))


def test_worker_that_does_not_load_the_plugin(pytester: pytest.Pytester, compare: Compare) -> None:
    """It is told, once it has ended."""
    pytester.makepyfile("def test_1(): pass\n")
    pytester.makeini("[pytest]\nsandbox = true\n")
    blind = pytester.path / "blind"
    blind.write_text(f'#!/bin/sh\nPYTEST_ADDOPTS="-p no:sandbox" exec {sys.executable} "$@"\n')
    blind.chmod(0o755)
    found = run(compare, "--dist=load", "--tx", f"popen//python={blind}", sandbox=False)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert "has run its tests without sandboxes" in found.result.stderr.str()


def test_killed_worker(pytester: pytest.Pytester, notes: Path) -> None:
    """A worker that somebody kills is replaced by xdist; its sandboxes and cgroups are gone (see `nothing_is_left`).

    Each is in its first test when that happens, however slow the other was: that is the one which fails.
    """
    pytester.makepyfile(
        """
        import os, pytest, time
        @pytest.mark.parametrize("n", range(6))
        def test_n(n, worker_id):
            with open(os.environ["NOTES"], "a+") as file:
                file.write(f"{worker_id}\\n")
                file.flush()
                while "go" not in (file.seek(0), file.read())[1].split(): time.sleep(0.05)
        """
    )
    process = start(pytester, f"--sandbox-writable={notes}")
    wait_for(lambda: {"gw0", "gw1"} <= set(notes.read_text().split()))
    pids = set(os.listdir(os.environ["PROCESS_RECORD"])) - {str(process.pid)}
    assert len(pids) == 2
    os.kill(int(pids.pop()), signal.SIGKILL)
    with notes.open("a") as file:
        file.write("go\n")
    output, _ = process.communicate(timeout=300)
    assert "replacing crashed worker" in output
    assert "1 failed, 5 passed" in output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_controller(pytester: pytest.Pytester, notes: Path, number: signal.Signals) -> None:
    """However xdist's controller ends, nothing of its workers is left."""
    pytester.makepyfile(
        """
        import os, pytest, time
        @pytest.fixture(scope="session")
        def world(): yield
        @pytest.mark.parametrize("n", range(6))
        def test_n(n, world):
            with open(os.environ["NOTES"], "a") as file: file.write("begun\\n")
            time.sleep(2)
        """
    )
    process = start(pytester, f"--sandbox-writable={notes}")
    wait_for(lambda: len(notes.read_text().split()) >= 2)
    os.kill(process.pid, number)
    process.communicate(timeout=300)
    assert process.returncode != 0


def start(pytester: pytest.Pytester, *args: str) -> subprocess.Popen[str]:
    """A run in the background."""
    helpers = Path(__file__).resolve().parent / "helpers"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(helpers), prepend=os.pathsep)
        command = [sys.executable, "-m", "pytest", "-p", "process_recorder", "--sandbox", "-n2", *args]
        return subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition: Any) -> None:
    """Until it is true."""
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


# -- hostile tests -----------------------------------------------------------------------------------------------------


def test_no_way_to_the_controller(pytester: pytest.Pytester, compare: Compare) -> None:
    """Nothing that a worker talks to the controller by is open in a sandbox, and who tries to speak there is not heard."""
    pytester.makeconftest(
        """
        import os, stat
        def ways():
            found = {}
            for name in os.listdir("/proc/self/fd"):
                try: found[int(name)] = (os.fstat(int(name)).st_dev, os.fstat(int(name)).st_ino, os.fstat(int(name)).st_mode)
                except OSError: pass
            return {fd: key for fd, key in found.items() if stat.S_ISFIFO(key[2]) or stat.S_ISSOCK(key[2])}
        WORKERS = set(ways().values())
        """
    )
    pytester.makepyfile(
        """
        import contextlib, os, conftest, pytest
        @pytest.fixture(scope="session")
        def world():
            assert conftest.WORKERS and not conftest.WORKERS & set(conftest.ways().values())
        @pytest.mark.parametrize("n", range(4))
        def test_forge(world, n, request):
            assert not conftest.WORKERS & set(conftest.ways().values())
            for plugin in request.config.pluginmanager.get_plugins():
                if hasattr(plugin, "sendevent"):
                    plugin.sendevent("logstart", nodeid="forged", location=("forged", 1, "forged"))
                    plugin.sendevent("workerfinished", workeroutput={"exitstatus": 0})
                    with contextlib.suppress(OSError): plugin.channel.close()
            own = [fd for fd in conftest.ways()]
            for fd in set(range(3, 100)) - set(own):
                try: os.write(fd, b"\\0" * 100)
                except OSError: pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(passed=4)
    assert "forged" not in found.text
    assert workers(found.text) <= {"gw0", "gw1"}


def test_reports_that_cannot_be_sent(pytester: pytest.Pytester, compare: Compare) -> None:
    """What execnet has no form for, or the controller no module, costs no worker."""
    pytester.makepyfile(
        """
        import pytest, warnings
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        class OwnWarning(UserWarning): pass
        def test_numbers(record_property):
            record_property("large", -(10 ** 12)); record_property("larger", 10 ** 100); record_property("half", "\\ud800")
        def test_text(): print("\\ud800"); assert "\\ud800" == ""
        def test_warning(): warnings.warn(OwnWarning("of my own \\ud800"))
        def test_forged(request):
            base = {"op": "warning", "text": "forged", "filename": "x", "lineno": 1, "line": "", "when": "runtest", "nodeid": "x"}
            send = request.config.stash[INSIDE].channel.send
            send(base | {"category": ["no.such.module", "Evil"], "location": None})
            send(base | {"category": ["builtins", "UserWarning"], "location": ["\\ud800", 1, "f"]})
        def test_last(): pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(passed=4, failed=1, warnings=3)
    assert workers(found.text) <= {"gw0", "gw1"}
    assert "OwnWarning: of my own" in found.text


def test_lies_cost_no_worker(pytester: pytest.Pytester, compare: Compare) -> None:
    """A test that breaks the rules of its socket fails."""
    pytester.makepyfile(
        """
        import pytest
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        BAD = {"op": "warning", "text": "x", "filename": "x", "line": "", "category": ["builtins", "UserWarning"], "lineno": 1}
        @pytest.mark.parametrize("frame", [
            {"op": "nonsense"}, {"op": "finish", "item": 0}, {"op": "report", "data": {}}, BAD | {"lineno": -1},
            BAD | {"location": [1]}, BAD | {"location": [1, 2, 3, 4]}, BAD | {"lineno": 10 ** 30},
        ])
        def test_lies(frame, request): request.config.stash[INSIDE].channel.send(frame)
        def test_last(): pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(failed=7, passed=1)
    assert workers(found.text) <= {"gw0", "gw1"}


# -- what the user reads -----------------------------------------------------------------------------------------------


def test_summary(pytester: pytest.Pytester, compare: Compare) -> None:
    """The controller has one table of all workers' tests, their scopes, and says where files are kept."""
    pytester.makepyfile(
        """
        import pytest, subprocess, time
        @pytest.mark.parametrize("n", range(4))
        def test_n(n): time.sleep(0.05)
        def test_writes(tmp_path): (tmp_path / "mine").write_text("text"); assert 0
        def test_leaks(): subprocess.Popen(["sleep", "100"])
        """
    )
    found = run(compare, "-n2", "--sandbox-usage", "--sandbox-hide=/etc/hostname")
    assert found.text.count("sandbox: network auto") == 1
    table = found.text.partition("sandbox usage")[2].partition("sandbox files kept")[0].splitlines()
    assert sum(": test_n[" in line or "::test_n[" in line for line in table) == 4
    assert {line.split("[scope ")[1][:3] for line in table if "[scope gw" in line} == {"gw0", "gw1"}
    kept = found.text.partition("sandbox files kept")[2]
    path = next(line.split()[0] for line in kept.splitlines() if line.endswith("::test_writes"))
    assert list(Path(path).rglob("mine"))
    assert "1 leaked" in found.text
    assert "left 1 process(es) running" in found.text


def test_hidden_path_that_is_not_there(pytester: pytest.Pytester, compare: Compare) -> None:
    """What a worker has to say reaches the user."""
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox(hide='/no/such')\ndef test_1(): pass\n")
    assert "nothing to hide: /no/such does not exist here" in run(compare, "-n1").text


# -- over several machines ---------------------------------------------------------------------------------------------

#: Runs the command of its arguments in a network namespace of its own, beside another one, HERE/THERE, in which a server listens.
NETWORKS = """
set -e
ip link set lo up
unshare --net sh -c 'echo ready > ready; read line < go; ip link set lo up
  ip addr add 10.9.0.2/24 dev there; ip link set there up
  mkdir -p remote; cd remote; export REMOTE=1; exec "$PYTHON" "$SERVER" 10.9.0.2:8888' > server.log 2>&1 &
export server=$!
trap 'kill $server' EXIT
while ! [ -s ready ]; do sleep 0.05; done
ip link add here type veth peer name there
ip link set there netns $server
ip addr add 10.9.0.1/24 dev here
ip link set here up
echo > go
for _ in $(seq 100); do
  "$PYTHON" -c 'import socket; socket.create_connection(("10.9.0.2", 8888), 1)' 2>/dev/null && break
  sleep 0.1
done
"$@"
"""
needs_networks = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))), reason="makes network namespaces"
)


@dataclasses.dataclass
class Network:
    """Two hosts, as far as the network goes."""

    pytester: pytest.Pytester

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on one; on the other is a server of execnet's, in a directory of its own."""
        (self.pytester.path / "ready").unlink(missing_ok=True)
        (self.pytester.path / "go").unlink(missing_ok=True)
        os.mkfifo(self.pytester.path / "go")
        server = Path(execnet.__file__).parent / "script" / "socketserver.py"
        environment = os.environ | {"PYTHON": sys.executable, "SERVER": str(server)}
        helpers = str(Path(__file__).resolve().parent / "helpers")
        environment["PYTHONPATH"] = os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            ["unshare", "--net", "sh", "-c", NETWORKS, "sh", *command],
            cwd=self.pytester.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@needs_networks
def test_over_a_socket(pytester: pytest.Pytester) -> None:
    """A worker on another host, with the project copied to it, has its sandboxes there."""
    project = pytester.mkdir("project")
    (project / "test_there.py").write_text(
        textwrap.dedent(
            """
            import os, pytest, socket
            @pytest.fixture(scope="session")
            def port():
                server = socket.create_server(("127.0.0.1", 0))
                yield server.getsockname()[1]
            @pytest.mark.parametrize("n", range(4))
            def test_there(n, port):
                assert os.environ["REMOTE"] and os.getpid() < 100
                socket.create_connection(("127.0.0.1", port))
                with pytest.raises(OSError): socket.create_connection(("10.9.0.1", 1), 1)
            def test_exit(): os._exit(0)
            """
        )
    )
    command = [sys.executable, "-m", "pytest", "-p", "process_recorder", "--sandbox", "--dist=load"]
    found = Network(pytester).run(*command, f"--rsyncdir={project}", "--tx=socket=10.9.0.2:8888", "-rA", str(project))
    assert "4 passed" in found.stdout, found.stdout + found.stderr + (pytester.path / "server.log").read_text()
    assert "1 failed" in found.stdout
    assert "without a report" in found.stdout
    assert "sandbox: on the workers' machines" in found.stdout
    assert (pytester.path / "remote" / "pyexecnetcache" / "project" / "test_there.py").exists()


@needs_networks
def test_python_of_another_namespace(pytester: pytest.Pytester) -> None:
    """A worker that is started by a command which brings it elsewhere."""
    pytester.makepyfile(
        """
        import os
        def test_1(): assert "there" in os.environ["LINKS"] and os.getpid() < 100
        """
    )
    other = pytester.path / "other"
    other.write_text(f'#!/bin/sh\nexport LINKS="$(ip -o link)"\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    command = f"{sys.executable} -m pytest -p process_recorder --sandbox --dist=load --tx"
    found = Network(pytester).run("sh", "-c", f'{command} "popen//python=nsenter --net=/proc/$server/ns/net ./other"')
    assert "1 passed" in found.stdout, found.stdout + found.stderr
