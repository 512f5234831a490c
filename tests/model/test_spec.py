"""`Limits`: what is no limit is refused where it is made, by whoever makes it."""

from __future__ import annotations

import errno
import fnmatch
from typing import Any

import pytest

from pytest_sandbox import Keep, Limits, Network, SetupError, Spec, SpecError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory", 0), ("memory", -1), ("memory", 1.5), ("memory", True), ("disk", 0), ("pids", "10"),
        ("memory", 2**63), ("pids", 2**22 + 1), ("inodes", 2**54), ("cpus", 1e5), ("timeout", 1e300),
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
    for value in (2, 0.0, "none", True, ("0",)):
        with pytest.raises(SpecError, match=r"the limit cpuset=.* is no list of CPUs"):
            Limits(cpuset=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("network='none' is no Network: write Network.AUTO, ", {"network": "none"}),
        ("keep=True is no Keep: write Keep.NEVER, ", {"keep": True}),
        ("limits=.* is no Limits", {"limits": {"memory": 1}}),
        ("hide='/tmp' is no tuple of absolute paths", {"hide": "/tmp"}),
        ("hide=.* is no tuple of absolute paths", {"hide": ("tmp",)}),
        ("hide=.* is no tuple of absolute paths", {"hide": ("/tmp/../etc",)}),
        ("writable=.* is no tuple of absolute paths", {"writable": ["/tmp"]}),
        ("writable=.* is no tuple of absolute paths", {"writable": ("/a\0b",)}),
        ("scratch='tmp' is no absolute path", {"scratch": "tmp"}),
        ("asked='memory' is no frozenset", {"asked": "memory"}),
        ("asked=.* is no frozenset of names of limits", {"asked": frozenset({"memroy"})}),
        ("/ is the whole machine", {"writable": ("/",)}),
        ("/sys/fs/cgroup cannot be writable", {"writable": ("/sys/fs/cgroup",)}),
        ("/dev cannot be writable", {"writable": ("/dev",)}),
        ("/sys cannot be hidden", {"hide": ("/sys",)}),
        ("/proc/self cannot be hidden: it is of one process", {"hide": ("/proc/self",)}),
        ("/proc/12/maps cannot be hidden: it is of one process", {"hide": ("/proc/12/maps",)}),
        ("/a cannot be both writable and hidden", {"hide": ("/a",), "writable": ("/a",)}),
        ("/a/b/c cannot be hidden below /a, which is writable", {"hide": ("/a/b/c",), "writable": ("/a",)}),
    ],
)
def test_what_is_no_spec(words: str, fields: dict[str, Any]) -> None:
    """A wrong type would be weaker than what was meant: it is refused, with what to write."""
    with pytest.raises(SpecError, match=words):
        Spec(**fields)


def test_what_is_a_spec() -> None:
    """All that is near what is refused."""
    spec = Spec(
        Limits(pids=2**22), Network.NONE, ("/dev/kvm", "/a"), ("/proc/cpuinfo", "/a/b"), "/tmp", Keep.NEVER, frozenset({"pids"})
    )
    assert spec.limits.pids == 2**22


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "none", "/a/b"), "begin it: /a/b: No space left on device (errno 28)"),
        (OSError(errno.EMFILE, "too many"), "begin it: Too many open files (errno 24)"),
        (
            OSError(errno.EAGAIN, "again", "fork"),
            "begin it: fork: Resource temporarily unavailable (errno 11): *ulimit -u*",
        ),
        (ValueError("odd"), "begin it: odd: Invalid argument (errno 22)"),
    ],
)
def test_what_an_error_says_of_a_step(error: OSError | ValueError, text: str) -> None:
    """Step, object and reason; and what the number means where its text does not say that."""
    assert fnmatch.fnmatch(str(SetupError.of("begin it", error)), text)
