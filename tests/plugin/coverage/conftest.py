"""How the tests of coverage look at a run: what coverage.py has measured, plain and with `--sandbox`, in one suite for all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest

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
        import coverage  # not above: where it is not installed the tests skip themselves

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
