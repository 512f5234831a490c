"""The filter under which nothing can be mounted: which calls it takes, and that it leaves all others."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import signal
import subprocess
import termios

import pytest

from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Clone, Mount, Prctl
from pytest_sandbox.primitives import seccomp

NO_32_BITS = 77  # an exit status
LIBC = ctypes.CDLL(None, use_errno=True)
pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="init is for two machines")


def code(number: int, *arguments: object) -> int:
    """The errno of a system call, or 0."""
    return ctypes.get_errno() if LIBC.syscall(number, *arguments) < 0 else 0


def confined() -> int:
    """A process, root of namespaces of its own, that forbids itself to mount, and tries; its exit status."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        syscalls.unshare(Clone.NEWUSER | Clone.NEWNS)
        syscalls.mount(None, "/", None, Mount.REC | Mount.PRIVATE)
        syscalls.mount("before", "/tmp", "tmpfs")
        syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)
        seccomp.forbid_mounts()
        with pytest.raises(OSError, match="mount tmpfs") as mounted:
            syscalls.mount("after", "/tmp", "tmpfs")
        with pytest.raises(OSError, match="umount2 /tmp") as unmounted:
            syscalls.umount("/tmp")
        assert [mounted.value.errno, unmounted.value.errno] == [errno.EPERM, errno.EPERM]
        for number in (428, 429, 430, 431, 432, 433, 442, 467):
            assert code(number, -1, b"", 0, 0, 0) == errno.EPERM, number
        assert code(100_000) == code(470) == errno.ENOSYS
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        for request in (0x8010_B70B, 0x8010_B70C):  # NS_MNT_GET_NEXT, NS_MNT_GET_PREV
            with pytest.raises(PermissionError):
                fcntl.ioctl(namespace, request, bytes(16))
        assert fcntl.ioctl(namespace, 0xB703) == Clone.NEWNS  # NS_GET_NSTYPE
        reading, writing = os.pipe()
        os.write(writing, b"four")
        assert fcntl.ioctl(reading, termios.FIONREAD, bytes(4)) == (4).to_bytes(4, "little")
        assert subprocess.run(["/bin/sh", "-c", "exit 5"], check=False).returncode == 5
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)


def test_nothing_can_be_mounted(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither by the old calls nor by the new ones, though the caller has every capability; all else works as before."""
    assert confined() == 0, capfd.readouterr().err


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the machine code is of x86-64")
def test_calls_of_a_32_bit_program() -> None:
    """Their numbers have other meanings (20 is getpid), so all of them are unknown."""

    def getpid_of_32_bits() -> int:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push %rbx; mov $20, %eax; int $0x80; pop %rbx; ret
        return int(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())

    def attempt() -> None:
        if getpid_of_32_bits() != os.getpid():  # under User-Mode Linux int $0x80 is something else
            os._exit(NO_32_BITS)
        syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)
        seccomp.forbid_mounts()
        os._exit(0 if getpid_of_32_bits() == -errno.ENOSYS else 1)

    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status in (-signal.SIGSEGV, NO_32_BITS):
        pytest.skip("this kernel runs no 32-bit programs")
    assert status == 0
