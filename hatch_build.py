"""Hatch's build hook: compiles the two pieces of C beside their sources, on Linux only. `python hatch_build.py` does it by hand.

With the C compiler that $CC names, or with `cc`; where there is none, pip gets one from the package index (ziglang).
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path(__file__).parent / "pytest_sandbox" / "_linux" / "native"
COMMON = ("-Wall", "-Wextra", "-Wno-unused-command-line-argument")
#: init has no library, not even the C library: it must be small to clone.
BARE = (
    "-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-builtin", "-fno-stack-protector",
    "-fno-pie", "-no-pie", "-s", "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
)  # fmt: skip
SHARED = ("-O2", "-fPIC", "-shared", "-s", "-Wl,-z,noexecstack")
#: Built file, source, options, and whose headers it needs.
PARTS = (
    ("init", "init.c", BARE, "musl"),
    ("enter.so", "enter.c", SHARED, "gnu" if platform.libc_ver()[0] == "glibc" else "musl"),
)
ZIG = "ziglang==0.15.1"


def compiler(libc: str) -> list[str]:
    """The command that compiles C; ziglang's is told a target, and so needs no headers of the machine."""
    if named := os.environ.get("CC"):
        return shlex.split(named)
    if found := shutil.which("cc"):
        return [found]
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-{libc}"]


def build(target: Path = NATIVE) -> list[Path]:
    """Compile everything into `target`; the files. Each is whole at any time: two may build in one checkout."""
    for name, source, options, libc in PARTS:
        made = target / f"{name}.{os.getpid()}"
        subprocess.run([*compiler(libc), *COMMON, *options, "-o", str(made), str(NATIVE / source)], check=True)
        made.replace(target / name)
    return [target / name for name, *_ in PARTS]


class NativeHook(BuildHookInterface[Any]):
    """What hatch calls; see its documentation, "Build hook plugins"."""

    def dependencies(self) -> list[str]:
        """What pip must install first."""
        return [ZIG] if sys.platform == "linux" and "ziglang" in compiler("") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and make the wheel one for this machine's kind and every version of Python."""
        del version
        if sys.platform != "linux" or self.target_name != "wheel":
            return
        build()
        build_data["artifacts"] += [f"/pytest_sandbox/_linux/native/{name}" for name, *_ in PARTS]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"


if __name__ == "__main__":
    build()
