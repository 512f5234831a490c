"""Debugging and interrupting, at a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed: it plays the person at the terminal")


def spawn(pytester: pytest.Pytester, *args: str) -> Any:
    """Run pytest at a terminal of its own."""
    return pexpect.spawn(
        sys.executable,
        ["-m", "pytest", "--sandbox", *args],
        cwd=str(pytester.path),
        encoding="utf-8",
        timeout=120,
        dimensions=(40, 120),
    )


def test_pdb(pytester: pytest.Pytester) -> None:
    """--pdb: the debugger is in the failed test's process, and its clock stands still meanwhile."""
    pytester.makepyfile("def test_1():\n    value = 41\n    assert value == 42\ndef test_2(): pass\n")
    child = spawn(pytester, "--pdb", "--sandbox-timeout=8s")  # a guest is slow, and so is a busy machine
    child.expect(r"\(Pdb\) ")
    time.sleep(9)
    child.sendline("p value + 100")
    child.expect("141")
    child.expect(r"\(Pdb\) ")
    child.sendline("c")
    child.expect("1 failed, 1 passed")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--capture=sys",), "with --capture=sys, and the terminal kept for a debugger, tests"),
        (("-p", "no:capture"), "with -p no:capture, and the terminal kept for a debugger, tests"),
        (("-p", "no:capture", "--sandbox-jobs=2"), ""),
        (("--pdb",), ""),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_output_to_a_terminal(pytester: pytest.Pytester, options: tuple[str, ...], told: str) -> None:
    """That nobody counts it is said where tests have the terminal, and only there."""
    pytester.makepyfile("def test_1(): pass\n")
    child = spawn(pytester, *options)
    child.expect("1 passed")
    assert ("NOT ENFORCED: output" in child.before) == bool(told), child.before
    assert told in child.before.replace("\r\n", "")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("leave", ["c", "q"])
def test_pdb_shows_what_has_failed(pytester: pytest.Pytester, leave: str) -> None:
    """What the test has printed and its traceback stand above the debugger's prompt, and not once more at the end."""
    pytester.makepyfile("def test_1():\n    print('said before')\n    value = 41\n    assert value == 42\n")
    child = spawn(pytester, "--pdb")
    child.expect("captured stdout")
    child.expect("said before")
    child.expect("assert 41 == 42")
    child.sendline("p value + 100")
    child.expect("141")
    child.sendline(leave)
    child.expect("1 failed")
    assert "assert 41 == 42" not in child.before.replace("- assert 41 == 42", "")  # in the short summary alone
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("leave", ["c", "q"])
def test_pdb_where_a_wider_fixture_is_torn_down(pytester: pytest.Pytester, leave: str) -> None:
    """--pdb: the debugger is in the scope's process."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="module")
        def wide():
            yield
            number = 41
            assert number == 42
        def test_1(wide): pass
        """
    )
    child = spawn(pytester, "--pdb")
    child.expect("assert 41 == 42")
    child.expect(r"\(Pdb\) ")
    child.sendline("p number + 100")
    child.expect("141")
    child.expect(r"\(Pdb\) ")
    child.sendline(leave)
    if leave == "q":
        child.expect("Quitting debugger")
    child.expect("1 passed, 1 error")
    child.expect(pexpect.EOF)


def test_breakpoint_in_a_teardown(pytester: pytest.Pytester) -> None:
    """What was logged live between the test and that is seen before somebody answers."""
    pytester.makepyfile(
        """
        import logging, pytest
        @pytest.fixture
        def own():
            yield
            logging.warning("said before")
            number = 41
            breakpoint()
        def test_1(own): pass
        """
    )
    child = spawn(pytester, "-o", "log_cli=true")
    child.expect("said before")
    child.sendline("p number + 100")
    child.expect("141")
    child.sendline("c")
    child.expect("1 passed")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("where", ["test", "session"])
def test_breakpoint(pytester: pytest.Pytester, where: str) -> None:
    """breakpoint() in a test and in a session fixture, in a run by hand that captures; afterwards the time begins anew."""
    pytester.makepyfile(
        f"""
        import pytest, time
        @pytest.fixture(scope="session")
        def value():
            number = 41
            if {where!r} == "session": breakpoint()
            time.sleep(0.5)
            return number
        def test_1(value):
            number = value
            if {where!r} == "test": breakpoint()
            time.sleep(0.5)
            assert number == 41
        """
    )
    child = spawn(pytester, "--sandbox-timeout=8s")  # a guest is slow, and so is a busy machine
    child.expect(r"\(Pdb\) ")
    time.sleep(8.3)
    child.sendline("p number * 2")
    child.expect("82")
    child.expect(r"\(Pdb\) ")
    child.sendline("c")
    child.expect("1 passed")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("options", [(), ("--capture=sys",), ("-s",)], ids=" ".join)
@pytest.mark.parametrize(("commands", "outcome"), [("p number * 2\nc\n", "passed"), ("", "failed")], ids=["commands", "nothing"])
def test_breakpoint_with_a_pipe(pytester: pytest.Pytester, options: tuple[str, ...], commands: str, outcome: str) -> None:
    """A debugger takes its commands from a pipe as in plain pytest; at the end of the pipe the test fails, there as here."""
    pytester.makepyfile("def test_1():\n    number = 41\n    breakpoint()\n    assert number == 41\ndef test_2(): pass\n")
    for sandbox in ((), ("--sandbox",)):
        command = [sys.executable, "-m", "pytest", *options, *sandbox]
        done = subprocess.run(command, cwd=pytester.path, input=commands, capture_output=True, text=True, timeout=99, check=False)
        assert f"1 {outcome}, 1 passed" in done.stdout or (outcome == "passed" and "2 passed" in done.stdout), done.stdout
        assert ("(Pdb) 82" in done.stdout) == bool(commands)
        assert ("BdbQuit" in done.stdout) == (not commands)


def test_trace(pytester: pytest.Pytester) -> None:
    """--trace stops at the start of each test."""
    pytester.makepyfile("def test_1():\n    value = 41\n")
    child = spawn(pytester, "--trace")
    child.expect(r"\(Pdb\) ")
    child.sendline("c")
    child.expect("1 passed")
    child.expect(pexpect.EOF)


def test_input(pytester: pytest.Pytester) -> None:
    """With -s a test reads from the terminal."""
    pytester.makepyfile("def test_1():\n    assert input('name? ') == 'me'\n")
    child = spawn(pytester, "-s")
    child.expect("name\\? ")
    child.sendline("me")
    child.expect("1 passed")
    child.expect(pexpect.EOF)


def test_quit_the_debugger(pytester: pytest.Pytester) -> None:
    """q in the debugger ends the run, as in plain pytest."""
    pytester.makepyfile("def test_1():\n    breakpoint()\ndef test_2(): pass\n")
    child = spawn(pytester)
    child.expect(r"\(Pdb\) ")
    child.sendline("q")
    child.expect("_pytest.outcomes.Exit: Quitting debugger")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 2


# Where it "runs", it is at one line from then on; and a signal that comes just before a sleep does not end that (signal(7)).
LONG = """
import os, pathlib, pytest, time
def log(): return os.open(pathlib.Path(__file__).parent / "log.txt", os.O_WRONLY | os.O_APPEND)
@pytest.fixture(scope="session")
def outer(): os.write(log(), b"up "); yield; os.write(log(), b"down")
def test_0(outer): pass
def test_1(outer): os.write(log(), b"runs "); [time.sleep(0.01) for _ in range(10000)]
def test_2(outer): pass
"""
#: A conftest with which whoever heeds an interrupt has more time for that than the usual three seconds.
UNHURRIED = "import pytest_sandbox.plugin.controller.walk as walk; walk.INTERRUPT_TIME = 60.0"


def _wait_for(path: Path, text: str) -> None:
    limit = time.monotonic() + 120
    while text not in path.read_text():
        assert time.monotonic() < limit
        time.sleep(0.001)


@pytest.mark.parametrize("how", ["terminal", "signal"])
def test_interrupt(pytester: pytest.Pytester, how: str) -> None:
    """Ctrl-C ends the run with status 2: the test is killed, scopes are torn down, nothing is left."""
    pytester.makeconftest(UNHURRIED)
    pytester.makepyfile(LONG)
    log = pytester.path / "log.txt"
    log.touch()
    if how == "terminal":
        child = spawn(pytester, "--sandbox-writable=log.txt")
        _wait_for(log, "runs")
        child.sendintr()
        child.expect("KeyboardInterrupt")
        child.expect("1 passed")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 2
    else:
        command = [sys.executable, "-m", "pytest", "--sandbox", "--sandbox-writable=log.txt"]
        process = subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, text=True)
        _wait_for(log, "runs")
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2
        assert "test_interrupt.py:6: KeyboardInterrupt" in output
        assert "1 passed" in output
    assert log.read_text().split() == ["up", "runs", "down"]


def test_an_interrupt_loses_no_report(pytester: pytest.Pytester) -> None:
    """One that comes while a report is made or told waits for the end of that, as for the sandbox that is still dying."""
    pytester.makeconftest(
        """
        import os, signal
        def pytest_runtest_logreport(report):
            if report.nodeid.endswith("test_1") and report.when == "setup":
                os.kill(os.getpid(), signal.SIGINT)
        """
    )
    pytester.makepyfile("def test_0(): pass\ndef test_1(): pass\ndef test_2(): import time; time.sleep(100)")
    run = pytester.runpytest_subprocess("--sandbox")
    assert run.ret == pytest.ExitCode.INTERRUPTED
    run.stdout.fnmatch_lines(["*KeyboardInterrupt*", "*2 passed*"])


@pytest.mark.parametrize("deaf", [False, True], ids=["heeded", "ignored"])
def test_what_an_interrupted_test_tears_down(pytester: pytest.Pytester, *, deaf: bool) -> None:
    """All that is its own, as in a plain run, which says where it was; who ignores it is killed. Scopes tear down after it.

    Where it "runs", it is at one line from then on, as in LONG.
    """
    pytester.makeconftest("" if deaf else UNHURRIED)
    pytester.makepyfile(
        f"""
        import os, pytest, signal, time
        def log(text):
            with open("log.txt", "a") as file: file.write(text + "\\n")
        @pytest.fixture(scope="session")
        def session():
            yield
            log("session")
        @pytest.fixture
        def own(session):
            yield
            log("own")
        def test_1(own):
            if {deaf}: signal.signal(signal.SIGINT, signal.SIG_IGN)
            file = os.open("log.txt", os.O_WRONLY | os.O_APPEND)
            try: os.write(file, b"runs\\n"); [time.sleep(0.01) for _ in range(60000)]  # here
            finally: log("finally")
        def test_2(): log("never")
        """
    )
    log = pytester.path / "log.txt"
    log.touch()
    command = [sys.executable, "-m", "pytest", "--sandbox", "--sandbox-writable=log.txt"]
    process = subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, text=True)
    _wait_for(log, "runs")
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert log.read_text().split() == (["runs", "session"] if deaf else ["runs", "finally", "own", "session"])
    source = next(pytester.path.glob("test_*.py"))
    line = next(number for number, text in enumerate(source.read_text().splitlines(), 1) if "# here" in text)
    assert (f"{source}:{line}: KeyboardInterrupt" in output) is not deaf


@pytest.mark.needs("cpu_time")
def test_cpu_time_in_a_debugger(pytester: pytest.Pytester) -> None:
    """Time does not run there, but who computes in it meets the limit of CPU time, and is killed."""
    pytester.makepyfile("def test_1():\n    breakpoint()\ndef test_2(): pass\n")
    child = spawn(pytester, "--sandbox-cpu-time=1s", "--sandbox-timeout=10s")
    child.expect(r"\(Pdb\) ")
    child.sendline("while True: pass")
    child.expect("cpu time: ")
    child.expect("1 failed, 1 passed")
    child.expect(pexpect.EOF)
