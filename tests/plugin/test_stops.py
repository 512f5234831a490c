"""Runs that end early, by an option, a test, a fixture or a hook: where plain pytest ends, and in the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare


def test_maxfail_with_subtests(pytester: pytest.Pytester, compare: Compare) -> None:
    """A subtest that fails ends its test where it is the last failure allowed, also in a sandbox that was made ahead."""
    pytester.makepyfile(
        """
        import time
        def test_1(): time.sleep(0.2); assert 0
        def test_2(subtests):
            for n in range(3):
                with subtests.test(n=n): assert n != 1
        """
    )
    compare.same("--maxfail=2")


@pytest.mark.parametrize("where", ["call", "setup", "session", "teardown"])
@pytest.mark.parametrize("what", ["pytest.exit('enough', returncode=7)", "raise KeyboardInterrupt"])
def test_exit(pytester: pytest.Pytester, compare: Compare, where: str, what: str) -> None:
    """pytest.exit and KeyboardInterrupt end the run, with the same status, from tests and fixtures."""
    scope = "session" if where == "session" else "function"
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope={scope!r})
        def fixture():
            if {where!r} in ("setup", "session"): {what}
            yield
            if {where!r} == "teardown": {what}
        def test_1(): pass
        def test_2(fixture):
            if {where!r} == "call": {what}
        def test_3(): pass
        """
    )
    pair = compare()
    assert pair.boxed.status == pair.plain.status
    assert pair.boxed.outcomes() == pair.plain.outcomes()
    for run in (pair.plain, pair.boxed):
        assert ("enough" in run.text) == ("exit" in what)


@pytest.mark.parametrize("scope", ["function", "module", "session"])
@pytest.mark.parametrize("what", ["pytest.exit('enough', returncode=0)", "raise KeyboardInterrupt"])
@pytest.mark.parametrize("error", ["1 / 0", "pytest.fail('of a teardown')"])
def test_a_teardown_that_fails_after_exit(pytester: pytest.Pytester, compare: Compare, what: str, scope: str, error: str) -> None:
    """There is no report for it, and the run is none that has succeeded, whatever status it was to have.

    Of wider fixtures nobody knows whether they were set up early, for tests that did not run: they do not change another status.
    """
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope={scope!r})
        def fixture():
            yield
            {error}
        def test_1(fixture): {what}
        """
    )
    pair = compare()
    assert pair.plain.status == 1
    assert pair.boxed.status == (2 if "Interrupt" in what and scope != "function" else 1)
    for run in (pair.plain, pair.boxed):
        assert ("ZeroDivisionError" if "/" in error else "of a teardown") in run.text + run.result.stderr.str()


def test_exit_tears_scopes_down(pytester: pytest.Pytester, compare: Compare) -> None:
    """pytest.exit in a test: the fixtures of enclosing scopes are torn down."""
    pytester.makepyfile(
        """
        import pathlib, pytest
        def log(text):
            with (pathlib.Path(__file__).parent / "log.txt").open("a") as file: file.write(text + "\\n")
        @pytest.fixture(scope="session")
        def outer(): log("outer up"); yield; log("outer down")
        @pytest.fixture(scope="module")
        def inner(): log("inner up"); yield; log("inner down")
        @pytest.fixture
        def own(): log("own up"); yield; log("own down")
        def test_1(outer, inner, own): pytest.exit("enough")
        def test_2(outer): pass
        """
    )
    (pytester.path / "log.txt").touch()
    pair = compare(options=["--sandbox-writable=log.txt"])
    assert pair.boxed.read("log.txt") == pair.plain.read("log.txt")


@pytest.mark.parametrize("stop", ["shouldstop", "shouldfail", "shouldfail = request.session.shouldstop"])
@pytest.mark.parametrize("options", [(), ("--maxfail=1",)])
def test_a_test_stops_the_run(pytester: pytest.Pytester, compare: Compare, stop: str, options: tuple[str, ...]) -> None:
    """By either of the session's attributes, or both: the same words, the same exit status."""
    pytester.makepyfile(
        f"""
        def test_1(request):
            request.session.{stop} = "that is all"
            assert 0
        def test_2(): pass
        """
    )
    compare.same(*options)


@pytest.mark.parametrize("scope", ["function", "class", "module"])
@pytest.mark.parametrize("who", ["fixture", "hook"])
@pytest.mark.parametrize("stop", ["shouldstop", "shouldfail"])
def test_a_teardown_stops_the_run(pytester: pytest.Pytester, compare: Compare, stop: str, who: str, scope: str) -> None:
    """Of a fixture of any scope: by itself, or by a hook that has seen it fail."""
    pytester.makeconftest(
        f"""
        import pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.when == "teardown" and report.failed: item.session.{stop} = "a teardown failed"
            return report
        @pytest.fixture(scope={scope!r})
        def fixture(request):
            yield
            if {who!r} == "hook": 1 / 0
            request.session.{stop} = "the environment is broken"
        """
    )
    pytester.makepyfile(
        test_one="class TestIt:\n    def test_1(self, fixture): pass",
        test_two="def test_2(): pass\ndef test_3(): pass",
    )
    compare.same()


def test_shouldstop(pytester: pytest.Pytester, compare: Compare) -> None:
    """A test that sets session.shouldstop ends the run after it."""
    pytester.makepyfile(
        """
        def test_1(request): request.session.shouldstop = "that is all"
        def test_2(): pass
        """
    )
    compare.same()


def test_internal_error(pytester: pytest.Pytester, compare: Compare) -> None:
    """A hook that raises is an internal error, status 3."""
    pytester.makeconftest(
        "def pytest_runtest_setup(item):\n    pass\ndef pytest_runtest_logreport(report):\n    raise ValueError('in hook')\n"
    )
    pytester.makepyfile("def test_1(): pass\n")
    pair = compare()
    assert pair.boxed.status == pair.plain.status == pytest.ExitCode.INTERNAL_ERROR
    assert "in hook" in pair.boxed.text


@pytest.mark.parametrize("scope", ["test", "module"])
def test_a_plugin_that_stops_the_run(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """When it has heard of a test, those that have run meanwhile did not happen."""
    pytester.makeconftest(
        """
        import pytest
        class Stop:
            def __init__(self, session): self.session = session
            def pytest_runtest_logreport(self, report):
                if report.when == "teardown" and report.nodeid.endswith("test_1"): self.session.shouldstop = "heard enough"
        def pytest_sessionstart(session): session.config.pluginmanager.register(Stop(session))
        """
    )
    pytester.makepyfile(
        f"""
        import pytest
        pytestmark = pytest.mark.sandbox(scope={scope!r})
        def test_0(): pass
        def test_1(): pass
        def test_2(): pass
        def test_3(): pass
        """
    )
    compare.same("-rA")


@pytest.mark.parametrize("options", [("-x",), ("--maxfail=1", "--sandbox-jobs=2")], ids=["one", "jobs"])
@pytest.mark.parametrize("stop", ["assert 0", "request.session.shouldstop = 'enough'; assert 0"], ids=["failed", "asked"])
def test_the_scopes_of_a_shared_sandbox(pytester: pytest.Pytester, compare: Compare, stop: str, options: tuple[str, ...]) -> None:
    """What they say at their teardown is the last test's, also where others were to come in its sandbox."""
    pytester.makeconftest(
        """
        import pytest
        @pytest.fixture(scope="session")
        def session():
            yield
            print("session down")
            raise OSError("port is still in use")
        """
    )
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.mark.sandbox(scope="class")
        class TestIt:
            def test_0(self, session): print("zero")
            def test_1(self, session, request): {stop}
            def test_2(self, session): pass
        def test_3(): pass
        """
    )
    own = [option for option in options if option.startswith("--sandbox")]
    compare(*(option for option in options if option not in own), "-rA", options=own).assert_same(screen=True)


@pytest.mark.parametrize("where", ["helper", "conftest"])
def test_ctrl_c_in_another_file(pytester: pytest.Pytester, compare: Compare, where: str) -> None:
    """It is told where that was."""
    pytester.makepyfile(helper="def ask():\n    raise KeyboardInterrupt")
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef asked():\n    raise KeyboardInterrupt")
    arguments, body = ("asked", "pass") if where == "conftest" else ("", "helper.ask()")
    pytester.makepyfile(test_it=f"import helper\ndef test_it({arguments}): {body}")
    compare.same()


@pytest.mark.parametrize("how", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
@pytest.mark.parametrize("options", [[], ["--sandbox-scope=module"]], ids=["each", "shared"])
def test_warnings_of_what_is_torn_down_then(pytester: pytest.Pytester, compare: Compare, how: str, options: list[str]) -> None:
    """Are the run's, and no test's."""
    pytester.makepyfile(
        f"""
        import pytest, warnings
        @pytest.fixture(scope="session")
        def session():
            yield
            warnings.warn("of the session")
        @pytest.fixture(scope="module")
        def module():
            yield
            warnings.warn("of the module")
        @pytest.fixture
        def own():
            yield
            warnings.warn("of the test")
        def test_1(session): pass
        def test_2(session, module, own):
            warnings.warn("before")
            {how}
        """
    )
    pair = compare(options=options)
    assert pair.boxed.screen() == pair.plain.screen()
    assert pair.plain.result.parseoutcomes()["warnings"] == 4


@pytest.mark.parametrize("where", ["test", "session", "hook"])
@pytest.mark.parametrize("error", ["session.Interrupted", "session.Failed", "pytest.UsageError"])
def test_errors_by_which_pytest_ends_a_run(pytester: pytest.Pytester, compare: Compare, error: str, where: str) -> None:
    """Raised by a test, a fixture or a hook: only the first is no failure everywhere."""
    pytester.makeconftest(
        f"""
        import pytest
        def stop(session, where):
            if where == {where!r}: raise {error}("that is all")
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(item):
            result = yield
            if item.name == "test_2": stop(item.session, "hook")
            return result
        @pytest.fixture(scope="session")
        def wide(request): stop(request.session, "session")
        """
    )
    pytester.makepyfile(
        """
        from conftest import stop
        def test_1(): pass
        def test_2(request, wide): stop(request.session, "test")
        def test_3(): pass
        """
    )
    compare.same()


@pytest.mark.parametrize("hook", ["logstart", "logreport-call", "logreport-teardown", "logfinish"])
def test_a_reporting_hook_that_ends_the_run(pytester: pytest.Pytester, compare: Compare, hook: str) -> None:
    """The warnings of the test it was told of are in the summary."""
    name, _, when = hook.partition("-")
    pytester.makeconftest(
        f"""
        import pytest
        def pytest_runtest_{name}({"report" if when else "nodeid"}):
            if {"report.nodeid" if when else "nodeid"}.endswith("test_2") and {f"report.when == {when!r}" if when else "True"}:
                pytest.exit("that is all")
        """
    )
    pytester.makepyfile(
        """
        import warnings
        def test_1(): warnings.warn("of the first")
        def test_2(): warnings.warn("of the second")
        def test_3(): pass
        """
    )
    compare.same()
