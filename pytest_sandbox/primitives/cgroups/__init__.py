"""The cgroups of a run and of each sandbox, for the host-side controller only. Imports `model`.

    settle()                                         # before children are forked; may ask systemd for a scope
    with closing(CgroupRun.open("a1b2")) as run:     # always answers; run.problems says what this machine lacks
        cgroup = run.create("test-7", limits)        # cgroup.unenforced: limits that nothing here enforces
        cgroup.attach(pid)                           # or, without a 10 ms lock: open_tasks, enter in the child, verify
        ...
        cgroup.kill()
        usage = cgroup.read()                        # None with a reason in usage.missing, never a made-up 0
        cgroup.remove()

Directories are flat, and the same in every hierarchy that the sandbox needs:

    <own cgroup>/pytest-sandbox-run-<run>/<sandbox>/

layout              where this process is: /proc parsed; reasons and fixes        (pure)
limits              what controllers are told: files and values of each limit
gauges              what they are asked: files, and how to find a figure there    (pure)
controllers         the controllers of both versions; who plays which role        (pure)
files               read, write, kill, remove by path
delegation          run directories; subtree_control on v2
systemd             a scope of systemd's, where v2 lets nothing be divided
member              one sandbox's cgroup
run                 the run; the janitor's `remove_run`; what killed runs have left
probe               what can be enforced here, by trying
oom                 whom the OOM killer chose and for whose limit, by the kernel's log
pids                for whose limit forks were refused
"""

from __future__ import annotations

from pytest_sandbox.primitives.cgroups.layout import Problem
from pytest_sandbox.primitives.cgroups.member import Cgroup, CgroupUsage, MemorySnapshot, enter
from pytest_sandbox.primitives.cgroups.oom import OomKill, oom_kill
from pytest_sandbox.primitives.cgroups.probe import RARE, USUAL, CgroupCapability, capabilities
from pytest_sandbox.primitives.cgroups.run import CgroupRun, remove_run, settle

__all__ = [
    "RARE",
    "USUAL",
    "Cgroup",
    "CgroupCapability",
    "CgroupRun",
    "CgroupUsage",
    "MemorySnapshot",
    "OomKill",
    "Problem",
    "capabilities",
    "enter",
    "oom_kill",
    "remove_run",
    "settle",
]
