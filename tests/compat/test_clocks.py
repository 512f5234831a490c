"""freezegun and time-machine: a clock that a test, a fixture or the whole run has stopped is nobody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED: list[str] = []
NEEDED = ["freezegun", "time_machine"]
#: How to stop it, and to let it go on.
STOPS = {
    "freezegun": 'import freezegun; clock = freezegun.freeze_time("2020-01-01")',
    "time-machine": 'import time_machine; clock = time_machine.travel("2020-01-01", tick=False)',
}
STOPPED = "def stopped(): clock.start(); yield; clock.stop()"
TESTS = """
import datetime, time
def test_1(): time.sleep(0.01); assert datetime.date.today().year == 2020
def test_2(): assert datetime.date.today().year == 2020
"""
OTHER = "import datetime\ndef test_1(): assert datetime.date.today().year > 2020"


@pytest.mark.parametrize("scope", ["function", "class", "module"])
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_of_a_fixture(compat: Compat, stop: str, scope: str) -> None:
    """Its own: outcomes are the same, also where a phase has taken less than no time by it; who comes later has the world's."""
    source = f'{stop}\nimport pytest\n@pytest.fixture(scope="{scope}", autouse=True)\n{STOPPED}\n{TESTS}'
    compat.pytester.makepyfile(test_a=source, test_b=OTHER)
    compat.both("--durations=0", "-vv", "--junitxml=out.xml")[1].result.assert_outcomes(passed=3)


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_of_the_run(compat: Compat, stop: str) -> None:
    """A conftest stops it for pytest's own process, which kills who takes too long all the same."""
    compat.pytester.makeconftest(f"{stop}\ndef pytest_configure(): clock.start()\ndef pytest_unconfigure(): clock.stop()")
    compat.pytester.makepyfile(TESTS)
    compat.both()
    compat.pytester.makepyfile("import time\ndef test_1():\n    while True: time.sleep(0.1)\ndef test_2(): pass")
    run = compat.one("--sandbox-timeout=1s")
    run.result.assert_outcomes(passed=1, failed=1)
    assert run.line("timed out: killed after 1.")
