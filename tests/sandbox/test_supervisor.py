"""The controller's loop: what it closes, waits for and gives up on, what it refuses, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import Capability, Ending, Limits, Spec, UnavailableError
from pytest_sandbox.model.errors import TeardownWarning
from pytest_sandbox.primitives.cgroups.layout import V1, V2, find_hierarchies
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.machine import host, probes
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from tests.sandbox.conftest import Heard, below, root, scope, sleep, wait


def receive(inside: Inside) -> int:
    """A body that waits for a word."""
    inside.channel.receive()
    return 0


def test_fifty_sandboxes_leave_no_descriptor(supervisor: Supervisor) -> None:
    """Nor a zombie: the controller is as it was after the first."""
    outer, _ = root(supervisor, scope({"leave": lambda _: 0}))
    counts = []
    for _ in range(50):
        _, heard = below(supervisor, outer, "leave")
        wait(supervisor, heard)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[-1]
    roots = []
    for _ in range(10):
        _, heard = root(supervisor, lambda _: 0)
        wait(supervisor, heard)
        roots.append(len(os.listdir("/proc/self/fd")))
    assert roots[0] == roots[-1] == counts[0]


def test_outermost_sandboxes_know_nothing_of_each_other(supervisor: Supervisor) -> None:
    """A second one, made while the first runs, holds no descriptor of it."""
    _, first = root(supervisor, receive)

    def look(inside: Inside) -> int:
        modes = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of listdir itself
                modes.append(os.fstat(int(name)).st_mode)
        inside.channel.send({"op": "found", "sockets": sum(map(stat.S_ISSOCK, modes))})
        return 0

    _, second = root(supervisor, look)
    wait(supervisor, second)
    assert second.frames[0]["sockets"] == 1
    assert first.outcome is None


def test_close_while_all_run(crowd: Callable[[], float]) -> None:
    """Everything is killed, what was only ordered too, and that in no time."""
    one = Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", host.make_layout(probes.find_identity()))
    outer, above = root(one, scope({"hang": sleep(60)}))
    heard = [below(one, outer, "hang")[1] for _ in range(5)]
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < 5 * crowd()
    assert all(each.outcome is not None for each in (above, *heard))


def test_close_at_once() -> None:
    """Before the launcher has done anything."""
    one = Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", host.make_layout(probes.find_identity()))
    root(one, lambda _: 0)
    one.close()


def test_close_with_a_launcher_that_is_stuck(monkeypatch: pytest.MonkeyPatch, crowd: Callable[[], float]) -> None:
    """A launcher that hangs in the kernel's or anybody's hands is killed, and close comes back."""
    from pytest_sandbox.sandbox.inside import launcher

    monkeypatch.setattr(launcher, "_launch", lambda *_: time.sleep(60))
    one = Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", host.make_layout(probes.find_identity()))
    _, heard = root(one, lambda _: 0)
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < 5 * crowd()
    assert heard.outcome is not None
    assert heard.outcome.ending is Ending.NO_REPORT


class Freezer:
    """A cgroup below this process's own, into which the test moves what it then freezes from outside."""

    def __init__(self, version: int) -> None:
        hierarchies = find_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        found = [one for one in hierarchies if one.version == version and (version == V2 or "freezer" in one.controllers)]
        if not found or found[0].problem or not os.access(found[0].directory, os.W_OK):
            pytest.skip(f"no freezer of cgroup v{version} that this user may use")
        self._path = Path(found[0].directory, f"frozen-{os.getpid()}-{secrets.token_hex(4)}")
        self._path.mkdir()
        self._v1 = version == V1

    def freeze(self, pids: tuple[int, ...]) -> None:
        """Move them in, and stop them."""
        for pid in pids:
            (self._path / "cgroup.procs").write_text(str(pid))
        self._set("FROZEN", "1")

    def thaw(self) -> None:
        """Let them go on."""
        self._set("THAWED", "0")

    def _set(self, v1: str, v2: str) -> None:
        (self._path / ("freezer.state" if self._v1 else "cgroup.freeze")).write_text(v1 if self._v1 else v2)

    def remove(self) -> None:
        """Of what is still in there nobody survives."""
        self.thaw()
        limit = time.monotonic() + 30
        while (self._path / "cgroup.procs").read_text():
            assert time.monotonic() < limit
            time.sleep(0.01)
        self._path.rmdir()


@pytest.fixture(params=[V1, V2], ids=["v1", "v2"])
def freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    """See `Freezer`."""
    one = Freezer(request.param)
    yield one
    one.remove()


def frozen(supervisor: Supervisor, freezer: Freezer, timeout: float) -> Heard:
    """A sandbox that sleeps, and is frozen from outside."""
    running, heard = root(supervisor, sleep(600), limits=Limits(timeout=timeout))
    supervisor.run_while(lambda: running.clock.limit is None)
    freezer.freeze(running.cgroup.processes())
    return heard


@pytest.mark.needs("kill")
def test_frozen_from_outside(supervisor: Supervisor, freezer: Freezer) -> None:
    """It is killed when its time is over; version 1's freezer, which keeps it from dying, is waited for."""
    heard = frozen(supervisor, freezer, 0.5)
    thaw = threading.Timer(2.0, freezer.thaw)
    thaw.start()
    assert wait(supervisor, heard)[0].ending is Ending.TIMED_OUT
    thaw.join()


@pytest.mark.needs("kill")
@pytest.mark.parametrize("freezer", [V1], indirect=True)
def test_what_does_not_die_does_not_hold_the_run(
    supervisor: Supervisor, freezer: Freezer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the run goes on without it, and says so; the verdict is known all the same."""
    monkeypatch.setattr("pytest_sandbox.sandbox.outside.running.GONE_TIME", 0.5)
    heard = frozen(supervisor, freezer, 0.5)
    with (
        pytest.warns(TeardownWarning, match=r"s1 cannot be killed, with pids \d+"),
        pytest.warns(TeardownWarning, match="could not be removed: Device or resource busy"),
    ):
        assert wait(supervisor, heard)[0].ending is Ending.TIMED_OUT
    monkeypatch.undo()  # on a machine under load the next one may take longer to be gone
    _, other = root(supervisor, lambda _: 0)
    assert wait(supervisor, other)[0].ok
    freezer.thaw()


def test_a_limit_that_cannot_be_held_after_all(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for is refused where the cgroup does not take it, whatever the machine was found to do."""
    known = host.capabilities()
    lost = next((name for name in ("memory_high", "hugetlb", "cpus", "memory") if not known[name].available), None)
    if lost is None:
        pytest.skip("this machine holds every limit")
    monkeypatch.setattr(host, "capabilities", lambda: {**known, lost: Capability(lost, True)})
    changed: dict[str, Any] = {lost: 1 if lost == "cpus" else 64 << 20}
    limits, said = Limits(**changed), list[list[str]]()
    for _ in range(2):  # also when it was told before
        with pytest.raises(UnavailableError, match=lost):
            supervisor.start_root(Spec(limits=limits, asked=frozenset({lost})), scope({}), Heard())
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            _, heard = root(supervisor, lambda _: 0, limits=limits)
        wait(supervisor, heard)
        said.append([str(one.message) for one in told if one.category is TeardownWarning])
    assert len(said[0]) == 1
    assert f"the limit {lost} is not enforced" in said[0][0]
    assert said[1] == []


def test_a_distant_deadline(supervisor: Supervisor) -> None:
    """A time limit of a month is one."""
    _, heard = root(supervisor, sleep(0.1), limits=Limits(timeout=3e6, output=None))
    assert wait(supervisor, heard)[0].status == 0
