"""Fixtures of wider scopes that start threads, which no fork has: they are named, and set up by each test."""

from __future__ import annotations

import pytest


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
