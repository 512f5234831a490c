"""coverage.py and pytest-cov under --sandbox: the same data, percentages and reports as without."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

coverage = pytest.importorskip("coverage")
pytest.importorskip("pytest_cov")

#: The measured code: each function is run in one place only, so that what is missing says where it was lost.
CODE = """
    import os, signal, subprocess, sys, time

    AT_IMPORT = 1

    def in_session_fixture():
        return "session"

    def after_session_fixture():
        return "end"

    def in_module_fixture(value):
        if value:
            return "module"
        return "never"

    def after_module_fixture():
        return "end"

    def in_test(many):
        found = []
        for number in range(many):
            if number % 2:
                found.append(number)
        return found

    def in_second_test():
        return "second"

    def in_teardown():
        return "teardown"

    def in_thread():
        return "thread"

    def in_sandbox():
        return "sandboxed"

    def not_in_sandbox():
        return "bare"

    def in_call(number):
        if number:
            return number
        return "never"

    def of_another(number):
        return number

    def in_child():
        return "child"

    def unmeasured():
        return "no_cover"

    def never():
        return "never"
"""

SUITE = """
    import threading
    import pytest
    from measured import code

    @pytest.fixture(scope="session")
    def session():
        code.in_session_fixture()
        yield
        code.after_session_fixture()

    @pytest.fixture(scope="module")
    def module(session):
        code.in_module_fixture(1)
        yield
        code.after_module_fixture()

    @pytest.fixture
    def torn_down():
        yield
        code.in_teardown()

    @pytest.mark.sandbox(enabled=False)
    def test_bare():
        assert code.not_in_sandbox()

    def test_first(module, torn_down):
        assert code.in_test(0) == []

    def test_second(module):
        assert code.in_test(3) == [1]
        code.in_second_test()

    def test_thread():
        thread = threading.Thread(target=code.in_thread)
        thread.start()
        thread.join()

    def test_failing():
        assert code.in_sandbox() == "bare"
"""


@dataclasses.dataclass
class Measurement:
    """One run: its exit status and output, coverage's JSON report, and the names of the data files that are left."""

    result: pytest.RunResult
    report: dict[str, Any]
    files: list[str]

    @property
    def status(self) -> int:
        """The exit status."""
        return int(self.result.ret)

    def comparable(self) -> dict[str, Any]:
        """What must be the same."""
        files = {name: _comparable(found) for name, found in sorted(self.report["files"].items())}
        return {"totals": self.report["totals"], "files": files}

    def functions(self, module: str = "measured/code.py") -> set[str]:
        """The functions of a module that ran."""
        found = self.report["files"][module]["functions"]
        return {name for name, part in found.items() if name and part["executed_lines"]}


def _comparable(found: dict[str, Any]) -> dict[str, Any]:
    names = ("executed_lines", "missing_lines", "excluded_lines", "summary", "executed_branches", "missing_branches")
    plain = {name: found[name] for name in names if name in found}
    # In which order contexts were first seen is in no report but this.
    return plain | {"contexts": {line: sorted(contexts) for line, contexts in found.get("contexts", {}).items()}}


class Measure:
    """Runs a suite with and without --sandbox under coverage."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        for name in tuple(os.environ):
            if name.startswith(("COV_CORE_", "COVERAGE_")):
                monkeypatch.delenv(name)

    def write(self, suite: str = SUITE, config: str = "", **modules: str) -> None:
        """Write the measured package, a suite and coverage's configuration."""
        package = self.pytester.path / "measured"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        for name, text in {"code": CODE, "unexecuted": "X = 1\n", **modules}.items():
            (package / f"{name}.py").write_text(textwrap.dedent(text))
        self.pytester.makepyfile(test_suite=textwrap.dedent(suite))
        lines = ["[run]", *textwrap.dedent(config).strip().splitlines(), "[json]", "show_contexts = true"]
        (self.pytester.path / ".coveragerc").write_text("\n".join(lines))

    def pytest_cov(self, *args: str, sandbox: bool) -> Measurement:
        """`pytest --cov`."""
        return self.run(["-m", "pytest"], ["--cov=measured", "--cov-report=", *args], sandbox=sandbox)

    def coverage_run(self, *args: str, sandbox: bool) -> Measurement:
        """`coverage run -m pytest`."""
        return self.run(["-m", "coverage", "run", "--source=measured", *args, "-m", "pytest"], [], sandbox=sandbox)

    def run(self, command: Sequence[str], args: Sequence[str], *, sandbox: bool, clean: bool = True) -> Measurement:
        """Run it, and make coverage's JSON report of what it left."""
        if clean:
            for path in self.data_files():
                (self.pytester.path / path).unlink()
        options = ["--sandbox"] if sandbox else []
        result = self.pytester.run(sys.executable, *command, "-p", "no:cacheprovider", *options, *args, timeout=300)
        return Measurement(result, self._report(), self.data_files())

    def _report(self) -> dict[str, Any]:
        """As `coverage combine` and `coverage json` make it of a copy of what is there."""
        copy = self.pytester.path / "copy"
        copy.mkdir(exist_ok=True)
        for name in self.data_files():
            shutil.copy(self.pytester.path / name, copy / name)
        measured = coverage.Coverage()
        measured.config.data_file = str(copy / os.path.basename(measured.config.data_file))
        measured.config.parallel = False
        if os.path.exists(measured.config.data_file):
            measured.load()
        else:
            measured.combine(strict=True)
        report = copy / "measured.json"
        measured.json_report(outfile=str(report), ignore_errors=True)
        found: dict[str, Any] = json.loads(report.read_text())
        shutil.rmtree(copy)
        return found

    def data_files(self) -> list[str]:
        """What coverage has written, as names without what is random."""
        return sorted(path.name for path in self.pytester.path.glob(".coverage*") if path.name != ".coveragerc")

    def same(self, *args: str, by_coverage_run: bool = False) -> tuple[Measurement, Measurement]:
        """Run it both ways; the data must be the same."""
        run = self.coverage_run if by_coverage_run else self.pytest_cov
        plain, boxed = run(*args, sandbox=False), run(*args, sandbox=True)
        assert boxed.comparable() == plain.comparable(), boxed.result.stdout.str()
        assert boxed.status == plain.status
        assert len(boxed.files) == len(plain.files) or by_coverage_run
        assert plain.report["totals"]["covered_lines"]
        return plain, boxed


@pytest.fixture
def measure(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """A `Measure`."""
    return Measure(pytester, monkeypatch)


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


# -- ends -------------------------------------------------------------------------------------------------------------

ENDS = {
    "exit": "os._exit(0)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "timeout": "time.sleep(600)",
    "output": "[os.write(1, bytes(1 << 20)) for _ in range(64)]; time.sleep(600)",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("scope", ["test", "module"])
def test_killed(measure: Measure, end: str, scope: str) -> None:
    """A test that is killed loses what it ran itself, and nothing that ran before, beside or after it."""
    timeout = 8 if end == "timeout" else 120  # a guest is slow, and so is a busy machine
    suite = f"""
        import os, signal, time
        import pytest
        from measured import code
        pytestmark = pytest.mark.sandbox(scope={scope!r}, timeout={timeout}, output="1M")

        @pytest.fixture(scope="module")
        def module():
            code.in_module_fixture(1)
            yield
            code.after_module_fixture()

        def test_before(module): code.in_test(3)
        def test_killed(module):
            code.of_another(1)
            {ENDS[end]}
        def test_after(module): code.in_second_test()
    """
    measure.write(suite)
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(passed=2, failed=1)
    wanted = {"in_module_fixture", "in_test", "in_second_test", "after_module_fixture"}
    assert boxed.functions() == wanted


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("scope", ["test", "module"])
def test_killed_with_branches_and_contexts(measure: Measure, end: str, scope: str) -> None:
    """All other tests have the branches and contexts that they have where the killed one does nothing."""
    # A shared sandbox's own fixtures are set up anew in the one that follows it.
    needed = "module" if scope == "test" else ""
    timeout = 8 if end == "timeout" else 120
    suite = f"""
        import os, signal, time
        import pytest
        from measured import code
        pytestmark = pytest.mark.sandbox(scope={scope!r}, timeout={timeout}, output="1M")

        @pytest.fixture(scope="module")
        def module():
            code.in_module_fixture(1)
            yield
            code.after_module_fixture()

        def test_before({needed}): code.in_test(3)
        def test_killed({needed}):
            if {{killed}}:
                code.of_another(1)
                {ENDS[end]}
        def test_after({needed}): code.in_test(1)
        def test_last({needed}): code.in_second_test()
    """
    found = []
    for killed in (False, True):
        measure.write(textwrap.dedent(suite).format(killed=killed), "branch = true")
        found.append(measure.pytest_cov("--cov-context=test", sandbox=killed))
    plain, boxed = found
    boxed.result.assert_outcomes(passed=3, failed=1)
    assert boxed.comparable() == plain.comparable()
    contexts = {name for lines in boxed.report["files"]["measured/code.py"]["contexts"].values() for name in lines}
    assert contexts >= {f"test_suite.py::{name}|run" for name in ("test_before", "test_after", "test_last")}


@pytest.mark.needs("memory")
def test_out_of_memory(measure: Measure) -> None:
    """The same of one that the kernel kills for memory."""
    suite = """
        import pytest
        from measured import code
        def test_before(): code.in_test(3)
        @pytest.mark.sandbox(memory="64M")
        def test_killed():
            code.of_another(1)
            bytearray(1 << 30)
        def test_after(): code.in_second_test()
    """
    measure.write(suite)
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(passed=2, failed=1)
    assert boxed.functions() == {"in_test", "in_second_test"}


def test_scope_dies(measure: Measure) -> None:
    """A scope that dies has said what it had set up, and its tests have said theirs."""
    suite = """
        import os
        import pytest
        from measured import code

        @pytest.fixture(scope="module")
        def module():
            code.in_module_fixture(1)
            yield
            os._exit(1)

        def test_before(module): code.in_test(3)
        def test_after(): code.in_second_test()
    """
    measure.write(suite)
    boxed = measure.pytest_cov(sandbox=True)
    assert boxed.status == 1
    assert boxed.functions() == {"in_module_fixture", "in_test", "in_second_test"}


def test_stopped_early(measure: Measure) -> None:
    """After -x, and after pytest.exit in a test, what ran is known."""
    suite = """
        import pytest
        from measured import code
        def test_before(): code.in_test(3)
        def test_ends():
            code.in_second_test()
            pytest.exit("enough", returncode=0)
        def test_after(): code.in_sandbox()
    """
    measure.write(suite)
    plain, boxed = (measure.coverage_run(sandbox=sandbox) for sandbox in (False, True))
    assert boxed.comparable() == plain.comparable()
    assert boxed.functions() == {"in_test", "in_second_test"}
    measure.write(suite.replace("pytest.exit", "pytest.fail").replace(", returncode=0", ""))
    (measure.pytester.path / "pytest.ini").write_text("[pytest]\naddopts = -x\n")
    _, boxed = measure.same(by_coverage_run=True)
    assert boxed.functions() == {"in_test", "in_second_test"}


# -- other processes --------------------------------------------------------------------------------------------------

PROGRAM = """
    import sys
    from measured import code

    def in_subprocess():
        return code.in_child()

    in_subprocess()
"""

needs_patch = pytest.mark.skipif(not hasattr(coverage.Coverage().config, "patch"), reason="coverage 7.10 brought `patch`")


@needs_patch
@pytest.mark.parametrize("branch", ["false", "true"])
def test_subprocesses(measure: Measure, branch: str) -> None:
    """What subprocesses of tests and fixtures run is measured, by `patch = subprocess`, whatever their working directory."""
    suite = """
        import os, subprocess, sys
        import pytest
        from measured import code

        def run(*args, cwd=None):
            env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
            subprocess.run([sys.executable, "-m", "measured.program", *args], check=True, cwd=cwd, env=env)

        @pytest.fixture(scope="module")
        def module():
            code.in_module_fixture(1)
            run()
            yield

        def test_first(module, tmp_path): run(cwd=tmp_path)
        def test_second(module): run()
        def test_bare(): code.in_test(1)
    """
    measure.write(suite, f"branch = {branch}\npatch = subprocess", program=PROGRAM)
    _, boxed = measure.same("--cov-context=test")
    assert "in_child" in boxed.functions()
    assert boxed.functions("measured/program.py") == {"in_subprocess"}
    assert boxed.files == [".coverage"]


@needs_patch
def test_subprocess_of_a_killed_test(measure: Measure) -> None:
    """What a subprocess has written before its test was killed is not lost."""
    suite = """
        import os, signal, subprocess, sys
        def test_it():
            subprocess.run([sys.executable, "-m", "measured.program"], check=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    measure.write(suite, "patch = subprocess", program=PROGRAM)
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(failed=1)
    assert boxed.functions("measured/program.py") == {"in_subprocess"}


@needs_patch
def test_coverage_run_with_subprocesses(measure: Measure) -> None:
    """The same of `coverage run` and `coverage combine`."""
    suite = """
        import subprocess, sys
        def test_it(): subprocess.run([sys.executable, "-m", "measured.program"], check=True)
    """
    measure.write(suite, "patch = subprocess", program=PROGRAM)
    _, boxed = measure.same(by_coverage_run=True)
    assert boxed.functions("measured/program.py") == {"in_subprocess"}


@needs_patch
def test_sandboxes_of_a_test(measure: Measure) -> None:
    """What runs in the sandboxes that a test makes, as a function or as a program, is measured."""
    suite = """
        import os, sys
        from measured import code
        def test_call(sandbox_factory):
            assert sandbox_factory.call(code.in_call, 3) == 3
            code.in_test(1)
            assert sandbox_factory.run([sys.executable, "-m", "measured.program"]).ok
        def test_killed(sandbox_factory):
            try:
                sandbox_factory.call(os._exit, 1)
            except Exception:
                code.in_second_test()
    """
    measure.write(suite, "patch = subprocess", program=PROGRAM)
    boxed = measure.pytest_cov("--cov-context=test", sandbox=True)
    boxed.result.assert_outcomes(passed=2)
    assert boxed.functions() == {"in_call", "in_test", "in_child", "in_second_test"}
    contexts = {name for found in boxed.report["files"]["measured/code.py"]["contexts"].values() for name in found}
    assert contexts == {"", "test_suite.py::test_call|run", "test_suite.py::test_killed|run"}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(measure: Measure, method: str) -> None:
    """What processes of `multiprocessing` run is measured."""
    suite = f"""
        import multiprocessing
        from measured import code
        def test_it():
            process = multiprocessing.get_context({method!r}).Process(target=code.in_child)
            process.start()
            process.join(120)
            assert process.exitcode == 0
            code.in_test(3)
    """
    measure.write(suite, "concurrency = multiprocessing\nsource = measured")
    _, boxed = measure.same()
    assert boxed.functions() == {"in_child", "in_test"}


@needs_patch
@pytest.mark.parametrize("patch", ["_exit", "_exit, subprocess, execv", "fork, _exit", "fork, subprocess, _exit"])
def test_forks_of_a_test(measure: Measure, patch: str) -> None:
    """What a test forks itself writes a data file of its own, where coverage is told to have it so."""
    suite = """
        import os
        from measured import code
        def test_it():
            pid = os.fork()
            if not pid:
                code.in_child()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            code.in_test(3)
        def test_next(): code.in_second_test()
    """
    if "fork" in patch and not hasattr(coverage.control, "_after_fork_in_child"):
        pytest.skip("this coverage has no `patch = fork`")
    measure.write(suite, f"patch = {patch}\nparallel = true")
    _, boxed = measure.same("--cov-context=test")
    assert boxed.functions() == {"in_child", "in_test", "in_second_test"}


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


# -- what is not believed ---------------------------------------------------------------------------------------------

LIE = """
    import base64, os
    import pytest
    from measured import code
    from pytest_sandbox.plugin.builtin.settling import INSIDE

    def pack(*numbers):
        return base64.b64encode(b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)).decode()

    def say(request, data, tracers=(), arcs=False):
        channel = request.config.stash[INSIDE].channel
        channel.send({"op": "coverage", "arcs": arcs, "data": data, "tracers": dict(tracers)})

    CODE = os.path.realpath(code.__file__)

    def test_before(): code.in_test(3)
    def test_lies(request):
"""

LIES = {
    "no list": "say(request, 3)",
    "no pairs": "say(request, [1, 2, 3])",
    "no name": "say(request, [['', [[7, pack(1)]]]])",
    "no text": "say(request, [['', [[CODE, 7]]]])",
    "no base64": "say(request, [['', [[CODE, 'é']]]])",
    "no numbers": "say(request, [['', [[CODE, 'AAA=']]]])",
    "negative": "say(request, [['', [[CODE, pack(-1)]]]])",
    "high": "say(request, [['', [[CODE, pack(1 << 30)]]]])",
    "no context": "say(request, [[None, [[CODE, pack(1)]]]])",
    "surrogate": "say(request, [['\\ud800', [[CODE, pack(1)]]]])",
    "nul": "say(request, [['', [['/a\\0b', pack(1)]]]])",
    "long name": "say(request, [['', [['/' + 'a' * 5000, pack(1)]]]])",
    "arcs": "say(request, [['', [[CODE, pack(1, 2)]]]], arcs=True)",
    "no plugin": "say(request, [['', [[CODE, pack(1)]]]], {CODE: 'nobody'})",
    "too much": "[say(request, [['', [[CODE, 'AAAA' * 4000]] * 1000]]) for _ in range(2)]",
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(measure: Measure, lie: str) -> None:
    """A sandbox that says what coverage never would ends, and the run goes on."""
    measure.write(textwrap.dedent(LIE) + f"    {LIES[lie]}\ndef test_after(): code.in_second_test()\n")
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(passed=2, failed=1)
    assert boxed.functions() == {"in_test", "in_second_test"}


def test_files_that_are_not_measured(measure: Measure) -> None:
    """A sandbox has no file in the report that this run would not measure, nor a line that the file has not."""
    secret = measure.pytester.makepyfile(secret="PASSWORD = 1\n")
    measure.write(
        textwrap.dedent(LIE)
        + f"""
    os.symlink({str(secret)!r}, "measured/link.py")
    names = [{str(secret)!r}, "/etc/passwd", "/proc/self/environ", "/dev/zero", os.path.dirname(CODE) + "/../secret.py",
             os.path.dirname(CODE) + "/link.py", "measured/code.py", os.path.dirname(CODE) + "/none.py", os.path.dirname(CODE)]
    say(request, [["", [[name, pack(1, 100_000)] for name in names] + [[CODE, pack(100_000_000)]]]])
"""
    )
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(passed=2)
    assert set(boxed.report["files"]) == {"measured/__init__.py", "measured/code.py", "measured/unexecuted.py"}
    data = coverage.CoverageData(basename=str(measure.pytester.path / ".coverage"))
    data.read()
    lines = [data.lines(name) for name in data.measured_files()]
    assert max(max(found) for found in lines if found) < 1000


@needs_patch
def test_data_files_that_are_none(measure: Measure) -> None:
    """What lies where data files do and is none is neither followed nor parsed; it hides no other test's, and is told."""
    suite = """
        import os, subprocess, sys
        def test_garbage():
            with open(".coverage.garbage", "wb") as file: file.write(b"SQLite format 3\\0" + bytes(5000))
            with open(".coverage.sparse", "wb") as file: file.truncate(1 << 40)
            os.symlink("/etc/passwd", ".coverage.link")
            os.mkfifo(".coverage.fifo")
            os.mkdir(".coverage.directory")
        def test_program(): subprocess.run([sys.executable, "-m", "measured.program"], check=True)
    """
    measure.write(suite, "patch = subprocess", program=PROGRAM)
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(passed=2, warnings=1)
    boxed.result.stdout.fnmatch_lines(["*CoverageWarning: 2 data file(s) *could not be read*"])
    assert boxed.functions("measured/program.py") == {"in_subprocess"}
    assert boxed.files == [".coverage"]


@needs_patch
def test_data_file_that_never_ends(measure: Measure) -> None:
    """A data file whose reading never ends costs the run the time that one may take, whatever tests may, and its subprocess."""
    suite = """
        import sqlite3, subprocess, sys
        def test_endless():
            data = sqlite3.connect(".coverage.0")
            data.execute("create table coverage_schema as select 7 as version")
            data.execute("create view file as with recursive n(id) as (select 1 union all select id + 1 from n)"
                         " select id, 'a' as path from n where id < 0")
            data.execute("create table meta (key text, value text)")
            data.commit()
        def test_program(): subprocess.run([sys.executable, "-m", "measured.program"], check=True)
    """
    measure.write(suite, "patch = subprocess", program=PROGRAM)
    measure.pytester.makeconftest("import pytest_sandbox.plugin.others.coverage.measured as measured\nmeasured._READ_TIME = 10.0")
    boxed = measure.run(["-m", "pytest"], ["--cov=measured", "--cov-report="], sandbox=True)
    boxed.result.assert_outcomes(passed=2, warnings=1)
    assert boxed.functions("measured/program.py") == {"in_subprocess"}


@needs_patch
@pytest.mark.parametrize("dist", ["no", "each", "load", "loadscope", "loadfile", "loadgroup", "worksteal"])
def test_two_workers(measure: Measure, dist: str) -> None:
    """Each saves what its own tests ran before its data file is named by what is in it: branches, contexts, subprocesses too."""
    suite = """
        import subprocess, sys
        import pytest
        from measured import code

        @pytest.fixture(scope="module")
        def module(): code.in_module_fixture(1)  # in whose context it would be torn down depends on who gets which test

        def test_it(module): code.in_test(3)
        def test_program(): subprocess.run([sys.executable, "-m", "measured.program"], check=True)
        @pytest.mark.parametrize("n", range(4))
        def test_many(n): code.in_call(n)
    """
    measure.write(suite, "branch = true\npatch = subprocess", program=PROGRAM)
    measure.pytester.makepyfile(test_other="from measured import code\ndef test_other(): code.in_second_test()")
    args = ("--tx", "2*popen") if dist == "each" else ("-n2",) if dist != "no" else ()
    _, boxed = measure.same(*args, f"--dist={dist}", "--cov-context=test")
    boxed.result.assert_outcomes(passed=14 if dist == "each" else 7)
    assert boxed.functions() == {"in_module_fixture", "in_test", "in_call", "in_child", "in_second_test"}
    assert boxed.functions("measured/program.py") == {"in_subprocess"}


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


def test_nothing_is_left(measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the temporary directory nor beside the data file."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    suite = """
        import subprocess, sys
        def test_it(): subprocess.run([sys.executable, "-m", "measured.program"], check=True)
    """
    measure.write(suite, "patch = subprocess\nparallel = true", program=PROGRAM)
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(passed=1)
    assert boxed.files == [".coverage"]
    assert not [path for path in temporary.iterdir() if path.name.startswith("sandbox-coverage")]
