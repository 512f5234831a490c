"""Outcomes of tests of every kind: the same, in the same words, as in plain pytest."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare


def test_pass_fail_skip(pytester: pytest.Pytester, compare: Compare) -> None:
    """Passing, failing, skipping and asserting tests, with what they printed and the traceback of each."""
    pytester.makepyfile(
        """
        import pytest, sys, warnings
        def test_pass(): print("out")
        def test_fail():
            print("out"); print("err", file=sys.stderr)
            left, right = {"a": [1, 2]}, {"a": [1, 3]}
            assert left == right
        def test_error(): {}["missing"]
        def test_chain():
            try:
                1 / 0
            except ZeroDivisionError as error:
                raise RuntimeError("above") from error
        @pytest.mark.skip(reason="by mark")
        def test_skip_mark(): pass
        @pytest.mark.skipif(True, reason="by condition")
        def test_skip_condition(): pass
        def test_skip(): pytest.skip("by call")
        def test_import(): pytest.importorskip("no_such_module_at_all")
        def test_fail_by_call(): pytest.fail("by call", pytrace=False)
        @pytest.mark.parametrize("value", [1, "é", "\\x00", None, float("nan")])
        def test_parametrized(value): assert value == 1
        def test_group():
            raise ExceptionGroup("several", [ValueError(1), TypeError(2)]) if sys.version_info >= (3, 11) else ValueError
        """
    )
    compare.same("-rA")


@pytest.mark.parametrize("options", [(), ("--runxfail",), ("-o", "xfail_strict=true")])
def test_xfail(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """Expected failures: strict, not run, by exception, by call, passing, in set-up."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.xfail
        def test_1(): assert 0
        @pytest.mark.xfail(reason="why")
        def test_2(): pass
        @pytest.mark.xfail(strict=True)
        def test_3(): pass
        @pytest.mark.xfail(run=False, reason="not at all")
        def test_4(): raise SystemExit
        @pytest.mark.xfail(raises=ValueError)
        def test_5(): raise ValueError
        @pytest.mark.xfail(raises=ValueError)
        def test_6(): raise TypeError
        @pytest.mark.xfail(False, reason="condition")
        def test_7(): assert 0
        def test_8(): pytest.xfail("by call")
        @pytest.fixture
        def bad(): raise ValueError
        @pytest.mark.xfail
        def test_9(bad): pass
        def test_10(request):
            request.node.add_marker(pytest.mark.xfail(reason="added"))
            assert 0
        """
    )
    compare.same("-rA", *options)


def test_xfail_of_a_crash(pytester: pytest.Pytester, compare: Compare) -> None:
    """A test that is expected to fail may do so by the end of its process."""
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.mark.xfail
        def test_1(): os.abort()
        @pytest.mark.xfail(raises=ValueError)
        def test_2(): os.abort()
        """
    )
    compare.one().result.assert_outcomes(xfailed=1, failed=1)


def test_unittest(pytester: pytest.Pytester, compare: Compare) -> None:
    """unittest: failures, errors, skips, expected failures, subTest."""
    pytester.makepyfile(
        """
        import unittest
        class Case(unittest.TestCase):
            def test_pass(self): pass
            def test_fail(self): self.assertEqual([1, 2], [1, 3])
            def test_error(self): raise ValueError
            def test_skip(self): self.skipTest("not now")
            @unittest.skip("by decorator")
            def test_skip_2(self): pass
            @unittest.expectedFailure
            def test_expected(self): assert 0
            @unittest.expectedFailure
            def test_unexpected(self): pass
            def test_cleanup(self): self.addCleanup(lambda: 1 / 0)
        class Sub(unittest.TestCase):
            def test_sub(self):
                for number in range(4):
                    with self.subTest("a message", number=number):
                        if number == 1:
                            self.skipTest("not one")
                        self.assertNotEqual(number, 2)
            def test_sub_passing(self):
                for number in range(4):
                    with self.subTest(number=number):
                        pass
        """
    )
    pair = compare.same(screen=False)  # plain pytest captures the letters of subtests that it shows
    assert pair.boxed.status == 1


@pytest.mark.parametrize("options", [(), ("-v",), ("-o", "verbosity_subtests=0"), ("-x",)])
def test_subtests(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """pytest's own subtests: a failed one fails its test, and each is reported."""
    if not hasattr(pytest, "Subtests"):
        pytest.skip("subtests came with pytest 9")
    pytester.makepyfile(
        """
        def test_it(subtests):
            for number in range(3):
                with subtests.test("message", number=number):
                    print("in", number)
                    assert number != 1
        def test_pass(subtests):
            with subtests.test("fine"):
                pass
        """
    )
    pair = compare.same("-rA", *options)
    assert pair.boxed.status == 1


def test_only_a_subtest_fails(pytester: pytest.Pytester, compare: Compare) -> None:
    """A run in which nothing but one subtest fails, fails."""
    pytester.makepyfile(
        """
        import unittest
        class Case(unittest.TestCase):
            def test_it(self):
                with self.subTest(1):
                    self.fail("here")
        """
    )
    pair = compare.same(screen=False)
    assert pair.boxed.status == 1


def test_doctest(pytester: pytest.Pytester, compare: Compare) -> None:
    """Doctests of modules and text files, with fixtures."""
    pytester.makepyfile(
        module='''
        def double(x):
            """
            >>> double(2)
            4
            >>> double(3)
            7
            """
            return 2 * x
        class Fine:
            """
            >>> getfixture("tmp_path").exists()
            True
            """
        '''
    )
    (pytester.path / "test_text.txt").write_text(">>> 1 + 1\n2\n>>> 1 / 0\n0\n")
    compare.same("--doctest-modules", "-rA")


def test_collection_errors(pytester: pytest.Pytester, compare: Compare) -> None:
    """Modules that cannot be imported are errors as ever; the rest runs if that is asked for."""
    pytester.makepyfile(test_a="import no_such_module\n", test_b="def test_1(): pass\n", test_c="def test_1(: pass\n")
    compare.same()
    compare.same("--continue-on-collection-errors")


def test_nothing_collected(pytester: pytest.Pytester, compare: Compare) -> None:
    """No test at all: exit status 5."""
    pytester.makepyfile(test_a="")
    assert compare.same().boxed.status == pytest.ExitCode.NO_TESTS_COLLECTED


def test_exceptions_that_are_none(pytester: pytest.Pytester, compare: Compare) -> None:
    """sys.exit, BaseException, GeneratorExit and an exception with a broken repr are failures like any other."""
    pytester.makepyfile(
        """
        import sys
        def test_exit(): sys.exit(3)
        def test_exit_0(): sys.exit()
        def test_base(): raise BaseException("base")
        def test_generator(): raise GeneratorExit
        class Bad(Exception):
            def __repr__(self): raise ValueError("in repr")
            __str__ = __repr__
        def test_repr(): raise Bad
        """
    )
    compare.same("-rA")


def test_own_hooks_and_reports(pytester: pytest.Pytester, compare: Compare) -> None:
    """A conftest's hooks for reports, statuses and sections see what they see in plain pytest."""
    pytester.makeconftest(
        textwrap.dedent(
            """
            import pytest
            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport(item, call):
                report = yield
                report.sections.append(("Mine", f"{item.name} {call.when}"))
                report.extra_number = 5
                if item.name == "test_flip" and call.when == "call":
                    report.outcome = "failed"
                    report.longrepr = "flipped"
                return report
            def pytest_report_teststatus(report, config):
                if report.when == "call" and report.passed:
                    return "fine", "F", f"FINE {report.extra_number}"
            def pytest_runtest_logreport(report):
                if report.when == "call":
                    print("logged", report.nodeid, report.extra_number)
            @pytest.hookimpl(wrapper=True)
            def pytest_pyfunc_call(pyfuncitem):
                pyfuncitem.user_properties.append(("called", pyfuncitem.name))
                return (yield)
            def pytest_terminal_summary(terminalreporter):
                terminalreporter.section("count")
                terminalreporter.write_line(str(len(terminalreporter.getreports("fine"))))
            """
        )
    )
    pytester.makepyfile("def test_1(): pass\ndef test_flip(): pass\ndef test_3(): assert 0\n")
    compare.same("-v", "-rA")


@pytest.mark.parametrize("mark", ["skipif", "xfail"])
@pytest.mark.parametrize("condition", ["sys.exit(3)", "1 / 0", "warnings.warn('of a condition')", "pytest.fail('on purpose')"])
def test_conditions_of_marks(pytester: pytest.Pytester, compare: Compare, condition: str, mark: str) -> None:
    """Are foreign code, whose errors and warnings are the test's, though others ask them too, for fixtures of wider scopes."""
    pytester.makepyfile(
        f"""
        import pytest, sys, warnings
        @pytest.fixture(scope="session", autouse=True)
        def wide(): yield
        def condition(): {condition}
        def test_1(): pass
        @pytest.mark.{mark}("condition()", reason="why")
        def test_2(): pass
        def test_3(): pass
        """
    )
    compare.same()
