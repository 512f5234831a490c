"""Machines on which no sandbox can be made: the doctor and pytest say so, why, and what would change it."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Prctl

_MOUNT_SETATTR = 442


def before_5_12() -> None:
    """From now on this process is on a kernel without mount_setattr(2): ENOSYS, by a seccomp filter (struct sock_filter[])."""
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, _MOUNT_SETATTR), (0x06, 0, 0, 0x0005_0000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF_0000)]
    syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)
    syscalls.set_filter(b"".join(struct.pack("=HBBI", *line) for line in program))


def run(arguments: Sequence[str], kernel: Callable[[], None] | None = None) -> tuple[int, str]:
    """The exit status of a pytest of its own, and all that it says."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, preexec_fn=kernel)
    return done.returncode, done.stdout


def test_a_kernel_without_a_needed_call(pytester: pytest.Pytester) -> None:
    """Both refuse before anything runs, and name call, kernel and fix."""
    pytester.makepyfile("def test(): raise SystemError('it ran')")
    status, said = run(["--sandbox-doctor"], before_5_12)
    assert (status, "cannot run here: no platform" in said) == (1, True), said
    assert "NO  platform   Linux " in said
    assert "has no mount_setattr(2)" in said
    assert "fix: Linux 5.12 or newer" in said
    assert "Traceback" not in said
    status, said = run(["--sandbox"], before_5_12)
    assert status == pytest.ExitCode.USAGE_ERROR, said
    assert "--sandbox: platform is not available here: Linux " in said
    assert "Fix: Linux 5.12 or newer" in said
    assert not any(word in said for word in ("Traceback", "it ran"))


def test_the_doctor_is_right(pytester: pytest.Pytester) -> None:
    """On every machine: where it says that pytest can run, it can, and where not, pytest says why and what to do."""
    pytester.makepyfile("def test(): pass")
    diagnosis, said = run(["--sandbox-doctor"])
    status, text = run(["--sandbox"])
    expected = {0: pytest.ExitCode.OK, 1: pytest.ExitCode.USAGE_ERROR}
    assert status == expected[diagnosis], said + text
    assert diagnosis == 0 or "Fix: " in text
    assert "Traceback" not in said + text
