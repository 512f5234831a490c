"""pytest-rerunfailures decides as in a plain run; each attempt is a sandbox of its own, and what was killed is run again too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat
    from tests.conftest import Run


LOADED = ["pytest_rerunfailures"]


def lines(run: Run, *words: str) -> list[str]:
    """Those printed that begin with one of these."""
    return [line for line in run.result.stdout.lines if line.startswith(words)]


SUITE = """
    import pytest
    def attempt(request): return request.node.execution_count
    @pytest.mark.flaky(reruns=3)
    def test_third(request): print("said", attempt(request)); assert attempt(request) == 3
    @pytest.mark.flaky(reruns=1)
    def test_never(): assert 0, "never"
    def test_good(): pass
    def test_bad(): assert 0, "bad"
    @pytest.fixture
    def flaky(request):
        assert attempt(request) > 1, "set-up"
        yield
        assert attempt(request) > 2, "torn down"
    @pytest.mark.flaky(reruns=2)
    def test_fixture(flaky): pass
    @pytest.mark.flaky(reruns=1, condition=False)
    def test_condition(): assert 0
    @pytest.mark.flaky(reruns=1, condition="'yes' in str(error)")
    def test_condition_of_error(): assert 0, "yes"
    @pytest.mark.flaky(reruns=1, only_rerun="ValueError")
    def test_only(): raise TypeError
    @pytest.mark.flaky(reruns=1, only_rerun="ValueError")
    def test_only_this(request):
        if attempt(request) == 1: raise ValueError
    @pytest.mark.flaky(reruns=1)
    @pytest.mark.xfail
    def test_xfail(): assert 0
    @pytest.mark.flaky(reruns=1)
    def test_skip(): pytest.skip("no")
    @pytest.mark.flaky(reruns=1)
    class TestClass:
        def test_1(self, request): assert attempt(request) == 2
        def test_2(self): pass
    @pytest.mark.flaky(reruns=1)
    def test_subtests(subtests, request):
        for number in range(3):
            with subtests.test(number=number): assert number != 1 or attempt(request) == 2
    @pytest.mark.sandbox(enabled=False)
    @pytest.mark.flaky(reruns=1)
    def test_here(request): assert attempt(request) == 2
    @pytest.mark.sandbox(group="x")
    @pytest.mark.flaky(reruns=1)
    def test_group_1(request): assert attempt(request) == 2
    @pytest.mark.sandbox(group="x")
    def test_group_2(): pass
"""


@pytest.mark.parametrize(
    "options",
    [
        [], ["--reruns=1"], ["--reruns=1", "--only-rerun=bad"], ["--reruns=2", "--rerun-except=never"], ["--force-reruns=2"],
        ["--reruns=5", "--max-suite-reruns=3"], ["--reruns=1", "--fail-on-flaky"], ["--reruns=1", "-x"],
        ["--reruns=1", "--maxfail=2"], ["--reruns=1", "--rerun-exclude-path=test_it.py"], ["--reruns=1", "--reruns-mode=append"],
        ["--reruns=1", "--rerun-show-tracebacks"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_same_reports(compat: Compat, options: Sequence[str]) -> None:
    """Each attempt's, in the same order; and the same summaries."""
    compat.pytester.makepyfile(test_it=SUITE)
    plain, boxed = compat.both("-rA", *options)
    words = ("RERUN ", "PASSED ", "FAILED ", "ERROR ", "SKIPPED ", "XFAIL ", "test_it.py ", "E  ")
    assert lines(boxed, *words) == lines(plain, *words)
    assert boxed.result.parseoutcomes() == plain.result.parseoutcomes()


def test_same_exit_status_of_flaky(compat: Compat) -> None:
    """--fail-on-flaky says 7 of a run whose tests all pass in the end."""
    compat.pytester.makepyfile(test_it="def test(request): assert request.node.execution_count == 2")
    for options, status in ((["--reruns=1"], 0), (["--reruns=1", "--fail-on-flaky"], 7)):
        plain, boxed = compat.both(*options)
        assert (plain.status, boxed.status) == (status, status)


def test_each_attempt_is_a_fresh_sandbox(compat: Compat) -> None:
    """It finds nothing of the one before: no file, no state of the module, and the first pid of a namespace of its own."""
    compat.pytester.makepyfile(
        test_it="""
        import os, pathlib, pytest
        state = []
        @pytest.mark.flaky(reruns=2)
        def test(request):
            file = pathlib.Path("/tmp/of-an-attempt")
            assert not file.exists() and not state and os.getpid() in (2002, 3), "stale"
            file.write_text("x"); state.append(1)
            assert request.node.execution_count == 3, "wanted"
        """
    )
    run = compat.one()
    assert run.result.parseoutcomes() == {"passed": 1, "rerun": 2}
    assert "stale" not in run.text


def test_what_was_killed_is_run_again(compat: Compat) -> None:
    """By a signal, by a limit, by its own exit; as often as it may, and where the filters let it."""
    compat.pytester.makepyfile(
        test_it="""
        import os, pytest, time
        @pytest.mark.flaky(reruns=2)
        def test_killed(request):
            if request.node.execution_count < 3: os.kill(os.getpid(), 9)
        @pytest.mark.flaky(reruns=1)
        @pytest.mark.sandbox(timeout=3)
        def test_hangs(): time.sleep(600)
        @pytest.mark.flaky(reruns=1)
        def test_exits(request):
            if request.node.execution_count == 1: os._exit(0)
        @pytest.mark.flaky(reruns=1, only_rerun="AssertionError")
        def test_only(): os._exit(0)
        @pytest.mark.flaky(reruns=1, rerun_except="KILL")
        def test_except(): os.kill(os.getpid(), 9)
        @pytest.mark.flaky(reruns=1)
        @pytest.mark.xfail
        def test_xfail(): os._exit(0)
        def test_without(): os._exit(0)
        """
    )
    run = compat.one("-rR")
    assert run.result.parseoutcomes() == {"passed": 2, "failed": 4, "rerun": 4, "xfailed": 1}, run.text
    assert lines(run, "RERUN ") == [f"RERUN test_it.py::test_{name}" for name in ("killed", "killed", "hangs", "exits")]


@pytest.mark.needs("memory", "swap")
def test_what_the_kernel_has_killed_is_run_again(compat: Compat) -> None:
    """Also where the test itself has not noticed."""
    compat.pytester.makepyfile(
        test_it="""
        import pytest, subprocess, sys
        @pytest.mark.flaky(reruns=1)
        @pytest.mark.sandbox(memory="64M")
        def test_it(request):
            if request.node.execution_count == 1:
                subprocess.run([sys.executable, "-c", "[b'x' * (1 << 20) for _ in range(256)]"])
        """
    )
    assert compat.one("-rR").result.parseoutcomes() == {"passed": 1, "rerun": 1}


@pytest.mark.parametrize("scope", ["class", "module", "session"])
def test_an_error_in_the_teardown_of_a_wider_fixture(compat: Compat, scope: str) -> None:
    """Is told as without the plugin, and what is to be torn down after it is."""
    compat.pytester.makepyfile(
        test_it=f"""
        import pytest
        @pytest.fixture(scope={scope!r})
        def outer():
            yield
            print("torn down, too")
        @pytest.fixture(scope={scope!r})
        def bad(outer):
            yield
            raise ValueError("no luck")
        class TestIt:
            def test_1(self, bad): pass
            def test_2(self, bad): pass
        """
    )
    plain, boxed = compat.both("-rA")
    assert boxed.result.parseoutcomes() == plain.result.parseoutcomes()
    assert "ValueError: no luck" in boxed.text
    assert "torn down, too" in boxed.text


def test_the_delay_is_no_time_of_the_test(compat: Compat) -> None:
    """It is waited for outside: its own limit is shorter."""
    compat.pytester.makepyfile(
        test_it="""
        import pytest, time, os
        @pytest.mark.flaky(reruns=1, reruns_delay=6)
        @pytest.mark.sandbox(timeout=5)
        def test_1(request): assert request.node.execution_count == 2
        @pytest.mark.flaky(reruns=1, reruns_delay=1)
        def test_2(request):
            if request.node.execution_count == 1: os._exit(1)
        """
    )
    run = compat.one()
    assert run.result.parseoutcomes() == {"passed": 2, "rerun": 2}, run.text
    assert run.result.duration > 7


def test_fixtures_of_wider_scopes(compat: Compat) -> None:
    """What is set up stays, and is not set up again; one that failed is, for each attempt."""
    compat.pytester.makepyfile(
        test_it="""
        import os, pytest
        @pytest.fixture(scope="module")
        def good():
            print("good is made")
            yield os.getpid()
            print("good is gone")
        @pytest.fixture(scope="module")
        def bad(request): raise ValueError("bad")
        @pytest.mark.flaky(reruns=2)
        def test_1(good, request): assert request.node.execution_count == 2
        @pytest.mark.flaky(reruns=1)
        def test_2(good, bad): pass
        @pytest.mark.flaky(reruns=1)
        def test_3(good, request): assert request.node.execution_count == 2
        """
    )
    plain, boxed = compat.both("-rA")
    assert boxed.result.parseoutcomes() == plain.result.parseoutcomes()
    assert boxed.text.count("good is made") == plain.text.count("good is made")
    assert "good is gone" in boxed.text


def test_a_wider_fixture_that_fails_once(compat: Compat) -> None:
    """A rerun sets it up anew, as in a plain run."""
    compat.pytester.makepyfile(
        test_it="""
        import pytest
        @pytest.fixture(scope="module")
        def flaky(request):
            if any(getattr(item, "execution_count", 0) > 1 for item in request.session.items): return 1
            raise ValueError("the first time")
        @pytest.mark.flaky(reruns=1)
        def test_1(flaky): assert flaky == 1
        """
    )
    plain, boxed = compat.both()
    assert boxed.result.parseoutcomes() == plain.result.parseoutcomes() == {"passed": 1, "rerun": 1}


def test_who_asks_without_end(compat: Compat) -> None:
    """A sandbox that says "again" more often than it may has failed."""
    compat.pytester.makepyfile(
        test_it="""
        import pytest
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        @pytest.mark.flaky(reruns=1)
        def test_lies(request):
            channel = request.config.stash[INSIDE].channel
            channel.send({"op": "again"})
        def test_lies_too(request):
            request.config.stash[INSIDE].channel.send({"op": "again"})
        """
    )
    run = compat.one()
    assert run.result.parseoutcomes() == {"passed": 1, "failed": 2}, run.text
    assert "it is to run 2 times at most" in run.text
    assert "it is to run 1 times at most" in run.text


def test_under_xdist(compat: Compat) -> None:
    """A worker reruns as one process does, what was killed too, and asks the controller's count for all workers."""
    compat.pytester.makepyfile(
        test_it="""
        import os, pytest
        @pytest.mark.flaky(reruns=2)
        def test_flaky(request): assert request.node.execution_count == 3
        @pytest.mark.flaky(reruns=1)
        def test_exit(): os._exit(0)
        @pytest.mark.sandbox(group="x")
        @pytest.mark.flaky(reruns=1)
        def test_group(request): assert request.node.execution_count == 2
        def test_good(): pass
        """
    )
    run = compat.one("-p", "xdist.plugin", "-Wignore", "-n2")
    assert run.result.parseoutcomes() == {"passed": 3, "failed": 1, "rerun": 4}, run.text
    args = ("-p", "xdist.plugin", "-Wignore", "-n1", "--max-suite-reruns=2", "-k", "not exit")
    plain, boxed = compat.both(*args, same=False)
    assert boxed.result.parseoutcomes() == plain.result.parseoutcomes() == {"passed": 2, "failed": 1, "rerun": 2}


def test_under_xdist_with_warnings_as_errors(compat: Compat) -> None:
    """A worker's connection to the controller's book of failures is not let go of in a sandbox, which gives a warning."""
    compat.pytester.makeini("[pytest]\nfilterwarnings =\n    error\n    ignore::pytest.PytestAssertRewriteWarning\n")
    compat.pytester.makepyfile("def test_1(): pass\ndef test_2(): pass")
    run = compat.one("-p", "xdist", "-n2")  # the plugin asks for it by this name
    run.result.assert_outcomes(passed=2)


def test_one_at_a_time(compat: Compat) -> None:
    """Whatever `--sandbox-jobs` says; and it is said."""
    compat.pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("n", range(3))
        def test_it(n): pass
    """)
    found = compat.one("--sandbox-jobs=3", "--reruns=1", "--max-suite-reruns=1")
    assert found.status == 0, found.text
    assert found.line("sandbox: one test at a time: pytest-rerunfailures counts"), found.text
