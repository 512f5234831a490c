"""Options of a run: selection, stopping, reporting, each as in plain pytest."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

MIXED = """
import pytest
@pytest.fixture(scope="module")
def value():
    yield 1
    print("module is over")
def test_1(value): pass
def test_2(value): assert 0, "two"
def test_3(): pass
@pytest.mark.skip
def test_4(): pass
class TestIt:
    def test_5(self, value): assert 0, "five"
    def test_6(self): pass
@pytest.fixture
def bad(): raise ValueError("bad")
def test_7(bad): pass
"""


@pytest.mark.parametrize(
    "options",
    [
        ("-x",), ("--maxfail=2",), ("--maxfail=3", "-v"), ("-k", "test_1 or TestIt"), ("-k", "nothing"), ("-v",), ("-vv",),
        ("-q",), ("-qq",), ("-rA",), ("-rN",), ("--tb=no",), ("--tb=line",), ("--tb=short",), ("-l",),
        ("--deselect", "test_a.py::test_2"), ("test_b.py::TestIt::test_5", "test_a.py::test_1"), ("-p", "no:cacheprovider"),
        ("-p", "no:logging"), ("-p", "no:warnings"), ("-p", "no:faulthandler"), ("-p", "no:tmpdir"), ("-p", "no:junitxml"),
        ("-p", "no:stepwise"), ("-p", "no:doctest"), ("-p", "no:unraisableexception"), ("--capture=sys",), ("--capture=tee-sys",),
        ("--no-header",), ("--no-summary",), ("-o", "console_output_style=count"), ("-o", "console_output_style=times"),
        ("--strict-markers",), ("--import-mode=importlib",), ("--color=yes",), ("-W", "error"), ("--show-capture=no",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_option(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """Passing, failing, erring and skipped tests in two modules, under one option."""
    pytester.makepyfile(test_a=MIXED, test_b=MIXED)
    compare.same(*options)


@pytest.mark.parametrize("options", [("-p", "no:terminal"), ("-p", "no:capture"), ("-s",), ("--capture=no", "-v")], ids=" ".join)
def test_uncaptured(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """Without capture or terminal reporter: the same reports; what tests print is seen."""
    pytester.makepyfile(test_a=MIXED + "\ndef test_print(): print('printed here')\n")
    pair = compare(*options).assert_same(screen=False)
    for run in (pair.plain, pair.boxed):
        assert "printed here" in run.text or options[-1] == "no:terminal"


def test_print_of_passing_tests(pytester: pytest.Pytester, compare: Compare) -> None:
    """With -s all that tests, fixtures and their processes print goes to the terminal, in order."""
    pytester.makepyfile(
        """
        import pytest, subprocess, sys
        @pytest.fixture(scope="module")
        def value():
            print("fixture up"); yield; print("fixture down")
        def test_1(value): print("one"); subprocess.run(["echo", "echoed"]); sys.stderr.write("three\\n")
        def test_2(value): print("four")
        """
    )
    pair = compare("-s")
    words = ["fixture up", "one", "echoed", "four", "fixture down"]
    for run in (pair.plain, pair.boxed):
        found = re.findall("|".join(words), run.result.stdout.str())
        assert sorted(found) == sorted(words)
        assert "three" in run.text
    assert re.findall("one|four|fixture \\w+", pair.boxed.result.stdout.str()) == ["fixture up", "one", "four", "fixture down"]


def test_last_failed(pytester: pytest.Pytester, compare: Compare) -> None:
    """--lf, --ff and --nf know what failed in the last run."""
    pytester.makepyfile(test_a=MIXED, test_b=MIXED)
    for pair in compare.sequence([], ["--lf"], ["--ff"], ["--nf"], ["--lf", "--co"], ["--cache-show"]):
        pair.assert_same()


def test_stepwise(pytester: pytest.Pytester, compare: Compare) -> None:
    """--sw stops at the first failure and goes on from there."""
    pytester.makepyfile(test_a=MIXED, test_b=MIXED)
    for pair in compare.sequence(["--sw"], ["--sw"], ["--sw-skip"], ["--sw", "--sw-reset"]):
        pair.assert_same()


def test_stepwise_after_a_repair(pytester: pytest.Pytester, compare: Compare) -> None:
    """--sw goes past the test that has been repaired."""
    pytester.makepyfile("import os\ndef test_1(): pass\ndef test_2(): assert os.path.exists('fixed')\ndef test_3(): assert 0\n")
    first = compare.one("--sw")
    (pytester.path / "fixed").touch()
    second = compare.one("--sw")
    assert [report[0][-6:] for report in first.outcomes() if report[1] == "call"] == ["test_1", "test_2"]
    assert [report[0][-6:] for report in second.outcomes() if report[1] == "call"] == ["test_2", "test_3"]


def test_cache_by_the_config(pytester: pytest.Pytester, compare: Compare) -> None:
    """The same without the fixture `cache`, in the first run of all, and from a session fixture."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="session")
        def noted(request): request.config.cache.set("my/fixture", "noted")
        def test_1(request, noted): request.config.cache.set("my/test", request.config.cache.get("my/test", 0) + 1)
        """
    )
    for pair in compare.sequence([], [], ["--cache-show"]):
        pair.assert_same()
        assert set(pair.boxed.files) == set(pair.plain.files)


def test_cache_of_tests(pytester: pytest.Pytester, compare: Compare) -> None:
    """What tests and fixtures put into pytest's cache is there in the next run."""
    pytester.makepyfile(
        """
        def test_1(cache):
            number = cache.get("my/number", 0)
            cache.set("my/number", number + 1)
            (cache.mkdir("mine") / f"file{number}").touch()
            assert number < 2
        def test_2(pytestconfig): pytestconfig.cache.set("my/other", [1])
        """
    )
    for pair in compare.sequence([], [], ["--lf"], ["--cache-show"]):
        pair.assert_same()
        assert set(pair.boxed.files) == set(pair.plain.files)


@pytest.mark.parametrize(
    "options", [("--collect-only",), ("--co", "-q"), ("--fixtures",), ("--fixtures-per-test",), ("--markers",), ("--setup-plan",),
                ("--help",), ("--version",), ("--trace-config",)], ids=" ".join,
)  # fmt: skip
def test_options_that_run_nothing(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """Options that list things list them."""
    pytester.makepyfile(test_a=MIXED)
    pair = compare(*options)
    assert pair.boxed.status == pair.plain.status
    if options[0] not in ("--setup-plan", "--trace-config"):
        pair.assert_same()


@pytest.mark.parametrize("option", ["--setup-show", "--setup-only", "--setup-plan"])
def test_setup_show(pytester: pytest.Pytester, compare: Compare, option: str) -> None:
    """Each set-up and teardown is shown once."""
    pytester.makepyfile(test_a=MIXED)
    pair = compare(option).assert_same(screen=False)
    plain, boxed = (
        sorted(re.findall(r"(?:SETUP|TEARDOWN) .*?(?:\)|bad|value)", run.result.stdout.str())) for run in (pair.plain, pair.boxed)
    )
    assert plain == boxed


@pytest.mark.parametrize(
    "options",
    [
        ("--setup-show",),
        ("--setup-show", "-v"),
        ("-o", "log_cli=true"),
        ("-o", "log_cli=true", "-v", "--setup-show"),
        ("-s", "-v"),
    ],
    ids=" ".join,
)
def test_what_is_shown_live(pytester: pytest.Pytester, compare: Compare, options: tuple[str, ...]) -> None:
    """Stands where it stands in plain pytest: above and below the test's outcome."""
    pytester.makepyfile(
        """
        import logging, pytest
        @pytest.fixture
        def own(): logging.warning("up"); yield; logging.warning("down")
        @pytest.fixture
        def broken(): logging.warning("breaks"); raise ValueError
        def test_1(own): logging.warning("in it")
        def test_2(own): assert 0
        def test_3(own, broken): pass
        @pytest.mark.skip
        def test_4(own): pass
        @pytest.mark.parametrize("number", [1, 2])
        def test_5(own, number): logging.warning("number %s", number)
        """
    )
    compare.same(*options)


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


@pytest.mark.parametrize("family", ["xunit1", "xunit2", "legacy"])
def test_junit(pytester: pytest.Pytester, compare: Compare, family: str) -> None:
    """--junitxml: the same elements, properties, attributes and captured output."""
    pytester.makepyfile(
        test_a=MIXED,
        test_b="""
        import pytest, sys
        @pytest.fixture(scope="session", autouse=True)
        def of_the_run(record_testsuite_property):
            record_testsuite_property("by_fixture", "session")
        def test_1(record_property, record_testsuite_property):
            print("out"); print("err", file=sys.stderr)
            record_property("one", 1)
            record_property("two", "zwei")
            record_testsuite_property("by_test", "test")
        @pytest.mark.filterwarnings("ignore")
        def test_2(record_xml_attribute):
            record_xml_attribute("assertions", "5")
            record_xml_attribute("classname", "other.name")
        @pytest.mark.filterwarnings("ignore")
        def test_3(record_xml_attribute):
            record_xml_attribute("status", "bad")
            assert 0
        def test_4(subtests):
            with subtests.test("passes"): pass
            with subtests.test("fails"): assert 1 == 2
        """,
    )
    pair = compare("--junitxml=junit.xml", "-o", f"junit_family={family}", "-o", "junit_logging=all")
    pair.assert_same(screen=False)
    plain, boxed = (_elements(run.files["junit.xml"]) for run in (pair.plain, pair.boxed))
    assert boxed == plain
    assert ('name="sandbox_ending"' in pair.boxed.files["junit.xml"]) is (family != "xunit2")


@pytest.mark.parametrize("how", [(), ("-n2",), ("--sandbox-jobs=2",)], ids=["alone", "workers", "jobs"])
def test_junits_suite_has_what_was_used_in_all(pytester: pytest.Pytester, compare: Compare, how: tuple[str, ...]) -> None:
    """By kind, in the family that has no place for a test's own figures."""
    pytester.makepyfile(
        """
        import pytest, time
        @pytest.fixture(scope="session", autouse=True)
        def costly(): time.sleep(0.2)
        @pytest.mark.parametrize("number", range(3))
        def test_sleeps(number): time.sleep(0.1)
        def test_makes(sandbox_factory):
            for _ in range(2): sandbox_factory().run(["sleep", "0.1"])
        """
    )
    run = compare.one(*how, "--junitxml=junit.xml")
    run.result.assert_outcomes(passed=4)
    suite = ET.fromstring(run.files["junit.xml"]).find("testsuite/properties")
    assert suite is not None
    found = {one.get("name"): float(one.get("value") or "nan") for one in suite}
    assert found["sandbox_sandboxes"] == 4
    assert found["sandbox_sandboxes_wall"] >= 0.5
    assert found["sandbox_made"] == 2
    assert found["sandbox_made_wall"] >= 0.2
    assert found["sandbox_scopes"] == (2 if how == ("-n2",) else 1)
    assert found["sandbox_scopes_wall"] >= 0.2
    assert ("sandbox_sandboxes_memory_peak" in found) is ("sandbox_made_memory_peak" in found)


def _elements(text: str) -> list[str]:
    """Every element with its attributes and text, but for times and what only a sandboxed run has."""
    found = []
    for element in ET.fromstring(text).iter():
        attributes = {name: value for name, value in element.attrib.items() if name not in ("time", "timestamp", "hostname")}
        if not attributes.get("name", "").startswith("sandbox_"):
            content = re.sub(r"-+ Sandbox.*?(?=-{10}|\Z)", "", (element.text or "").strip(), flags=re.DOTALL)
            found.append(re.sub("0x[0-9a-f]+", "0x...", f"{element.tag} {sorted(attributes.items())} {content}".strip()))
    return [line for line in found if line != "properties []"]


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
            return report
        def pytest_runtest_logreport(report):
            if report.when == "call":
                print("attributes", report.files, report.numbers, report.bytes, report.infinite, report.words)
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
    assert pair.boxed.files["log.txt"] == pair.plain.files["log.txt"]


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


def test_an_item_that_calls_itself_otherwise(pytester: pytest.Pytester, compare: Compare) -> None:
    """An item of a class that overrides `nodeid`, or has an `id` of its own."""
    pytester.makeconftest(
        """
        import pytest
        class Mine(pytest.Item):
            nodeid = "foo"
            def runtest(self): pytest.xfail("as expected")
        class Numbered(pytest.Item):
            def runtest(self): assert self.name != "bad"
        if not hasattr(pytest.Item, "id"):
            Numbered.id = 42
        class File(pytest.File):
            def collect(self):
                yield Numbered.from_parent(self, name="good")
                yield Numbered.from_parent(self, name="bad")
                if hasattr(pytest.Item, "id"):  # before, pytest's own reports had the other name
                    yield Mine.from_parent(self, name="mine")
        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".foo": return File.from_parent(parent, path=file_path)
        """
    )
    (pytester.path / "one.foo").touch()
    compare.same("-rA")


@pytest.mark.parametrize("namespace", [False, True], ids=["package", "namespace"])
@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_packages(pytester: pytest.Pytester, compare: Compare, mode: str, namespace: bool) -> None:
    """Tests in packages, of files and by name (--pyargs), with conftest files and modules of one name in two of them."""
    for part in ("one", "two"):
        directory = pytester.mkdir(f"src-{part}") / "space" / part / "tests"
        directory.mkdir(parents=True)
        (directory / "conftest.py").write_text(
            f"import pytest\n@pytest.fixture(scope='package')\ndef of(): yield {part!r}; print('down', {part!r})\n"
        )
        (directory / "helper.py").write_text(f"NAME = {part!r}\n")
        (directory / "test_it.py").write_text(
            f"from space.{part}.tests import helper\n"
            f"def test_1(of): assert of == helper.NAME == {part!r} and __name__\n"
            "def test_2(of): assert 0, __name__\n"
        )
        if not namespace:
            (directory / "__init__.py").touch()
            (directory.parent / "__init__.py").touch()
    pytester.makeini(
        f"[pytest]\nconsider_namespace_packages = true\npythonpath = src-one src-two\naddopts = --import-mode={mode}\n"
    )
    if not (namespace and mode != "importlib"):  # two modules of one name, which pytest itself refuses
        compare.same("src-one", "src-two", "-rA", f"--import-mode={mode}")
    compare.same("--pyargs", "space.one.tests", "-rA", f"--import-mode={mode}")
    compare.same("--pyargs", "space.two.tests.test_it::test_2", "-rA", f"--import-mode={mode}")


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
    assert pair.plain.files["told"] == pair.boxed.files["told"] == "conftest "
    compare.same("-k", "nothing")


def test_a_loop_of_its_own(pytester: pytest.Pytester, compare: Compare) -> None:
    """Somebody else's loop would run tests without sandboxes: it is refused before the first."""
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtestloop(session):
            for item in session.items: item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            return True
        """
    )
    pytester.makepyfile("def test_1(): open('ran', 'w').close()")
    run = compare.one()
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "own pytest_runtestloop runs test_a_loop_of_its_own.py::test_1, which would be without a sandbox. Fix:" in run.text
    assert not (pytester.path / "ran").exists()


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


def test_a_path_to_hide_that_nobody_may_enter(pytester: pytest.Pytester, compare: Compare) -> None:
    """What is closed to whoever runs the tests needs no cover: root finds it empty, a user not at all."""
    closed = pytester.mkdir(".closed")
    (closed / "inner").mkdir()
    (closed / "inner" / "file").touch()
    pytester.makeini("[pytest]\nsandbox_hide = .closed/inner\n")
    pytester.makepyfile("""
        import os, pytest
        def test_it():
            try:
                assert os.listdir(".closed/inner") == []
            except PermissionError:
                assert os.getuid() != 0
    """)
    closed.chmod(0)
    try:
        compare.one().result.assert_outcomes(passed=1)
    finally:
        closed.chmod(0o700)


def test_what_there_is_not_to_hide_is_told(pytester: pytest.Pytester, compare: Compare) -> None:
    """A path in the ini file or a marker may be one that other machines have: the run goes on, and says so."""
    pytester.makeini("[pytest]\nsandbox_hide = ini-path\n")
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.mark.sandbox(hide=["marker-path", "there"])
        def test_1(): assert not os.listdir("there")
        @pytest.mark.sandbox(enabled=False)
        def test_2(): assert os.listdir("there")
        """
    )
    (pytester.mkdir("there") / "file").touch()
    run = compare.one()
    run.result.assert_outcomes(passed=2)
    assert "".join(line for line in run.text.splitlines(keepends=True) if "nothing to hide" in line) == (
        f"sandbox: nothing to hide: {pytester.path}/ini-path does not exist here\n"
        f"sandbox: nothing to hide: {pytester.path}/marker-path does not exist here\n"
    )


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
        def test_1(): assert 0
        def test_short(): assert 0
        def test_2(broken): pass
        def test_3(breaks): pass
        """
    )
    pair = compare()
    assert pair.boxed.screen() == pair.plain.screen()
    assert pair.boxed.text.count("about test_") == 4
    assert "in short" in pair.boxed.text


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
