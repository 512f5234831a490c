"""Servers that fixtures start: tests reach them, and they are gone at the end."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.plugin.conftest import INSIDE

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

SERVER = """
import socketserver, sys, os
class Handler(socketserver.StreamRequestHandler):
    def handle(self): self.wfile.write(b"served " + self.rfile.readline())
kind, where = sys.argv[1:]
if kind == "tcp":
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    where = server.server_address[1]
else:
    server = socketserver.ThreadingUnixStreamServer(where, Handler)
print(where, flush=True)
server.serve_forever()
"""

FIXTURE = """
import pytest, socket, subprocess, sys, pathlib
SERVER = pathlib.Path(__file__).parent / "server.py"
@pytest.fixture(scope="session", params={kinds!r})
def server(request, tmp_path_factory):
    where = str(tmp_path_factory.mktemp("socket") / "s")
    process = subprocess.Popen([sys.executable, SERVER, request.param, where], stdout=subprocess.PIPE, text=True)
    where = process.stdout.readline().strip()
    yield (socket.AF_INET, ("127.0.0.1", int(where))) if request.param == "tcp" else (socket.AF_UNIX, where)
    process.terminate()
    assert process.wait(60) == -15
def ask(server, text):
    family, address = server
    with socket.socket(family) as client:
        client.connect(address)
        client.sendall(text.encode() + b"\\n")
        return client.makefile().readline().strip()
"""


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_daemon(pytester: pytest.Pytester, compare: Compare, kind: str) -> None:
    """A session fixture's server on TCP, or on a unix socket in a temporary directory, serves every test and is stopped once."""
    pytester.makeconftest("")
    pytester.makepyfile(server=SERVER)
    pytester.makepyfile(
        FIXTURE.format(kinds=[kind])
        + """
@pytest.mark.parametrize("number", range(5))
def test_it(server, number): assert ask(server, str(number)) == f"served {number}"
class TestIt:
    @pytest.fixture(scope="class")
    def inner(self, server): return ask(server, "inner")
    def test_2(self, inner, server): assert inner == "served inner" and ask(server, "x") == "served x"
"""
    )
    compare.same("-q")


def test_no_daemon_no_sharing(pytester: pytest.Pytester, compare: Compare) -> None:
    """Without a server each test has a network of its own; with one, the report says that it shares the scope's."""
    pytester.makepyfile(server=SERVER)
    pytester.makepyfile(
        FIXTURE.format(kinds=["tcp"])
        + """
def test_alone(sandbox): assert not sandbox.shares_network
def test_with(server, sandbox): assert sandbox.shares_network
"""
    )
    run = compare.one("-v", "--junitxml=junit.xml")
    run.result.assert_outcomes(passed=2)
    properties = [dict(run.report(name, "teardown")["properties"]) for name in ("test_alone", "test_with[tcp]")]
    assert [("sandbox_network" in found) for found in properties] == [False, True]
    run.result.stdout.fnmatch_lines(["*network shared with the scope*", "*::test_with[[]tcp[]]"])


def test_thread_of_a_fixture(pytester: pytest.Pytester, compare: Compare) -> None:
    """A server in a thread of a session fixture is set up in each test's sandbox, with a warning that names the fixture."""
    pytester.makepyfile(
        """
        import http.server, threading, urllib.request, pytest
        @pytest.fixture(scope="session")
        def url():
            server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}/"
            server.shutdown(); thread.join(); server.server_close()
        @pytest.fixture(scope="module")
        def opened(url): return urllib.request.urlopen(url).status
        def test_1(url): assert urllib.request.urlopen(url).status == 200
        def test_2(opened): assert opened == 200
        def test_3(): pass
        """
    )
    run = compare.one()
    run.result.assert_outcomes(passed=3, warnings=1)
    assert "fixture 'url'" in run.text


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], {"passed": 3, "warnings": 2}),
        (["-W", "error:left "], {"passed": 3, "errors": 2}),
        (["-W", "error::pytest_sandbox.LeakWarning"], {"passed": 3, "errors": 2}),
        (["-W", "ignore:left "], {"passed": 3}),
        (["-p", "no:warnings"], {"passed": 3, "warnings": 3}),  # nobody filters then
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_of_what_is_left(pytester: pytest.Pytester, compare: Compare, options: list[str], found: dict[str, int]) -> None:
    """The warning of processes that a test leaves heeds the run's filters and the test's marks; it can be an error."""
    pytester.makepyfile(
        """
        import pytest, subprocess
        def test_leaves(): subprocess.Popen(["sleep", "600"])
        def test_leaves_too(): subprocess.Popen(["sleep", "600"])
        @pytest.mark.filterwarnings("ignore:left ")
        def test_may_leave(): subprocess.Popen(["sleep", "600"])
        """
    )
    run = compare.one(*options)
    assert run.result.parseoutcomes() == found, run.text


def test_an_error_of_what_is_left(pytester: pytest.Pytester, compare: Compare) -> None:
    """Keeps what the test and its fixtures have printed, what plugins have noted, and how long the teardown took."""
    pytester.makepyfile(
        """
        import pytest, subprocess, time
        @pytest.fixture
        def own():
            yield
            print("in the teardown")
        def test_leaves(own, record_property):
            record_property("noted", 1)
            print("in the test"); subprocess.Popen(["sleep", "600"]); time.sleep(2)
        """
    )
    run = compare.one("-W", "error:left ")
    report = run.report("test_leaves", "teardown")
    assert report["outcome"] == "failed"
    assert report["duration"] < run.report("test_leaves")["duration"]
    names = [name for name, _ in report["sections"]]
    assert names == ["Sandbox", "Captured stdout call", "Captured stdout teardown"], run.text
    assert "in the teardown" in run.text
    assert ["noted", "1"] in report["properties"]
    assert ["sandbox_leaks", "sleep 600"] in report["properties"]


def test_what_a_wider_fixture_leaves_that_is_killed(pytester: pytest.Pytester, compare: Compare) -> None:
    """Is what it started, and no sandbox below its own, with what runs there."""
    pytester.makepyfile(
        """
        import os, pytest, subprocess, time
        @pytest.fixture(scope="module")
        def leaving():
            subprocess.Popen(["sleep", "777"])
            return os.getpid()
        @pytest.mark.parametrize("number", range(3))
        def test_it(leaving, number):
            subprocess.Popen(["sleep", "888"])
            time.sleep(2 * number)
        @pytest.fixture(scope="module", autouse=True)
        def killing():
            if os.fork() == 0:
                time.sleep(1)
                os.kill(os.getppid(), 9)
                os._exit(0)
        """
    )
    run = compare.one("-W", "default::pytest_sandbox.LeakWarning")
    assert "killed by SIGKILL" in run.text
    found = re.findall(
        r"fixtures of test_what_a_wider_fixture_leaves_that_is_killed.py left (\d+) process.*: (.*) \(pid", run.text
    )
    assert ("1", "sleep 777") in found, run.text
    assert not re.search("fixtures of .* left .*(sandbox-init|sleep 888)", run.text), run.text


def test_what_wider_fixtures_leave(pytester: pytest.Pytester, compare: Compare) -> None:
    """Is told as what tests leave is, by a warning that filters can name."""
    pytester.makepyfile(
        """
        import pytest, subprocess
        @pytest.fixture(scope="module")
        def leaving(): subprocess.Popen(["sleep", "777"])
        def test_it(leaving): pass
        """
    )
    run = compare.one("-W", "default::pytest_sandbox.LeakWarning")
    run.result.assert_outcomes(passed=1, warnings=1)
    assert (
        "LeakWarning: fixtures of test_what_wider_fixtures_leave.py left 1 process(es) running, killed now: sleep 777" in run.text
    )


#: No Popen, which would warn when it goes.
LEAVING = """
import os, pytest
{mark}
@pytest.fixture(scope={scope!r})
def leaving():
    os.posix_spawnp("sleep", ["sleep", "777"], os.environ)
    yield
    {end}
def test_1(leaving): pass
def test_2(): {test}
"""
QUIET = "pytestmark = pytest.mark.filterwarnings('ignore::pytest_sandbox.LeakWarning')"


@pytest.mark.parametrize("scope", ["session", "module"])
@pytest.mark.parametrize(
    ("options", "mark", "found"),
    [
        ([], "", {"passed": 2, "warnings": 1}),
        (["-W", "ignore"], "", {"passed": 2}),
        (["-W", "ignore:fixtures of "], "", {"passed": 2}),
        (["-W", "error"], QUIET, {"passed": 2}),
        (["-W", "error"], "", {"passed": 2, "errors": 1}),
        (["-o", "filterwarnings=error::pytest_sandbox.LeakWarning"], "", {"passed": 2, "errors": 1}),
        (["-W", "error", "-n", "1"], "", {"passed": 2, "errors": 1}),
        (["-W", "error", "-p", "no:warnings"], "", {"passed": 2, "warnings": 1}),  # nobody filters then
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_of_what_wider_fixtures_leave(
    pytester: pytest.Pytester, compare: Compare, scope: str, options: list[str], mark: str, found: dict[str, int]
) -> None:
    """Hold for the warning, as for what tests leave: those of the run, and of the last test's marks. An error is that test's."""
    pytester.makepyfile(LEAVING.format(scope=scope, mark=mark, end="", test="pass"))
    run = compare.one(*options)
    assert run.result.parseoutcomes() == found, run.text
    assert run.status == ("errors" in found)
    if "errors" in found:
        assert run.line("ERROR at teardown of test_2")
        assert re.search(r"\nLeakWarning: fixtures of .* left 1 process\(es\) running, killed now: sleep 777", run.text)


@pytest.mark.parametrize("end", ["raise ValueError('own')", "pytest.skip('own')", "pytest.exit('own', 0)"])
def test_an_error_of_what_wider_fixtures_leave(pytester: pytest.Pytester, compare: Compare, end: str) -> None:
    """Is told beside that of their teardown, and makes a failure of a skip; whoever ends the run has ended it."""
    pytester.makepyfile(LEAVING.format(scope="module", mark="", end=end, test="pass"))
    run = compare.one("-W", "error")
    run.result.assert_outcomes(passed=2, errors=1)
    assert ("ValueError: own" in run.text) == ("ValueError" in end)
    assert "LeakWarning: fixtures of" in run.text


def test_what_wider_fixtures_leave_where_the_run_is_over(pytester: pytest.Pytester, compare: Compare) -> None:
    """Is a warning, even where that would be an error: no test takes one any more."""
    pytester.makepyfile(LEAVING.format(scope="module", mark="", end="", test="pytest.exit('now', 0)"))
    run = compare.one("-W", "error")
    run.result.assert_outcomes(passed=1, warnings=1)
    assert "LeakWarning: fixtures of" in run.text


def test_an_error_of_what_is_left_in_a_scope_that_dies(pytester: pytest.Pytester, compare: Compare) -> None:
    """Is told beside how it has died."""
    pytester.makepyfile(
        """
        import os, pytest, time
        @pytest.fixture(scope="module")
        def leaving():
            os.posix_spawnp("sleep", ["sleep", "777"], os.environ)
            if os.fork() == 0:
                time.sleep(1)
                os.kill(os.getppid(), 9)
                os._exit(0)
        def test_1(leaving): time.sleep(30)
        def test_2(): pass
        """
    )
    run = compare.one("-W", "error")
    run.result.assert_outcomes(passed=1, failed=1, errors=1)
    assert "killed by SIGKILL" in run.text
    assert re.search(r"LeakWarning: fixtures of .* sleep 777", run.text), run.text


@pytest.mark.parametrize("scope", ["session", "module"])
def test_the_process_of_a_wider_fixture_is_not_taken_for_ended(pytester: pytest.Pytester, scope: str) -> None:
    """Python would say that it has ended well, whatever it does. A test is told what is known, and else that nothing is."""
    pytester.makepyfile(
        f"""
        import ctypes, os, pytest, signal, subprocess, sys, time
        PIDFD_GETFD = 438
        def start(code): return subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
        IMPORTED = start("input()")
        @pytest.fixture(scope={scope!r})
        def failing():
            with start("print('partial'); raise SystemExit(3)") as one:
                os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
                yield one
            assert one.returncode == 3
        @pytest.fixture(scope={scope!r})
        def killed():
            one = start("input()")
            os.kill(one.pid, signal.SIGKILL)
            os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
            return one
        @pytest.fixture(scope={scope!r})
        def running():
            one = start("import time; time.sleep(1000)")
            yield one
            assert one.poll() is None
            one.kill()
            assert one.wait() == -9
        @pytest.fixture(scope="module")
        def asked():
            one = start("input(); raise SystemExit(4)")
            yield one
            assert one.wait() == 4
        @pytest.mark.parametrize("attempt", range(2))
        def test_that_runs(running, attempt):
            assert running.poll() is None and running.returncode is None
            with pytest.raises(subprocess.TimeoutExpired): running.wait(timeout=0.1)
            for signal_it in running.terminate, running.kill:
                with pytest.raises(ChildProcessError, match="it cannot be sent a signal from here. Fix: let the fixture do it"):
                    signal_it()
            pidfd, libc = running._sandbox_watch._pidfd, ctypes.CDLL(None)
            with pytest.raises(OSError): signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert [libc.syscall(PIDFD_GETFD, pidfd, number, 0) for number in range(3)] == [-1] * 3
        def test_that_has_ended_before(failing, killed):
            assert failing.poll() == failing.wait() == failing.returncode == 3 and failing.communicate() == ("partial\\n", None)
            assert killed.wait(timeout=1) == -9
            failing.terminate(), killed.kill()
        def test_that_ends_meanwhile(asked):
            assert asked.poll() is None
            asked.stdin.write("go\\n"), asked.stdin.flush()
            for call in asked.wait, asked.poll, asked.terminate:
                with pytest.raises(ChildProcessError, match="a wider scope, .*: it has ended, and how is not known here. Fix"):
                    call()
        def test_fails(): assert IMPORTED.wait() == 0
        def test_own(failing, running):
            own = [start(f"raise SystemExit({{number}})") for number in range(30)]
            assert [one.wait() for one in own] == list(range(30))
            assert subprocess.run(["true"]).returncode == 0
            one = start("import time; time.sleep(1000)")
            assert one.poll() is None
            one.kill()
            assert one.wait() == -9
        @pytest.mark.sandbox(scope={scope!r})
        class TestShared:
            def test_1(self): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox")
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(
        ["E * ChildProcessError: *whether it has ended, and how, is not known here*", "FAILED *::test_fails*"]
    )


@pytest.mark.skipif(not os.path.exists("/proc/sys/kernel/ns_last_pid"), reason="a kernel without CONFIG_CHECKPOINT_RESTORE")
def test_no_process_has_the_pid_of_one_that_it_is_a_copy_of(pytester: pytest.Pytester) -> None:
    """Libraries tell by the pid whether they were forked, multiprocessing among them; and no signal goes to somebody else."""
    pytester.makepyfile(
        f"""
        import multiprocessing, os, pytest, signal
        IMPORTED = os.getpid()
        @pytest.fixture(scope="session")
        def session(): return [IMPORTED, os.getpid()]
        @pytest.fixture(scope="module")
        def module(session): return [*session, os.getpid()]
        @pytest.fixture(scope="class")
        def cls(module): return [*module, os.getpid()]
        @pytest.fixture(scope="module")
        def ended():
            one = multiprocessing.get_context("fork").Process(target=os._exit, args=(1,))
            one.start()
            yield one
            one.join()
            assert one.exitcode == 1
        class Test:
            def test_pids(self, cls): assert len({{*cls, os.getpid()}}) == 5 and all(pid > 1000 for pid in cls[1:])
            def test_it(self, ended, cls):
                assert {INSIDE}
                for call in ended.is_alive, ended.join:
                    with pytest.raises(AssertionError, match="a child process"): call()
                for pid in ended.pid, *cls:
                    with pytest.raises(ProcessLookupError): os.kill(pid, signal.SIGKILL)
        """
    )
    pytester.runpytest_subprocess("--sandbox").assert_outcomes(passed=2)
