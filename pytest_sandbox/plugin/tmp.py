"""What outlives a sandbox: tmp_path as its retention policy says, and what a failed test wrote (`keep`). Imports pytest.

Both are copied out of a layer that is not trusted: see `sandbox.upper`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.model.spec import Keep
from pytest_sandbox.sandbox.running import Running
from pytest_sandbox.sandbox.supervisor import Supervisor


def keep_tmp_path(config: pytest.Config, supervisor: Supervisor, running: Running, *, used: bool) -> None:
    """Copy to the machine's basetemp what the sandbox left of its temporary directories.

    `tmp_path` itself has removed there what `tmp_path_retention_policy` does not keep.
    """
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None or not used or factory._basetemp is None:
        return
    if factory._retention_policy == "none" and factory._given_basetemp is None:
        return  # the whole directory is removed at pytest's end
    supervisor.copy_out(running, str(factory._basetemp), str(factory._basetemp))


def keep_changes(
    config: pytest.Config, supervisor: Supervisor, running: Running, outcome: Outcome, *, failed: bool
) -> Path | None:
    """Save everything that the sandbox wrote, where its `keep` says so; returns the directory."""
    keep = running.order.spec.keep
    if not outcome.changes or keep is Keep.NEVER or (keep is Keep.FAILED and not failed):
        return None
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None or factory._basetemp is None:
        return None
    # A name that no test could have guessed, and left a link at, in what was copied out of it before.
    target = Path(tempfile.mkdtemp(prefix=f"sandbox-{running.name}-", dir=factory.getbasetemp()))
    if not supervisor.copy_out(running, "/", os.fspath(target)):
        target.rmdir()
        return None
    return target
