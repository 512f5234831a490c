"""Fixtures that fail or skip: what comes after them is set up once all the same, by who needs it."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Compare, make, same_log


def test_after_one_that_failed(pytester: pytest.Pytester, compare: Compare) -> None:
    """What comes after a fixture that failed is set up once, by its scope, for the next test that needs it."""
    make(
        pytester,
        conftest="""
        @pytest.fixture(scope="session")
        def broken(log): raise ValueError("broken")
        @pytest.fixture(scope="module", autouse=True)
        def module(log):
            log("module is set up"); yield; log("module is torn down")
        @pytest.fixture(scope="session")
        def session(log):
            log("session is set up"); yield; log("session is torn down")
        """,
        test_it="""
        def test_broken(broken, session): pass
        def test_broken_too(session, broken): pass
        def test_1(): pass
        def test_2(session): pass
        def test_3(session): pass
        """,
        test_more="""
        def test_4(session, broken): pass
        def test_5(): pass
        """,
    )
    lines = same_log(compare)
    assert [lines.count(f"{scope} is set up") for scope in ("module", "session")] == [2, 1]


@pytest.mark.parametrize("error", ["1 / 0", "pytest.skip('no')"])
def test_nothing_after_a_failed_one(pytester: pytest.Pytester, compare: Compare, error: str) -> None:
    """For no test that needs it: what comes after it is set up by who does not need it, once, and wider scopes stay."""
    make(
        pytester,
        f"""
        import sys
        @pytest.fixture(scope="session")
        def fails(log): log("fails"); {error}
        @pytest.fixture(scope="package")
        def elsewhere(log): log("elsewhere up"); yield; log("elsewhere down")
        @pytest.fixture(scope="module")
        def after(log): log("after up"); yield; log("after down")
        @pytest.fixture(scope="module", autouse=True)
        def always(log): log("always up"); yield; log("always down")
        """,
        test_1="""
        import pytest
        @pytest.fixture(scope="class")
        def last(log): log("last up"); yield; log("last down")
        class Test1:
            def test_1(self, fails, elsewhere, after, last): pass
            def test_2(self, fails, elsewhere, after, last): pass
            def test_3(self, elsewhere, after, last, log): log("test_3")
            def test_4(self, fails, after, last, tmp_path_factory): pass
            def test_5(self, after, last, log): log("test_5")
        def test_6(after, log): log("test_6")
        """,
    )
    lines = same_log(compare)
    assert lines.count("after up") == lines.count("always up") == lines.count("last up") == lines.count("elsewhere up") == 1


@pytest.mark.parametrize("scope", ["session", "module", "class"])
def test_teardown_of_a_value_that_is_replaced(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """It fails the test that needs the next value, and no other: the next one has it set up."""
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope={scope!r}, params=["sqlite", "postgres", "mysql"])
        def db(request):
            yield request.param
            print("closing", request.param)
            if request.param != "mysql": raise RuntimeError("connections left open")
        class TestIt:
            def test_1(self, db): pass
            def test_2(self, db): assert db != "mysql"
        def test_other(): pass
        """
    )
    pair = compare("-rA")
    assert pair.boxed.outcomes() == pair.plain.outcomes(), pair.boxed.text
    assert pair.boxed.text.count("RuntimeError: connections left open") == pair.plain.text.count(
        "RuntimeError: connections left open"
    )
    assert "closing sqlite" in pair.boxed.text


def test_hook_that_fails_after_the_fixture(pytester: pytest.Pytester, compare: Compare) -> None:
    """The test fails that has it set up; others have the value."""
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_fixture_setup(fixturedef, request):
            value = yield
            if value is None: raise ValueError(f"fixture {fixturedef.argname} returned None")
            return value
        @pytest.fixture(scope="module")
        def resource():
            yield
            print("torn down")
        """
    )
    pytester.makepyfile("def test_1(resource): pass\ndef test_2(): pass\ndef test_3(resource): pass")
    compare("-rA").assert_same_ends()


@pytest.mark.parametrize("scope", ["session", "module"])
def test_teardown_of_a_scope_that_is_made_anew(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """For a thread that another fixture has started: what fails is told, though nobody needs the fixture again."""
    pytester.makepyfile(
        f"""
        import pytest, threading
        @pytest.fixture(scope={scope!r})
        def database():
            yield "db"
            raise RuntimeError("database could not be closed")
        @pytest.fixture(scope={scope!r})
        def background():
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait)
            thread.start()
            yield
            stop.set()
            thread.join()
        def test_1(database): pass
        def test_2(background): pass
        """
    )
    pair = compare().assert_same_ends()
    pair.boxed.result.assert_outcomes(passed=2, errors=1, warnings=1)
    assert "During handling" not in pair.boxed.text
