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
from pytest_sandbox.sandbox import fixes

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


def test_a_masked_proc(pytester: pytest.Pytester) -> None:
    """As container engines mask it: a new one is refused by the kernel, and the fix is to unmask."""
    pytester.makepyfile("def test(): raise SystemError('it ran')")
    mask = "mount -t tmpfs mask /proc/fs && exec"
    command = ["unshare", "-Urm", "sh", "-c", f'{mask} "$@"', "sh", sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "--sandbox-doctor"], capture_output=True, text=True, check=False)
    if "mount:" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert (
        "NO  proc       [Errno 1] Operation not permitted: 'mount proc'\n    fix: show the container all of /proc" in done.stdout
    )
    assert "cannot run here: no proc" in done.stdout


STATUS = "Name:\tpytest\nSeccomp:\t2\n"
MASKED = "23 31 0:21 / /proc rw - proc proc rw\n50 23 0:40 / /proc/kcore rw - tmpfs tmpfs rw\n"


@pytest.mark.parametrize(
    ("number", "evidence", "fix"),
    [
        (errno.ENOSPC, {"/proc/sys/user/max_net_namespaces": "0\n"}, "sysctl user.max_net_namespaces="),
        (errno.EPERM, {"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "sysctl kernel.unprivileged_userns_clone=1"),
        (errno.EACCES, {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "sysctl kernel.apparmor_restrict"),
        (errno.EPERM, {"/proc/self/status": STATUS}, "let the container make namespaces"),
        (errno.EPERM, {}, "one of: "),
    ],
)
def test_the_fix_is_that_of_the_cause(number: int, evidence: dict[str, str], fix: str) -> None:
    """By what machines say that are not at hand."""
    assert fixes.for_namespace(OSError(number, ""), read=lambda path: evidence.get(path, "")).startswith(fix)


def test_the_fix_for_file_systems() -> None:
    """Masks are known by what is mounted; without any it is a rule for user namespaces."""
    assert fixes.for_file_system({"/proc/self/mountinfo": MASKED}.get) == fixes.UNMASK  # type: ignore[arg-type]
    ubuntu = {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}
    assert "AppArmor" in fixes.for_file_system(lambda path: ubuntu.get(path, ""))
    assert fixes.for_namespace(OSError(errno.EPERM, ""), outside=True) == fixes.ADMIN
