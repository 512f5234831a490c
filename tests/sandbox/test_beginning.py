"""Sandboxes that cannot be begun, for want of what the machine or the user has too little of: refused, and nothing is left."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import Limits, Outcome, Sandbox, SetupError, Spec
from pytest_sandbox._linux import native
from pytest_sandbox.sandbox.cleanup.removal import remove_tree
from pytest_sandbox.sandbox.inside import outermost
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.inside.main import fork_into
from pytest_sandbox.sandbox.machine import host, probes
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor


class Ears:
    """Hears the end, and whether something was said."""

    outcome: Outcome | None = None
    heard = False

    def on_frame(self, running: Running, frame: dict[str, Any]) -> None:
        """Note that."""
        del running, frame
        self.heard = True

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """Keep it."""
        del running
        self.outcome = outcome


def nest(inside: Inside) -> int:
    """A body that says that it is there, and forks what it is told to."""
    inside.channel.send({"op": "said"})
    while True:
        try:
            frame, descriptors = inside.channel.receive()
        except EOFError:
            return 0
        fork_into(inside, frame, descriptors, lambda _: 0)


@pytest.mark.parametrize(
    ("where", "name"), [(native, "become_init"), (outermost, "forbid_mounts")], ids=["of its init", "of its main process"]
)
def test_the_last_steps(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> None:
    """What goes wrong there is said as of every other, and not taken for what the program did."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), "the last step")

    monkeypatch.setattr(where, name, refuse)
    with pytest.raises(SetupError, match=r"^the last step: Permission denied"):
        Sandbox(Spec(hide=("/srv",))).run(["/bin/true"])


@contextlib.contextmanager
def few_files(spare: int) -> Iterator[None]:
    """Within: no more than so many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in itertools.count() if number not in opened)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, spare, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("below", [False, True])
def test_too_few_descriptors(below: bool) -> None:
    """However far it came: not a descriptor is left, the run goes on, and the next one can be begun."""
    layout = host.make_layout(probes.find_identity())
    with Supervisor(f"{os.getpid()}-{secrets.token_hex(4)}", layout) as supervisor:
        there = Ears()
        parent = supervisor.start_root(Spec(), nest, there)
        supervisor.run_while(lambda: not there.heard, 300)

        def begin() -> Ears:
            ears = Ears()
            if below:
                supervisor.start(parent, Spec(), ears)
            else:
                supervisor.start_root(Spec(), lambda _: 0, ears, scope=False)
            supervisor.run_while(lambda: ears.outcome is None, 300)
            return ears

        begin()
        before, refused = os.listdir("/proc/self/fd"), 0
        for spare in range(12):
            with few_files(spare):
                try:
                    begin()
                except SetupError as error:
                    assert error.errno == errno.EMFILE  # noqa: PT017  # it may do with so many
                    refused += 1
            assert os.listdir("/proc/self/fd") == before, spare
        assert refused > 3
        ears = begin()
        assert ears.outcome is not None
        assert ears.outcome.status == 0
        assert there.outcome is None


def test_a_scratch_that_is_full_or_gone(pytester: pytest.Pytester) -> None:
    """An error of the tests that have no place there, and not of the run."""
    disk = probes.find_scratch()
    if disk is None:
        pytest.skip("neither temporary files nor /var/tmp are on ext4, xfs or btrfs")
    scratch = Path(disk, f"scratch-{secrets.token_hex(4)}")
    scratch.mkdir()
    pytester.makeconftest(f"""
        import os, pathlib
        def pytest_runtest_logfinish(nodeid):
            if nodeid.endswith("test_1"):
                for run in pathlib.Path({str(scratch)!r}).iterdir():
                    run.rename(run.with_name("elsewhere"))
    """)
    pytester.makepyfile("""
        import pytest
        def test_1(): pass
        @pytest.mark.parametrize("number", range(60))
        def test_it(number): pass
    """)
    try:
        result = pytester.runpytest_subprocess("--sandbox", f"--sandbox-scratch={scratch}", "-rE")
    finally:
        remove_tree(str(scratch))  # of a user, for whom the kernel's own directories there are closed
    counts = result.parseoutcomes()
    assert counts["errors"] >= 30  # some have been made ahead, and some ended before the first was reported
    assert counts["passed"] + counts["errors"] == 61
    result.stdout.fnmatch_lines(["begin a sandbox: */s*: No such file or directory*"])


@pytest.mark.parametrize("limit", [None, 20 << 30])
def test_output_that_is_a_hole(limit: int | None) -> None:
    """The size of a file says nothing of what it took to write it: what is read is bounded, and told to be cut."""
    result = Sandbox(Spec(limits=Limits(output=limit))).run(["truncate", "-s", "10G", "/proc/self/fd/1"])
    assert len(result.stdout) == 64 << 20
    assert result.output_cut
    assert not Sandbox(Spec(limits=Limits(output=limit))).run(["echo", "all"]).output_cut
