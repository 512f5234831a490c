"""Makes directories with a Debian in them that was never installed: packages unpacked, and the few files without which none runs.

What packages would run when they are installed is not run, so no service is started on this machine, and the Debian may be a
newer one than the machine's. Imports only the standard library and what lies beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import archive

#: What each tree has. In the place of `Essential`, which apt only installs where dpkg is.
BASE = ("base-files", "bash", "coreutils", "dash", "grep", "libc-bin", "procps", "python3", "sed", "util-linux")
#: Which nothing reads that runs there.
_LEFT_OUT = ("doc", "info", "locale", "man")
_MERGED = ("bin", "sbin", "lib", "lib64")
#: What maintainers' scripts would have made.
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def make(suite: str, packages: Sequence[str], directory: Path, lists: Path) -> dict[str, str]:
    """Unpack the packages, and all that they depend on, into `directory`; the version of each.

    lists: where apt's are kept.
    """
    with tempfile.TemporaryDirectory(prefix="debian-") as place:
        options = archive.lists_of(suite, lists)
        # With an empty status nothing is installed, so everything is to be fetched.
        options += ["-o", "Dir::State::status=/dev/null", "-o", f"Dir::Cache::archives={place}", "-o", "Debug::NoLocking=1"]
        Path(place, "partial").mkdir()
        wanted = [*BASE, *packages]
        archive.run(["apt-get", *options, "-qq", "--yes", "--no-install-recommends", "--download-only", "install", *wanted])
        directory.mkdir(parents=True)
        for name in _MERGED:
            (directory / "usr" / name).mkdir(parents=True)
            (directory / name).symlink_to(f"usr/{name}")
        left_out = [f"--exclude=./usr/share/{name}/*" for name in _LEFT_OUT]
        versions = {}
        for package in sorted(Path(place).glob("*.deb")):
            archive.unpack(package, directory, "--same-owner", "--keep-directory-symlink", *left_out)
            name, version, _ = package.name.split("_")
            versions[name] = version.replace("%3a", ":")
    for path, text in _FILES.items():
        write(directory, path, text)
    for name in ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    if not (directory / "var/run").is_symlink():  # of base-files it is a directory, until that is configured
        (directory / "var/run").rmdir()
        (directory / "var/run").symlink_to("/run")
    return versions


def write(tree: Path, path: str, text: str) -> None:
    """A file of the tree's, with the directories above it."""
    file = tree / path
    os.makedirs(file.parent, exist_ok=True)
    file.write_text(text, encoding="utf-8")
