"""System calls: that they do what their man pages say, and that their errors name call and object."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Clone, Mount, Prctl
from pytest_sandbox.sandbox.machine import host, probes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: syscalls.mount("none", "/no/such/place", "tmpfs"), ("mount tmpfs none on /no/such/place",)),
        (lambda: syscalls.mount("/a", "/no/such/place", None, Mount.BIND), ("mount bind /a on /no/such/place",)),
        (lambda: syscalls.umount("/no/such/place"), ("umount2 /no/such/place",)),
        (lambda: syscalls.setns(-1, Clone.NEWNS), ("setns", "NEWNS")),
        (lambda: syscalls.open_tree("/no/such/place"), ("open_tree /no/such/place",)),
        (lambda: syscalls.pivot_root("/no/such/place", "/"), ("pivot_root /no/such/place",)),
        (lambda: syscalls.prctl(Prctl.CAPBSET_READ, 9999), ("prctl CAPBSET_READ 9999",)),
        (lambda: syscalls.unshare(Clone(0x1)), ("unshare",)),
    ],
)  # fmt: skip
def test_errors_name_the_call_and_its_object(call: object, words: tuple[str, ...]) -> None:
    """An OSError with an errno, whose filename says what was tried."""
    assert callable(call)
    with pytest.raises(OSError, match=r".") as caught:
        call()
    assert caught.value.errno
    for word in words:
        assert word in str(caught.value.filename)


def test_clone3_is_a_fork() -> None:
    """Python goes on in both; the child has its own pid namespace, where it is 1."""
    flags = Clone.NEWPID | (Clone.NEWUSER if os.geteuid() else Clone(0))
    if not host.capabilities()["pid"].available:
        pytest.skip(host.capabilities()["pid"].reason)
    reading, writing = os.pipe()
    pid = syscalls.clone3(flags)
    if pid == 0:
        os.write(writing, f"{os.getpid()} {threading.active_count()} {[n * n for n in range(4)]}".encode())
        os._exit(7)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (said, status) == ("1 1 [0, 1, 4, 9]", 7)


def test_clone3_that_fails() -> None:
    """Leaves one process, which can fork again."""
    with pytest.raises(OSError, match="Invalid argument"):
        syscalls.clone3(Clone.NEWNS | Clone(0x200))  # CLONE_FS with a mount namespace: clone(2), EINVAL
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_capabilities_are_dropped() -> None:
    """In a child: the sets are empty afterwards, and the bounding set too where the caller may."""

    def drop() -> None:
        if os.geteuid() == 0:
            syscalls.drop_bounding_set((), 40)
        syscalls.set_capabilities(())
        with open("/proc/self/status", encoding="ascii") as status:
            sets = dict(line.split() for line in status if line.startswith("Cap"))
        empty = ("CapEff:", "CapPrm:") + (("CapBnd:",) if os.geteuid() == 0 else ())
        if any(int(sets[name], 16) for name in empty):
            raise OSError(errno.EPERM, "not empty", str(sets))

    assert probes.try_in_child(drop) is None
