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
COMMON = ("-Wall", "-Wextra", "-Werror")
#: Built file, source, and how. init has no library, not even the C library: it must be small to fork.
PARTS = (
    ("init", "init.c", ("-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie", "-s",
                        "-fno-asynchronous-unwind-tables", "-fno-builtin", "-Wl,--build-id=none", "-Wl,-z,noexecstack")),
    ("enter.so", "enter.c", ("-O2", "-fPIC", "-shared", "-Wl,-z,noexecstack")),
)  # fmt: skip
ZIG = "ziglang==0.15.1"


def compiler() -> list[str]:
    """The command that compiles C."""
    if named := os.environ.get("CC"):
        return shlex.split(named)
    if found := shutil.which("cc"):
        return [found]
    return [sys.executable, "-m", "ziglang", "cc"]


def build(target: Path = NATIVE) -> list[Path]:
    """Compile everything into `target`; the files."""
    for name, source, options in PARTS:
        subprocess.run([*compiler(), *COMMON, *options, "-o", str(target / name), str(NATIVE / source)], check=True)
    return [target / name for name, _, _ in PARTS]


class NativeHook(BuildHookInterface[Any]):
    """What hatch calls; see its documentation, "Build hook plugins"."""

    def dependencies(self) -> list[str]:
        """What pip must install first."""
        return [ZIG] if sys.platform == "linux" and "ziglang" in compiler() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and make the wheel one for this machine's kind and every version of Python."""
        del version
        if sys.platform != "linux" or self.target_name != "wheel":
            return
        build()
        build_data["artifacts"] += [f"/pytest_sandbox/_linux/native/{name}" for name, _, _ in PARTS]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"


if __name__ == "__main__":
    build()
