"""`--sandbox-doctor`: what this machine can do, why not, and the fix. Imports `host` and below.

Exit status 1 where `pytest --sandbox` could not run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

from pytest_sandbox.model.capability import Capability
from pytest_sandbox.model.errors import SandboxError, SetupError
from pytest_sandbox.model.spec import Limits, Spec
from pytest_sandbox.sandbox.machine import hostkind
from pytest_sandbox.sandbox.machine.host import capabilities, make_layout
from pytest_sandbox.sandbox.machine.probes import find_identity

#: Without these there is no sandbox at all.
NEEDED = ("platform", "native", "user", "mount", "pid", "net", "ipc", "uts", "proc", "sysfs", "sandbox")


def try_sandbox() -> Capability:
    """Make one whole sandbox, overlay and all, that does nothing."""
    import os
    import secrets

    from pytest_sandbox.sandbox.machine.unmade import explain
    from pytest_sandbox.sandbox.outside.supervisor import Supervisor

    listener, spec = _Nobody(), Spec(limits=Limits(timeout=20.0))
    name, layout = f"doctor-{os.getpid()}-{secrets.token_hex(4)}", None
    try:
        layout = make_layout(find_identity(), name, [spec])
        with Supervisor(name, layout) as supervisor:
            running = supervisor.start_root(spec, lambda _: 0, listener)
            supervisor.run_while(lambda: not running.ended)
    except (OSError, SandboxError) as error:
        return explain(error, layout)
    if running.problem is not None or running.last_words is None:
        return explain(running.problem or SandboxError("it ended at once"), layout)
    return Capability("sandbox", True, "made one, with an overlay on every tree")


class _Nobody:
    def on_frame(self, running: object, frame: object) -> None:
        """Says nothing of interest."""

    def on_end(self, running: object, outcome: object) -> None:
        """Its end is asked for."""


def report() -> list[Capability]:
    """Every capability, and at last whether a whole sandbox can be made."""
    platform = capabilities()["platform"]
    return [*capabilities().values(), try_sandbox()] if platform.available else [platform]


def lines(found: Iterable[Capability]) -> Iterator[str]:
    """As they are printed: what has one reason, and one fix, stands in one line.

    yes names: how
    NO  names: why not
        fix: what would change it
    """
    alike: dict[tuple[bool, str, str], list[str]] = {}
    for one in found:
        alike.setdefault((one.available, one.reason, one.fix), []).append(one.name)
    for (available, reason, fix), names in alike.items():
        yield f"{'yes' if available else 'NO ':<4}{', '.join(names)}: {reason}"
        if not available and fix:
            yield f"    fix: {fix}"


def main(refusal: Callable[[], str] = str) -> int:
    """Print the kind of host and the list; the exit status.

    refusal: why a run would be refused for what it asks for, "" where it would not; called where there can be sandboxes.
    """
    sys.stdout.write(f"host: {hostkind.here()}\n")
    try:
        found = report()
    except OSError as error:  # of what it takes to try: a process, descriptors
        problem = SetupError.of("try what this machine can do", error)
        found = [Capability("platform", False, problem.reason, problem.fix)]
    for line in lines(found):
        sys.stdout.write(f"{line}\n")
    lacking = [capability.name for capability in found if not capability.available and capability.name in NEEDED]
    why = f"no {', '.join(lacking)}" if lacking else refusal()
    sys.stdout.write(f"\npytest --sandbox {f'cannot run here: {why}' if why else 'can run here'}\n")
    return int(bool(why))
