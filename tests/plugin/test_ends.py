"""Processes that end, or go on, in ways that pytest does not see."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.plugin.conftest import INSIDE

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare


@pytest.mark.parametrize("status", [0, 1, 77])
def test_os_exit(pytester: pytest.Pytester, compare: Compare, status: str) -> None:
    """os._exit in a test is a failure, status 0 too; the next test runs."""
    pytester.makepyfile(
        f"import os\ndef test_1():\n    print('last words', flush=True)\n    os._exit({status})\ndef test_2(): pass\n"
    )
    run = compare.one()
    run.result.assert_outcomes(passed=1, failed=1)
    assert "without a report" in run.report("test_1")["longrepr"]
    assert "last words" in run.text
    assert run.status == 1


@pytest.mark.parametrize("where", ["setup", "call", "teardown"])
def test_crash(pytester: pytest.Pytester, compare: Compare, where: str) -> None:
    """A segmentation fault is told by its signal, with the stack of the test and not of pytest, in the phase where it was."""
    pytester.makepyfile(
        f"""
        import ctypes, pytest
        def crash(): ctypes.string_at(0)
        @pytest.fixture
        def fixture():
            if {where!r} == "setup": crash()
            yield
            if {where!r} == "teardown": crash()
        def test_1(fixture):
            if {where!r} == "call": crash()
        def test_2(): pass
        """
    )
    run = compare.one()
    report = run.report("test_1", where)
    assert report["outcome"] == "failed"
    assert "SIGSEGV" in report["longrepr"]
    details = dict(report["sections"])["Sandbox"]
    assert " in crash\n" in details
    assert "_pytest" not in details
    assert "pluggy" not in details
    assert report["longrepr"] not in details
    assert run.report("test_2")["outcome"] == "passed"
    run.result.assert_outcomes(passed=2 if where == "teardown" else 1, failed=int(where == "call"), errors=int(where != "call"))


def test_fork_that_returns(pytester: pytest.Pytester, compare: Compare) -> None:
    """A test that forks and lets the child return into pytest counts once, by what the test's own process did."""
    pytester.makepyfile(
        """
        import os
        def test_1():
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
            else:
                assert 0, "in the child"
        def test_2(): pass
        """
    )
    run = compare.one()
    run.result.assert_outcomes(passed=2)
    assert run.outcomes() == [
        (f"test_fork_that_returns.py::test_{n}", w, "passed") for n in (1, 2) for w in ("setup", "call", "teardown")
    ]


def test_fork_whose_parent_goes(pytester: pytest.Pytester, compare: Compare) -> None:
    """A child that outlives its test is gone before the next one, and named as left over."""
    pytester.makepyfile(
        """
        import os, subprocess, time
        def test_1():
            subprocess.Popen(["sleep", "1000"])
        def test_2():
            pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
            assert not [pid for pid in pids if b"sleep" in open(f"/proc/{pid}/cmdline", "rb").read()]
        """
    )
    run = compare.one()
    run.result.assert_outcomes(passed=2, warnings=1)
    assert "sleep 1000" in run.text


def test_threads(pytester: pytest.Pytester, compare: Compare) -> None:
    """Threads that a test leaves, daemons or not, neither hang nor fail the run."""
    pytester.makepyfile(
        """
        import threading, time, pytest
        def test_daemon(): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        def test_other():
            threading.Thread(target=time.sleep, args=(0.2,)).start()
        @pytest.fixture(scope="module")
        def threads():
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait)
            thread.start()
            yield
            stop.set()
            thread.join(60)
            assert not thread.is_alive()
        def test_of_fixture(threads): pass
        """
    )
    compare.one().result.assert_outcomes(passed=3)


def test_exit_functions(pytester: pytest.Pytester, compare: Compare) -> None:
    """atexit functions of the test run in its sandbox; those of the session not there."""
    pytester.makeconftest("import atexit, sys\natexit.register(lambda: print('of the session'))\n")
    pytester.makepyfile(
        """
        import atexit, pathlib
        def write(): (pathlib.Path(__file__).parent / "log.txt").open("a").write("of the test\\n")
        def test_1(): atexit.register(write)
        """
    )
    (pytester.path / "log.txt").touch()
    run = compare.one("--sandbox-writable=log.txt")
    assert run.read("log.txt") == "of the test\n"
    assert run.result.stdout.str().count("of the session") == 1


EXITING = """
import atexit, os, pathlib, time, pytest
def log(text):
    with (pathlib.Path(__file__).parent / "log.txt").open("a") as file: file.write(text + "\\n")
"""


@pytest.mark.parametrize("scope", ["session", "module", "class"])
def test_exit_functions_of_wider_fixtures(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """Run once each, when the fixture has been torn down; also where its scope is made anew, without a thread."""
    pytester.makepyfile(
        EXITING
        + f"""
import threading
@pytest.fixture(scope={scope!r})
def wide():
    atexit.register(log, "wide")
    yield
    log("torn down")
@pytest.fixture(scope={scope!r})
def threaded(wide):
    thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
    thread.start()
@pytest.fixture
def own(): atexit.register(log, "own")
class TestIt:
    def test_1(self, wide, own): pass
    def test_2(self, wide): pass
class TestThreaded:
    def test_3(self, threaded): pass
"""
    )
    (pytester.path / "log.txt").touch()
    pair = compare("-k", "TestIt", options=["--sandbox-writable=log.txt"]).assert_same_ends()
    assert pair.plain.read("log.txt").split("\n") == ["torn down", "own", "wide", ""]
    assert pair.boxed.read("log.txt").split("\n") == ["own", "torn down", "wide", ""]
    (pytester.path / "log.txt").write_text("")
    assert compare.one("-k", "TestThreaded", "--sandbox-writable=log.txt").status == 0
    assert (pytester.path / "log.txt").read_text().split("\n") == ["torn down", "wide"] * 2 + [""]


def test_an_exit_function_that_ends_a_process(pytester: pytest.Pytester, compare: Compare) -> None:
    """Of a wider fixture: it is not said to be left running."""
    pytester.makepyfile(
        """
        import atexit, subprocess, pytest
        @pytest.fixture(scope="session")
        def server():
            one = subprocess.Popen(["sleep", "777"])
            atexit.register(lambda: (one.kill(), one.wait()))
        def test_1(server): pass
        """
    )
    compare.same()


@pytest.mark.parametrize("scope", ["session", "module", "function"])
@pytest.mark.parametrize("code", ["print('at exit')", "1 / 0", "raise KeyboardInterrupt", "pytest.exit('by one')", "os._exit(3)"])
def test_what_exit_functions_do(pytester: pytest.Pytester, compare: Compare, scope: str, code: str) -> None:
    """Fails no test, as in plain pytest, nor keeps others from running; what they print is shown."""
    pytester.makepyfile(
        EXITING
        + f"""
def do(): {code}
@pytest.fixture(scope={scope!r})
def registering():
    atexit.register(log, "the first")
    atexit.register(do)
def test_1(registering): pass
def test_2(): pass
"""
    )
    (pytester.path / "log.txt").touch()
    run = compare.one("--sandbox-writable=log.txt")
    assert run.status == 0, run.text
    run.result.assert_outcomes(passed=2)
    assert ("at exit\n" in run.text) == code.startswith("print")
    assert run.read("log.txt") == ("" if code.startswith("os._exit") else "the first\n")


@pytest.mark.parametrize("scope", ["session", "module", "function"])
def test_an_exit_function_that_hangs(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """Has the time of a test, as a teardown has."""
    pytester.makepyfile(
        f"""
        import atexit, time, pytest
        @pytest.fixture(scope={scope!r})
        def registering(): atexit.register(time.sleep, 1000)
        def test_1(registering): pass
        def test_2(): pass
        """
    )
    run = compare.one("--sandbox-timeout=3")
    assert run.result.parseoutcomes() == ({"passed": 1, "failed": 1} if scope == "function" else {"passed": 2, "errors": 1})
    assert re.search(r"timed out: killed after \S+, limit 3s", run.text), run.text


def test_fixtures_of_wider_scopes_have_the_time_limit_too(pytester: pytest.Pytester, compare: Compare) -> None:
    """Each the time of the test that it is set up for, and the teardown that of the last; who exceeds it is named."""
    pytester.makepyfile(
        test_set_up="""
        import pytest, time
        @pytest.fixture(scope="session")
        def quick():
            time.sleep(5)
        @pytest.fixture(scope="session")
        def hangs(quick):
            time.sleep(600)
        @pytest.mark.sandbox(timeout="9s")
        def test_quick(quick): time.sleep(5)
        def test_hangs(hangs): pass
        def test_hangs_too(hangs): pass
        def test_good(): pass
        """,
        test_torn_down="""
        import pytest, time
        @pytest.fixture(scope="module")
        def hangs():
            yield
            time.sleep(600)
        def test_1(hangs): pass
        """,
    )
    run = compare.one("--sandbox-timeout=3", "--tb=short")
    assert run.result.parseoutcomes() == {"passed": 3, "errors": 3}, run.text
    over = r"timed out: killed after \S+, limit 3s: that ended the sandbox of \S+"
    whose = r" \(limit timeout: set by --sandbox-timeout\)"
    assert re.search(f"{over} session while it set up fixture 'hangs'{whose}", run.text), run.text
    assert re.search(f"{over} before it had torn down{whose}", run.text), run.text


@pytest.mark.needs("cpu_time")
def test_fixtures_of_wider_scopes_have_the_limit_of_cpu_time_too(pytester: pytest.Pytester, compare: Compare) -> None:
    """The same of CPU time: what the fixtures before it have used does not count."""
    pytester.makepyfile(
        test_set_up="""
        import pytest, time
        def spin(seconds):
            end = time.process_time() + seconds
            while time.process_time() < end: pass
        @pytest.fixture(scope="module")
        def one(): spin(0.7)
        @pytest.fixture(scope="module")
        def other(one): spin(0.7)
        @pytest.fixture(scope="module")
        def spins(other): spin(600)
        def test_quick(one, other): spin(0.7)
        def test_spins(spins): pass
        def test_good(): pass
        """,
        test_torn_down="""
        import pytest
        @pytest.fixture(scope="module")
        def spins():
            yield
            while True: pass
        def test_1(spins): pass
        """,
    )
    run = compare.one("--sandbox-cpu-time=1", "--sandbox-timeout=100", "--tb=short")
    assert run.result.parseoutcomes() == {"passed": 3, "errors": 2}, run.text
    over = r"cpu time: ended after 1(\.\d+)?s of CPU, limit 1s: that ended the sandbox of \S+"
    assert re.search(f"{over} while it set up fixture 'spins'", run.text), run.text
    assert re.search(f"{over} before it had torn down", run.text), run.text


def test_a_scope_that_stops_before_its_first_fixture(compare: Compare) -> None:
    """The time of what it was asked for begins when it was asked, not when it begins with it."""
    compare.pytester.makepyfile(
        f"""
        import os, subprocess, time, pytest
        @pytest.fixture(scope="module", params=[1, 2])
        def stopper(request):
            assert {INSIDE}, "not in a sandbox"
            if request.param == 1:
                subprocess.Popen(["sh", "-c", "sleep 0.5; kill -STOP $PPID"])
            return request.param
        def test_it(stopper): time.sleep(1.5)
        """
    )
    run = compare.one("--sandbox-timeout=4", timeout=100)
    assert run.result.parseoutcomes() == {"passed": 1, "errors": 1}, run.text
    assert "timed out: killed after 4" in run.text


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.isdir("/sys/fs/cgroup/freezer"), reason="only root has a freezer, of v1")
def test_a_scope_that_dies_slowly(pytester: pytest.Pytester, compare: Compare) -> None:
    """What has ended it is waited for, and no test is failed for its being about to end."""
    pytester.makeconftest(
        """
        import os, threading, time
        own = next(line.split(":")[2] for line in open("/proc/self/cgroup").read().splitlines() if ":freezer:" in line)
        FREEZER = f"/sys/fs/cgroup/freezer{own}/pytest-sandbox-test-{os.getpid()}"
        def hold():
            os.mkdir(FREEZER)
            try:
                found = []
                while not found:
                    for name in filter(str.isdigit, os.listdir("/proc")):
                        try:
                            if open(f"/proc/{name}/cmdline").read() == "sleep\\0001234.5\\000": found.append(name)
                        except OSError: pass
                    time.sleep(0.01)
                for name in found: open(f"{FREEZER}/tasks", "w").write(name)
                open(f"{FREEZER}/freezer.state", "w").write("FROZEN")
                time.sleep(5)
            finally:
                open(f"{FREEZER}/freezer.state", "w").write("THAWED")
                for _ in range(100):
                    try: os.rmdir(FREEZER); break
                    except OSError: time.sleep(0.05)
        begun = []
        def pytest_runtest_logstart(nodeid):
            if not begun: begun.append(threading.Thread(target=hold)); begun[0].start()
        def pytest_sessionfinish():
            for one in begun: one.join()
        """
    )
    pytester.makepyfile(
        """
        import signal, subprocess, time, pytest
        @pytest.fixture(scope="module")
        def server():
            one = subprocess.Popen(["sleep", "1234.5"])
            signal.setitimer(signal.ITIMER_REAL, 1.0)  # of the scope's own process: no fork has it
            yield one
        def test_1(server): time.sleep(2)
        def test_2(server): pass
        def test_3(server): pass
        def test_4(server): pass
        """
    )
    run = compare.one()
    assert run.result.parseoutcomes() == {"passed": 3, "failed": 1, "warnings": 2}, run.text
    assert "killed by SIGALRM" in run.text
