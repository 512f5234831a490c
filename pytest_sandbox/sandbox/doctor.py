"""`--sandbox-doctor`: what this machine can do, why not, and the fix. Imports `host`.

Exit status 1 where `pytest --sandbox` could not run.
"""

from __future__ import annotations

import sys

from pytest_sandbox.model.spec import Limits, Spec
from pytest_sandbox.sandbox.host import Capability, capabilities, find_identity, make_layout

#: Without these there is no sandbox at all.
NEEDED = ("platform", "user", "mount", "pid", "net", "ipc", "uts", "proc", "sysfs", "sandbox")


def try_sandbox() -> Capability:
    """Make one whole sandbox, overlay and all, that does nothing."""
    import os
    import secrets

    from pytest_sandbox.sandbox.supervisor import Supervisor

    listener = _Nobody()
    try:
        spec, name = Spec(limits=Limits(timeout=20.0)), f"doctor-{os.getpid()}-{secrets.token_hex(4)}"
        with Supervisor(name, make_layout(find_identity(), name, [spec])) as supervisor:
            running = supervisor.start_root(spec, lambda _: 0, listener)
            supervisor.run_while(lambda: not running.ended)
    except OSError as error:
        return Capability("sandbox", False, str(error), "see the lines above")
    if running.problem is not None or running.last_words is None:
        why = str(running.problem or "it ended at once")
        return Capability("sandbox", False, why, "see the lines above, and docs/host-setup")
    return Capability("sandbox", True, "made one, with an overlay on every tree")


class _Nobody:
    def on_frame(self, running: object, frame: object) -> None:
        """Says nothing of interest."""

    def on_end(self, running: object, outcome: object) -> None:
        """Its end is asked for."""


def report() -> list[Capability]:
    """Every capability, and at last whether a whole sandbox can be made."""
    found = list(capabilities().values())
    if found[0].available:
        found.append(try_sandbox())
    return found


def main() -> int:
    """Print the list; the exit status."""
    found = report()
    for capability in found:
        sys.stdout.write(f"{'yes' if capability.available else 'NO ':<4}{capability.name:<10} {capability.reason}\n")
        if not capability.available and capability.fix:
            sys.stdout.write(f"    fix: {capability.fix}\n")
    lacking = [capability.name for capability in found if not capability.available and capability.name in NEEDED]
    sys.stdout.write(f"\npytest --sandbox {'cannot run here: no ' + ', '.join(lacking) if lacking else 'can run here'}\n")
    return int(bool(lacking))
