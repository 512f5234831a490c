"""What other processes run, each with a data file of its own: subprocesses, forks, workers; and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.coverage.conftest import Measure

coverage = pytest.importorskip("coverage")
pytest.importorskip("pytest_cov")

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
@pytest.mark.parametrize(("action", "warnings"), [("ignore", 0), ("error", 1)])
def test_filters_of_what_is_missing(measure: Measure, action: str, warnings: int) -> None:
    """Hold for the warning; where they make it an error it is still one, since all tests are reported by then."""
    suite = """
        def test_garbage():
            with open(".coverage.garbage", "wb") as file: file.write(b"SQLite format 3\\0" + bytes(5000))
    """
    measure.write(suite, "patch = subprocess")
    boxed = measure.pytest_cov("-W", f"{action}::pytest_sandbox.CoverageWarning", sandbox=True)
    boxed.result.assert_outcomes(passed=1, warnings=warnings)
    assert boxed.status == 0
    assert ("CoverageWarning: 1 data file(s)" in boxed.result.stdout.str()) == bool(warnings)


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
