"""What is reported of tests: times, warnings, what hooks add to a report or change of it, and the table of usage."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare


def test_durations(pytester: pytest.Pytester, compare: Compare) -> None:
    """--durations counts a fixture's time for the test that it was set up for, and a teardown for the last.

    By a clock that stands still but for who lets time pass: how long anything takes on this machine is no matter.
    """
    pytester.makeconftest(
        """
        from _pytest import timing
        now = 1000.0
        def passes(seconds): global now; now += seconds
        timing.time = timing.perf_counter = lambda: now
        """
    )
    pytester.makepyfile(
        """
        import pytest
        from conftest import passes
        @pytest.fixture(scope="session")
        def slow():
            passes(3); yield; passes(2)
        def test_1(slow): passes(1)
        def test_2(slow): pass
        """
    )
    pair = compare("--durations=0", "-vv")
    for run in (pair.plain, pair.boxed):
        found = [(report["nodeid"][-6:], report["when"], report["duration"]) for report in run.reports]
        assert found == [
            ("test_1", "setup", 3),
            ("test_1", "call", 1),
            ("test_1", "teardown", 0),
            ("test_2", "setup", 0),
            ("test_2", "call", 0),
            ("test_2", "teardown", 2),
        ]
        run.result.stdout.fnmatch_lines_random(["3.00s setup *::test_1", "2.00s teardown *::test_2", "1.00s call *::test_1"])


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="subtests came with pytest 9")
def test_durations_of_who_is_killed(pytester: pytest.Pytester, compare: Compare) -> None:
    """Are of the phase that it was killed in: what came before is counted once, also that of others in its sandbox."""
    pytester.makepyfile(
        """
        import os, time, pytest
        pytestmark = pytest.mark.sandbox(group="one")
        @pytest.fixture
        def slow(): time.sleep(0.5)
        def test_1(slow): time.sleep(0.5)
        def test_2(slow, subtests):
            with subtests.test(): time.sleep(0.25)
            time.sleep(0.25)
            os.kill(os.getpid(), 9)
        """
    )
    run = compare.one()
    own = [report for report in run.reports if report["kind"] == "TestReport"]
    assert [report["outcome"] for report in own] == ["passed"] * 4 + ["failed", "passed"]
    wall = next(float(value) for name, value in own[-1]["properties"] if name == "sandbox_wall")
    assert sum(report["duration"] for report in own) <= wall
    assert [report["duration"] >= 0.5 for report in own] == [True, True, False, True, True, False]


def test_attributes_that_hooks_add(pytester: pytest.Pytester, compare: Compare) -> None:
    """Plain data arrives as what it was, also what JSON has no form for; of anything else what repr makes of it."""
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.when == "call":
                report.files = {"a.py": {1, 2}, "b.py": frozenset()}
                report.numbers = {1: "one", None: (2, [3])}
                report.bytes = b"\\x00\\xff"
                report.infinite = [float("inf"), float("nan")]
                report.words = ["a", {"b": None}, True, 1.5]
                report.result = "measured"
            return report
        def pytest_runtest_logreport(report):
            if report.when == "call":
                print("attributes", report.files, report.numbers, report.bytes, report.infinite, report.words, report.result)
        """
    )
    pytester.makepyfile("def test_1(): pass\ndef test_2(): assert 0")
    compare.same("-s")


def test_an_attribute_that_is_no_data(pytester: pytest.Pytester) -> None:
    """It does no harm: an object of a class, and what contains itself."""
    pytester.makeconftest(
        """
        import pytest
        class Own:
            def __repr__(self): return "<own>"
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            report.own, report.deep = Own(), {1: []}
            report.deep[1].append(report.deep)
            return report
        def pytest_runtest_logreport(report):
            if report.when == "call": print("own:", report.own)
        """
    )
    pytester.makepyfile("def test_1(): pass")
    run = pytester.runpytest_subprocess("--sandbox", "-s")
    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines(["*own: <own>*"])


def test_warnings(pytester: pytest.Pytester, compare: Compare) -> None:
    """Warnings of every origin: shown in the summary, with test and place, counted once."""
    pytester.makepyfile(
        """
        import pytest, warnings
        warnings.warn("at import")
        class MyWarning(UserWarning): pass
        @pytest.fixture(scope="session")
        def value():
            warnings.warn("in set-up", DeprecationWarning)
            yield
            warnings.warn("in teardown", MyWarning)
        def test_1(value): warnings.warn(MyWarning("in call"))
        @pytest.mark.parametrize("number", range(3))
        def test_2(number): warnings.warn("many")
        @pytest.mark.filterwarnings("error")
        def test_3(): warnings.warn("an error")
        @pytest.mark.filterwarnings("ignore")
        def test_4(): warnings.warn("ignored")
        def test_5(recwarn): warnings.warn("recorded"); assert len(recwarn) == 1
        def test_6():
            with pytest.warns(UserWarning): warnings.warn("expected")
        """
    )
    compare.same("-rA")
    compare.same("-W", "error", "-rA")


def test_unraisable(pytester: pytest.Pytester, compare: Compare) -> None:
    """Exceptions in __del__ and in threads, and resources left open, are warnings of their test."""
    pytester.makepyfile(
        """
        import threading, warnings, pytest
        class Bad:
            def __del__(self): raise ValueError("in del")
        def test_del(): Bad()
        def test_thread():
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start(); thread.join()
        async def never(): pass
        def test_coroutine(): never()
        def test_pass(): pass
        """
    )
    pair = compare("-W", "always")
    kinds = [[(warning[0], warning[3]) for warning in run.record["warnings"]] for run in (pair.plain, pair.boxed)]
    assert sorted(kinds[1]) == sorted(kinds[0])
    pair = compare("-W", "error")
    assert [o for o in pair.boxed.outcomes() if o[2] == "failed"] == [o for o in pair.plain.outcomes() if o[2] == "failed"]


def test_usage_table(pytester: pytest.Pytester, compare: Compare) -> None:
    """Columns are as wide as what is in them; why a figure is missing is said once, with the columns that lack it."""
    pytester.makepyfile(
        """
        import os, pytest, subprocess, time
        @pytest.mark.parametrize("name", ["a" * 100, "b"])
        def test_killed(name): os.kill(os.getpid(), 9)
        @pytest.mark.sandbox(timeout="100ms")
        @pytest.mark.parametrize("number", [1, 2])
        def test_late(number): time.sleep(60)
        @pytest.mark.sandbox(disk="1M")
        def test_leaks():
            for _ in range(12): subprocess.Popen(["sleep", "60"])
            open("/tmp/big", "wb").write(bytes(1 << 22))
        """
    )
    text = compare.one("--sandbox-usage").result.stdout.str()
    table = text[text.index("= sandbox usage =") :].splitlines()[1:]
    rows = [line for line in table if "::" in line and not line.startswith(("FAILED", "/"))][:5]
    column = table[0].index("test")
    assert {line.index("test_usage_table.py::") for line in rows} == {column}
    assert any("disk full (12 leaked)" in line for line in rows)
    reasons = [line for line in table if line.startswith("not measured")]
    assert len({line.rpartition(": ")[2] for line in reasons}) == len(reasons)
    assert "not measured (-): network: it is read at the end, and the sandbox was killed, or still runs" in reasons


def test_a_warning_about_the_configuration(pytester: pytest.Pytester, compare: Compare) -> None:
    """That comes while a test runs, or a fixture, is in the summary."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="session")
        def wide(pytestconfig): pytestconfig.issue_config_time_warning(UserWarning("of a fixture"), stacklevel=1)
        def test_1(wide, pytestconfig): pytestconfig.issue_config_time_warning(UserWarning("of a test"), stacklevel=1)
        """
    )
    compare.same()


def test_a_report_that_is_changed_late(pytester: pytest.Pytester, compare: Compare) -> None:
    """pytest_exception_interact comes after the report was sent: what it does to it is shown all the same."""
    pytester.makeconftest(
        """
        def pytest_exception_interact(node, call, report):
            report.sections.append(("Added late", "about " + node.name))
            if "short" in node.name: report.longrepr = "in short"
        """
    )
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture
        def broken(): 1 / 0
        @pytest.fixture
        def breaks(): yield; 1 / 0
        @pytest.fixture(scope="module")
        def wide(): yield; 1 / 0
        def test_1(): assert 0
        def test_short(): assert 0
        def test_2(broken): pass
        def test_3(breaks): pass
        def test_4(wide): pass
        """
    )
    pair = compare()
    assert pair.boxed.screen() == pair.plain.screen()
    assert pair.boxed.text.count("about test_") == 5
    assert "in short" in pair.boxed.text


def test_what_properties_are(pytester: pytest.Pytester) -> None:
    """JUnit has the text of each, whatever it is."""
    pytester.makepyfile(
        """
        import datetime, decimal, enum, pathlib
        class Kind(enum.Enum): A = 1
        class Name(str, enum.Enum): C = "c"
        class Told:
            def __str__(self): return "told"
        def test_it(record_property):
            given = [pathlib.Path("/tmp/x"), datetime.date(2026, 1, 2), decimal.Decimal("1.50"), (1, 2), {1: "a"}, {1}, b"b", 1.5,
                     float("inf"), None, True, Kind.A, Name.C, ValueError("boom"), Told(), [Told], [pathlib.Path("/y")], "text"]
            for number, value in enumerate(given): record_property(f"p{number}", value)
            record_property(pathlib.Path("k"), 1)
        """
    )
    found = []
    for options in ((), ("--sandbox",)):
        pytester.runpytest_subprocess("--junitxml=junit.xml", *options).assert_outcomes(passed=1)
        properties = [(one.get("name"), one.get("value")) for one in ET.parse("junit.xml").iter("property")]
        found.append([one for one in properties if not str(one[0]).startswith("sandbox_")])
    assert found[0] == found[1]
    assert len(found[1]) == 19


@pytest.mark.parametrize("value", ["n", "(n, 'x')", "Told()"])
def test_subtests_that_no_text_names(pytester: pytest.Pytester, compare: Compare, value: str) -> None:
    """They are called what plain pytest calls them."""
    pytester.makepyfile(
        f"""
        class Told:
            def __str__(self): return "told"
        def test_passing(subtests):
            for n in range(2):
                with subtests.test({value}): assert n < 2
        def test_failing(subtests):
            for n in range(3):
                with subtests.test({value}): assert n != 1
        """
    )
    compare.same("-rA")


CLASSES = {
    "conftest's own": (
        (),
        """
        import pytest
        class Own(pytest.TestReport): pass
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            report.__class__ = Own
            return report
        """,
        "def test_passing(): pass\ndef test_failing(): assert 0",
    ),
    "subtests without their plugin": (
        ("-p", "no:subtests"),
        "",
        """
        import unittest
        class TestIt(unittest.TestCase):
            def test_it(self):
                for n in range(3):
                    with self.subTest(n=n): assert n != 1
        """,
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_reports(pytester: pytest.Pytester, compare: Compare, name: str) -> None:
    """Those that no hook knows how to send are reports like others."""
    options, conftest, source = CLASSES[name]
    pytester.makeconftest(conftest)
    pytester.makepyfile(source)
    pair = compare("-rA", *options)
    plain, boxed = ([one["longrepr"] for one in run.record["reports"]] for run in (pair.plain, pair.boxed))
    assert boxed == plain
    assert "AssertionError" in str(boxed)
    assert pair.boxed.result.parseoutcomes() == pair.plain.result.parseoutcomes()


RENAMED = {
    "by its docstring": (
        """
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if item.function.__doc__: report.nodeid = item.function.__doc__
            return report
        """,
        """
        def test_add():
            "adds two numbers"
            print("output of add"); assert 1 + 1 == 3
        def test_sub():
            "subtracts"
        def test_plain(): pass
        """,
    ),
    "of steps": (
        """
        @pytest.fixture
        def step(request):
            def take(name, ok):
                one = pytest.TestReport(
                    nodeid=f"{request.node.nodeid}::{name}", location=request.node.location, keywords={}, when="call",
                    duration=0.0, outcome="passed" if ok else "failed", longrepr=None if ok else f"step {name} failed")
                request.node.ihook.pytest_runtest_logreport(report=one)
            return take
        """,
        """
        def test_steps(step): step("one", True); step("two", False); step("three", True)
        def test_ok(step): step("only", True)
        """,
    ),
    "a failure that is made a skip": (
        """
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.failed and call.excinfo.errisinstance(ConnectionError): report.outcome = "skipped"
            return report
        """,
        "def test_net(): raise ConnectionError('flaky')\ndef test_ok(): pass",
    ),
    "an outcome of one's own": (
        """
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.when == "call" and "block" in item.name: report.outcome = "blocked"
            return report
        def pytest_report_teststatus(report):
            return ("blocked", "b", "BLOCKED") if report.outcome == "blocked" else None
        """,
        "def test_block(): pass\ndef test_ok(): pass",
    ),
}


@pytest.mark.parametrize(("conftest", "tests"), list(RENAMED.values()), ids=list(RENAMED))
def test_reports_that_hooks_change(pytester: pytest.Pytester, compare: Compare, conftest: str, tests: str) -> None:
    """Are shown and counted as in plain pytest."""
    pytester.makeconftest("import pytest\n" + textwrap.dedent(conftest))
    pytester.makepyfile(textwrap.dedent(tests))
    pair = compare("-p", "no:terminalprogress").assert_same_ends()
    assert pair.boxed.result.parseoutcomes() == pair.plain.result.parseoutcomes()


@pytest.mark.parametrize("name", ["test_other", "test_other@group"])
def test_a_report_with_the_name_of_another_test(pytester: pytest.Pytester, compare: Compare, name: str) -> None:
    """Is refused, and the test that has sent it fails."""
    pytester.makeconftest(
        f"""
        import pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if item.name == "test_it": report.nodeid = report.nodeid.replace("test_it", {name!r})
            return report
        """
    )
    pytester.makepyfile(test_a="def test_it(): pass\ndef test_other(): assert 0")
    run = compare.one("-rA")
    run.result.assert_outcomes(failed=1, errors=1)
    assert "came from the sandbox of 'test_a.py::test_it'" in run.text
