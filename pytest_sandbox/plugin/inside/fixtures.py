"""The fixtures `sandbox` and `sandbox_factory`: what a test asks; controller/requests.py answers."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox.model.errors import SpecError
from pytest_sandbox.model.outcome import Change, ChangeKind, Usage
from pytest_sandbox.model.spec import Limits, Network, Spec
from pytest_sandbox.plugin.builtin.settling import INSIDE
from pytest_sandbox.plugin.others.coverage import measuring
from pytest_sandbox.plugin.planning import paths
from pytest_sandbox.plugin.planning.options import BY_NAME, closest
from pytest_sandbox.sandbox.inside import bodies
from pytest_sandbox.sandbox.inside.bodies import CallError, Result
from pytest_sandbox.sandbox.inside.child import Body, Inside, Next
from pytest_sandbox.sandbox.inside.main import fork_into, refuse
from pytest_sandbox.sandbox.wire.frames import Frame

__all__ = ["CallError", "Result", "SandboxFactory", "SandboxInfo", "sandbox", "sandbox_factory"]

#: Of the sandboxes that tests ask for, by which an answer is known to be of the last one.
_numbers = itertools.count()


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
        """Everything that it was asked to be, but for limits that nothing enforces here."""
        return self._inside.order.spec

    @property
    def limits(self) -> Limits:
        """Its limits, as far as they hold on this machine; None is no limit."""
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
        spec, number = _parse(self._given), next(_numbers)
        with self._inside.channel.asking():
            try:
                self._inside.channel.send({"op": "make", "number": number, **spec})
                frame = self._until_made(number, body)
            except BaseException:  # of a signal handler: nobody waits for it any more
                self._unmake(number)
                raise
        if frame["op"] == "unmade":
            raise SpecError(frame["reason"])
        return bodies.outcome_from_frame(frame["outcome"]), frame["said"]

    def _until_made(self, number: int, body: Body) -> Frame:
        while True:
            frame, descriptors = self._inside.channel.wait_for("spawn", "made", "unmade")
            if frame["number"] != number:
                self._refuse(frame, descriptors)
            elif frame["op"] == "spawn":
                with measuring.sheltered(self._config):
                    fork_into(self._inside, frame, descriptors, lambda inside: self._run(body, inside))
            else:
                return frame

    def _unmake(self, number: int) -> None:
        """Have it killed, if it is not gone yet, and wait for that: as `subprocess.run` does."""
        self._inside.channel.send({"op": "unmake", "number": number})
        while True:
            frame, descriptors = self._inside.channel.wait_for("spawn", "gone")
            if frame["op"] == "spawn":
                self._refuse(frame, descriptors)
            elif frame["number"] == number:
                return

    def _refuse(self, frame: Frame, descriptors: Sequence[int]) -> None:
        """Fork into none that nobody waits for any more."""
        if frame["op"] == "spawn":
            reason = OSError(errno.ECANCELED, os.strerror(errno.ECANCELED), "the call that had asked for it was interrupted")
            refuse(self._inside, frame, descriptors, reason)

    def _run(self, body: Body, inside: Inside) -> int | Next:
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
