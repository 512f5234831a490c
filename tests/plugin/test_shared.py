"""Several tests in one sandbox (scope, group), and tests in none (enabled=False)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

COUNT = """
import os, pytest
counter = []
@pytest.fixture(scope="module")
def module_value():
    counter.append("module"); yield 1; counter.append("down")
@pytest.fixture(scope="session")
def session_value(): return []
"""


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_scope(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """Tests of one scope see what the ones before changed, in memory and on disk, and report one by one."""
    pytester.makepyfile(
        COUNT
        + f"""
pytestmark = pytest.mark.sandbox(scope={scope!r})
class TestIt:
    def test_1(self, module_value, session_value, tmp_path_factory):
        counter.append(1); session_value.append(1); open("of-test-1", "w").close()
    def test_2(self, module_value, session_value):
        assert counter == ["module", 1] and session_value == [1] and os.path.exists("of-test-1")
    def test_3(self): assert 0, "told"
    def test_4(self): counter.append(4)
"""
    )
    compare.same("-rA")


def test_group(pytester: pytest.Pytester, compare: Compare) -> None:
    """Tests of one group share a sandbox over files; others do not see it."""
    pytester.makepyfile(
        test_a="""
        import os, pytest
        @pytest.mark.sandbox(group="db")
        def test_1(): open("/tmp/of-the-group", "w").close()
        def test_2(): assert not os.path.exists("/tmp/of-the-group")
        """,
        test_b="""
        import os, pytest
        @pytest.mark.sandbox(group="db")
        def test_3(): assert os.path.exists("/tmp/of-the-group")
        @pytest.mark.sandbox(group="other")
        def test_4(): assert not os.path.exists("/tmp/of-the-group")
        """,
    )
    run = compare.one()
    run.result.assert_outcomes(passed=4)
    order = [nodeid[-1] for nodeid, when, _ in run.outcomes() if when == "call"]
    assert order == ["1", "3", "2", "4"]


@pytest.mark.parametrize("death", ["os._exit(0)", "os.abort()"])
def test_crash_in_the_middle(pytester: pytest.Pytester, compare: Compare, death: str) -> None:
    """A test that ends the shared process fails; the ones after it run, in a fresh sandbox with fresh fixtures."""
    pytester.makepyfile(
        COUNT
        + f"""
pytestmark = pytest.mark.sandbox(scope="module")
def test_1(module_value): counter.append(1)
def test_2(module_value): {death}
def test_3(module_value): assert counter == ["module"]; counter.append(3)
def test_4(module_value): assert counter == ["module", 3]
"""
    )
    run = compare.one()
    assert [outcome for _, when, outcome in run.outcomes() if when == "call"] == ["passed", "failed", "passed", "passed"]


def test_each_test_has_the_timeout_to_itself(pytester: pytest.Pytester, compare: Compare) -> None:
    """The sandbox lives for longer than the limit; the test that overran is named, and those after it run anew."""
    pytester.makepyfile(
        COUNT
        + """
import time
pytestmark = pytest.mark.sandbox(scope="module", timeout="5s")
def test_1(module_value): time.sleep(2.7)
def test_2(module_value): time.sleep(2.7)
def test_3(module_value): time.sleep(600)
def test_4(module_value): assert counter == ["module"]; time.sleep(2.7)
def test_5(module_value): time.sleep(2.7)
"""
    )
    run = compare.one()
    assert "".join(outcome[0] for _, when, outcome in run.outcomes() if when == "call") == "ppfpp"
    found = re.search(r"timed out: killed after ([0-9.]+)s, limit 5s", run.text)
    assert found, run.text
    assert float(found[1]) >= 5


@pytest.mark.parametrize("scope", ["test", "module"])
def test_late_is_late(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """A test that ends after its time, while it is asked for its stacks, has failed, and not the one after it."""
    pytester.makepyfile(
        f"""
        import pytest, time
        pytestmark = pytest.mark.sandbox(scope={scope!r}, timeout="3s")
        def test_1(): time.sleep(3.1)
        def test_2(): pass
        """
    )
    run = compare.one()
    assert [outcome for _, when, outcome in run.outcomes() if when == "call"] == ["failed", "passed"]
    assert "timed out" in run.report("test_1")["longrepr"]


@pytest.mark.parametrize("options", [("-x",), ("--maxfail=2",), ("--sw",)])
def test_stops(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """-x, --maxfail and --sw stop in the middle of a shared sandbox, after failures in earlier ones too."""
    pytester.makepyfile(
        test_a="def test_0(): assert not False\n",
        test_b=COUNT
        + """
pytestmark = pytest.mark.sandbox(scope="module")
def test_1(module_value): pass
def test_2(module_value): assert 0
def test_3(): pass
def test_4(): assert 0
def test_5(): pass
""",
        test_c="def test_6(): assert 0\n",
    )
    compare.same(*options)


def test_maxfail_over_sandboxes(pytester: pytest.Pytester, compare: Compare) -> None:
    """--maxfail counts failures of tests of their own sandboxes and of shared ones together."""
    shared = "import pytest\npytestmark = pytest.mark.sandbox(scope='module')\ndef test_1(): assert 0\ndef test_2(): assert 0\n"
    pytester.makepyfile(test_a="def test_1(): assert 0\n", test_b=shared, test_c=shared)
    compare.same("--maxfail=2")
    compare.same("--maxfail=4")


def test_module_sandbox_between(pytester: pytest.Pytester, compare: Compare) -> None:
    """A group in the middle of a module leaves the module's own fixtures as they are for the tests around it."""
    pytester.makepyfile(
        """
        import pathlib, pytest
        def log(text):
            with (pathlib.Path(__file__).parent / "log.txt").open("a") as file: file.write(text + "\\n")
        @pytest.fixture(scope="module")
        def value(): log("up"); yield; log("down")
        def test_1(value): log("1")
        @pytest.mark.sandbox(group="g")
        def test_2(): log("2")
        @pytest.mark.sandbox(group="g")
        def test_3(): log("3")
        def test_4(value): log("4")
        """
    )
    (pytester.path / "log.txt").touch()
    run = compare.one("--sandbox-writable=log.txt")
    assert run.read("log.txt").split() == ["up", "1", "2", "3", "4", "down"]


def test_not_sandboxed(pytester: pytest.Pytester, compare: Compare) -> None:
    """enabled=False: the test runs in pytest's own process, with fixtures set up there, and changes the machine."""
    pytester.makepyfile(
        COUNT
        + """
import pathlib
HERE = pathlib.Path(__file__).parent
@pytest.mark.sandbox(enabled=False)
def test_1(module_value): counter.append(1); (HERE / "written").touch()
def test_2(module_value): assert counter[-1] == "module"; (HERE / "lost").touch()
@pytest.mark.sandbox(enabled=False)
def test_3(module_value, sandbox): pass
@pytest.mark.sandbox(enabled=False)
def test_4(module_value): assert counter == ["module", 1]; assert 0
def test_5(session_value): pass
"""
    )
    run = compare.one("-rA")
    run.result.assert_outcomes(passed=3, skipped=1, failed=1)
    assert "written" in run.files
    assert "lost" not in run.files
    assert [nodeid[-1] for nodeid, when, _ in run.outcomes() if when == "setup"] == ["1", "2", "3", "4", "5"]


def test_only_not_sandboxed(pytester: pytest.Pytester, compare: Compare) -> None:
    """A run of nothing but such tests is a plain run."""
    pytester.makepyfile(
        "import pytest\npytestmark = pytest.mark.sandbox(enabled=False)\n" + "def test_1(): pass\ndef test_2(): assert 0\n"
    )
    compare.same("-rA")


def test_what_is_told_of_several(pytester: pytest.Pytester, compare: Compare) -> None:
    """Of a sandbox that several tests shared the last one has the figures, which are said to be of all of them."""
    pytester.makepyfile(
        """
        import pytest, subprocess
        pytestmark = pytest.mark.sandbox(scope="module")
        def test_leaks(): subprocess.Popen(["sleep", "60"])
        def test_innocent(): pass
        """,
        test_failing="""
        import pytest
        pytestmark = pytest.mark.sandbox(scope="module")
        def test_1(): pass
        def test_2(): assert 0
        """,
        test_alone="def test_alone(): assert 0",
    )
    run = compare.one("--sandbox-usage", "--junitxml=report.xml", "-o", "junit_family=xunit1")
    text = run.result.stdout.str()
    assert "left 1 process(es) running, or one of the 1 tests before it in the same sandbox did, killed now: sleep 60" in text
    table = text[text.index("= sandbox usage =") :]
    assert "[2 tests, up to] test_what_is_told_of_several.py::test_innocent" in table
    assert "[2 tests, up to] test_failing.py::test_2" in table
    assert " test_alone.py::test_alone" in table
    assert text.count("(of 2 tests that shared a sandbox)") == 1
    assert (pytester.path / "report.xml").read_text().count('name="sandbox_tests" value="2"') == 2


def test_a_thread_that_goes_on_asking(pytester: pytest.Pytester) -> None:
    """It takes no word that is for the tests after the one that has left it."""
    pytester.makepyfile(
        """
        import pytest, threading, time
        pytestmark = pytest.mark.sandbox(scope="module")
        def ask(sandbox):
            while True: sandbox.usage()
        def test_leaves(sandbox):
            for _ in range(9): threading.Thread(target=ask, args=[sandbox], daemon=True).start()
            time.sleep(0.1)
        @pytest.mark.parametrize("number", range(60))
        def test_next(number): pass
        """
    )
    pytester.runpytest_subprocess("--sandbox", "--sandbox-timeout=20").assert_outcomes(passed=61)


def test_limits_without_a_sandbox_are_refused(pytester: pytest.Pytester, compare: Compare) -> None:
    """Before the first test, with the name of the one that has them."""
    pytester.makepyfile(
        """
        import pytest
        def test_1(): pass
        @pytest.mark.sandbox(enabled=False, memory="64M")
        def test_2(): pass
        """
    )
    run = compare.one()
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert not run.reports
    assert "::test_2: @pytest.mark.sandbox(enabled=False): memory would have no effect" in run.text


WIDER = """
    import logging, pytest, warnings
    @pytest.fixture(scope="session")
    def logs(): logging.warning("slow"); print("out of it")
    @pytest.fixture(scope="module")
    def warns(): warnings.warn("old")
    @pytest.fixture(scope="session")
    def broken(): raise OSError("broken")
    @pytest.fixture(scope="session")
    def whole(): print("whole up"); yield; print("whole down")
"""


@pytest.mark.parametrize("how", ["group='g'", "scope='module'"])
def test_for_whom_wider_fixtures_are_set_up(pytester: pytest.Pytester, compare: Compare, how: str) -> None:
    """For the first test that asks for them: by its marks, with what they log and print in its report, and nobody else's."""
    pytester.makeconftest(WIDER)
    pytester.makepyfile(
        test_a=f"""
        import pytest
        pytestmark = pytest.mark.sandbox({how})
        @pytest.mark.skip
        def test_skipped(logs): pass
        @pytest.mark.filterwarnings("error")
        def test_first(): pass
        def test_asks(warns, logs, caplog): assert len(caplog.get_records("setup")) == 1; assert 0
        def test_errs(broken): pass
        def test_after(whole): pass
        def test_asks_again(logs, caplog): assert not caplog.get_records("setup")
        """,
        test_other="def test_it(whole, broken): pass",
    )
    compare.same("-rA")


@pytest.mark.parametrize("last", ["pass", "assert 0"])
def test_files_of_one_that_failed_before_the_last(pytester: pytest.Pytester, last: str) -> None:
    """Are kept with those of the sandbox that both shared."""
    pytester.makepyfile(f"def test_1():\n    open('evidence.txt', 'w').write('found')\n    assert 0\ndef test_2(): {last}\n")
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-scope=module", "--sandbox-keep=failed", "--basetemp=kept")
    assert [path.read_text() for path in pytester.path.glob("kept/**/evidence.txt")] == ["found"]
    result.stdout.fnmatch_lines(["*sandbox files kept*"])
