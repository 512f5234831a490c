"""Processes that the kernel kills for memory, and that nobody asks about: who is told of it, and never nobody."""

from __future__ import annotations

import subprocess
import sys
import time
from xml.etree import ElementTree as ET

import pytest

pytestmark = [pytest.mark.needs("memory", "swap")]

HEAD = """
import os, pytest, subprocess, sys, time
def hoard(): return subprocess.run([sys.executable, "-c", "[b'x' * (1 << 20) for _ in range(256)]"])
"""


def run(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    """Run a module, of which no outcome says anything but its reports."""
    pytester.makepyfile(f"{HEAD}\n{source}")
    return pytester.runpytest_subprocess("--sandbox", "-rA", *options, timeout=100)


@pytest.mark.parametrize("last", ["pass", "assert 0, 'own'"])
def test_what_the_test_has_said(pytester: pytest.Pytester, last: str) -> None:
    """Stays, whether it has passed or failed: output, log and duration, beside the sandbox's figures; in JUnit's file, too."""
    result = run(
        pytester,
        f"""
import logging
@pytest.mark.sandbox(memory="64M")
def test_it():
    print("printed")
    logging.warning("logged")
    time.sleep(0.5)
    subprocess.Popen(["sleep", "60"])
    hoard()
    {last}
""",
        "--durations=1", "--durations-min=0.5", "--junitxml=out.xml", "-ojunit_logging=all",
    )  # fmt: skip
    result.assert_outcomes(failed=1)
    lines = ["*- Captured stdout call -*", "printed", "*- Captured log call -*", "*logged"]
    figures = ["*- Sandbox -*", *(["out of memory: *"] if last != "pass" else []), "wall *, memory peak *"]
    figures.append("left running, killed now: sleep 60 (pid * inside)")  # the kernel's log has the machine's pid
    result.stdout.fnmatch_lines(figures + lines if last == "pass" else lines + figures)
    result.stdout.fnmatch_lines(["*s call *::test_it"])
    test = ET.parse(pytester.path / "out.xml").find(".//testcase")
    assert test is not None
    assert float(test.get("time", 0)) >= 0.5
    said = "".join(test.itertext())
    assert "printed" in said
    assert "logged" in said


@pytest.mark.parametrize("last", ["pass", "assert 0"])
def test_of_a_shared_sandbox(pytester: pytest.Pytester, last: str) -> None:
    """The test in which it happened fails, whatever becomes of those after it."""
    result = run(
        pytester,
        f"""
pytestmark = pytest.mark.sandbox(scope="module", memory="64M")
def test_first(): pass
def test_it(): hoard()
def test_failing():
    hoard()
    assert 0, "own"
def test_next(): pass
@pytest.mark.xfail
def test_last(): {last}
""",
    )
    result.assert_outcomes(passed=2, failed=2, **({"xpassed": 1} if last == "pass" else {"xfailed": 1}))
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_it*",
            "out of memory: *",
            "(of 2 tests that shared a sandbox)",
            "(of 3 tests that shared a sandbox)",
            "FAILED *::test_failing - out of memory: Assert*",
            "PASSED *::test_next",
            "PASSED *::test_first",
        ]
    )
    assert result.stdout.str().count("out of memory: the kernel killed") == 2


def test_of_the_next_in_a_shared_sandbox(pytester: pytest.Pytester) -> None:
    """A controller that is slow to hear of a test's end does not take for its doing what the next one does."""
    pytester.makeconftest(
        """
        import os, time
        HERE = os.getpid()
        def pytest_runtest_logfinish(nodeid):
            if os.getpid() == HERE and nodeid.endswith("test_first"): time.sleep(1.5)
        """
    )
    result = run(
        pytester,
        """
pytestmark = pytest.mark.sandbox(scope="module", memory="64M")
def test_first(): pass
def test_innocent(): pass
def test_it(): hoard()
def test_last(): pass
""",
    )
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_it*"])


@pytest.mark.parametrize("scope", ["module", "session"])
def test_of_a_wider_fixture(pytester: pytest.Pytester, scope: str) -> None:
    """In its set-up: an error of whoever needs it, and of nobody else."""
    result = run(
        pytester,
        f"""
@pytest.fixture(scope={scope!r})
def other(): return 7
@pytest.fixture(scope={scope!r})
def bad(other): hoard()
@pytest.fixture(scope={scope!r})
def later(): return 8
def test_before(other): pass
def test_1(bad, later): pass
def test_2(bad): pass
def test_after(other, later): pass
""",
        "--sandbox-memory=96M",
    )
    result.assert_outcomes(passed=2, errors=2)
    killed, whose = "out of memory: the kernel killed *, limit 96M*", "(limit memory: set by --sandbox-memory)"
    result.stdout.fnmatch_lines([f"{killed}: that ended the sandbox of * while it set up fixture 'bad' {whose}"])


@pytest.mark.parametrize("when", ["in its teardown", "while a test runs"])
def test_of_a_wider_fixture_later(pytester: pytest.Pytester, when: str) -> None:
    """An error of the last test of the scope, with what its teardown printed."""
    at_once = when == "in its teardown"
    result = run(
        pytester,
        f"""
SLOWLY = "import time; time.sleep(0.5); [b'x' * (1 << 20) for _ in range(256)]"
@pytest.fixture(scope="module")
def bad():
    process = None if {at_once} else subprocess.Popen([sys.executable, "-c", SLOWLY])
    yield
    print("torn down")
    if process is None: hoard()
    else: process.wait()
def test_1(bad): pass
def test_2(bad): time.sleep(0 if {at_once} else 1)
""",
        "--sandbox-memory=96M",
    )
    result.assert_outcomes(passed=2, errors=1)
    killed = "out of memory: the kernel killed *: in the sandbox of * (limit memory: set by *)"
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_2*", killed, "torn down"])


@pytest.mark.parametrize("mark", ["pytest.mark.xfail(strict=True)", "pytest.mark.xfail"])
def test_of_a_test_that_is_expected_to_fail(pytester: pytest.Pytester, mark: str) -> None:
    """As any other failure is what was expected, also where the test itself has passed, and must not."""
    result = run(pytester, f"@{mark}\n@pytest.mark.sandbox(memory='48M')\ndef test_it(): hoard()")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL *[[]out of memory: *"])


@pytest.mark.parametrize("where", ["call", "setup"])
def test_of_a_test_that_is_skipped(pytester: pytest.Pytester, where: str) -> None:
    """It fails, once, and is not skipped as well."""
    source = "def skip():\n    hoard()\n    pytest.skip('own')\n@pytest.fixture\ndef skipping(): skip()\n"
    body = "def test_it(): skip()" if where == "call" else "def test_it(skipping): pass"
    result = run(pytester, source + body, "--sandbox-memory=64M")
    result.assert_outcomes(**({"failed": 1} if where == "call" else {"errors": 1}))
    result.stdout.fnmatch_lines(["out of memory: *"])


def test_of_a_case_that_is_expected_to_fail(pytester: pytest.Pytester) -> None:
    """unittest.expectedFailure is the same as such a mark."""
    source = """
import unittest
class Case(unittest.TestCase):
    @unittest.expectedFailure
    def test_it(self): hoard()
"""
    run(pytester, source, "--sandbox-memory=96M").assert_outcomes(xfailed=1)


@pytest.mark.parametrize("kind", ["subtests", "unittest"])
def test_after_a_subtest(pytester: pytest.Pytester, kind: str) -> None:
    """A subtest that has passed is no report of the test, which fails in its call and not in its teardown."""
    if kind == "subtests" and not hasattr(pytest, "Subtests"):
        pytest.skip("subtests came with pytest 9")
    if kind == "subtests":
        source = "def test_it(subtests):\n    with subtests.test('one'): pass\n    hoard(); os._exit(3)\n"
    else:
        source = "import unittest\nclass TestIt(unittest.TestCase):\n    def test_it(self):\n"
        source += "        with self.subTest('one'): pass\n        hoard(); os._exit(3)\n"
    result = run(pytester, source, "--sandbox-memory=64M")
    result.stdout.fnmatch_lines(["out of memory: *", "FAILED *test_it*"])
    result.stdout.no_fnmatch_line("*ERROR*")


@pytest.mark.needs("pids")
def test_other_limits_of_a_shared_sandbox(pytester: pytest.Pytester) -> None:
    """Of tests that failed, each has the limit that it has met, and no other test's."""
    result = run(
        pytester,
        """
pytestmark = pytest.mark.sandbox(scope="module", pids=12, disk="2M")
def start():
    started = []
    try:
        while True: started.append(subprocess.Popen(["sleep", "60"]))
    finally:
        for one in started: one.kill(); one.wait()
def test_of_pids(): start()
def test_own(): assert 0, "own"
def test_handled():
    with pytest.raises(OSError): start()
def test_own_again(): assert 0, "own again"
def test_of_disk(): open("/tmp/big", "wb").write(bytes(4 << 20))
def test_last(): os.unlink("/tmp/big")
""",
    )
    result.assert_outcomes(passed=2, failed=4)
    lines = [line for line in result.outlines if line.startswith("FAILED")]
    assert [("too many p" in line, "disk full: " in line) for line in lines] == [
        (True, False), (False, False), (False, False), (False, True),
    ]  # fmt: skip


def test_of_the_fixture_that_was_being_set_up(pytester: pytest.Pytester) -> None:
    """Though the controller, whose output nobody reads for a while, hears late what there is to hear of those before."""
    pytester.makepyfile(
        f"""{HEAD}
        import logging
        @pytest.fixture(scope="module")
        def talker():
            for _ in range(600): logging.warning("x" * 100)
        @pytest.fixture(scope="module")
        def eater(talker): hoard()
        def test_of_both(talker, eater): pass
        def test_of_talker(talker): pass
        """.replace("\n        ", "\n")
    )
    command = [sys.executable, "-m", "pytest", "--sandbox", "--sandbox-memory=100M", "-o", "log_cli=true"]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, text=True) as pytest_:
        time.sleep(3)
        assert pytest_.stdout is not None
        said = pytest_.stdout.read()
    assert "while it set up fixture 'eater'" in said
    assert "1 passed, 1 error" in said
