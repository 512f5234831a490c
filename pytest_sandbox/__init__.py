"""Hermetic sandboxes for tests: fresh namespaces, limits and a copy-on-write root at the price of a fork.

As a pytest plugin: `pytest --sandbox`. Without pytest: `Sandbox(Spec(...)).run(argv)`. Names are imported when they are first
used, so that the plugin costs nothing where it is off, and on platforms that have no sandboxes.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandbox.model.capability import Capability
    from pytest_sandbox.model.errors import (
        SandboxError,
        SetupError,
        SpecError,
        TeardownWarning,
        UnavailableError,
        WireError,
    )
    from pytest_sandbox.model.outcome import Change, ChangeKind, Ending, Leak, Outcome, Usage
    from pytest_sandbox.model.spec import Keep, Limits, Network, Spec
    from pytest_sandbox.plugin.warned import CoverageWarning, LeakWarning, ThreadWarning
    from pytest_sandbox.sandbox.inside.bodies import CallError, Result
    from pytest_sandbox.sandbox.machine.host import capabilities
    from pytest_sandbox.sandbox.standalone import Sandbox

_HOMES = {
    "pytest_sandbox.model.capability": ("Capability",),
    "pytest_sandbox.model.errors": (
        "SandboxError", "SetupError", "SpecError", "TeardownWarning", "UnavailableError", "WireError",
    ),
    "pytest_sandbox.model.outcome": ("Change", "ChangeKind", "Ending", "Leak", "Outcome", "Usage"),
    "pytest_sandbox.model.spec": ("Keep", "Limits", "Network", "Spec"),
    "pytest_sandbox.plugin.warned": ("CoverageWarning", "LeakWarning", "ThreadWarning"),
    "pytest_sandbox.sandbox.inside.bodies": ("CallError", "Result"),
    "pytest_sandbox.sandbox.machine.host": ("capabilities",),
    "pytest_sandbox.sandbox.standalone": ("Sandbox",),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CallError",
    "Capability",
    "Change",
    "ChangeKind",
    "CoverageWarning",
    "Ending",
    "Keep",
    "Leak",
    "LeakWarning",
    "Limits",
    "Network",
    "Outcome",
    "Result",
    "Sandbox",
    "SandboxError",
    "SetupError",
    "Spec",
    "SpecError",
    "TeardownWarning",
    "ThreadWarning",
    "UnavailableError",
    "Usage",
    "WireError",
    "capabilities",
]


def __getattr__(name: str) -> object:
    """PEP 562: import a public name's home when the name is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if sys.platform != "linux" and ".sandbox." in _HOME[name]:
        from pytest_sandbox.model.errors import UnavailableError

        raise UnavailableError("platform", f"{sys.platform} has no namespaces", "use it on Linux")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
