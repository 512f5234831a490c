"""Output by `pytest --sandbox`: what counts for its limit, what is shown of it, and that none is lost when a test is killed."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from tests.sandbox.conftest import case

pytestmark = pytest.mark.usefixtures("plain_environment")

#: A conftest with which the sizes of a sandbox's files are looked at by no one while a short test runs.
UNSEEN = "import pytest_sandbox.sandbox.outside.clock as clock; clock.FIRST_LOOK = clock.LOOK = 600.0"


OUTPUTS = """
import os, pytest, sys
pytestmark = pytest.mark.sandbox(output="100k")
@pytest.fixture(scope="session")
def wide(): print("w" * 60000)
@pytest.fixture
def early(): print("s" * 60000)
@pytest.fixture
def late(): yield; print("s" * 60000)
def test_within(): print("x" * 60000); print("x" * 40000, file=sys.stderr)
def test_after_a_wider_fixture(wide): print("x" * 60000)
def test_bytes_that_are_no_text(): os.write(1, b"\\xff" * 90000)
def test_over(): print("x" * 60000); print("x" * 60000, file=sys.stderr)
def test_over_by_bytes(): print("\xe4" * 60000)
def test_over_with_set_up(early): print("x" * 60000)
def test_over_with_teardown(late): print("x" * 60000)
def test_over_and_failing(): print("x" * 120000); assert 0
def test_next(): pass
"""


@pytest.mark.parametrize("options", [(), ("--capture=sys",), ("--sandbox-scope=module",)], ids=["fd", "sys", "shared"])
def test_output_is_judged_at_the_end_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """What a test wrote more than the limit fails it though nobody saw it while it stood in its files; no other test fails."""
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makeconftest(UNSEEN)
    pytester.makepyfile(OUTPUTS)
    result = pytester.runpytest_subprocess("--sandbox", "-rA", "--show-capture=no", *options)
    failed = re.findall(r"^FAILED .*::test_(\w+)", result.stdout.str(), re.MULTILINE)
    assert failed == ["over", "over_by_bytes", "over_with_set_up", "over_with_teardown", "over_and_failing"]
    assert len(re.findall("^too much output: ended at 117k, limit 100k", result.stdout.str(), re.MULTILINE)) >= 4
    result.stdout.fnmatch_lines(["FAILED *::test_over_and_failing - too much output: assert 0"])
    result.assert_outcomes(passed=4, failed=5)


@pytest.mark.parametrize("when", ["set-up", "teardown"])
def test_output_of_a_wider_fixture_is_judged_at_the_end_too(pytester: pytest.Pytester, when: str) -> None:
    """It fails the tests that need it, or is an error of the last of them; what another one writes has nothing to do with it."""
    pytester.makeconftest(UNSEEN)
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope="session")
        def other(): print("x" * 60000); yield; print("x" * 60000)
        @pytest.fixture(scope="module")
        def loud(other):
            if {when == "set-up"}: print("x" * 120000)
            yield
            if {when == "teardown"}: print("x" * 120000)
        def test_1(loud): pass
        def test_2(loud): pass
        def test_3(other): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-output=100k", "--show-capture=no")
    result.assert_outcomes(**({"errors": 2, "passed": 1} if when == "set-up" else {"passed": 3, "errors": 1}))
    result.stdout.fnmatch_lines([f"*too much output: ended at 117k, limit 100k*{'loud*' if when == 'set-up' else ''}"])


@pytest.mark.parametrize("capture", ["sys", "tee-sys"])
def test_output_is_counted_while_python_captures_it(pytester: pytest.Pytester, capture: str) -> None:
    """What a test prints ends it at the limit also where pytest would have it in memory."""
    body = "print('x' * 120000); time.sleep(100)"
    pytester.makepyfile(f"import time\ndef test_it():\n    {body}\ndef test_after(): print('x' * 80000)")
    options = ("--sandbox-output=100k", "--sandbox-degrade", "--sandbox-timeout=60")
    result = pytester.runpytest_subprocess("--sandbox", f"--capture={capture}", *options)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["too much output: ended at 117k, limit 100k"])


def test_of_too_much_output_both_ends_are_shown(pytester: pytest.Pytester) -> None:
    """What stands between is left out, with its size: the sentence would be lost above it."""
    pytester.makepyfile("def test_it():\n    print('first')\n    while True: print('x' * 99)")
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-output=1M")
    told = ["too much output: ended at *, limit 1M", "*Captured stdout call*", "first", "... * bytes are left out here ..."]
    result.stdout.fnmatch_lines(told)
    assert len(result.stdout.str()) < 80_000


@pytest.mark.parametrize("option", ["-s", "--capture=tee-sys"])
def test_output_that_nobody_counts(pytester: pytest.Pytester, option: str) -> None:
    """Where tests write straight to pytest's own output no limit is claimed, and one that was asked for is refused."""
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox\ndef test_it(): print('it ran')")
    why = f"with {option}, tests write straight to pytest's own output, where nobody counts it"
    run = pytester.runpytest_subprocess("--sandbox", option)
    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines([f"sandbox: NOT ENFORCED: output: {why}"])
    run.stdout.no_fnmatch_line("*output 64M*")
    for asked in ("--sandbox-output=1M", "--sandbox-require=output"):
        refused = pytester.runpytest_subprocess("--sandbox", option, asked)
        assert refused.ret == pytest.ExitCode.USAGE_ERROR
        refused.stderr.fnmatch_lines([f"*output is not available here: {why}. Fix: capture by descriptors (--capture=fd), *"])
    run = pytester.runpytest_subprocess("--sandbox", option, "--sandbox-output=none")
    run.stdout.no_fnmatch_line("*NOT ENFORCED:*output*")
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox(output='1M')\ndef test_it(): print('it ran')")
    refused = pytester.runpytest_subprocess("--sandbox", option)
    refused.stderr.fnmatch_lines([f"*::test_it: the limit output is not available here: {why}. Fix: *"])
    refused.stdout.no_fnmatch_line("*it ran*")
    run = pytester.runpytest_subprocess("--sandbox", option, "--sandbox-degrade")
    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines([f"sandbox: NOT ENFORCED: output (asked for, but --sandbox-degrade): {why}"])


@pytest.mark.parametrize("options", [(), ("--capture=sys",)], ids=["fd", "sys"])
def test_output_before_the_end(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    """What Python and a subprocess wrote before SIGKILL is in the report, or was seen."""
    body = "print('mine', flush=True); subprocess.run(['echo', 'its']); os.kill(os.getpid(), 9)"
    output = case(pytester, f"def test_it():\n    {body}", *options)
    assert "mine" in output
    assert "its" in output


SAYING = """
import logging, os, pytest, sys
def say(phase):
    print("out of", phase)
    print("err of", phase, file=sys.stderr)
    logging.warning("log of %s", phase)
    if phase == "{phase}": {end}
@pytest.fixture
def made():
    say("setup")
    yield
    if "{phase}" == "teardown": say("teardown")
def test_it(made): say("call")
"""


def captured(pytester: pytest.Pytester, phase: str, end: str, *options: str) -> tuple[list[tuple[str, str]], list[str]]:
    """What a test of which a phase ends so has written, by the terminal's sections, and the lines of it that JUnit's file has."""
    pytester.makepyfile(SAYING.format(phase=phase, end=end))
    result = pytester.runpytest_subprocess(*options, "--junitxml=out.xml", "-ojunit_logging=all")
    test = ET.parse(pytester.path / "out.xml").find(".//testcase")
    assert test is not None
    lines = "\n".join(element.text or "" for element in test if element.tag.startswith("system")).split("\n")
    sections = re.findall(r"^-+ Captured (.+?) -+\n((?:.* of .*\n)+)", result.stdout.str(), re.MULTILINE)
    return sections, [line for line in lines if " of " in line]


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_output_of_all_phases_before_the_end(pytester: pytest.Pytester, phase: str) -> None:
    """As in plain pytest of a test that raises; only what was logged in the phase of the end is in the memory that is gone."""
    raised, lines = captured(pytester, phase, "raise ValueError")
    killed = captured(pytester, phase, "os.kill(os.getpid(), 9)", "--sandbox")
    assert f"log {phase}" in dict(raised)
    assert killed == ([one for one in raised if one[0] != f"log {phase}"], [one for one in lines if f"log of {phase}" not in one])
