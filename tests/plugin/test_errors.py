"""Errors in set-up and teardown belong to the same tests and phases as in plain pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

SCOPES = ["session", "package", "module", "class", "function"]


@pytest.mark.parametrize("scope", SCOPES)
def test_error_in_set_up(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """A fixture that fails is an error of every test that needs it, with its traceback; it is tried once a scope."""
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope={scope!r})
        def bad():
            print("about to fail")
            raise ValueError("no luck")
        @pytest.fixture(scope={scope!r})
        def above(bad): return bad
        def test_1(): pass
        def test_2(bad): pass
        def test_3(above): pass
        class TestIt:
            def test_4(self, bad): pass
            def test_5(self, above): pass
        def test_6(): pass
        """
    )
    compare.same("-rA")


@pytest.mark.parametrize("scope", SCOPES)
def test_assertions_are_explained(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """What differs is said of assertions in fixtures, too, wherever these are set up and torn down."""
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope="{scope}")
        def failing():
            assert {{"a": 1, "b": [1, 2, 3]}} == {{"a": 1, "b": [1, 2, 4]}}
        @pytest.fixture(scope="{scope}")
        def failing_later():
            yield
            assert "some text" == "some other text"
        def test_1(failing): pass
        def test_2(failing_later): pass
        """
    )
    pair = compare.same()
    assert "Differing items" in pair.boxed.text
    assert "- some other text" in pair.boxed.text


@pytest.mark.parametrize("scope", SCOPES)
def test_error_in_teardown(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """A teardown that fails is an error of the last test of its scope."""
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope={scope!r})
        def bad():
            yield 1
            print("about to fail")
            raise ValueError("no luck")
        def test_1(bad): pass
        def test_2(bad): pass
        class TestIt:
            def test_3(self, bad): pass
            def test_4(self): pass
        def test_5(): pass
        """
    )
    compare.same("-rA")


def test_errors_in_several_teardowns(pytester: pytest.Pytester, compare: Compare) -> None:
    """Several teardowns that fail after one test: all are told."""
    pytester.makepyfile(
        """
        import pytest
        def bad(scope):
            @pytest.fixture(scope=scope)
            def made():
                yield
                raise ValueError("no luck in " + scope)
            return made
        a, b, c = bad("session"), bad("module"), bad("function")
        def test_1(a, b, c): pass
        """
    )
    pair = compare("-rA")
    assert [(r["when"], r["outcome"]) for r in pair.boxed.reports] == [(r["when"], r["outcome"]) for r in pair.plain.reports]
    for scope in ("session", "module", "function"):
        assert f"no luck in {scope}" in pair.boxed.text


def test_teardowns_that_skip(pytester: pytest.Pytester, compare: Compare) -> None:
    """Several teardowns of one test that skip, or fail as expected, are an error, as plain pytest's group of exceptions."""
    pytester.makepyfile(
        """
        import pytest
        def skipping(scope, skip):
            @pytest.fixture(scope=scope)
            def made():
                yield
                skip("no " + scope)
            return made
        a, b, c = skipping("session", pytest.skip), skipping("module", pytest.xfail), skipping("function", pytest.skip)
        def test_1(c): pass
        def test_2(b, c): pass
        def test_3(a, c): pass
        """
    )
    pair = compare("-rA")
    assert pair.boxed.outcomes() == pair.plain.outcomes()
    assert pair.boxed.status == pair.plain.status == pytest.ExitCode.TESTS_FAILED
    for scope in ("session", "module", "function"):
        assert f"no {scope}" in pair.boxed.text


@pytest.mark.parametrize("marks", ["xfail", "skip", "skip, xfail"])
def test_teardowns_of_a_marked_test(pytester: pytest.Pytester, compare: Compare, marks: str) -> None:
    """A test that is expected to fail may do so in its teardown, and that of its module: but not one that is skipped."""
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope="module")
        def wide():
            yield
            raise OSError("no luck")
        @pytest.fixture
        def own():
            yield
            pytest.skip("nor that")
        def test_0(wide): pass
        pytestmark = [{", ".join(f"pytest.mark.{mark}" for mark in marks.split(", "))}]
        class TestIt:
            @pytest.fixture(scope="class")
            def skips(self):
                yield
                pytest.skip("not this")
            def test_it(self, skips, own): pass
        def test_last(): pass
        """
    )
    pair = compare("-rA")
    assert pair.boxed.outcomes() == pair.plain.outcomes()


def test_error_in_class_and_module_functions(pytester: pytest.Pytester, compare: Compare) -> None:
    """Errors of setUpClass, tearDownClass, setup_module and teardown_module are where plain pytest has them."""
    pytester.makepyfile(
        test_a="""
        import unittest
        class UpCase(unittest.TestCase):
            @classmethod
            def setUpClass(cls): raise ValueError("up")
            def test_1(self): pass
            def test_2(self): pass
        class DownCase(unittest.TestCase):
            @classmethod
            def tearDownClass(cls): raise ValueError("down")
            def test_1(self): pass
            def test_2(self): pass
        """,
        test_b="""
        def setup_module(): raise ValueError("module up")
        def test_1(): pass
        def test_2(): pass
        """,
        test_c="""
        def teardown_module(): raise ValueError("module down")
        def test_1(): pass
        def test_2(): pass
        """,
    )
    compare.same("-rA")


def test_error_in_a_package(pytester: pytest.Pytester, compare: Compare) -> None:
    """An error in the setup_module of a package's __init__."""
    pytester.mkpydir("pack")
    (pytester.path / "pack" / "__init__.py").write_text("def setup_module(): raise ValueError('package up')\n")
    (pytester.path / "pack" / "test_a.py").write_text("def test_1(): pass\ndef test_2(): pass\n")
    pytester.makepyfile(test_b="def test_1(): pass\n")
    compare.same("-rA")


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "pytest.exit('enough', returncode=7)", "SystemExit(3)"])
def test_a_package_that_leaves(pytester: pytest.Pytester, compare: Compare, error: str) -> None:
    """By its setup_module: as by a test, and at its line. Of SystemExit plain pytest tells the first test only."""
    pytester.mkpydir("pack")
    (pytester.path / "pack" / "__init__.py").write_text(f"import pytest\ndef setup_module(): raise {error}\n")
    (pytester.path / "pack" / "test_a.py").write_text("def test_1(): pass\ndef test_2(): pass\n")
    pytester.makepyfile(test_b="def test_1(): pass\n")
    if "SystemExit" in error:
        run = compare.one()
        run.result.assert_outcomes(errors=2, passed=1)
        run.result.stdout.fnmatch_lines(["pack/__init__.py:2: SystemExit", "pack/__init__.py:2: SystemExit"])
    else:
        compare.same()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("what", ["skip", "xfail"])
def test_skip_in_a_fixture(pytester: pytest.Pytester, compare: Compare, scope: str, what: str) -> None:
    """pytest.skip and pytest.xfail in a fixture hold for every test that needs it."""
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope={scope!r})
        def bad(): pytest.{what}("not here")
        def test_1(bad): pass
        def test_2(bad): pass
        def test_3(): pass
        class TestIt:
            def test_4(self, bad): pass
        """
    )
    compare.same("-rA")


def test_error_of_one_parameter(pytester: pytest.Pytester, compare: Compare) -> None:
    """A parametrized session fixture that fails for one value only."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="session", params=[1, 2, 3])
        def value(request):
            if request.param == 2:
                raise ValueError("two")
            yield request.param
            if request.param == 3:
                raise ValueError("three")
        def test_1(value): pass
        def test_2(value): assert value != 1
        """
    )
    compare.same("-rA")


@pytest.mark.parametrize("death", ["os._exit(3)", "os._exit(0)", "os.kill(os.getpid(), 11)", "os.kill(os.getpid(), 9)"])
def test_fixture_that_ends_its_process(pytester: pytest.Pytester, compare: Compare, death: str) -> None:
    """A session fixture that takes its process down: errors that name it for who needs it, and all others run."""
    pytester.makepyfile(
        f"""
        import os, pytest
        @pytest.fixture(scope="session")
        def deadly():
            print("last words", flush=True)
            {death}
        @pytest.fixture(scope="module")
        def harmless():
            return 1
        def test_1(harmless): pass
        def test_2(deadly): pass
        def test_3(harmless): pass
        def test_4(deadly, harmless): pass
        def test_5(): pass
        """
    )
    run = compare.one()
    run.result.assert_outcomes(passed=3, errors=2)
    for name in ("test_2", "test_4"):
        report = run.report(name, "setup")
        assert report["outcome"] == "failed"
        assert "'deadly'" in report["longrepr"]
    assert "last words" in run.text


def test_module_fixture_that_ends_its_process(pytester: pytest.Pytester, compare: Compare) -> None:
    """The same in a module: the session's fixtures stay as they are."""
    pytester.makeconftest(
        """
        import pytest
        @pytest.fixture(scope="session")
        def counted(request):
            with open(request.config.rootpath / "log.txt", "a") as file:
                file.write("set up\\n")
        """
    )
    (pytester.path / "log.txt").touch()
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.fixture(scope="module")
        def deadly(): os.abort()
        def test_1(counted): pass
        def test_2(deadly, counted): pass
        def test_3(counted): pass
        """
    )
    run = compare.one("--sandbox-writable=log.txt")
    run.result.assert_outcomes(passed=2, errors=1)
    assert "SIGABRT" in run.report("test_2", "setup")["longrepr"]
    assert run.read("log.txt") == "set up\n"


def test_teardown_that_ends_its_process(pytester: pytest.Pytester, compare: Compare) -> None:
    """A session teardown that crashes is an error of the last test's teardown."""
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.fixture(scope="session")
        def deadly():
            yield
            os._exit(0)
        def test_1(deadly): pass
        def test_2(deadly): pass
        """
    )
    run = compare.one()
    run.result.assert_outcomes(passed=2, errors=1)
    assert "the session" in run.report("test_2", "teardown")["longrepr"]


def test_exceptions_that_break_who_looks_at_them(pytester: pytest.Pytester, compare: Compare) -> None:
    """What raises when it is asked for its text or number, and a number that is none, are failures as in a plain run."""
    pytester.makepyfile(
        """
        import pytest
        class Text(RuntimeError):
            def __str__(self): raise ValueError("broken")
        class Number(OSError): errno = property(lambda self: 1 / 0)
        def test_text(): raise Text()
        def test_number(): raise Number(5, "x")
        @pytest.mark.xfail(raises=OSError)
        def test_expected(): raise OSError("a", "b")
        @pytest.mark.parametrize("number", ["a", 1.5, (1, 2), object])
        def test_odd(number): raise OSError(number, "b")
        def test_next(): pass
        """
    )
    compare.same("-rA")


@pytest.mark.parametrize("what", ["pytest.exit('enough', 5)", "raise KeyboardInterrupt"])
def test_teardown_that_ends_the_run(pytester: pytest.Pytester, compare: Compare, what: str) -> None:
    """As a test that does so: nothing runs after it, and the wider scopes are torn down."""
    pytester.makepyfile(
        test_a=f"""
        import pytest
        @pytest.fixture(scope="module")
        def ends(): yield; {what}
        def test_1(ends): pass
        """,
        test_b="def test_2(): pass",
    )
    pair = compare()
    assert pair.boxed.status == pair.plain.status
    for run in (pair.plain, pair.boxed):
        run.result.assert_outcomes(passed=1)
        assert ("enough" in run.text) is ("enough" in what)


def test_what_wider_fixtures_know_of_the_run(pytester: pytest.Pytester, compare: Compare) -> None:
    """How many tests have failed, and which one is set up or torn down now."""
    source = """
        import os, pytest
        def current(): return os.environ["PYTEST_CURRENT_TEST"]
        @pytest.fixture(scope="session", autouse=True)
        def session(request): print(current()); yield; print("session", request.session.testsfailed, current())
        @pytest.fixture(scope="module", autouse=True)
        def module(request):
            print(current(), request.session.testsfailed)
            yield
            print("module", request.session.testsfailed, current())
        @pytest.fixture
        def bad(): assert 0
        @pytest.fixture
        def late(): yield; assert 0
        def test_1(): assert 0
        def test_2(bad): pass
        def test_3(late): pass
        def test_4(): pass
    """
    pytester.makepyfile(test_a=source, test_b=source)
    compare.same("-rA")


def test_no_sandbox_for_one_test(pytester: pytest.Pytester) -> None:
    """Where one cannot be begun, for want of descriptors, that test fails with the reason, and the next have their fixtures."""
    pytester.makeconftest(
        """
        import os, resource
        HERE, (SOFT, HARD) = os.getpid(), resource.getrlimit(resource.RLIMIT_NOFILE)
        def pytest_runtest_logstart(nodeid):
            if os.getpid() == HERE and nodeid.endswith("test_1"):
                resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, HARD))
        def pytest_runtest_logreport(report):
            if os.getpid() == HERE and report.nodeid.endswith("test_1"):
                resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))
        """
    )
    pytester.makepyfile(
        test_a="def test_0(): pass",
        test_b="""
        import pytest
        @pytest.fixture(scope="module")
        def module(): return 7
        def test_1(module): pass
        def test_2(module): assert module == 7
        def test_3(module): assert module == 7
        """,
    )
    result = pytester.runpytest_subprocess("--sandbox", timeout=300)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_1*", "*Too many open files*"])


def test_a_teardown_without_a_frame_of_the_users(pytester: pytest.Pytester, compare: Compare) -> None:
    """Where nothing of a traceback is the user's, pytest shows all of it that is not ours."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture
        def two(): yield 1; yield 2
        @pytest.fixture(scope="module")
        def wide(): yield 1; yield 2
        @pytest.fixture
        def a():
            yield
            raise ValueError("a")
        @pytest.fixture
        def b():
            yield
            raise KeyError("b")
        def test_two(two): pass
        def test_several(a, b): pass
        def test_wide(wide): pass
        """
    )
    pair = compare()
    for run in (pair.plain, pair.boxed):
        run.result.assert_outcomes(passed=3, errors=3)
        run.result.stdout.no_fnmatch_line("*All traceback entries are hidden*")
        assert run.result.stdout.str().count("Exception Group Traceback") == 1
