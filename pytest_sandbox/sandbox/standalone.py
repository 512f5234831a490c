"""Sandboxes without pytest: `Sandbox(spec).run(argv)` and `.call(function)`. Imports everything of `sandbox/`."""

from __future__ import annotations

import dataclasses
import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_sandbox.model.errors import SandboxError, SetupError, SpecError, TeardownWarning
from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.model.spec import LIMIT_NAMES, OF_TMPFS, Limits, Spec
from pytest_sandbox.sandbox.inside import bodies
from pytest_sandbox.sandbox.inside.bodies import Result
from pytest_sandbox.sandbox.inside.child import Body
from pytest_sandbox.sandbox.machine import host, probes
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from pytest_sandbox.sandbox.wire.frames import Frame


class Sandbox:
    """A sandbox to be made as `spec` says, as often as it is used; each time it is fresh.

        result = Sandbox(Spec(limits=Limits(memory=64 << 20))).run(["make", "test"])
        value = Sandbox().call(function, 1, 2)

    Raises TypeError for what is no Spec, SpecError for less than two processes, UnavailableError where no sandbox can be had, and
    for a limit that this machine cannot enforce: one that is in `spec.asked`, or that is not what `Limits()` has.
    """

    def __init__(self, spec: Spec | None = None) -> None:
        if spec is not None and not isinstance(spec, Spec):
            raise TypeError(f"{spec!r} is no Spec: write Sandbox(Spec(limits=...))")
        if spec is not None and spec.limits.pids == 1:
            raise SpecError("the limit pids=1 is too few: init counts, and the program is another one. Write at least 2")
        host.refuse_missing(("platform", "native"), host.capabilities())
        self.spec = host.settled(_with_what_is_asked(spec or Spec()), host.capabilities())
        host.refuse(self.spec, host.capabilities())

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,  # noqa: A002  # as in `subprocess.run`
    ) -> Result:
        """Run a program to its end; a limit that is hit is told by the result, not by an exception.

        input is what it reads from its stdin; nothing where there is none.
        Raises TypeError or ValueError for an argument that no program can be run with; SetupError where no sandbox can be made.
        """
        return self._make(bodies.program(argv, cwd, env, input))[0]

    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # the function's own
        """Call a function in a fork of this process; its value, if that is plain data. CallError where there is none."""
        result, frame = self._make(bodies.function(function, args, kwargs))
        return bodies.value_of(frame, result)

    def _make(self, body: Body) -> tuple[Result, Frame | None]:
        listener = _Listener()
        with self._begin() as supervisor:
            running = supervisor.start_root(self.spec, body, listener, scope=False)
            supervisor.run_while(lambda: not running.ended)
        for problem in supervisor.not_home:
            warnings.warn(TeardownWarning(problem), stacklevel=3)
        # Of one that ran, what it did that it must not is told by its outcome.
        if running.problem is not None and (running.last_words is None or isinstance(running.problem, SetupError)):
            raise running.problem
        if listener.outcome is None:
            raise SandboxError("the sandbox ended without an outcome")
        return bodies.outcome_from_frame(bodies.outcome_to_frame(listener.outcome)), listener.said

    def _begin(self) -> Supervisor:
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            return Supervisor(name, host.make_layout(probes.find_identity(), name, [self.spec]))
        except OSError as error:
            raise SetupError.of("begin a run", error) from error


def _with_what_is_asked(spec: Spec) -> Spec:
    """The spec, in which limits that somebody has chosen are asked for."""
    usual = Limits()
    chosen = {name for name in LIMIT_NAMES if (value := getattr(spec.limits, name)) is not None and value != getattr(usual, name)}
    if spec.scratch is not None:
        chosen -= set(OF_TMPFS)  # which exclude each other: the default of a Spec with a scratch is not asked for either
    return dataclasses.replace(spec, asked=spec.asked | chosen)


class _Listener:
    def __init__(self) -> None:
        self.said: Frame | None = None
        self.outcome: Outcome | None = None

    def on_frame(self, running: Running, frame: Frame) -> None:
        """The function's value or exception; the last one counts."""
        del running
        if frame["op"] in ("value", "raised"):
            self.said = frame

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """It is over."""
        del running
        self.outcome = outcome
