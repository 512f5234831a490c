"""Fetches kernels of Debian's for guests under QEMU; nothing is installed.

    python tests/vm/kernels.py VERSION[,VERSION...] DIR

Puts into DIR/VERSION, unless it is there: `vmlinux`, `initrd.img`, `lib/modules` of the newest linux-image of that version. One
that apt's own lists do not have is sought in the same archive's suite of the Debian that ships it, by lists of its own.
Debian: apt-get install busybox-static cpio kmod xz-utils zstd. Imports only the standard library and what lies beside it.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import archive
from machine import GuestError

#: Which Debian ships which.
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
_INITRD = Path(__file__).resolve().with_name("initrd.sh")
#: What it takes to see the host's tree, a layer over it and a disk.
_MODULES = ("virtio_pci", "virtio_rng", "virtio_blk", "9pnet_virtio", "9p", "overlay")
#: Drivers of hardware that no guest has: half of the package.
_LEFT_OUT = ("drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/staging", "drivers/net/wireless", "sound")


def fetch(version: str, cache: Path) -> Path:
    """The directory in `cache` of a kernel such as "6.12", made now if it is not there."""
    done = cache / version
    if done.is_dir():
        return done
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=cache) as directory:
        place = Path(directory)
        _unpack(_download(version, place), place / "unpacked")
        _prepare(place / "unpacked")
        os.rename(place / "unpacked", done)
    return done


def _download(version: str, place: Path) -> Path:
    """The newest package of that version, in `place`."""
    options: list[str] = []
    package = _newest(version, options)
    if package is None and version in SUITES:
        options = archive.lists_of(SUITES[version], place)
        package = _newest(version, options)
    if package is None:
        raise GuestError(f"apt knows no linux-image of version {version}. Fix: apt-get update, or one of {', '.join(SUITES)}")
    archive.run(["apt-get", *options, *archive.AS_ROOT, "download", package], cwd=place)
    (file,) = place.glob("*.deb")
    return file


def _newest(version: str, options: Sequence[str]) -> str | None:
    found = archive.run(["apt-cache", *options, "search", "--names-only", f"^linux-image-{re.escape(version)}\\."])
    packages = re.findall(r"^linux-image-[.\d+-]*(?:\+deb\d+)?-amd64-unsigned(?= )", found, re.MULTILINE)
    return max(packages, key=lambda name: [int(number) for number in re.findall(r"\d+", name)], default=None)


def _unpack(package: Path, directory: Path) -> None:
    directory.mkdir()
    archive.unpack(package, directory, "--no-same-owner", *(f"--exclude=*/kernel/{path}/*" for path in _LEFT_OUT))
    if not (directory / "lib").exists():
        (directory / "lib").symlink_to("usr/lib")


def _prepare(directory: Path) -> None:
    """Make of what the package has what QEMU boots."""
    (modules,) = (directory / "lib" / "modules").iterdir()
    archive.run(["depmod", "-b", str(directory), modules.name])
    image = next((directory / "boot").glob("vmlinuz-*")).read_bytes()
    (directory / "vmlinux").write_bytes(_decompressed(image))
    with tempfile.TemporaryDirectory() as root:
        _fill_initrd(Path(root), directory, modules.name)
        names = "\n".join(os.fspath(path.relative_to(root)) for path in Path(root).rglob("*")).encode()
        pack = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names, capture_output=True, check=True)
    (directory / "initrd.img").write_bytes(gzip.compress(pack.stdout, 1))


def _decompressed(image: bytes) -> bytes:
    """The kernel within a bzImage (Documentation/arch/x86/boot.rst): an emulated processor takes long to unpack it."""
    start = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
    payload = image[start : start + struct.unpack_from("<I", image, 0x24C)[0]]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    # Its last four bytes are the size.
    return subprocess.run(["zstd", "-dcq"], input=payload[:-4], capture_output=True, check=True).stdout


def _fill_initrd(root: Path, directory: Path, version: str) -> None:
    """`/init`, busybox, and the modules with those that they need, in order."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise GuestError("there is no busybox here. Fix: apt-get install busybox-static")
    for name in ("dev", "proc", "host", "modules"):
        (root / name).mkdir()
    shutil.copy(busybox, root / "busybox")
    shutil.copy(_INITRD, root / "init")
    order = dict.fromkeys(path for name in _MODULES for path in _with_needed(name, directory, version))
    for path in order:
        content = path.read_bytes()
        (root / "modules" / path.stem).write_bytes(lzma.decompress(content) if path.suffix == ".xz" else content)
    (root / "modules" / "order").write_text("".join(f"{path.stem}\n" for path in order), encoding="ascii")


def _with_needed(module: str, directory: Path, version: str) -> Iterator[Path]:
    """Files, the module's own last; none for what the kernel has built in."""
    for line in archive.run(["modprobe", "-d", str(directory), "-S", version, "--show-depends", module]).splitlines():
        kind, _, path = line.partition(" ")
        if kind == "insmod":
            yield Path(path.strip())


def main() -> int:
    """Fetch; 0."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    for version in sys.argv[1].split(","):
        print(fetch(version, Path(sys.argv[2]).resolve()), flush=True)
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            sys.exit(main())
        except (GuestError, subprocess.CalledProcessError) as problem:
            sys.exit(f"kernels.py: {problem}")
