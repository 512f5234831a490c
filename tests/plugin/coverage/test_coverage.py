"""coverage.py and pytest-cov under --sandbox: the same data, percentages and reports as without."""

from __future__ import annotations

import os
import re
import sys
import textwrap

import pytest

from tests.plugin.coverage.conftest import SUITE, Measure

coverage = pytest.importorskip("coverage")
pytest.importorskip("pytest_cov")


MODES = {
    "lines": ("", []),
    "branches": ("branch = true", []),
    "static context": ("context = static", []),
    "contexts of lines": ("", ["--cov-context=test"]),
    "contexts of branches": ("branch = true", ["--cov-context=test"]),
    "timid": ("timid = true\nbranch = true", []),
    "relative": ("relative_files = true", ["--cov-context=test"]),
    "parallel": ("parallel = true", []),
    "multiprocessing": ("concurrency = multiprocessing, thread", []),
    "own file": ("data_file = .coverage_of_this", ["--cov-context=test"]),
}


@pytest.mark.parametrize("mode", MODES)
def test_pytest_cov(measure: Measure, mode: str) -> None:
    """The same lines, arcs and contexts, of fixtures of every scope and of tests, in sandboxes and not."""
    config, args = MODES[mode]
    measure.write(config=config)
    plain, boxed = measure.same(*args)
    assert boxed.functions() == plain.functions() >= {"in_session_fixture", "after_module_fixture", "in_test", "in_teardown"}
    assert "in_thread" in boxed.functions()
    assert "never" not in boxed.functions()


@pytest.mark.parametrize(
    ("config", "args"),
    [
        ("", ()),
        ("branch = true", ()),
        ("dynamic_context = test_function", ()),
        ("branch = true\ndynamic_context = test_function", ()),
        ("", ("--parallel-mode",)),
    ],
    ids=["lines", "branches", "contexts", "contexts of branches", "parallel"],
)
def test_coverage_run(measure: Measure, config: str, args: tuple[str, ...]) -> None:
    """The same of `coverage run -m pytest`, also by its own contexts and files."""
    measure.write(config=config)
    plain, boxed = measure.same(*args, by_coverage_run=True)
    assert boxed.functions() == plain.functions() >= {"in_module_fixture", "in_second_test", "in_sandbox"}
    assert len(boxed.files) == 1


@pytest.mark.parametrize("branch", ["false", "true"])
@pytest.mark.parametrize("command", ["pytest --cov", "coverage run -m pytest"])
def test_bare(measure: Measure, command: str, branch: str) -> None:
    """The same where nothing says what is to be measured: all that is here, with the tests themselves and their conftest."""
    measure.write(config=f"branch = {branch}")
    measure.pytester.makeconftest("import pytest\n@pytest.fixture(autouse=True)\ndef all_around():\n    yield\n    len('a')\n")
    program, *args = command.split()
    words = ["-m", program, *args] if program == "coverage" else ["-m", program]
    runs = [
        measure.run(words, [] if program == "coverage" else [*args, "--cov-report="], sandbox=sandbox)
        for sandbox in (False, True)
    ]
    # An editable pytest-sandbox is no third party's, and is measured, too.
    plain, boxed = ({name: found for name, found in run.comparable()["files"].items() if not os.path.isabs(name)} for run in runs)
    assert boxed == plain
    assert {"conftest.py", "measured/code.py", "test_suite.py"} <= plain.keys()
    assert runs[1].functions() == runs[0].functions() >= {"in_session_fixture", "in_test", "in_teardown"}
    assert runs[1].functions("test_suite.py") == runs[0].functions("test_suite.py") >= {"test_first", "module"}
    assert runs[1].status == runs[0].status


@pytest.mark.parametrize("branch", ["false", "true"])
@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_cores(measure: Measure, monkeypatch: pytest.MonkeyPatch, core: str, branch: str) -> None:
    """The same with each way that coverage has to look at what runs."""
    if core == "sysmon" and sys.version_info < (3, 12):
        pytest.skip("sys.monitoring came with Python 3.12")
    monkeypatch.setenv("COVERAGE_CORE", core)
    measure.write(config=f"branch = {branch}")
    plain, boxed = measure.same()
    assert boxed.functions() == plain.functions()
    assert "in_second_test" in boxed.functions()


def test_package_imported_by_tests_only(measure: Measure) -> None:
    """A package that is named as source and that only tests import counts with all its files, and nothing warns of it."""
    suite = """
        import sys, pytest
        def test_it():
            sys.path.insert(0, "src")
            from lazy import used
            assert used.f()
    """
    measure.write(suite)
    package = measure.pytester.path / "src" / "lazy"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "used.py").write_text("def f():\n    return 1\n\ndef g():\n    return 2\n")
    (package / "unused.py").write_text("X = 1\n")
    plain, boxed = measure.same("--cov=lazy")
    assert set(boxed.report["files"]) >= {"src/lazy/used.py", "src/lazy/unused.py"}
    for text in (plain.result.stdout.str(), boxed.result.stdout.str()):
        assert "never imported" not in text


def test_shared_sandbox(measure: Measure) -> None:
    """Tests that share a sandbox are measured each, with its own contexts."""
    measure.write('import pytest\npytestmark = pytest.mark.sandbox(scope="module")\n' + textwrap.dedent(SUITE))
    measure.same("--cov-context=test")


def test_no_cover(measure: Measure) -> None:
    """Where pytest-cov pauses, nothing is measured, and afterwards everything."""
    suite = """
        import pytest
        from measured import code
        pytestmark = pytest.mark.sandbox(scope="module")
        @pytest.mark.no_cover
        def test_unmeasured(): code.unmeasured()
        def test_measured(): code.in_test(1)
    """
    measure.write(suite)
    _, boxed = measure.same()
    assert boxed.functions() == {"in_test"}


def test_coverage_within_a_test(measure: Measure) -> None:
    """A test may measure something itself: the run's own measurement is paused, and goes on."""
    suite = """
        import coverage
        from measured import code
        def test_it():
            code.in_test(3)
            own = coverage.Coverage(data_file=None)
            own.start()
            code.of_another(1)
            own.stop()
            assert own.get_data().measured_files()
            code.in_second_test()
        def test_next(): code.in_sandbox()
    """
    measure.write(suite)
    _, boxed = measure.same()
    assert boxed.functions() == {"in_test", "in_second_test", "in_sandbox"}


# -- reports ----------------------------------------------------------------------------------------------------------


def test_reports(measure: Measure) -> None:
    """pytest-cov's reports are the same, byte for byte but for times."""
    names = ("xml", "lcov", "json", "html", "markdown")
    measure.write(config="branch = true")
    found = []
    for sandbox in (False, True):
        run = measure.pytest_cov(
            "--cov-report=term-missing", *(f"--cov-report={name}:out.{name}" for name in names), sandbox=sandbox
        )
        whole = {"screen": run.result.stdout.str()[run.result.stdout.str().index("tests coverage") :]}
        for name in names:
            path = measure.pytester.path / f"out.{name}"
            parts = sorted(path.glob("*.html")) if path.is_dir() else [path]
            assert parts
            whole |= {f"{name}/{part.name}": _without_times(part.read_text()) for part in parts}
        found.append(whole)
    plain, boxed = found
    assert boxed.keys() == plain.keys()
    for name in plain:
        assert _without_times(boxed[name]) == _without_times(plain[name]), name


def _without_times(text: str) -> str:
    text = re.sub(r"timestamp\"?[=:] ?\"[^\"]*\"|created at [-0-9: +]*|in \d+\.\d+s", "", text)
    return re.sub(r"(?s)=+ sandbox .*?\n(?==)", "", text)


@pytest.mark.parametrize(("least", "status"), [(1, 0), (99, 1)])
def test_fail_under(measure: Measure, least: int, status: int) -> None:
    """`--cov-fail-under` decides as without."""
    measure.write(textwrap.dedent(SUITE).replace('== "bare"', '== "sandboxed"'))
    plain, boxed = measure.same(f"--cov-fail-under={least}")
    assert plain.status == boxed.status == status


def test_append(measure: Measure) -> None:
    """`--cov-append` adds to what earlier runs have left."""
    measure.write()
    found = []
    for sandbox in (False, True):
        measure.pytest_cov("-k", "first", sandbox=sandbox)
        args = ["--cov=measured", "--cov-report=", "--cov-append", "-k", "second"]
        found.append(measure.run(["-m", "pytest"], args, sandbox=sandbox, clean=False))
    plain, boxed = found
    assert boxed.comparable() == plain.comparable()
    assert boxed.functions() >= {"in_teardown", "in_second_test"}


# -- what cannot be had -----------------------------------------------------------------------------------------------


def test_other_internals_are_refused(measure: Measure) -> None:
    """A coverage whose data could not be carried is refused before the first test, by name and version, with a way around."""
    measure.write()
    measure.pytester.makeconftest("import coverage.sqldata\ndel coverage.sqldata.CoverageData.base_filename")
    result = measure.pytester.run(sys.executable, "-m", "pytest", "--sandbox", "--cov=measured", timeout=300)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str() + result.stdout.str()
    assert f"coverage {coverage.__version__} (by pytest-cov " in text
    assert "has no 'base_filename'" in text
    assert "--no-cov" in text
    assert "test_suite.py" not in result.stdout.str().replace("collected", "")
    result = measure.pytester.run(sys.executable, "-m", "pytest", "--sandbox", "--cov=measured", "--no-cov", timeout=300)
    assert "test_failing" in result.stdout.str()


def test_without_coverage(pytester: pytest.Pytester) -> None:
    """Where nobody measures, nothing of coverage is loaded."""
    pytester.makepyfile("import sys\ndef test_it(): assert 'coverage' not in sys.modules")
    result = pytester.run(sys.executable, "-m", "pytest", "--sandbox", timeout=300)
    result.assert_outcomes(passed=1)
