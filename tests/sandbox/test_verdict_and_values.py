"""The pure parts: the order of trust in a verdict, and plain values."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

import pytest

from pytest_sandbox import Capability, Ending, Limits, Spec, UnavailableError, Usage
from pytest_sandbox.sandbox.machine import host
from pytest_sandbox.sandbox.outside.verdict import Facts, judge
from pytest_sandbox.sandbox.wire import values

USAGE = Usage(1.0, cpu=1.5, memory_peak=1 << 26)
FACTS = Facts(Limits(memory=1 << 26, timeout=2.0, cpu_time=1.0, pids=5, files=64), USAGE, 0, cpu=1.5)
FULL, KILLED = Usage(1.0, memory_peak=1 << 30), Usage(1.0, memory_peak=1 << 26, oom_kills=1)
NO_ROOM, SCRATCH = {"errno": errno.ENOSPC, "failed": True}, Limits(disk=None, inodes=None)
REFUSED = {"processes_refused": 2, "failed": True}
AROUND = "too many processes: 2 refused within its limit of 5: that of a cgroup around pytest was met, /c (pids.max 9)"
NO_FILES = {"errno": errno.EMFILE, "files": (64, 60)}
EITHER = "disk full: limit 1G or out of inodes: limit 200000, "


@pytest.mark.parametrize(
    ("facts", "ending", "words"),
    [
        ({}, Ending.EXITED, "exited with status 0"),
        ({"status": 3, "failed": True}, Ending.EXITED, "exited with status 3"),
        ({"reported": False}, Ending.NO_REPORT, "its main process left with exit status 0"),
        ({"status": None}, Ending.NO_REPORT, "never came to an end of its own"),
        ({"status": -11, "reported": False}, Ending.SIGNALLED, "killed by SIGSEGV: its main process died of signal 11"),
        ({"status": -9, "processes_refused": 3}, Ending.SIGNALLED, "; 3 forks had been refused"),
        ({"killed": Ending.TIMED_OUT, "status": -9, "ran": 1.0}, Ending.TIMED_OUT, "timed out: killed after 1s, limit 2s"),
        ({"killed": Ending.TIMED_OUT, "ran": 4.0, "waited": 2.0}, Ending.TIMED_OUT, "limit 2s; it was given 2s more to print"),
        ({"killed": Ending.CPU_TIME}, Ending.CPU_TIME, "cpu time: ended after 1.5s of CPU, limit 1s"),
        ({"killed": Ending.TOO_MUCH_OUTPUT, "output": 3 << 26}, Ending.TOO_MUCH_OUTPUT, "ended at 192M, limit 64M"),
        ({"processes_refused": 2, "failed": True}, Ending.TOO_MANY_PROCESSES, "too many processes: limit 5 (2 refused)"),
        ({"errno": errno.EAGAIN, "failed": True, "processes_refused": None}, Ending.TOO_MANY_PROCESSES, "limit 5"),
        ({"errno": errno.EAGAIN, "failed": True}, Ending.EXITED, "exited with status 0"),
        ({"processes_refused": 2}, Ending.EXITED, "exited with status 0"),
        ({**REFUSED, "own_pids": None}, Ending.TOO_MANY_PROCESSES, "(2 refused) (or that of a cgroup around pytest was met: "),
        ({**REFUSED, "own_pids": False, "pids_around": "/c (pids.max 9)"}, Ending.TOO_MANY_PROCESSES, AROUND),
        ({**REFUSED, "own_pids": False, "limits": Limits(pids=None)}, Ending.TOO_MANY_PROCESSES, "2 refused without a limit: "),
        (
            {**NO_FILES, "failed": True},
            Ending.TOO_MANY_OPEN_FILES,
            "too many open files: limit 64 descriptors a process, 60 in use",
        ),
        ({**NO_FILES, "failed": True, "errno": errno.ENOENT}, Ending.EXITED, "exited with status 0"),
        ({"errno": errno.EMFILE, "failed": True}, Ending.EXITED, "exited with status 0"),
        (NO_FILES, Ending.EXITED, "exited with status 0"),
        ({"disk_full": 1.0, "failed": True}, Ending.DISK_FULL, "disk full: limit 1G, "),
        ({"inodes_full": 1.0, "failed": True}, Ending.OUT_OF_INODES, "out of inodes: limit 200000, "),
        ({"disk_full": 1.0, "inodes_full": 1.0, "failed": True}, Ending.DISK_FULL, EITHER),
        ({**NO_ROOM, "disk_full": 1.0, "limits": SCRATCH}, Ending.DISK_FULL, "disk full: no limit of its own, "),
        ({**NO_ROOM, "inodes_full": 1.0, "limits": SCRATCH}, Ending.OUT_OF_INODES, "out of inodes: no limit of its own, "),
        ({**NO_ROOM, "inodes_full": 1.0, "usage": FULL}, Ending.OUT_OF_INODES, "out of inodes: limit 200000, "),
        ({**NO_ROOM, "disk_full": 0.98, "usage": FULL}, Ending.EXITED, "exited with status 0"),
        ({**NO_ROOM, "limits": SCRATCH}, Ending.EXITED, "exited with status 0"),
        ({**NO_ROOM, "disk_full": 1.0, "processes_refused": 2}, Ending.DISK_FULL, "disk full"),
        ({**NO_ROOM, "processes_refused": 2}, Ending.TOO_MANY_PROCESSES, "(2 refused)"),
        ({"errno": errno.EAGAIN, "failed": True, "disk_full": 1.0, "processes_refused": 2}, Ending.TOO_MANY_PROCESSES, "(2 re"),
        ({"status": -7, "disk_full": 1.0}, Ending.DISK_FULL, "died of SIGBUS"),
        ({"status": -7, "inodes_full": 1.0}, Ending.SIGNALLED, "died of signal 7"),
        ({"status": -7}, Ending.SIGNALLED, "killed by SIGBUS"),
        ({"killed": Ending.TIMED_OUT, "usage": KILLED}, Ending.TIMED_OUT, "; before that the kernel killed a process"),
        ({"usage": KILLED, "own_memory": None}, Ending.OUT_OF_MEMORY, "limit 64M, peak 64M (or the machine's memory, or"),
        ({"usage": KILLED, "own_memory": False}, Ending.OUT_OF_MEMORY, "within its limit of 64M, peak 64M: the machine's memory"),
        ({"usage": KILLED, "limits": Limits(memory=None)}, Ending.OUT_OF_MEMORY, "without a limit, peak 64M: the machine's"),
        ({"disk_full": 1.0, "inodes_full": 1.0}, Ending.EXITED, "exited with status 0"),
    ],
)
def test_verdict(facts: dict[str, Any], ending: Ending, words: str) -> None:
    """What the controller did, what the kernel counted, how main ended, what it says: in this order."""
    found, sentence = judge(dataclasses.replace(FACTS, **facts))
    assert found is ending
    assert words in sentence


def test_oom_kills_are_believed_before_an_exit_status() -> None:
    """137 is no proof, and 0 no disproof."""
    killed = dataclasses.replace(FACTS, usage=KILLED, own_memory=True)
    assert judge(killed) == (
        Ending.OUT_OF_MEMORY,
        "out of memory: the kernel killed a process (which one, the kernel's log does not tell us), limit 64M, peak 64M",
    )
    assert judge(dataclasses.replace(killed, victim="hog pid 7"))[1].startswith("out of memory: the kernel killed hog pid 7,")
    for count, more in ((2, "1 other"), (5, "4 others")):
        several = dataclasses.replace(killed, usage=dataclasses.replace(KILLED, oom_kills=count))
        assert f" killed hog pid 7 and {more}, limit" in judge(dataclasses.replace(several, victim="hog pid 7"))[1]
        assert f" killed {count} processes (which ones, the kernel's log does not tell us)" in judge(several)[1]
    assert judge(dataclasses.replace(FACTS, status=137))[0] is Ending.EXITED


@pytest.mark.parametrize(
    "form",
    [{}, {"$": "tuple"}, {"$": "list", "of": []}, {"$": "dict", "of": [[1]]}, {"$": "dict", "of": 5}, {"$": "bytes", "of": "*"},
     {"$": "set", "of": [[]]}, {"$": ["x"], "of": []}, {"$": "__import__", "of": ["os"]}, [{"$": None}]],
)  # fmt: skip
def test_forms_that_nothing_packs(form: object) -> None:
    """A ValueError, and nothing is run."""
    with pytest.raises(ValueError, match="not a packed value"):
        values.unpack(form)


class _Odd(int):
    """A subclass, which would come out as its base."""


@pytest.mark.parametrize("value", [object(), _Odd(1), [_Odd(1)], {"a": {1: len}}, range(3)])
def test_values_that_are_not_plain(value: object) -> None:
    """A TypeError that says what to do."""
    with pytest.raises(TypeError, match=r"cannot leave a sandbox.*Fix: "):
        values.pack(value)


# -- capabilities ------------------------------------------------------------------------------------------------------


def test_capabilities_are_tried_when_asked_for() -> None:
    """To list the names is free; each is tried once."""
    fresh = host.Capabilities()
    assert {"platform", "user", "net", "identity", "memory", "disk", "timeout", "kill"} <= set(fresh)
    assert len(fresh) == len(list(fresh))
    assert fresh._known == {}
    assert fresh["user"] is fresh["user"]
    assert set(fresh._known) == {"user"}
    assert "nonsense" not in fresh
    with pytest.raises(KeyError):
        fresh["nonsense"]
    assert fresh.get("nonsense") is None


def test_what_is_missing_has_a_reason_and_a_fix() -> None:
    """Each, on this machine."""
    for name, capability in host.capabilities().items():
        assert capability.name == name
        assert capability.reason
        assert capability.available or capability.fix


def test_require() -> None:
    """An unknown name is refused with the known ones; "all" means each, and all that is missing is named at once."""
    lacking = {"b": "why", "c": "other", "d": "why"}
    known = {"a": Capability("a", available=True)}
    known |= {name: Capability(name, available=False, reason=why, fix="fix") for name, why in lacking.items()}
    host.refuse_missing(["a"], known)
    with pytest.raises(UnavailableError, match=r"^b is not available here: why\. Fix: fix$"):
        host.refuse_missing(["a", "b"], known)
    for names in (["b", "c", "d"], ["all"]):
        with pytest.raises(UnavailableError) as caught:
            host.refuse_missing(names, known)
        assert str(caught.value) == "b, d are not available here: why. Fix: fix\nc is not available here: other. Fix: fix"
    with pytest.raises(UnavailableError, match="name one of a, b, c, d"):
        host.refuse_missing(["all", "e"], known)


def test_only_what_was_asked_for_is_refused() -> None:
    """A default that is not enforced is listed, not refused."""
    known = {"memory": Capability("memory", available=False, reason="why", fix="fix")}
    assert [one.name for one in host.unenforced(Spec(), known)] == ["memory"]
    host.refuse(Spec(), known)
    with pytest.raises(UnavailableError, match="the limit memory is"):
        host.refuse(Spec(asked=frozenset({"memory"})), known)
    known["pids"] = dataclasses.replace(known["memory"], name="pids")
    with pytest.raises(UnavailableError, match="the limits memory, pids are"):
        host.refuse(Spec(asked=frozenset({"memory", "pids"})), known)
    host.refuse(Spec(limits=Limits(memory=None), asked=frozenset({"memory"})), known)
