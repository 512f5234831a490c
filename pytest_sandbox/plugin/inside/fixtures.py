"""The fixtures `sandbox` and `sandbox_factory`: what a test asks, and how the controller answers.

A test's requests are not trusted: a sandbox that it orders gets at most the limits, and the paths, that it has itself.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox.model import places
from pytest_sandbox.model.errors import SandboxError, SpecError, WireError
from pytest_sandbox.model.outcome import Change, ChangeKind, Made, Outcome, Usage
from pytest_sandbox.model.spec import LIMIT_NAMES, OF_TMPFS, Limits, Network, Spec
from pytest_sandbox.plugin.builtin.settling import INSIDE
from pytest_sandbox.plugin.others.coverage import measuring
from pytest_sandbox.plugin.others.coverage.measured import Account, Measured
from pytest_sandbox.plugin.planning import paths
from pytest_sandbox.plugin.planning.options import BY_NAME, closest
from pytest_sandbox.sandbox import bodies
from pytest_sandbox.sandbox.bodies import CallError, Result
from pytest_sandbox.sandbox.child import Body, Inside
from pytest_sandbox.sandbox.main import fork_into
from pytest_sandbox.sandbox.running import Running
from pytest_sandbox.sandbox.supervisor import Supervisor
from pytest_sandbox.sandbox.wire import Frame

__all__ = ["CallError", "Requests", "Result", "SandboxFactory", "SandboxInfo", "sandbox", "sandbox_factory"]


def _inside(config: pytest.Config) -> Inside:
    found = config.stash.get(INSIDE, None)
    if found is None:
        pytest.skip("this test runs in no sandbox: run pytest with --sandbox")
    return found


def sandbox(config: pytest.Config) -> SandboxInfo:
    """The value of the fixture `sandbox`."""
    return SandboxInfo(_inside(config))


def sandbox_factory(config: pytest.Config) -> SandboxFactory:
    """The value of the fixture `sandbox_factory`."""
    return SandboxFactory(config, _inside(config))


class SandboxInfo:
    """What a test can know of its own sandbox."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside

    @property
    def spec(self) -> Spec:
        """Everything that it was asked to be."""
        return self._inside.order.spec

    @property
    def limits(self) -> Limits:
        """Its limits; None is no limit."""
        return self.spec.limits

    @property
    def shares_network(self) -> bool:
        """Whether it is in the network of the scope around it (`network=auto`: since something listens there)."""
        return self._inside.order.shares_network

    def usage(self) -> Usage:
        """What it consumed so far; what is not known before its end is None, with the reason in `missing`."""
        return Usage(**self._inside.channel.ask({"op": "usage?"}, "usage")["usage"])

    def changes(self) -> tuple[Change, ...]:
        """What it wrote and deleted so far."""
        answer = self._inside.channel.ask({"op": "changes?"}, "changes")
        return tuple(Change(path, ChangeKind(kind), size) for path, kind, size in answer["changes"])


class SandboxFactory:
    """Makes sandboxes below the test's own: they see what the test wrote so far, and change nothing of it.

    One at a time: threads of the test take turns, and who asks `sandbox` something waits for them too.

    Called with limits and other names of the marker, as there, it gives a factory whose sandboxes have them.
    """

    def __init__(self, config: pytest.Config, inside: Inside, given: Mapping[str, Any] | None = None) -> None:
        self._config = config
        self._inside = inside
        self._given = dict(given or {})

    def __call__(self, **given: Any) -> SandboxFactory:  # noqa: ANN401  # as the marker
        """A factory of sandboxes with `memory="64M"`, `timeout="2s"`, `network="none"`, ... SpecError for what makes no sense."""
        _parse(given)
        return SandboxFactory(self._config, self._inside, {**self._given, **given})

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,  # noqa: A002  # as in `subprocess.run`
    ) -> Result:
        """Run a program to its end. Its output, ending and usage are in the result; a limit that is hit is no exception.

        input is what it reads from its stdin; nothing where there is none.
        Raises TypeError or ValueError for an argument that no program can be run with.
        """
        return self._make(bodies.program(argv, cwd, env, input))[0]

    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # the function's own
        """Call a function; its value, if that is plain data. CallError says how the sandbox ended, or what was raised."""
        result, frame = self._make(bodies.function(function, args, kwargs, lambda inside: measuring.send(self._config, inside)))
        return bodies.value_of(frame, result)

    def _make(self, body: Body) -> tuple[Result, Frame | None]:
        spec = _parse(self._given)
        channel = self._inside.channel
        with channel.asking():
            channel.send({"op": "make", **spec})
            while True:
                frame, descriptors = channel.receive()
                if frame["op"] == "spawn":
                    with measuring.sheltered(self._config):
                        fork_into(self._inside, frame, descriptors, lambda inside: self._run(body, inside))
                elif frame["op"] == "made":
                    return bodies.outcome_from_frame(frame["outcome"]), frame["said"]
                elif frame["op"] == "unmade":
                    raise SpecError(frame["reason"])

    def _run(self, body: Body, inside: Inside) -> int:
        measuring.begin(self._config)
        return body(inside)


def _parse(given: Mapping[str, Any]) -> Frame:
    """Limits and other fields of a Spec, parsed as the marker's arguments are."""
    limits: dict[str, Any] = {}
    others: dict[str, Any] = {}
    known = [field.name for field in dataclasses.fields(Limits)] + ["network", "hide"]
    for name, value in given.items():
        if name not in known:
            raise SpecError(f"sandbox_factory has no argument {name!r}{closest(name, known)} (there are {', '.join(known)})")
        try:
            if name == "hide":
                written = [value] if isinstance(value, (str, os.PathLike)) else value
                others[name] = [paths.hidden(os.fspath(path), Path()) for path in written]
            elif name == "network":
                parsed = BY_NAME[name].parse(value)
                others[name] = parsed.value if isinstance(parsed, Network) else str(parsed)
            else:
                limits[name] = BY_NAME[name].parse(value)
        except SpecError as error:
            raise SpecError(f"sandbox_factory({name}={value!r}): {error}") from error
    return {"limits": limits, **others}


class Requests:
    """The controller's answers."""

    def __init__(self, supervisor: Supervisor, measured: Measured | None) -> None:
        self._supervisor, self._measured = supervisor, measured
        #: What the sandboxes that were made so far have used.
        self.made: Made | None = None

    def on_frame(self, running: Running, frame: Frame) -> None:
        """Answer a test's question. Raises WireError for what is none."""
        op = frame["op"]
        if op == "usage?":
            usage = self._supervisor.usage(running)
            running.send({"op": "usage", "usage": dataclasses.asdict(usage) | {"missing": dict(usage.missing)}})
        elif op == "changes?":
            changes, _ = self._supervisor.changes(running)
            running.send({"op": "changes", "changes": [[one.path, one.kind.value, one.size] for one in changes]})
        elif op == "make" and running.order.scope:
            self._make(running, frame)
        elif op != "done":
            raise WireError(f"a sandbox said {op!r}")

    def _make(self, running: Running, frame: Frame) -> None:
        try:
            if self._supervisor.has_below(running):
                # Their cgroups lie side by side: one at a time, or together they would have many times the test's limits.
                raise SpecError("a test has one further sandbox at a time; this one was asked for while another was there")
            spec = _at_most(running.order.spec, frame)
            self._supervisor.refuse(spec)
            self._supervisor.start(running, spec, _Maker(running, self._supervisor, self._measured, self._note))
        except (SandboxError, OSError, ValueError, TypeError) as error:
            running.send({"op": "unmade", "reason": str(error)})

    def _note(self, outcome: Outcome) -> None:
        before = self.made
        self.made = Made(1, outcome.usage) if before is None else Made(before.count + 1, before.usage.and_then(outcome.usage))


class _Maker:
    """Hears a sandbox that a test has made, and tells the test."""

    def __init__(
        self, owner: Running, supervisor: Supervisor, measured: Measured | None, note: Callable[[Outcome], None]
    ) -> None:
        self._owner, self._supervisor, self._note = owner, supervisor, note
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
            self._owner.send({"op": "made", "outcome": bodies.outcome_to_frame(outcome), "said": self._said})


#: How many paths a further sandbox may hide besides the test's own.
_MOST_HIDDEN = 1000


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
