"""Cgroups of machines that are not at hand: the pure tables and parsers, with the texts of their files of /proc."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import layout as cgroup_layout
from pytest_sandbox.primitives.cgroups.controllers import (
    CPU_V1,
    CPU_V2,
    CPUSET_V1,
    HUGETLB_V1,
    HUGETLB_V2,
    IO_V1,
    IO_V2,
    MEMORY_V1,
    MEMORY_V2,
    ROLES,
    THROTTLE_V1,
    THROTTLE_V2,
    Controller,
    choose,
)
from pytest_sandbox.primitives.cgroups.delegation import leave_leaf
from pytest_sandbox.primitives.cgroups.gauges import is_stacked, sum_after
from pytest_sandbox.primitives.cgroups.layout import Hierarchy, Problem, explain, find_hierarchies
from pytest_sandbox.primitives.cgroups.limits import disks, quota

HYBRID_CGROUP = "5:cpu,cpuacct:/\n4:memory:/docker/ab\n1:name=systemd:/\n0::/\n"
HYBRID_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/ab /sys/fs/cgroup/mem\\040ory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
V2_MOUNT = "41 31 0:38 {} /sys/fs/cgroup {},relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def test_hybrid_layout() -> None:
    """Each controller's own path, seen through a mount whose root is not /; named hierarchies are left out."""
    cpu, memory, unified = find_hierarchies(HYBRID_CGROUP, HYBRID_MOUNTS)
    assert (cpu.key, cpu.directory) == ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct")
    assert (memory.directory, memory.path, memory.name) == ("/sys/fs/cgroup/mem ory", "/docker/ab", "v1 memory")
    assert (unified.version, unified.directory) == (2, "/sys/fs/cgroup/unified")


@pytest.mark.parametrize(
    ("path", "root", "directory"),
    [
        ("/", "/", "/sys/fs/cgroup"),
        ("/user.slice/x.scope", "/", "/sys/fs/cgroup/user.slice/x.scope"),
        ("/a/b", "/a", "/sys/fs/cgroup/b"),
        ("/a/pytest-sandbox-controller-x", "/", "/sys/fs/cgroup/a"),
        ("/pytest-sandbox-controller-x", "/", "/sys/fs/cgroup"),
    ],
)
def test_v2_base(path: str, root: str, directory: str) -> None:
    """Where run directories go: this process's cgroup, or the parent of a controller's leaf."""
    (found,) = find_hierarchies(f"0::{path}\n", V2_MOUNT.format(root, "rw"))
    assert (found.problem, found.directory) == (None, directory)


@pytest.mark.parametrize(
    ("path", "mounts", "reason", "cause"),
    [
        ("/../x", V2_MOUNT.format("/", "rw"), "/../x lies outside of its cgroup namespace", Cause.OUTSIDE),
        (
            "/ab",
            V2_MOUNT.format("/a", "rw"),
            "shows /a of the v2 hierarchy; this process is in /ab",
            Cause.OUTSIDE,
        ),
        ("/", V2_MOUNT.format("/..", "rw"), "shows /.. of the v2 hierarchy; this process is in /", Cause.FOREIGN),
        ("/", "", "the v2 cgroup hierarchy is not mounted", Cause.UNMOUNTED),
    ],
)
def test_v2_unusable(path: str, mounts: str, reason: str, cause: Cause) -> None:
    """A problem that says what is wrong."""
    (found,) = find_hierarchies(f"0::{path}\n", mounts)
    assert found.problem
    assert reason in found.problem.reason
    assert found.problem.cause is cause
    assert found.problem.detail == ""
    assert found.directory == ""


def test_where_what_is_not_mounted_belongs() -> None:
    """Beside each other, each by its controllers; what has a name and no controllers is a hierarchy too."""
    details = [one.problem and one.problem.detail for one in find_hierarchies(HYBRID_CGROUP, "")]
    assert details == ["cpu,cpuacct", "memory", "unified"]
    (found,) = find_hierarchies("1:name=systemd:/\n0::/\n", "")
    assert found.problem
    assert found.problem.detail == "unified"


@pytest.mark.parametrize("options", ["rw,seclabel,memory", "rw,memory,release_agent=/agent", "rw,an_option_of_tomorrow,memory"])
def test_a_hierarchy_of_version_1_is_known_by_its_controllers(options: str) -> None:
    """Whatever else stands among the options of its mount, as a security module's do."""
    mounts = f"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup {options}\n"
    (found,) = find_hierarchies("4:memory:/a\n", mounts)
    assert (found.problem, found.directory) == (None, "/sys/fs/cgroup/memory/a")


def test_a_writable_mount_is_preferred() -> None:
    """Some containers show a read-only copy beside a writable one."""
    mounts = V2_MOUNT.format("/", "rw").replace("/sys/fs", "/run") + V2_MOUNT.format("/", "ro")
    (found,) = find_hierarchies("0::/\n", mounts)
    assert found.directory == "/run/cgroup"


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x85", "\r", "\udcff", " - "])
def test_a_name_that_only_looks_like_more_lines(odd: str) -> None:
    """Of a mount and of a cgroup: the kernel ends a line with a newline, and escapes that, and blanks, in the name of a mount."""
    mounts = V2_MOUNT.format("/", "rw").replace("/sys/fs", f"/a{odd.replace(' ', chr(92) + '040')}b")
    (found,) = find_hierarchies(f"0::/c{odd}d\n", mounts)
    assert (found.problem, found.directory) == (None, f"/a{odd}b/cgroup/c{odd}d")


def v2(problem: Problem | None = None) -> Hierarchy:
    """A unified hierarchy."""
    return Hierarchy(cgroup_layout.V2, "", frozenset(), "/", "" if problem else "/v2", problem=problem)


def v1(*controllers: str) -> Hierarchy:
    """A v1 hierarchy."""
    return Hierarchy(cgroup_layout.V1, ",".join(controllers), frozenset(controllers), "/", "/v1")


@pytest.mark.parametrize(
    ("hierarchies", "unified", "chosen"),
    [
        pytest.param(
            (v2(),),
            "cpu io memory pids",
            {"usage": "v2", "memory": "v2", "pids": "v2", "io": "v2", "cpu": "v2", "throttle": "v2"},
            id="v2",
        ),
        pytest.param((v2(),), "memory pids", {"usage": "v2", "memory": "v2", "pids": "v2"}, id="delegated by systemd"),
        pytest.param(
            (v1("memory"), v1("pids"), v1("cpu", "cpuacct"), v2()),
            "",
            # Not v2, whose cpu.stat would do: to enter it costs each sandbox 10 ms (docs/internals/kill-and-cgroups.md).
            {"usage": "v1 cpu,cpuacct", "memory": "v1 memory", "pids": "v1 pids", "cpu": "v1 cpu,cpuacct"},
            id="hybrid",
        ),
        pytest.param(
            (v1("memory"), v1("pids"), v2()),
            "",
            {"usage": "v2", "memory": "v1 memory", "pids": "v1 pids"},
            id="hybrid without cpuacct",
        ),
        pytest.param(
            (v1("memory"), v1("cpuacct"), v2()),
            "pids",
            {"usage": "v2", "memory": "v1 memory", "pids": "v2"},
            id="hybrid with a controller on v2",
        ),
        pytest.param(
            (v1("memory"), v1("cpu", "cpuacct"), v2(Problem("unmounted", Cause.UNMOUNTED))),
            "",
            {"usage": "v1 cpu,cpuacct", "memory": "v1 memory", "cpu": "v1 cpu,cpuacct"},
            id="v1",
        ),
        pytest.param((v2(Problem("unmounted", Cause.UNMOUNTED)),), "", {}, id="unusable"),
        pytest.param((), "", {}, id="none"),
    ],
)
def test_backends(hierarchies: tuple[Hierarchy, ...], unified: str, chosen: dict[str, str]) -> None:
    """Which hierarchy plays which role; every role that none plays has a problem, and so has what version 1 never holds."""
    choices, problems = choose(hierarchies, frozenset(unified.split()))
    assert {role: choice.hierarchy.name for role, choice in choices.items()} == chosen
    never = {"memory_high"} if chosen.get("memory") == "v1 memory" else set()
    assert choices.keys() | problems.keys() == ROLES.keys() | never
    assert not choices.keys() & problems.keys()


@pytest.mark.parametrize(
    ("controller", "limits", "expected"),
    [
        (
            MEMORY_V1,
            Limits(memory=100, swap=0),
            ["memory.limit_in_bytes=100", f"memory.memsw.limit_in_bytes={100 + (2 << 20)}", "memory.swappiness=0"],
        ),
        (MEMORY_V1, Limits(memory=100, swap=7), ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=107"]),
        (MEMORY_V1, Limits(memory=100, swap=None), ["memory.limit_in_bytes=100"]),
        (MEMORY_V1, Limits(memory=None, swap=0), []),
        (MEMORY_V1, Limits(memory=None, swap=5), []),
        (MEMORY_V2, Limits(memory=100, swap=0), ["memory.max=100", "memory.swap.max=0"]),
        (MEMORY_V2, Limits(memory=None, swap=5), ["memory.swap.max=5"]),
        (CPU_V1, Limits(cpus=0.5), ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"]),
        (CPU_V2, Limits(cpus=1.5), ["cpu.max=150000 100000"]),
        (CPU_V2, Limits(), []),
        (MEMORY_V2, Limits(memory=100, memory_high=50, swap=None), ["memory.max=100", "memory.high=50"]),
        (MEMORY_V1, Limits(memory=100, memory_high=50, swap=None), ["memory.limit_in_bytes=100"]),
        (CPUSET_V1, Limits(cpuset="0-1"), ["cpuset.cpus=0-1"]),
        (HUGETLB_V2, Limits(), []),
        (HUGETLB_V1, Limits(), []),
        (
            THROTTLE_V2,
            Limits(io_read=7, io_write_ops=8),
            [f"io.max={disk} {rule}" for rule in ("rbps=7", "wiops=8") for disk in disks()],
        ),
        (THROTTLE_V1, Limits(io_write=7), [f"blkio.throttle.write_bps_device={disk} 7" for disk in disks()]),
    ],
)
def test_writes(controller: Controller, limits: Limits, expected: list[str]) -> None:
    """What is written, in this order."""
    assert [f"{write.file}={write.value}" for write in controller.writes(limits)] == expected


@pytest.mark.parametrize(("cpus", "expected"), [(2, (200_000, 100_000)), (0.005, (5000, 1_000_000)), (1e-6, (1000, 1_000_000))])
def test_quota_keeps_the_kernels_bounds(cpus: float, expected: tuple[int, int]) -> None:
    """A quota is never below 1 ms, a period never above 1 s."""
    assert quota(cpus) == expected


#: What a cgroup is billed that wrote through dm (253:0) and loop (7:0), each on 254:0, and read from 8:0 too.
STACKED_V2 = b"""\
254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0
253:0 rbytes=0 wbytes=12 rios=0 wios=1 dbytes=0 dios=0
7:0 rbytes=10 wbytes=8 rios=1 wios=1 dbytes=0 dios=0
8:0 rbytes=5 wbytes=1
"""
STACKED_V1 = b"8:0 Read 4096\n8:0 Write 1\n8:0 Sync 9\n8:0 Total 4097\n253:0 Read 4096\n7:0 Read 99\n8:16 Read 4\nTotal 8292\n"


@pytest.mark.parametrize(
    ("content", "words", "expected"),
    [
        (STACKED_V2, (b"rbytes", b"wbytes", b"rios", b"wios"), [15, 21, 1, 2]),
        (b"", (b"rbytes", b"wbytes", b"rios", b"wios"), [0, 0, 0, 0]),
        (b"253:0 7:0 8:0 rbytes=5 wbytes=1 rios=3 wios=0\n", (b"rbytes", b"rios"), [5, 3]),  # before 5.13: no line for nothing
        (STACKED_V1, (b"Read", b"Write"), [4100, 1]),
    ],
)
def test_io_counts_add_up_over_disks(content: bytes, words: tuple[bytes, ...], expected: list[int]) -> None:
    """Bytes read and written, and operations: of those at the bottom, since what is above them is billed the same again."""
    assert [sum_after(word, {b"253:0", b"7:0"}.__contains__)(content) for word in words] == expected


@pytest.mark.parametrize("controller", [IO_V1, IO_V2, THROTTLE_V1])
def test_io_counts_leave_out_what_stands_on_others(controller: Controller) -> None:
    """As this machine has them: none of a number that is nobody's does, so it is counted."""
    words = b"rbytes=7 wbytes=7 rios=7 wios=7" if controller is IO_V2 else b"Read 7\n4095:0 Write 7"
    assert [gauge.extract(b"4095:0 " + words) for gauge in controller.gauges] == [7, 7, 7, 7]


def test_disks_that_stand_on_others(tmp_path: Path) -> None:
    """As sysfs shows them: by slaves, loop by its file. Not so the disk below, an idle loop, what is gone, and md's linear."""
    arrays = [f"9:{minor}/{name}" for minor in (0, 1) for name in ("slaves/sda", "md")]
    for path in ("253:0/slaves/sda", "254:0/slaves", "7:0/loop", "7:1/slaves", *arrays):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "7:0/loop/backing_file").touch()
    (tmp_path / "9:0/md/level").write_text("raid1\n", encoding="ascii")
    (tmp_path / "9:1/md/level").write_text("linear\n", encoding="ascii")
    disks = (b"253:0", b"254:0", b"7:0", b"7:1", b"8:0", b"9:0", b"9:1")
    for _ in range(2):  # again from memory, whatever became of them
        assert [disk for disk in disks if is_stacked(disk, os.fspath(tmp_path))] == [b"253:0", b"7:0", b"9:0"]
        (tmp_path / "7:0/loop/backing_file").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("code", "reason", "cause"),
    [
        (errno.EROFS, "read-only", Cause.READ_ONLY),
        (errno.EACCES, "not delegated", Cause.NOT_DELEGATED),
        (errno.EPERM, "not delegated", Cause.NOT_DELEGATED),
        (errno.EBUSY, "other processes", Cause.SHARED),
        (errno.ENOENT, "does not have it", Cause.NO_CONTROLLER),
        (errno.EAGAIN, "temporarily unavailable", Cause.MOST_CGROUPS),
        (errno.ENOSPC, "No space left", Cause.NO_ROOM),
        (errno.ENOMEM, "Cannot allocate memory", Cause.NO_ROOM),
        (errno.EOPNOTSUPP, "not supported", Cause.CGROUP),
    ],
)
def test_reasons_name_the_errno_and_the_rule(code: int, reason: str, cause: Cause) -> None:
    """Each errno that making a cgroup can give is a sentence, and a cause."""
    problem = explain(OSError(code, os.strerror(code), "/v2/x"), v2())
    assert reason in problem.reason
    assert errno.errorcode[code] in problem.reason
    assert problem.cause is cause


def test_the_reason_is_of_the_hierarchy_that_has_the_controller() -> None:
    """Where neither can be used: version 2 cannot have what a hierarchy of version 1 has."""
    problems = {version: Problem(f"of version {version}", Cause.OUTSIDE) for version in (1, 2)}
    memory = dataclasses.replace(v1("memory"), problem=problems[1], directory="")
    _, found = choose((memory, v2(problems[2])), frozenset())
    assert (found["memory"], found["pids"]) == (problems[1], problems[2])
    assert found["memory_high"].cause is Cause.VERSION_1  # which stays so, whatever becomes of problems[1]


def test_a_leaf_that_was_never_made_changes_nothing(tmp_path: Path) -> None:
    """What the cgroup around it passes on is somebody else's: a janitor knows of a leaf before it is there."""
    passed_on = tmp_path / "cgroup.subtree_control"
    passed_on.write_text("memory pids\n")
    leave_leaf(f"{tmp_path}/pytest-sandbox-controller-x")
    assert passed_on.read_text() == "memory pids\n"
