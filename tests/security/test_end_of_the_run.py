"""pytest is killed or interrupted at every step of a sandbox's life: nothing is left after a second."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import pytest

SUITE = """
def at(moment):
    process = subprocess.Popen(inner.sleeper(FACTS["token"] + "-" + moment), start_new_session=True)
    try:
        time.sleep(FACTS["stay"] if moment == FACTS["moment"] else 0)
    finally:
        if moment != FACTS["moment"]:
            process.kill()
            process.wait()
@pytest.fixture(scope="session")
def session_thing():
    at("session-setup")
    yield
    at("session-teardown")
@pytest.fixture(scope="module")
def module_thing(session_thing):
    at("module-setup")
    yield
    at("module-teardown")
@pytest.fixture
def thing(module_thing):
    at("test-setup")
    yield
    at("test-teardown")
def test_one(thing):
    at("test-call")
def test_two(thing):
    inner.daemon(inner.sleeper(FACTS["token"] + "-daemon"))
"""
MOMENTS = (
    "session-setup", "module-setup", "test-setup", "test-call", "test-teardown", "module-teardown", "session-teardown",
)  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_nothing_is_left_whenever_pytest_is_killed(attack: Any, number: signal.Signals, moment: str) -> None:
    """kill -9, SIGTERM and Ctrl-C in every fixture's set-up and teardown and in the test: nothing is left."""
    attack.facts |= {"moment": moment, "stay": 6 if number == signal.SIGINT else 600}
    attack.write(SUITE)
    process = attack.start()
    pid = attack.pid
    attack.wait_until(lambda: attack.is_at(moment))
    if number == signal.SIGINT:
        os.killpg(pid, number)  # as the terminal does: to the whole foreground group
    else:
        os.kill(pid, number)
    result = attack.finish(process, 30)
    assert result.status == (2 if number == signal.SIGINT else -number), result.output


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_nothing_is_left_at_any_time(attack: Any, number: signal.Signals) -> None:
    """The same at moments that nothing marks: while namespaces, mounts and cgroups are being made and removed."""
    attack.write("def test(): pass\n" + "".join(f"def test_{index}(): pass\n" for index in range(30)))
    start = time.monotonic()
    attack.run()
    whole = time.monotonic() - start
    steps = 12
    for step in range(steps):
        process = attack.start()
        pid = attack.pid
        time.sleep(whole * step / steps)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if number == signal.SIGINT else os.kill)(pid, number)
        attack.finish(process, 30)


def test_two_interrupts_do_not_leave_more_than_one(attack: Any) -> None:
    """Who loses patience while fixtures are torn down, and presses Ctrl-C again, leaves nothing behind either."""
    attack.facts |= {"moment": "test-call", "stay": 600}
    attack.write(SUITE.replace('at("session-teardown")', 'inner.sleeper("x"); at("last"); time.sleep(8)'))
    process = attack.start()
    pid = attack.pid
    attack.wait_until(lambda: attack.is_at("test-call"))
    os.killpg(pid, signal.SIGINT)
    time.sleep(1)
    os.killpg(pid, signal.SIGINT)
    attack.finish(process, 30)
