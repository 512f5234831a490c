"""faulthandler's watchdogs, of a whole run and of each test: none is lost or barks too often, and what hangs is seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.plugin.conftest import OPTIONS


def test_a_watchdog_of_the_whole_run(pytester: pytest.Pytester) -> None:
    """faulthandler's, in pytest's process: no test hangs that would cancel it, and pytest's own barks in a test."""
    pytester.makeconftest("import faulthandler\ndef pytest_configure(): faulthandler.dump_traceback_later(600)\n")
    pytester.makepyfile(
        """
        import faulthandler, time
        def test_fails(): assert 0
        def test_waits(capfd):
            faulthandler.dump_traceback_later(0.1)
            said = ""
            while "test_waits" not in said:  # or it has timed out
                time.sleep(0.05)
                said += capfd.readouterr().err
        def test_cancels(capfd):
            faulthandler.dump_traceback_later(3)
            faulthandler.cancel_dump_traceback_later()
            time.sleep(4)
            assert not capfd.readouterr().err
        """
    )
    result = pytester.runpytest_subprocess(*OPTIONS, "--sandbox-timeout=60s")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("*timed out*")


def until_it_is_seen_to_hang(pytester: pytest.Pytester) -> tuple[str, str]:
    """Run what waits in `hang` for a file "go", which is there when stderr says so; stdout, and what stderr has after that."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--sandbox-writable=."]
    with subprocess.Popen(command, cwd=pytester.path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = iter(process.stderr.readline, "")
        assert any("in hang" in line for line in said)
        (pytester.path / "go").touch()
        out, err = process.communicate(timeout=120)
    return out, err


def test_pytests_watchdog(pytester: pytest.Pytester) -> None:
    """faulthandler_timeout: where a test hangs is on stderr while it does, and of each that was slow, and of no other."""
    pytester.makeini("[pytest]\nfaulthandler_timeout = 5\n")
    pytester.makepyfile(
        """
        import os, time
        def hang():
            while not os.path.exists("go"): time.sleep(0.1)
        def test_hangs(): hang()
        def test_quick(): pass
        def test_slow(): time.sleep(7)
        def test_dies(): os.abort()
        """
    )
    out, err = until_it_is_seen_to_hang(pytester)
    assert "1 failed, 3 passed" in out
    assert err.count("Timeout (0:00:05)!") == err.count("in test_slow") == 1


@pytest.mark.parametrize("when", ["set-up", "teardown"])
def test_pytests_watchdog_of_a_wider_fixture(pytester: pytest.Pytester, when: str) -> None:
    """The same where a module's fixture hangs, in whose sandbox no test runs; no thread of it hinders the next fork."""
    pytester.makeini("[pytest]\nfaulthandler_timeout = 5\n")
    pytester.makepyfile(
        f"""
        import os, pytest, time
        def hang():
            while not os.path.exists("go"): time.sleep(0.1)
        @pytest.fixture(scope="module")
        def module():
            if {when == "set-up"}: hang()
            yield
            if {when == "teardown"}: hang()
        def test_one(module): pass
        def test_two(module): pass
        """
    )
    out, err = until_it_is_seen_to_hang(pytester)
    assert "2 passed" in out
    assert "Timeout" not in err
