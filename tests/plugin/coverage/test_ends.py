"""Tests that are killed, and runs that stop, under coverage: nothing is lost but what the killed one ran itself."""

from __future__ import annotations

import textwrap

import pytest

from tests.plugin.coverage.conftest import Measure

pytest.importorskip("coverage")
pytest.importorskip("pytest_cov")

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
