"""What Debian's archives have, of whichever suite, by apt with lists of its own; nothing is installed.

Imports only the standard library and `machine`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from machine import GuestError

#: apt's own user may not write where we do.
AS_ROOT = ("-o", "APT::Sandbox::User=root")


def run(argv: Sequence[str | os.PathLike[str]], cwd: Path | None = None) -> str:
    """A program's output; GuestError with its own words where it fails or is not there."""
    try:
        result = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise GuestError(f"there is no {argv[0]} here; it takes Debian, and `apt-get install kmod` for kernels") from error
    if result.returncode:
        raise GuestError(
            f"{' '.join(str(word) for word in argv)}: exit status {result.returncode}: {result.stderr.strip()[-2000:]}"
        )
    return result.stdout


def lists_of(suite: str, place: Path) -> list[str]:
    """Options of apt for the suite, in the archives that the machine has its own from; what it fetches is kept in `place`."""
    archives = set(run(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]).split("\n"))
    lines = []
    for archive in archives:
        label, _, uri = archive.partition(" ")
        name = {"Debian": suite, "Debian-Security": f"{suite}-security"}.get(label)
        lines += [f"deb {uri} {name} main\n"] if name else []
    (place / "apt" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (place / "apt" / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    (place / "apt" / "sources.list").write_text("".join(lines), encoding="utf-8")
    options = ["-o", f"Dir::Etc::sourcelist={place}/apt/sources.list", "-o", "Dir::Etc::sourceparts=-"]
    options += ["-o", f"Dir::State::lists={place}/apt/lists", "-o", f"Dir::Cache={place}/apt/cache", *AS_ROOT]
    run(["apt-get", *options, "-qq", "update"])
    return options


def unpack(package: Path, directory: Path, *options: str) -> None:
    """A package's files, by tar with these options; what it would run when it is installed is not run."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as reading:
        subprocess.run(["tar", "x", *options], cwd=directory, stdin=reading.stdout, check=True)
