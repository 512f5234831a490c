"""What other plugins do, and would do to no effect, or to ours, in a sandboxed run: refused, with the way around. Imports pytest.

What is asked of a plugin that writes files of the project, as its option says, would be thrown away with each sandbox. What
replaces the standard library's functions in pytest's own process (gevent) replaces those that make and watch sandboxes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest

from pytest_sandbox.plugin.resolve import Plan

#: Where libraries of green threads note what they have replaced.
_GREEN: dict[str, Callable[[object], object]] = {
    "gevent.monkey": lambda module: getattr(module, "saved", None),
    "eventlet.patcher": lambda module: getattr(module, "already_patched", None),
}

#: Options of other plugins with which tests write files of the project: their names, and which values do not.
_WRITES = {
    "force_regen": ("--force-regen", (None, False)),
    "regen_all": ("--regen-all", (None, False)),
    "record_mode": ("--record-mode", (None, "none")),
    "mpl_generate_path": ("--mpl-generate-path", (None,)),
    "mpl_generate_hash_library": ("--mpl-generate-hash-library", (None,)),
}


def refuse_green() -> None:
    """Raise UsageError where sockets, processes and threads of this process are green."""
    for name, replaced in _GREEN.items():
        module = sys.modules.get(name)
        if module is not None and replaced(module):
            library = name.partition(".")[0]
            raise pytest.UsageError(
                f"--sandbox: {library} has replaced functions of the standard library in pytest's own process, which makes the "
                "sandboxes and watches them. Fix: patch in a session fixture with autouse=True, which runs in the sandboxes, "
                "and not when a conftest is imported, or use --no-sandbox"
            )


def refuse_lost_files(config: pytest.Config, plans: Sequence[Plan]) -> None:
    """Raise UsageError for an option that has tests write files which would be gone with their sandboxes.

    Who lets something be written through to the machine knows of it.
    """
    boxed = [plan for plan in plans if plan.enabled]
    if not boxed or any(plan.spec.writable for plan in boxed):
        return
    for name, (flag, harmless) in _WRITES.items():
        if getattr(config.option, name, None) not in harmless:
            raise pytest.UsageError(
                f"--sandbox: with {flag} tests write files, which would be gone with their sandboxes. Fix: add "
                "--sandbox-writable=DIRECTORY for the directory that they are written to, or use --no-sandbox for this run"
            )
