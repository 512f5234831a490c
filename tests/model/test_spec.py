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


def test_within() -> None:
    """The stricter of each limit; a limit is stricter than none, and of CPUs those that are in both sets."""
    one, other = Limits(memory=5, pids=None, cpuset="0-2", cpus=0.5), Limits(memory=None, pids=7, cpuset="1-5", cpus=2)
    both = one.within(other)
    assert (both.memory, both.pids, both.cpuset, both.cpus) == (5, 7, "1-2", 0.5)
    assert both == other.within(one)
    with pytest.raises(SpecError, match="no CPU is both in cpuset 0 and in 1"):
        Limits(cpuset="0").within(Limits(cpuset="1"))


def test_cpuset_is_a_list_of_cpus() -> None:
    """Checked where it is made, as numbers are."""
    with pytest.raises(SpecError, match="is not a list of CPUs"):
        Limits(cpuset="all")
