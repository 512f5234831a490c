"""User-Mode Linux: a kernel that is a program of the host's, with the host's tree as it is (hostfs).

A program is killed when it touches more than some 256 MB: each of its pages is a mapping of the host's (vm.max_map_count), and
the guest's dmesg says so. Debian: apt-get install user-mode-linux kmod. Imports only the standard library and `machine`.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from machine import GuestError


class UserModeLinux:
    """A guest of one processor; what Debian calls the kernel, or another."""

    show: Sequence[Path] = ()

    def __init__(self, kernel: Path | None = None) -> None:
        self._kernel = kernel or _default_kernel()
        self._version = subprocess.run([self._kernel, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        self.name = f"User-Mode Linux {self._version}"

    def argv(self, words: Sequence[str], *, memory: str, job: Path, disk: Path | None) -> list[str]:
        """See `Machine`."""
        del job  # hostfs shows what is there
        options = subprocess.run([self._kernel, "--help"], capture_output=True, text=True, check=False).stdout
        modules = Path("/usr/lib/uml/modules", self._version)
        return [
            *_one_processor(),
            os.fspath(self._kernel),
            f"mem={memory}",
            *("rootfstype=hostfs", "rootflags=/", "ro", "con=null", "con0=null,fd:1"),
            *words,
            *([f"ubd0={disk}", "disk=/dev/ubda"] if disk else []),
            *([f"modules={modules}"] if modules.is_dir() else []),
            # Newer kernels: faster than ptrace, and needed for more than one processor.
            *(["seccomp=on"] if "\nseccomp=" in options else []),
        ]


def _default_kernel() -> Path:
    found = shutil.which("linux.uml") or shutil.which("linux")
    if found is None:
        raise GuestError("there is no User-Mode Linux here. Fix: apt-get install user-mode-linux kmod, or --kernel FILE")
    return Path(found)


def _one_processor() -> list[str]:
    """A guest of one processor is two to four times slower where the host moves it about; and beside another one on the same."""
    if shutil.which("taskset") is None:
        return []
    ours, taken = os.sched_getaffinity(0), collections.Counter[int]()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            bound = os.sched_getaffinity(int(process))
            taken.update(bound if len(bound) == 1 else ())
    return ["taskset", "-c", str(min(sorted(ours), key=lambda cpu: taken[cpu]))]
