"""The controller's answers to what a test asks by the fixtures `sandbox` and `sandbox_factory` (inside/fixtures.py).

A test's requests are not trusted: a sandbox that it orders gets at most the limits, and the paths, that it has itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pytest_sandbox.model import places
from pytest_sandbox.model.errors import SandboxError, SpecError, WireError
from pytest_sandbox.model.outcome import Made, Outcome
from pytest_sandbox.model.spec import LIMIT_NAMES, OF_TMPFS, Limits, Network, Spec
from pytest_sandbox.plugin.others.coverage.measured import Account, Measured
from pytest_sandbox.sandbox.inside import bodies
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from pytest_sandbox.sandbox.wire.frames import Frame

#: How many paths a further sandbox may hide besides the test's own.
_MOST_HIDDEN = 1000


class Requests:
    """Answers one test, and counts what it makes."""

    def __init__(self, supervisor: Supervisor, measured: Measured | None) -> None:
        self._supervisor, self._measured = supervisor, measured
        #: What the sandboxes that were made so far have used.
        self.made: Made | None = None
        self._last: tuple[int, Running] | None = None

    def on_frame(self, running: Running, frame: Frame) -> None:
        """Answer a test's question. Raises WireError for what is none."""
        op = frame["op"]
        if op == "usage?":
            usage = self._supervisor.usage(running)
            running.send({"op": "usage", "usage": dataclasses.asdict(usage) | {"missing": dict(usage.missing)}})
        elif op == "changes?":
            changes, _ = self._supervisor.changes(running)
            running.send({"op": "changes", "changes": [[one.path, one.kind.value, one.size] for one in changes]})
        elif op in ("make", "unmake") and running.order.scope and type(number := frame.get("number")) is int:
            if op == "make":
                self._make(running, frame, number)
            else:
                self._unmake(running, number)
        elif op != "done":
            raise WireError(f"a sandbox said {op!r}")

    def _make(self, running: Running, frame: Frame, number: int) -> None:
        try:
            if self._supervisor.has_below(running):
                # Their cgroups lie side by side: one at a time, or together they would have many times the test's limits.
                raise SpecError("a test has one further sandbox at a time; this one was asked for while another was there")
            spec = _at_most(running.order.spec, frame)
            self._supervisor.refuse(spec)
            maker = _Maker(running, number, self._supervisor, self._measured, self._note)
            self._last = number, self._supervisor.start(running, spec, maker, number=number)
        except (SandboxError, OSError, ValueError, TypeError) as error:
            running.send({"op": "unmade", "number": number, "reason": str(error)})

    def _unmake(self, running: Running, number: int) -> None:
        """End one that the test waits for no longer, nor forks into; its end is what tells that it is gone."""
        if self._last is not None and self._last[0] == number and not self._last[1].ended:
            self._last[1].fail_unforked(SandboxError("who had asked for it was interrupted"))
        else:
            running.send({"op": "gone", "number": number})

    def _note(self, outcome: Outcome) -> None:
        one = Made(1, outcome.usage)
        self.made = one if self.made is None else self.made.and_then(one)


class _Maker:
    """Hears a sandbox that a test has made, and tells the test."""

    def __init__(
        self,
        owner: Running,
        number: int,
        supervisor: Supervisor,
        measured: Measured | None,
        note: Callable[[Outcome], None],
    ) -> None:
        self._owner, self._number, self._supervisor, self._note = owner, number, supervisor, note
        self._measured, self._account = measured, Account(measured)
        self._said: Frame | None = None

    def on_frame(self, running: Running, frame: Frame) -> None:
        """The function's value or exception; the last one counts."""
        del running
        if frame["op"] in ("value", "raised"):
            self._said = frame
        elif frame["op"] == "coverage":
            self._account.hear(frame)

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """Tell the test."""
        self._note(outcome)
        if self._measured is not None:
            self._measured.take_files(self._supervisor, running)
        if not self._owner.ended:
            answer = {"number": self._number, "outcome": bodies.outcome_to_frame(outcome), "said": self._said}
            self._owner.send({"op": "made", **answer})
            self._owner.send({"op": "gone", "number": self._number})


def _at_most(own: Spec, frame: Frame) -> Spec:
    """A spec with what a test asks for, and never more than it has."""
    asked = frame.get("limits") or {}
    if not isinstance(asked, dict):
        raise SpecError("limits are no names with values")
    unknown = set(asked) - set(LIMIT_NAMES)
    if unknown:
        raise SpecError(f"there is no limit {', '.join(sorted(map(str, unknown)))}")
    limits = Limits(**dict.fromkeys(LIMIT_NAMES) | asked).within(own.limits)
    network = Network(frame.get("network", own.network.value))
    if network is Network.HOST and own.network is not Network.HOST:
        raise SpecError("network='host': the test's own sandbox has not got the machine's network")
    hide = frame.get("hide") or ()
    if not isinstance(hide, (list, tuple)) or len(hide) > _MOST_HIDDEN or not all(map(places.is_plain, hide)):
        raise SpecError(f"hide is no list of at most {_MOST_HIDDEN} absolute paths")
    names = frozenset(name for name in asked if asked[name] is not None)
    scratch = None if names.intersection(OF_TMPFS) else own.scratch  # only a tmpfs has such a limit
    return dataclasses.replace(own, limits=limits, network=network, hide=(*own.hide, *hide), scratch=scratch, asked=names)
