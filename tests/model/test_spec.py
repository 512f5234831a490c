"""`Limits`: what is no limit is refused where it is made, by whoever makes it."""

from __future__ import annotations

import pytest

from pytest_sandbox import Limits, SpecError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory", 0), ("memory", -1), ("memory", 1.5), ("memory", True), ("disk", 0), ("pids", "10"),
        ("swap", -4096), ("timeout", 0), ("timeout", float("inf")), ("cpus", float("nan")),
    ],
)  # fmt: skip
def test_what_is_no_limit(name: str, value: object) -> None:
    """Nothing, less than nothing and what is no number are refused, with the limit's name: 0 would mean "no limit" to a tmpfs."""
    with pytest.raises(SpecError, match=f"the limit {name}="):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_no_swap_and_no_limit() -> None:
    """No swap at all is a limit; None is none."""
    assert Limits(swap=0, memory=None, cpus=0.5).cpus == 0.5
