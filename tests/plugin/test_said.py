"""What a sandbox says is parsed when it is heard: what makes no sense is its sender's failure, and never the run's."""

from __future__ import annotations

import pytest

#: Sends a frame that the plugin did not make.
SENDS = """
import pytest
from pytest_sandbox.plugin.builtin.settling import INSIDE
def send(request):
    request.config.stash[INSIDE].channel.send({frame!r})
@pytest.fixture(scope="module")
def wide(request):
    if {wide}: send(request)
def test_lies(wide, request): send(request)
"""
LIES = {
    "an interrupt from no line": {"op": "interrupt", "path": "test_lies.py", "line": "x"},
    "a set-up that took no time": {"op": "prepared", "duration": "x"},
    "a unit that is none": {"op": "for", "unit": 10**30, "item": 0},
    "needs that are none": {"op": "left", "needs": 1, "failed": []},
    "output without a size": {"op": "overran", "output": "x"},
    "an error without a number": {"op": "errno", "errno": "x"},
    "a timer without an end": {"op": "timer", "seconds": -1.0, "grace": 0.0},
}


@pytest.mark.parametrize("wide", [False, True], ids=["test", "scope"])
@pytest.mark.parametrize("lie", LIES)
def test_lies(pytester: pytest.Pytester, lie: str, wide: bool) -> None:
    """It fails who says it; the next one runs."""
    pytester.makepyfile(test_lies=SENDS.format(frame=LIES[lie], wide=wide), test_next="def test_next(): pass")
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 1
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) >= 1


def test_a_test_that_speaks_as_a_scope(pytester: pytest.Pytester) -> None:
    """It has set up nothing for anybody."""
    frame = {"op": "prepared", "duration": 1.0}
    pytester.makepyfile(test_lies=SENDS.format(frame=frame, wide=False), test_next="def test_next(): pass")
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*speaks as a scope's does*"])


@pytest.mark.parametrize("odd", ["x", "\ud800", [1]])
def test_words_of_an_end(pytester: pytest.Pytester, odd: object) -> None:
    """An end of the run that is asked for in words which no terminal can show is one all the same."""
    for frame in ({"op": "exit", "reason": odd}, {"op": "internal", "traceback": odd}, {"op": "stop", "shouldstop": odd}):
        pytester.makepyfile(test_lies=SENDS.format(frame=frame, wide=False))
        result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider")
        assert result.ret in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
        assert "Unicode" not in result.stderr.str() + result.stdout.str()
