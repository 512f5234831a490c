"""What tests say to the controller past the fixtures, or by threads and forks: refused, or their own failure only."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import OPTIONS


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
        from pytest_sandbox.sandbox.wire.frames import encode

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
            channel.send({"op": "make", "number": 1, "limits": limits})
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
                inside.channel.send({"op": "make", "number": 1, "limits": {}})
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
    pytester.makeconftest("from pytest_sandbox.sandbox.outside import clock\nclock.END_TIME = 0.5\n")
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


def test_a_large_shared_sandbox(pytester: pytest.Pytester) -> None:
    """Each of its tests may say as much as one alone."""
    pytester.makeconftest(
        "from pytest_sandbox.sandbox.wire.frames import LONGEST, Decoder\nDecoder.__init__.__defaults__ = (LONGEST, 1 << 14)\n"
    )
    pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.sandbox(scope="module")
        @pytest.mark.parametrize("number", range(30))
        def test_it(number): pass
        """
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=30)


def test_a_call_that_is_interrupted(pytester: pytest.Pytester) -> None:
    """By a handler that raises: what it has begun is killed, and the next call gets its own answer, wherever that one was."""
    pytester.makepyfile(
        """
        import pathlib, signal, time, pytest
        class Late(Exception): pass
        def stop(*_): raise Late
        def late(seconds, call, *args):
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                call(*args)
            except Late:
                return True
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            return False
        def test_it_runs(sandbox_factory):
            began = time.monotonic()
            assert late(0.5, sandbox_factory().run, ["sleep", "100"])
            assert time.monotonic() - began < 50
            assert sandbox_factory().run(["echo", "second"]).stdout == b"second\\n"
        @pytest.mark.parametrize("number", range(40))
        def test_at_any_moment(sandbox_factory, number):
            interrupted = late(0.001 * (1 + number), sandbox_factory().run, ["sh", "-c", "echo first; sleep 0.02"])
            assert sandbox_factory().run(["echo", "second"]).stdout == b"second\\n"
            assert sandbox_factory().call(lambda: 5) == 5
        def test_it_is_over(sandbox_factory):
            assert sandbox_factory().run(["echo", "last"]).stdout == b"last\\n"
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "-q")
    result.assert_outcomes(passed=42)
