"""What a test may lay as a trap for the controller, knowingly or not: each is its own failure, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONS = ("--sandbox", "-p", "no:cacheprovider", "-p", "no:randomly")


def test_a_link_where_kept_files_would_go(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """A failed test leaves links in the base temporary directory: what it wrote is kept elsewhere, and nothing goes through."""
    pytester.makepyfile(f"""
        import os
        def test_it(tmp_path):
            for name in "sandbox", "sandbox-s2", "s2":
                os.symlink({os.fspath(tmp_path)!r}, tmp_path.parent / name)
            (tmp_path / "payload").write_text("x")
            assert 0
    """)
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["what it wrote is kept in *"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_holes(pytester: pytest.Pytester) -> None:
    """A file that claims a terabyte keeps its holes when it is copied to the machine's temporary directory."""
    pytester.makepyfile("""
        def test_it(tmp_path):
            with open(tmp_path / "big", "w") as file:
                file.write("first")
                file.truncate(1 << 40)
                file.seek(1 << 39)
                file.write("middle")
    """)
    base = pytester.path / "base"
    pytester.runpytest_subprocess(*OPTIONS, f"--basetemp={base}").assert_outcomes(passed=1)
    copy = base / "test_it0" / "big"
    assert copy.stat().st_size == 1 << 40
    assert copy.stat().st_blocks * 512 < 1 << 20
    with copy.open("rb") as file:
        assert file.read(5) == b"first"
        file.seek(1 << 39)
        assert file.read(6) == b"middle"


def test_conditions_and_parameters_that_raise(pytester: pytest.Pytester) -> None:
    """A mark's condition and a parameter's comparison are foreign code: what they raise ends nobody else's run."""
    pytester.makepyfile("""
        import pytest

        class Strange:
            def __eq__(self, other):
                raise ValueError("not to be compared, as an array")
            __hash__ = object.__hash__

        @pytest.fixture(scope="module", params=[Strange()])
        def strange(request): pass

        @pytest.mark.skipif("1/0", reason="never asked")
        def test_condition(): pass
        def test_parameter(strange): pass
        def test_other(): pass
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2, errors=1)


@pytest.mark.parametrize("fixture", ["scope", "sandbox_factory"])
def test_who_makes_sandboxes_sees_no_layers(pytester: pytest.Pytester, fixture: str) -> None:
    """Not those that its own and others' sandboxes stand on, nor hence what is hidden; and its init's view is closed to it."""
    secret = pytester.mkdir("secret")
    (secret / "file").write_text("secret", encoding="utf-8")
    pytester.makepyfile(f"""
        import os
        import pytest

        def look():
            assert os.getpid() > 1
            assert os.listdir("/dev/.sandbox/store") == []
            assert os.listdir({str(secret)!r}) == []
            for name in ("root", "cwd", "ns/mnt", "mem", "environ"):
                with pytest.raises(PermissionError):
                    os.stat(f"/proc/1/{{name}}").st_ino and open(f"/proc/1/{{name}}")
            with open("/proc/self/mountinfo") as mounts:
                assert not [line for line in mounts if "/store/" in line.split()[4] or "hidden" in line.split()[4]]

        @pytest.fixture(scope="module")
        def scope():
            look()

        def test_it({fixture}):
            look()
            if {fixture == "sandbox_factory"}:
                assert sandbox_factory.run(["true"]).ok
    """)
    pytester.runpytest_subprocess(*OPTIONS, f"--sandbox-hide={secret}").assert_outcomes(passed=1)


@pytest.mark.skipif(os.getuid() != 0, reason="the link lies in root's home")
def test_a_listener_whose_path_is_a_link(pytester: pytest.Pytester) -> None:
    """A scope's socket is shown below by its path, and no file that a link there leads to, where init could see it."""
    secret = pytester.mkdir("secret")
    (secret / "file").write_text("secret", encoding="utf-8")
    pytester.makepyfile(f"""
        import os
        import socket
        import pytest

        @pytest.fixture(scope="module", params=range(4))
        def bad(request):
            n = request.param
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"/tmp/evil{{n}}")
            listener.listen()
            os.unlink(f"/tmp/evil{{n}}")
            os.makedirs("/root/tmp", exist_ok=True)
            # To init one and the same link leads to /root/tmp from its own root, and to /tmp below the root that it makes.
            os.symlink(f"../../root/tmp/y{{n}}", f"/tmp/evil{{n}}")
            os.symlink(f"/dev/.sandbox/store/base/{{n}}{secret}/file", f"/root/tmp/y{{n}}")
            open(f"/tmp/y{{n}}", "w").close()
            yield n
            listener.close()

        def test_it(bad):
            assert open(f"/tmp/y{{bad}}").read() == ""
            assert os.readlink(f"/tmp/evil{{bad}}")
    """)
    pytester.runpytest_subprocess(*OPTIONS, f"--sandbox-hide={secret}").assert_outcomes(passed=4)


@pytest.mark.parametrize("text", ["x\0/dev/null", "relative", "/a/../b", "/" + "x" * 5000])
def test_hide_of_what_is_no_path(pytester: pytest.Pytester, text: str) -> None:
    """Asked for past the fixture: refused, so that init is told nothing that it could take for an order of the controller's."""
    pytester.makepyfile(f"""
        def test_it(sandbox_factory):
            channel = sandbox_factory._inside.channel
            channel.send({{"op": "make", "limits": {{}}, "hide": [{text!r}]}})
            assert channel.receive()[0]["op"] == "unmade"
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "frame",
    [
        {"op": "threaded", "threads": 5}, {"op": "refused", "name": "s1"}, {"op": "ripe"}, {"op": "dropped", "name": 5},
        {"op": "here"}, {"op": "joined"}, {"op": "warning"}, {"op": "report"}, {"op": "start", "item": "x"},
        {"op": "finish", "item": -1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("scope", ["function", "module"])
def test_frames_that_make_no_sense(pytester: pytest.Pytester, frame: dict[str, object], scope: str) -> None:
    """They are the error of whoever sends them, and the tests after that run."""
    pytester.makepyfile(
        test_a=f"""
        import pytest
        from pytest_sandbox.plugin.builtin.settling import INSIDE

        @pytest.fixture(scope={scope!r})
        def bad(request):
            request.config.stash[INSIDE].channel.send({frame!r})

        def test_it(bad): pass
        """,
        test_b="def test_it(): pass",
    )
    result = pytester.runpytest_subprocess(*OPTIONS)
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) >= 1
    assert result.ret in (0, 1)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_the_path_of_its_cgroup(pytester: pytest.Pytester) -> None:
    """Is the root of what it sees, in every hierarchy, for a test and for a sandbox that it makes."""
    expected = ["/"] if Path("/proc/self/cgroup").read_text() else []  # a machine without any hierarchy
    pytester.makepyfile(f"""
        def paths():
            with open("/proc/self/cgroup") as file:
                return sorted({{line.split(":", 2)[2].strip() for line in file}})

        def test_it(sandbox_factory):
            assert paths() == {expected}
            assert sandbox_factory.call(paths) == {expected}
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


LIES = {
    "no teardown": """
            channel.send({"op": "finish", "item": 0}); channel.send({"op": "done"}); os._exit(0)""",
    "a report of another test": """
            report = pytest.TestReport("test_a.py::test_itself", ("test_a.py", 0, "test_itself"), {}, "failed", "forged", "call")
            data = request.config.hook.pytest_report_to_serializable(config=request.config, report=report)
            channel.send({"op": "report", "data": data, "skip": False, "text": True})""",
    "what comes after a lie": """
            bad = encode({"op": "report", "data": {}, "pad": "x" * 65600})
            channel.socket.sendall(bad + encode({"op": "finish", "item": 0}) + encode({"op": "done"})); os._exit(0)""",
    "a string without an end": """
            body = b"[" * 201 + b'"' + b'\\\\"' * 500000
            channel.socket.sendall(len(body).to_bytes(4, "big") + body); os._exit(0)""",
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_the_own_end(pytester: pytest.Pytester, lie: str) -> None:
    """The test that tells them fails, by its own name, at once; no other does, and none vanishes."""
    pytester.makepyfile(
        test_a=f"""
        import os
        import pytest
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        from pytest_sandbox.sandbox.wire import encode

        def test_it(request):
            channel = request.config.stash[INSIDE].channel{LIES[lie]}

        def test_itself(): pass
        """,
        test_b="def test_it(): pass",
    )
    result = pytester.runpytest_subprocess(*OPTIONS, "-rA", timeout=120)
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed") == 2, outcomes
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) >= 1
    assert result.ret == 1
    result.stdout.fnmatch_lines(["PASSED test_a.py::test_itself", "PASSED test_b.py::test_it"])


def test_requests_that_make_no_sense(pytester: pytest.Pytester) -> None:
    """What a test asks of the controller past the fixture is refused, to that test, and never more than the test has itself."""
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("limits", [
            {"memory": -1, "swap": -4096}, {"memory": 1.5e6}, {"memory": "1"}, ["memory"], {"pids": True}, {"nothing": 1},
        ])
        def test_it(sandbox_factory, limits):
            channel = sandbox_factory._inside.channel
            channel.send({"op": "make", "limits": limits})
            frame, _ = channel.receive()
            assert frame["op"] == "unmade", frame
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=6)


def test_one_further_sandbox_at_a_time(pytester: pytest.Pytester) -> None:
    """However many a test asks for past the fixture: all but one are refused, and the next can be had when it is gone."""
    pytester.makepyfile("""
        def test_it(sandbox_factory):
            inside = sandbox_factory._inside
            for _ in range(50):
                inside.channel.send({"op": "make", "limits": {}})
            answers = [inside.channel.receive()[0] for _ in range(50)]
            assert sorted(answer["op"] for answer in answers) == ["spawn"] + ["unmade"] * 49
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


@pytest.mark.parametrize("number", ["ENOENT", "ENOSPC"])
def test_a_thread_has_a_sandbox_while_the_test_fails(pytester: pytest.Pytester, number: str) -> None:
    """Neither of the two takes what is said to the other, and waits for ever; a fork waits for none of them."""
    pytester.makepyfile(f"""
        import errno, os, threading, time, pytest
        from pytest_sandbox import SandboxError

        @pytest.fixture
        def found(sandbox_factory):
            found = []
            thread = threading.Thread(target=lambda: found.append(sandbox_factory.run(["sleep", "2"])))
            thread.start()
            yield found
            thread.join()
            assert found[0].ending.value == "exited"

        @pytest.mark.sandbox(timeout="15s")
        def test_it(found, sandbox):
            time.sleep(0.5)
            if (pid := os.fork()) == 0:
                try: sandbox.usage()
                except SandboxError: os._exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
            assert not found
            raise OSError(errno.{number}, "of its own")
    """)
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E  *Error: * of its own"])
    result.stdout.no_fnmatch_line("*timed out*")


@pytest.mark.parametrize("question", [("errno", "noted"), ("done", "bye")])
def test_who_fails_or_ends_for_ever(pytester: pytest.Pytester, question: tuple[str, str]) -> None:
    """It has some more time for that, and is not given it again and again."""
    op, answer = question
    pytester.makeconftest("from pytest_sandbox.sandbox import clock\nclock.END_TIME = 0.5\n")
    pytester.makepyfile(f"""
        import errno, time, pytest
        @pytest.mark.sandbox(timeout="1s")
        def test_it(sandbox):
            while True:
                sandbox._inside.channel.ask({{"op": {op!r}, "errno": errno.ENOSPC}}, {answer!r})
                time.sleep(0.01)
    """)
    result = pytester.runpytest_subprocess(*OPTIONS, timeout=30)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*timed out: *limit 1s*"])


def test_a_fork_of_the_test_cannot_ask(pytester: pytest.Pytester) -> None:
    """It would wait for ever, or take the test's own answer."""
    pytester.makepyfile("""
        import os
        from pytest_sandbox import SandboxError

        def test_it(sandbox):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    sandbox.usage()
                except SandboxError:
                    code = 7
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert sandbox.usage().wall > 0
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


def test_a_fixture_that_starts_a_thread(pytester: pytest.Pytester) -> None:
    """No fork inherits a thread: what starts one is set up in each sandbox that needs it, and a warning says so."""
    pytester.makepyfile("""
        import threading
        import pytest

        @pytest.fixture(scope="session")
        def once(): return object()

        @pytest.fixture(scope="session")
        def server():
            end = threading.Event()
            thread = threading.Thread(target=end.wait, daemon=True, name="the-server")
            thread.start()
            yield thread
            end.set()
            thread.join()

        @pytest.fixture(scope="module")
        def client(server): return server

        @pytest.mark.parametrize("number", range(3))
        def test_it(once, client, number): assert client.is_alive()
        def test_without(once): assert threading.active_count() == 1
    """)
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(passed=4, warnings=1)
    result.stdout.fnmatch_lines(["*ThreadWarning: fixture 'server' starts a thread (the-server)*"])


def test_a_fixture_that_starts_a_thread_without_a_name(pytester: pytest.Pytester) -> None:
    """One that `threading` does not know, as execnet's, is noticed all the same."""
    pytester.makepyfile("""
        import _thread, queue
        import pytest

        @pytest.fixture(scope="module")
        def echo():
            asked, answered = queue.SimpleQueue(), queue.SimpleQueue()
            _thread.start_new_thread(lambda: [answered.put(asked.get()) for _ in range(3)], ())
            return asked, answered

        @pytest.mark.parametrize("number", range(2))
        def test_it(echo, number):
            echo[0].put(number)
            assert echo[1].get(timeout=60) == number
    """)
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*ThreadWarning: fixture 'echo' starts a thread (one without a name)*"])


def test_a_scope_with_a_thread_can_still_fork(pytester: pytest.Pytester) -> None:
    """A thread that nobody noticed, since C code has started it, does not keep sandboxes from being made."""
    pytester.makepyfile("""
        import ctypes
        import pytest

        @pytest.fixture(scope="session")
        def thread():
            libc = ctypes.CDLL(None)
            assert libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.sleep, ctypes.c_void_p(30)) == 0

        @pytest.mark.parametrize("number", range(20))
        def test_it(thread, number): pass
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=20)


def test_what_the_factory_is_given(pytester: pytest.Pytester) -> None:
    """Input as much as there is, or nothing to read; paths to hide as elsewhere; text as input is refused at once."""
    pytester.makepyfile("""
        import pytest
        from pytest_sandbox import SpecError

        @pytest.mark.parametrize("size", [0, 3, 1 << 20])
        def test_input(sandbox_factory, size):
            assert sandbox_factory.run(["cat"], input=b"x" * size).stdout == b"x" * size
        def test_none(sandbox_factory):
            assert sandbox_factory.run(["cat"]).stdout == b""
        def test_text(sandbox_factory):
            with pytest.raises(TypeError, match="input is str and not bytes"):
                sandbox_factory.run(["cat"], input="x")
        def test_hide(sandbox_factory):
            with pytest.raises(SpecError, match="/proc cannot be hidden"):
                sandbox_factory(hide="/proc")
            assert sandbox_factory(hide=["/etc/passwd"]).run(["cat", "/etc/passwd"]).stdout == b""
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=6)


def test_a_watchdog_of_the_whole_run(pytester: pytest.Pytester) -> None:
    """faulthandler's, in pytest's process: no test hangs that would cancel it, and pytest's own barks in a test."""
    pytester.makeconftest("import faulthandler\ndef pytest_configure(): faulthandler.dump_traceback_later(600)\n")
    pytester.makepyfile(
        """
        import faulthandler, time
        def test_fails(): assert 0
        def test_waits(capfd):
            faulthandler.dump_traceback_later(0.1)
            said = ""
            while "test_waits" not in said:  # or it has timed out
                time.sleep(0.05)
                said += capfd.readouterr().err
        def test_cancels(capfd):
            faulthandler.dump_traceback_later(3)
            faulthandler.cancel_dump_traceback_later()
            time.sleep(4)
            assert not capfd.readouterr().err
        """
    )
    result = pytester.runpytest_subprocess(*OPTIONS, "--sandbox-timeout=60s")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("*timed out*")


def until_it_is_seen_to_hang(pytester: pytest.Pytester) -> tuple[str, str]:
    """Run what waits in `hang` for a file "go", which is there when stderr says so; stdout, and what stderr has after that."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--sandbox-writable=."]
    with subprocess.Popen(command, cwd=pytester.path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = iter(process.stderr.readline, "")
        assert any("in hang" in line for line in said)
        (pytester.path / "go").touch()
        out, err = process.communicate(timeout=120)
    return out, err


def test_pytests_watchdog(pytester: pytest.Pytester) -> None:
    """faulthandler_timeout: where a test hangs is on stderr while it does, and of each that was slow, and of no other."""
    pytester.makeini("[pytest]\nfaulthandler_timeout = 5\n")
    pytester.makepyfile(
        """
        import os, time
        def hang():
            while not os.path.exists("go"): time.sleep(0.1)
        def test_hangs(): hang()
        def test_quick(): pass
        def test_slow(): time.sleep(7)
        def test_dies(): os.abort()
        """
    )
    out, err = until_it_is_seen_to_hang(pytester)
    assert "1 failed, 3 passed" in out
    assert err.count("Timeout (0:00:05)!") == err.count("in test_slow") == 1


@pytest.mark.parametrize("when", ["set-up", "teardown"])
def test_pytests_watchdog_of_a_wider_fixture(pytester: pytest.Pytester, when: str) -> None:
    """The same where a module's fixture hangs, in whose sandbox no test runs; no thread of it hinders the next fork."""
    pytester.makeini("[pytest]\nfaulthandler_timeout = 5\n")
    pytester.makepyfile(
        f"""
        import os, pytest, time
        def hang():
            while not os.path.exists("go"): time.sleep(0.1)
        @pytest.fixture(scope="module")
        def module():
            if {when == "set-up"}: hang()
            yield
            if {when == "teardown"}: hang()
        def test_one(module): pass
        def test_two(module): pass
        """
    )
    out, err = until_it_is_seen_to_hang(pytester)
    assert "2 passed" in out
    assert "Timeout" not in err


def test_garbage_from_before_is_the_runs(pytester: pytest.Pytester) -> None:
    """What a finalizer raises that pytest's process had not collected is told at the run's end, as in plain pytest."""
    pytester.makeini("[pytest]\nfilterwarnings = error::pytest.PytestUnraisableExceptionWarning\n")
    pytester.makeconftest(
        """
        import gc
        gc.disable()
        class Broken:
            def __init__(self): self.me = self
            def __del__(self): raise ValueError("del is broken")
        Broken()
        """
    )
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="module")
        def wide(): return 1
        def test_1(wide): pass
        def test_2(wide): pass
        def test_3(): pass
        """,
        test_other="def test_4(): pass",
    )
    plain, boxed = (pytester.runpytest_subprocess(*options) for options in (("-p", "no:sandbox", *OPTIONS[1:]), OPTIONS))
    for result in plain, boxed:
        result.assert_outcomes(passed=4)
        assert result.stderr.str().count("ValueError: del is broken") == 1
    assert boxed.ret == plain.ret


@pytest.mark.parametrize("mark", ["", "pytestmark = pytest.mark.sandbox(enabled=False)"])
def test_garbage_of_the_collection_is_gone(pytester: pytest.Pytester, mark: str) -> None:
    """What was collected leaves nothing behind that a test's own collector could not find, or would find in plain pytest."""
    pytester.makepyfile(
        f"""
        import gc, pytest, weakref
        {mark}
        class Base: pass
        lost = Base(); lost.me = lost; reference = weakref.ref(lost); del lost
        def make():
            class Derived(Base): pass
        make()
        def test_object():
            gc.collect()
            assert reference() is None
        def test_class():
            gc.collect()
            assert Base.__subclasses__() == []
        """
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2)


def test_locks_that_are_held_over_a_fork(pytester: pytest.Pytester) -> None:
    """As those of concurrent.futures: taken before each fork, given back after it on both sides, registered late."""
    pytester.makeconftest(
        """
        import os, threading
        from concurrent.futures import ThreadPoolExecutor
        lock = threading.Lock()
        os.register_at_fork(before=lock.acquire, after_in_child=lock.release, after_in_parent=lock.release)
        """
    )
    pytester.makepyfile(
        """
        import os
        from concurrent.futures import ThreadPoolExecutor
        def test_pool():
            with ThreadPoolExecutor(2) as pool: assert list(pool.map(abs, [-1, 2])) == [1, 2]
        def test_fork():
            if (pid := os.fork()) == 0: os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        """
    )
    pytester.runpytest_subprocess(*OPTIONS, timeout=120).assert_outcomes(passed=2)
    assert pytester.run(sys.executable, "-c", "import concurrent.futures.thread, conftest; from pytest_sandbox.sandbox.doctor "
                        "import main; main()", timeout=120).ret == 0  # fmt: skip


@pytest.mark.parametrize("umask", ["0000", "0027", "0077"])
def test_umask(pytester: pytest.Pytester, umask: str) -> None:
    """Whatever pytest was started with, tests have the same."""
    pytester.makepyfile(f"import os\ndef test_it(): assert os.umask(0) == 0o{umask}")
    command = 'umask "$1"; shift; exec "$@"'
    result = pytester.run("sh", "-c", command, "sh", umask, sys.executable, "-m", "pytest", *OPTIONS, "--sandbox-keep=never")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("value", ["float('nan')", "float('-inf')", "10**5000", "[loop]", "object()", "{1: 2.5}"])
def test_properties_of_every_kind(pytester: pytest.Pytester, value: str) -> None:
    """What a test records about itself makes neither it fail, nor the run."""
    pytester.makepyfile(
        f"""
        loop = []; loop.append(loop)
        def test_1(record_property): record_property("name", {value})
        def test_2(): pass
        """
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2)


@pytest.mark.parametrize("scope", ["session", "module", "class"])
def test_an_environment_that_a_wider_fixture_clears(pytester: pytest.Pytester, scope: str) -> None:
    """With what pytest itself has put there: it is its own again for each phase of a test."""
    pytester.makepyfile(f"""
        import os, unittest.mock, pytest
        @pytest.fixture(scope="{scope}", autouse=True)
        def clean():
            with unittest.mock.patch.dict(os.environ, {{"LANG": "C"}}, clear=True):
                yield
        class TestIt:
            @pytest.mark.parametrize("n", range(2))
            def test_it(self, n):
                assert os.environ["PYTEST_CURRENT_TEST"].endswith(f"test_it[{{n}}] (call)")
                assert "PATH" not in os.environ
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2)
