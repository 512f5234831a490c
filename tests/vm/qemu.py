"""QEMU with a kernel of Debian's, unpacked by kernels.py; the host's tree comes by 9p. Without KVM it is slow, and works.

Debian: apt-get install qemu-system-x86 busybox-static cpio kmod. Imports only the standard library and `machine`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from machine import GuestError

_PROGRAM = "qemu-system-x86_64"
# Of the kernel's command line: nothing that only makes an emulated processor slower.
_WORDS = ("console=ttyS0", "mitigations=off", "nokaslr", "tsc=reliable", "no_timer_check")


class Qemu:
    """A guest of two processors. kernel: a directory that kernels.py has made."""

    def __init__(self, kernel: Path) -> None:
        if shutil.which(_PROGRAM) is None:
            raise GuestError("there is no QEMU here. Fix: apt-get install qemu-system-x86")
        self._kernel = kernel
        try:
            (self._modules,) = (kernel / "lib" / "modules").iterdir()
        except (OSError, ValueError) as error:
            raise GuestError(f"{kernel} has no unpacked kernel. Fix: python tests/vm/kernels.py VERSION DIR") from error
        self.name = f"QEMU, Linux {self._modules.name}"

    @property
    def show(self) -> Sequence[Path]:
        """Its modules, wherever they were unpacked."""
        return [self._kernel]

    def argv(self, words: Sequence[str], *, memory: str, job: Path, disk: Path | None) -> list[str]:
        """See `Machine`."""
        append = [*_WORDS, *words, f"modules={self._modules}", *(["disk=/dev/vda"] if disk else [])]
        return [
            # A microvm hangs; q35 has the PCI bus that virtio wants. KVM may be there and hang too.
            *(_PROGRAM, "-machine", "q35,accel=tcg", "-cpu", "qemu64", "-smp", "2", "-m", memory),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
            *("-device", "virtio-rng-pci"),
            *_shared("host", Path("/"), "readonly=on"),
            *_shared("job", job),
            *(["-drive", f"file={disk},format=raw,if=virtio"] if disk else []),
            *("-kernel", f"{self._kernel}/vmlinux", "-initrd", f"{self._kernel}/initrd.img", "-append", " ".join(append)),
        ]


def _shared(name: str, path: Path, *options: str) -> list[str]:
    """A directory of the host's, which the guest mounts by its name."""
    what = ",".join([f"local,id={name},path={path}", "security_model=none", "multidevs=remap", *options])
    return ["-fsdev", what, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
