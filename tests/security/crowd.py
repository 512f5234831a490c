"""Many sandboxes at once, below one scope, made ready one by one and let go together: a program, so that a witness sees its end.

    python crowd.py CASES RESULT

CASES: JSON, a list of [name, limits as the marker takes them, source]. RESULT gets "ready", how many sandboxes there were when
the first was let go, and "found": {name: [ending, said]}, where said is the outcome's sentence and what became of the source:
its error, or "passed".
"""

from __future__ import annotations

import errno
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from typing import Any

import inner  # type: ignore[import-not-found]  # lies beside this program, not in the tests' path

from pytest_sandbox import Limits, Outcome, Spec
from pytest_sandbox.model.units import parse_size
from pytest_sandbox.sandbox.inside import bodies
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.inside.main import fork_into
from pytest_sandbox.sandbox.machine import host, probes
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor

NAMES = {"inner": inner, "errno": errno, "os": os, "signal": signal, "subprocess": subprocess, "time": time}
#: How long all of them may take, in seconds.
PATIENCE = 600.0


class Heard:
    """What became of one of them."""

    def __init__(self) -> None:
        self.said = ""
        self.outcome: Outcome | None = None

    def on_frame(self, running: Running, frame: dict[str, Any]) -> None:
        """The last that it said of itself."""
        del running
        if frame["op"] in ("value", "raised"):
            self.said = frame.get("traceback") or "passed"

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """It is over."""
        del running
        self.outcome = outcome


def misbehave(source: str) -> None:
    """Run the source, inside."""
    inner.assert_inside("/tmp", "/dev/shm")
    exec(source, dict(NAMES))  # the cases are the suite's own


def scope(inside: Inside) -> int:
    """Fork whatever is ordered, until it is killed."""
    while True:
        frame, descriptors = inside.channel.receive()
        if frame["op"] == "spawn":
            fork_into(inside, frame, descriptors, bodies.function(misbehave, (frame["source"],), {}))


def spec_of(arguments: dict[str, Any]) -> Spec:
    """Of the marker's arguments; what is a text there is a size."""
    limits: dict[str, Any] = {name: parse_size(value) if isinstance(value, str) else value for name, value in arguments.items()}
    return Spec(limits=Limits(**limits), asked=frozenset(limits))


def main(cases: str, result: str) -> None:
    """Make them all ready, let them go, wait, and see that one more is as every sandbox is."""
    with open(cases, encoding="utf-8") as file:
        asked = [*json.load(file)]
    # A run has no more sandboxes at once than it has descriptors for; here they are a hundred, whatever that takes.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    heard: dict[str, Heard] = {}
    with Supervisor(name, host.make_layout(probes.find_identity(), name)) as supervisor:
        top = supervisor.start_root(Spec(), scope, Heard())
        running = []
        for case, arguments, source in asked:
            heard[case] = Heard()
            running.append(supervisor.start(top, spec_of(arguments), heard[case], held=True, source=source))
        supervisor.run_while(lambda: not all(one.entering.entered or one.ended for one in running))
        ready = sum(one.entering.entered and not one.ended for one in running)
        for one in running:
            supervisor.release(one)
        until = time.monotonic() + PATIENCE
        while any(one.outcome is None for one in heard.values()) and time.monotonic() < until:
            supervisor.step(1.0)
        heard["next"] = Heard()
        supervisor.start(top, Spec(), heard["next"], source="pass")
        supervisor.run_while(lambda: heard["next"].outcome is None)
    found = {
        case: [one.outcome.ending.value, f"{one.outcome.sentence}\n{one.said}"] if one.outcome else ["not over", one.said]
        for case, one in heard.items()
    }
    with open(result, "w", encoding="utf-8") as file:
        json.dump({"ready": ready, "found": found}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
