"""pytest-timeout: its options, markers and methods, where it can raise in the test and where it cannot."""

from __future__ import annotations

from typing import Any

LOADED = ["pytest_timeout"]

#: A conftest with which who is out of time has more than a quarter of a second to print its stacks.
UNHURRIED = "import pytest_sandbox.sandbox.clock as clock; clock.STACKS_TIME = 3.0"

SUITE = """
import time, pytest
@pytest.mark.timeout(1.5)
def test_late(): time.sleep(600)
@pytest.mark.timeout(0)
def test_unbounded(): time.sleep(4.5)
@pytest.fixture
def slow(): time.sleep(2)
@pytest.mark.timeout(1.5, func_only=True)
def test_function_alone(slow): pass
@pytest.fixture
def slow_to_leave():
    yield
    time.sleep(2)
    print("left")
@pytest.mark.timeout(1.5)
def test_teardown_has_its_time(slow_to_leave): time.sleep(600)
@pytest.fixture(scope="module")
def hangs(): time.sleep(600)
def test_fixture(hangs): pass
def test_fixture_again(hangs): pass
def test_in_time(): pass
"""


def test_signal(compat: Any) -> None:
    """The alarm raises where it does without a sandbox: in tests, and in fixtures of wider scopes."""
    compat.pytester.makepyfile(SUITE)
    plain, boxed = compat.both("--timeout=4", "-rA")
    for run in (plain, boxed):
        assert run.text.count("Timeout (>1.5s) from pytest-timeout") >= 2
        assert "left" in run.text


def test_thread(compat: Any) -> None:
    """Which ends plain pytest: here it is that test's failure, with its stacks, or that of the fixture."""
    compat.pytester.makeconftest(UNHURRIED)
    compat.pytester.makepyfile(SUITE)
    run = compat.one("--timeout=4", "--timeout-method=thread")
    assert "2 failed, 3 passed, 2 errors" in run.text
    assert "timed out: killed after" in run.text
    assert "limit 1.5s" in run.text
    assert "in test_late" in run.text
    assert "ended while it set up fixture 'hangs': timed out: killed after" in run.text


def test_fixtures_of_wider_scopes_have_both_limits(compat: Any) -> None:
    """pytest-timeout's and the sandbox's own, whichever is over first: the plugin does not lift the other, nor can a fixture."""
    compat.pytester.makepyfile("""
        import time, pytest
        @pytest.fixture(scope="session")
        def hangs(): time.sleep(600)
        def test_it(hangs): pass
    """)
    for method in ("signal", "thread"):
        run = compat.one("--sandbox-timeout=1", "--timeout=200", f"--timeout-method={method}")
        assert "ended while it set up fixture 'hangs': timed out: killed after" in run.text
        assert "limit 1s" in run.text
        run = compat.one("--sandbox-timeout=200", "--timeout=1", f"--timeout-method={method}")
        assert "limit 200s" not in run.text
        assert "1 error" in run.text


def test_an_alarm_that_is_not_heeded(compat: Any) -> None:
    """A test that blocks signals is killed some seconds later, and the next one runs."""
    compat.pytester.makepyfile("""
        import pytest, signal
        def test_deaf():
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            while True: pass
        @pytest.mark.timeout(60)
        def test_next(): pass
    """)
    run = compat.one("--timeout=3")
    assert "1 failed, 1 passed" in run.text
    assert "limit 3s" in run.text


#: A debugger that pytest knows nothing of, as ipdb or an IDE's, and who uses it for longer than there is.
DEBUGGED = """
    import bdb, time
    class Debugger(bdb.Bdb):
        def user_line(self, frame):
            time.sleep(4)
            self.set_continue()
    def test_in_a_debugger():
        Debugger().set_trace()
        assert True
    def test_next(): pass
"""


def test_a_debugger_of_its_own(compat: Any) -> None:
    """The alarm finds somebody in it, and nobody's time runs out, unless that is not to be looked at."""
    compat.pytester.makeconftest("import pytest_sandbox.plugin.others.timers as timers; timers.GRACE = 1.0")
    compat.pytester.makepyfile(DEBUGGED)
    plain, boxed = compat.both("--timeout=1")
    assert "2 passed" in plain.text
    assert "2 passed" in boxed.text
    plain, boxed = compat.both("--timeout=1", "--timeout-disable-debugger-detection")
    for run in (plain, boxed):
        assert "1 failed, 1 passed" in run.text
        assert "Timeout (>1.0s) from pytest-timeout" in run.text
