"""scripts/workplace.py: what keeps a command from running is told apart, on which the choice of an interpreter rests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import workplace


def test_a_program_that_is_not_there() -> None:
    """A status, by which the next one is tried."""
    assert workplace.Identity("the caller").run(["/no/such/python"], Path("/")) == 126


def test_a_cgroup_that_takes_nobody(tmp_path: Path) -> None:
    """An error that names it: no other program would do better."""
    gone = tmp_path / "gone"
    with pytest.raises(workplace.WorkplaceError, match=f"started in {gone}: .*No such file.*Fix: "):
        workplace.Identity("the caller").run([sys.executable, "-c", ""], Path("/"), cgroups=[gone])
