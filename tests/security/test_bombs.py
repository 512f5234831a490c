"""Many processes that will not go: deaf, stopped, frozen, in namespaces and cgroups inside each other. All go with the test.

Two thousand of them with `--abuse 2` or more; a few hundred else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

BODIES = {
    "idle": "time.sleep(600)",
    "deaf": "inner.stop_signals(); time.sleep(600)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "traced": "inner.call('ptrace', 0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP)",
    "zombies": "os._exit(0)",
    "sessions": "os.setsid(); os.closerange(0, 100); inner.stop_signals(); time.sleep(600)",
}
#: A fork of Python takes a megabyte for itself; that limit is not the one to be met here.
ROOM = ", memory=None"
#: How long any of it may take, in seconds: with two thousand there, a guest under User-Mode Linux forks a few times a second.
BOUND = 1200
#: How many of a sandbox's processes are moved from outside: each write takes a lock of all forks and exits.
MOVED = 20


@pytest.fixture
def size(request: pytest.FixtureRequest) -> int:
    """How many processes."""
    return 2000 if request.config.getoption("--abuse") > 1 else 300


@pytest.mark.parametrize("kind", BODIES)
def test_bomb(attack: Any, size: int, kind: str) -> None:
    """Whatever its children do, a test that leaves thousands is over when it ends; the next one passes."""
    attack.needs("pids")
    attack.write(f"""
@pytest.mark.sandbox(pids={size + 500}{ROOM})
def test_bomb():
    inner.assert_inside()
    for _ in range({size}):
        if os.fork() == 0:
            {BODIES[kind]}
""")
    result = attack.run("--sandbox-keep=never", seconds=BOUND)
    result.passed("test_bomb", "test_next")
    assert int(result.cases["test_bomb"].properties.get("sandbox_pids_peak", size)) >= size


@pytest.mark.parametrize("levels", [1, 16])
def test_bomb_in_nested_namespaces(anywhere: Any, size: int, levels: int) -> None:
    """As init of pid and user namespaces inside the sandbox's, in each other, they outlive nothing either."""
    anywhere.needs("pids")
    anywhere.write(f"""
@pytest.mark.sandbox(pids={size + 500}{ROOM})
def test_bomb():
    inner.assert_inside()
    if os.fork() == 0:
        inner.nest({levels}, {size // (levels + 1)})
        os._exit(0)
    inner.wait_until(lambda: len(inner.pids()) > {size // (levels + 1) * (levels + 1)}, {BOUND})
""")
    result = anywhere.run("--sandbox-keep=never", seconds=BOUND)
    result.passed("test_bomb", "test_next")


@pytest.mark.parametrize("kind", ["deaf", "stopped"])
def test_bomb_that_meets_the_limit(attack: Any, size: int, kind: str) -> None:
    """Refused at the very number, and named by it."""
    attack.needs("pids")
    attack.write(f"""
@pytest.mark.sandbox(pids={size}{ROOM})
def test_bomb():
    inner.assert_inside()
    for _ in range({size + 1}):
        if os.fork() == 0:
            {BODIES[kind]}
    assert False, "nobody refuses a process"
""")
    result = attack.run("--sandbox-keep=never", seconds=BOUND)
    result.failed("test_bomb", "too many processes", f"limit {size}")
    result.passed("test_next")


@pytest.mark.parametrize("what", ["nested", "frozen"])
def test_moved_from_outside(attack: Any, size: int, what: str) -> None:
    """What the machine's owner has put into cgroups below the sandbox's own, or has frozen there (v2), dies with the rest."""
    attack.needs("pids", "kill")
    through = attack.path / "through"
    through.mkdir()
    attack.facts["through"] = str(through)
    attack.write(f"""
@pytest.mark.sandbox(pids={size + 500}{ROOM})
def test_bomb():
    inner.assert_inside()
    for _ in range({size}):
        if os.fork() == 0:
            inner.stop_signals()
            time.sleep(600)
    open(FACTS["through"] + "/ready", "w").close()
    inner.wait_until(lambda: os.path.exists(FACTS["through"] + "/go"), {BOUND})
""")
    process = attack.start(f"--sandbox-writable={through}", "--sandbox-keep=never", seconds=BOUND)
    attack.wait_until((through / "ready").exists, BOUND)
    directories = [Path(path) for path in attack.cgroups_of(attack.pid)]
    own = [path for top in directories for path in top.glob("*/") if len((path / "cgroup.procs").read_text().split()) > size]
    own += [path for top in directories for path in top.glob("*/leaf") if len((path / "cgroup.procs").read_text().split()) > size]
    assert own
    for directory in own:
        if what == "frozen" and not (directory / "cgroup.freeze").exists():
            pytest.skip("this sandbox is in no cgroup of version 2")
        (directory / "a" / "b").mkdir(parents=True)
        for pid in (directory / "cgroup.procs").read_text().split()[-MOVED:]:
            (directory / "a" / "b" / "cgroup.procs").write_text(pid)
        if what == "frozen":
            (directory / "a" / "cgroup.freeze").write_text("1")
    (through / "go").touch()
    result = attack.finish(process, BOUND)
    result.passed("test_bomb", "test_next")
    assert all(not directory.exists() for directory in own)
    assert os.listdir(through)
