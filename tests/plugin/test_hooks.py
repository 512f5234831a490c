"""What a conftest's hooks are told in a sandbox: what they are told in a plain run; and loops of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

#: Says in each report's output which item is to come, and what is torn down.
NEXT = """
import pytest
def of(item): return item and item.nodeid
def pytest_runtest_protocol(item, nextitem): item.user_properties.append(("next", of(nextitem)))
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item, nextitem): print("next:", of(nextitem))
@pytest.fixture(scope="session")
def session_value():
    yield
    print("end of the session's")
@pytest.fixture(scope="module")
def module_value(session_value):
    yield
    print("end of the module's")
@pytest.fixture(scope="class")
def class_value():
    yield
    print("end of the class's")
@pytest.fixture
def own():
    yield
    print("end of the test's own")
"""
SUITE = """
import pytest
def test_first(own): pass
def test_second(module_value, own): pass
class TestClass:
    def test_third(self, class_value, own): pass
    def test_fails(self, class_value, own): assert False
@pytest.mark.skip
def test_skipped(own): pass
@pytest.mark.sandbox(scope="class")
class TestShared:
    def test_fourth(self, class_value, own): pass
    def test_fifth(self, class_value, own): pass
@pytest.mark.sandbox(enabled=False)
def test_here(own): pass
def test_between(own): pass
@pytest.mark.sandbox(enabled=False)
def test_here_too(own): pass
def test_last(own): pass
"""


@pytest.mark.parametrize("options", [(), ("--sandbox-jobs=3",)], ids=["one", "three"])
def test_nextitem(pytester: pytest.Pytester, compare: Compare, options: tuple[str, ...]) -> None:
    """It is the one that comes next, in whichever sandbox; all the same a sandbox tears down all that it has set up."""
    pytester.makeconftest(NEXT)
    pytester.makepyfile(test_a=SUITE, test_b=SUITE)
    compare(options=options).assert_same(screen=False)


def test_nextitem_with_xdist(pytester: pytest.Pytester, compare: Compare) -> None:
    """The same where pytest-xdist says what comes next, and of what is to come no more than that is known."""
    pytest.importorskip("xdist")
    pytester.makeconftest(NEXT)
    pytester.makepyfile(test_a=SUITE, test_b=SUITE)
    compare.same("-n1", screen=False)


def test_what_is_torn_down(pytester: pytest.Pytester) -> None:
    """All that a sandbox has set up itself, also what it has set up in a wider scope that the next test is in too."""
    pytester.makeconftest(NEXT)
    pytester.makepyfile("def test_1(request): request.getfixturevalue('session_value')\ndef test_2(): pass")
    pytester.runpytest_subprocess("--sandbox", "-rP").stdout.fnmatch_lines(
        ["next: *::test_2", "end of the session's", "next: None"]
    )


@pytest.mark.parametrize("options", [(), ("--sandbox-jobs=3",)], ids=["one", "three"])
@pytest.mark.parametrize("hook", ["logstart(nodeid)", "logreport(report)", "logfinish(nodeid)"])
@pytest.mark.parametrize("what", ["raise KeyboardInterrupt", "pytest.exit('enough', 3)"])
def test_a_hook_that_ends_the_run(
    pytester: pytest.Pytester, compare: Compare, hook: str, what: str, options: tuple[str, ...]
) -> None:
    """It does so where it is called, and what runs by then has not happened."""
    nodeid = "report.nodeid" if "report" in hook else "nodeid"
    pytester.makeconftest(f"import pytest\ndef pytest_runtest_{hook}:\n    if 'test_2' in {nodeid}: {what}\n")
    pytester.makepyfile("import pytest\n" + "".join(f"def test_{number}(): pass\n" for number in range(1, 6)))
    compare("-v", options=options).assert_same()


def test_reports_share_texts_with_their_items(pytester: pytest.Pytester) -> None:
    """pytest keeps every report to the run's end: what the item has too is there once, and figures that tests have in common."""
    pytester.makeconftest("""
        reports = []
        def pytest_runtest_logreport(report):
            reports.append(report)
        def pytest_sessionfinish(session):
            items = {item.nodeid: item for item in session.items}
            assert len(reports) == 6
            assert all(report.location is items[report.nodeid].location for report in reports)
            names = [sorted(map(id, report.keywords)) for report in reports]
            assert names[0] == names[1] == names[2] != names[3] == names[4] == names[5]
            endings = [pair for report in reports for pair in report.user_properties if pair[0] == "sandbox_ending"]
            assert len(endings) == 2
            first, second = (dict(report.user_properties) for report in (reports[2], reports[5]))
            assert [name is other for name, other in zip(first, second)] == [True] * len(first)
    """)
    pytester.makepyfile("def test_one(): pass\ndef test_two(): pass")
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:randomly")
    result.assert_outcomes(passed=2)
    assert result.ret == 0


def test_a_loop_before_the_loop(pytester: pytest.Pytester, compare: Compare) -> None:
    """What conftest files do in pytest_runtestloop is done, and one that ends the run ends it."""
    pytester.makeconftest(
        """
        import pytest
        def pytest_runtestloop(session):
            with open("told", "a") as file: file.write("conftest ")
            return session.config.option.keyword == "nothing" or None
        """
    )
    pytester.makepyfile("def test_1(): pass")
    pair = compare()
    pair.assert_same()
    assert pair.plain.read("told") == pair.boxed.read("told") == "conftest "
    compare.same("-k", "nothing")


@pytest.mark.parametrize(
    "call",
    [
        "item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)",
        "item.ihook.pytest_runtest_protocol(item=item, nextitem=None)",
        "runtestprotocol(item, nextitem=None)",
    ],
    ids=["hook", "ihook", "function"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_loop_of_its_own(pytester: pytest.Pytester, compare: Compare, call: str, when: str) -> None:
    """Somebody else's loop would run tests without sandboxes: it is refused before the first."""
    pytester.makeconftest(
        f"""
        import pytest
        from _pytest.runner import runtestprotocol
        @pytest.hookimpl(wrapper=True)
        def pytest_runtestloop(session):
            if {when!r} == "after": yield
            for item in session.items: {call}
            if {when!r} == "before": yield
            return True
        """
    )
    for name in ("one", "two"):  # with these `ihook` is made of `hook`
        (pytester.mkdir(name) / "conftest.py").touch()
    source = "def test_1(): open({!r}, 'a').close()"
    (pytester.path / "one" / "test_one.py").write_text(source.format(str(pytester.path / "ran")))
    run = compare.one()
    assert run.status == pytest.ExitCode.USAGE_ERROR
    said = run.text + run.result.stderr.str()
    assert "own pytest_runtestloop runs one/test_one.py::test_1, which would be without a sandbox. Fix:" in said
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize("how", ["return", "pytest.exit('bye')", "raise KeyboardInterrupt", "assert 0"])
def test_a_fork_without_a_sandbox_that_comes_back(pytester: pytest.Pytester, compare: Compare, how: str) -> None:
    """It has no part in the run's sandboxes, and ends with the test."""
    pytester.makepyfile(
        f"""
        import os, pytest, time
        def test_before(): pass
        @pytest.mark.sandbox(enabled=False)
        def test_forks():
            if os.fork() == 0: {how}
            time.sleep(1)
        def test_after(): pass
        """
    )
    run = compare.one("-v")
    run.result.assert_outcomes(passed=3)
    assert run.text.count("test_after PASSED") == 1


def test_a_fork_around_a_test_without_a_sandbox(pytester: pytest.Pytester, compare: Compare) -> None:
    """As pytest-forked makes one: its reports are made in the fork."""
    pytester.makeconftest(
        """
        import os, pytest
        from _pytest.runner import runtestprotocol
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            if "forked" not in item.keywords: return None
            reading, writing = os.pipe()
            if os.fork() == 0:
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
                os.write(writing, " ".join(report.outcome for report in reports).encode())
                os._exit(0)
            os.close(writing)
            os.wait()
            assert os.read(reading, 99) == b"passed passed passed"
            for report in runtestprotocol(item, log=False, nextitem=nextitem): item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.sandbox(enabled=False)
        def test_forked(): pass
        def test_after(): pass
        """
    )
    compare.one().result.assert_outcomes(passed=2)
