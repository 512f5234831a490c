"""pytest-timeout: its options, markers and methods, where it can raise in the test and where it cannot."""

from __future__ import annotations

import re
from typing import Any

import pytest

LOADED = ["pytest_timeout"]

#: A conftest with which who is out of time has more than a quarter of a second to print its stacks.
UNHURRIED = "import pytest_sandbox.sandbox.outside.watch as watch; watch.STACKS_TIME = 3.0"

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
    assert "limit timeout: " not in run.text  # which is the sandbox's
    assert "in test_late" in run.text
    assert re.search("timed out: killed after .* while it set up fixture 'hangs'", run.text)


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
        assert re.search("timed out: killed after .* while it set up fixture 'hangs'", run.text)
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


SLOW_FIXTURE = """
    import time, pytest
    @pytest.fixture
    def slow(): time.sleep(2)
    def test_late(): time.sleep(600)
    def test_slow_before(slow): pass
"""


@pytest.mark.parametrize("way", ["ini", "environment"])
@pytest.mark.parametrize("function_alone", [False, True])
def test_without_an_option(compat: Any, way: str, function_alone: bool) -> None:
    """ini keys and the variable say how long, and whether fixtures count."""
    keys = f"timeout_func_only = {function_alone}\n"
    if way == "ini":
        keys += "timeout = 1\ntimeout_method = signal\n"
    else:
        compat.environment["PYTEST_TIMEOUT"] = "1"
    compat.pytester.makeini("[pytest]\n" + keys)
    compat.pytester.makepyfile(SLOW_FIXTURE)
    for run in compat.both():
        assert run.text.count("E   Failed: Timeout (>1.0s) from pytest-timeout") == (1 if function_alone else 2)
        assert ("1 failed, 1 passed" if function_alone else "1 failed, 1 error") in run.text


def test_the_ini_key_of_the_method(compat: Any) -> None:
    """By threads the sandbox is killed."""
    compat.pytester.makeini("[pytest]\ntimeout = 1\ntimeout_method = thread\n")
    compat.pytester.makepyfile(
        SLOW_FIXTURE.replace("def test_late", "@pytest.mark.timeout(0)\n    def test_late").replace("600", "2")
    )
    run = compat.one()
    assert "1 passed, 1 error" in run.text
    assert "limit 1s" in run.text


@pytest.mark.parametrize("way", ["option", "ini"])
def test_the_session_s_time(compat: Any, way: str) -> None:
    """The test in which it runs out is the last one."""
    if way == "ini":
        compat.pytester.makeini("[pytest]\nsession_timeout = 1\n")
    compat.pytester.makepyfile("import time\ndef test_slow(): time.sleep(1.5)\ndef test_next(): pass\n")
    for run in compat.both(*(["--session-timeout=1"] if way == "option" else [])):
        assert "session-timeout: 1.0 sec exceeded" in run.text
        assert "1 passed" in run.text
        assert "test_next" not in str(run.outcomes())


def test_stacks_by_signal(compat: Any) -> None:
    """The test's own is its traceback, and those of its other threads are shown, under their names."""
    compat.pytester.makepyfile("""
        import threading, time
        def waits_elsewhere(): time.sleep(600)
        def waits_here(): time.sleep(600)
        def test_it():
            threading.Thread(target=waits_elsewhere, name="the other", daemon=True).start()
            waits_here()
    """)
    for run in compat.both("--timeout=1", "--timeout-method=signal"):
        assert re.search(r"~ Stack of the other \(\d+\) ~", run.text)
        assert re.search(r"line \d+, in waits_elsewhere$", run.text, re.MULTILINE)
        assert re.search(r"^>   def waits_here\(\): .*\n +\^*\nE   Failed: Timeout", run.text, re.MULTILINE), run.text
