"""The sandbox that reads data files of coverage's: what it says is not trusted, once it has read one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

import pytest

from pytest_sandbox import Limits, Spec
from pytest_sandbox.plugin.others.coverage.measured import Reader
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.machine import host, probes
from pytest_sandbox.sandbox.outside.supervisor import Supervisor


def hear(said: Sequence[str], count: int) -> tuple[Reader, str]:
    """Have a sandbox that has so many files say this; and what became of it."""

    def body(inside: Inside) -> int:
        for word in said:
            inside.channel.send({"op": word})
        return 0

    reader = Reader(lambda _: 0, count)
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    with Supervisor(name, host.make_layout(probes.find_identity(), name)) as supervisor:
        running = supervisor.start_root(Spec(limits=Limits()), body, reader, scope=False)
        supervisor.run_while(lambda: not running.ended)
    return reader, str(running.problem or "")


def test_what_it_says() -> None:
    """How far it has come; one that dies at once has begun one, which nobody reads again."""
    reader, problem = hear(["begun", "read", "begun"], 3)
    assert (reader.begun, reader.done, problem) == (2, 1, "")
    reader, problem = hear([], 3)
    assert (reader.begun, reader.done, problem) == (1, 0, "")


@pytest.mark.parametrize(
    ("said", "why"),
    [(["begun", "read"] * 3, "more files than the 2"), (["begun", "read", "read"], "a file that it has not begun")],
)
def test_what_it_must_not_say(said: Sequence[str], why: str) -> None:
    """For each file it is given more time: it ends that begins more than it has."""
    reader, problem = hear(said, 2)
    assert why in problem
    assert reader.begun <= 2
    assert reader.done <= reader.begun
