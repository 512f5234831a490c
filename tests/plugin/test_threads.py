"""Fixtures of wider scopes that start threads, which no fork has: they are named, and set up by each test."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import OPTIONS


def test_which_fixture_has_a_thread(pytester: pytest.Pytester) -> None:
    """The innermost is named, once; what depends on it is set up by each test. What ends for that says nothing aside."""
    pytester.makepyfile(
        """
        import pytest, threading, time
        @pytest.fixture(scope="session")
        def quiet(): print("quiet up"); yield; print("quiet down")
        @pytest.fixture(scope="session")
        def inner(): threading.Thread(target=time.sleep, args=(60,), daemon=True, name="own").start(); yield
        @pytest.fixture(scope="session")
        def middle(inner, quiet): yield
        @pytest.fixture(scope="session")
        def outer(middle): yield
        def test_1(quiet): pass
        def test_2(outer): pass
        def test_3(outer, middle): pass
        """
    )
    run = pytester.runpytest_subprocess("--sandbox", "-v")
    run.assert_outcomes(passed=3, warnings=1)
    run.stdout.fnmatch_lines(["*fixture 'inner' starts a thread (own)*"])
    assert "quiet" not in run.stdout.str()


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


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], {"passed": 4, "warnings": 2}),
        (["-W", "ignore"], {"passed": 4}),
        (["-W", "error"], {"passed": 4, "warnings": 2}),
        (["-W", "error", "-n", "1"], {"passed": 4, "warnings": 2}),
        (["-W", "error", "--sandbox-scope=module"], {"passed": 4}),
        (["-W", "error", "-p", "no:warnings"], {"passed": 4, "warnings": 3}),  # nobody filters then
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_of_threads(pytester: pytest.Pytester, options: list[str], found: dict[str, int]) -> None:
    """Those hold that the first test has which needs the fixture; it is a warning also where all are errors: nothing is wrong."""
    pytester.makepyfile(
        """
        import pytest, threading
        def start():
            end = threading.Event()
            thread = threading.Thread(target=end.wait, name="own")
            thread.start()
            yield
            end.set()
            thread.join()
        one, two, three = (pytest.fixture(start, scope="module", name=name) for name in ("one", "two", "three"))
        @pytest.mark.filterwarnings("ignore::pytest_sandbox.ThreadWarning")
        def test_quiet(three): pass
        def test_one(one): pass
        def test_both(one, two): pass
        def test_again(two, three): pass
        """
    )
    result = pytester.runpytest_subprocess(*OPTIONS, *options)
    assert result.parseoutcomes() == found
    assert result.ret == 0


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
