"""Runs a command as root of a guest, on a kernel and with cgroups that the machine itself does not have.

    python tests/vm/guest.py [--kernel FILE | --qemu VERSION] [--cgroups KIND] [--show DIR ...] [--disk SIZE] COMMAND

Needs no KVM and no image: the guest sees the tree of the host below a layer in its memory, and what it writes is gone when it
ends. It has /tmp, /var/tmp, /run, /dev and /dev/shm for itself; `--show` lets a directory of the host's be seen there. The
command's output and exit status are this program's; 125 is a guest's that did not get so far, and 124 one's whose time ran out.

Cgroups are v2, v1, hybrid, none, or systemd: of version 2 with systemd as pid 1, and an ordinary user `tester` who has a manager
of his own, and gets a session by `su - tester`.

Which kernels there are, and what each takes: uml.py, qemu.py. Debian: apt-get install iproute2, e2fsprogs for `--disk`, and for
systemd: systemd dbus-user-session. Imports only the standard library and what lies beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import kernels
from machine import INIT, GuestError, Machine
from qemu import Qemu
from uml import UserModeLinux

CGROUPS = ("v2", "v1", "hybrid", "none", "systemd")
NO_GUEST, NO_TIME = 125, 124
#: The ordinary user of a guest with systemd (init.sh).
USER = "tester"
#: What a manager of a user's own takes, and the packages of Debian's that have it.
_SYSTEMD = ("lib/systemd/systemd", "usr/lib/systemd/user/dbus.socket")
#: How often the guest's output is looked at, in seconds.
_INTERVAL = 0.1


def run(
    command: Sequence[str],
    *,
    machine: Machine,
    cgroups: str = "v2",
    show: Sequence[Path] = (),
    memory: str = "2G",
    disk: str | None = None,
    tree: Path = Path("/"),
    seconds: float = 600,
    reports: Path | None = None,
    tell: Callable[[str], object] = sys.stdout.write,
) -> int:
    """Boot, run, power off; the command's exit status, NO_GUEST or NO_TIME.

    disk: the size of an ext4 that is mounted at /var/tmp. tree: what the guest has as its root. reports: a directory for what
    the command leaves in $SANDBOX_TESTS_REPORTS. tell: called with the command's output, as it comes.
    """
    if cgroups == "systemd" and not all((tree / path).exists() for path in _SYSTEMD):
        raise GuestError(
            f"without {', '.join(_SYSTEMD)} in {tree} no systemd runs. Fix: apt-get install systemd dbus-user-session"
        )
    with tempfile.TemporaryDirectory(prefix="guest-") as directory:
        job = Path(directory)
        lines = (f"export SANDBOX_TESTS_REPORTS={job}/reports", f"cd {shlex.quote(os.getcwd())}", shlex.join(command), "")
        (job / "command").write_text("\n".join(lines), encoding="utf-8")
        (job / "output").touch()
        (job / "reports").mkdir()
        image = job / "disk" if disk else None
        if disk and image:
            _make_disk(image, disk)
        shown = ",".join(map(os.fspath, [*show, *machine.show]))
        words = [f"init={INIT}", "quiet", "panic=-1", f"job={job}", f"cgroups={cgroups}", *([f"show={shown}"] if shown else [])]
        words += [f"tree={tree}"] if tree != Path("/") else []
        argv = machine.argv(words, memory=memory, job=job, disk=image)
        with (job / "console").open("wb") as console, (job / "output").open(encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
            try:
                in_time = _follow(process, output.read, tell, time.monotonic() + seconds)
            finally:
                _end(process)
        if reports:
            shutil.copytree(job / "reports", reports, dirs_exist_ok=True)
        if in_time:
            with contextlib.suppress(OSError, ValueError):
                return int((job / "status").read_text(encoding="ascii"))
        tell(f"guest.py: {'the guest did not get so far' if in_time else f'ended after {seconds:.0f} s'}. Its console:\n")
        tell((job / "console").read_text(encoding="utf-8", errors="replace")[-4000:])
        return NO_GUEST if in_time else NO_TIME


def _make_disk(image: Path, size: str) -> None:
    """A file with an empty ext4, which takes room only as it is filled."""
    make = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if make is None:
        raise GuestError("there is no mkfs.ext4 here. Fix: apt-get install e2fsprogs")
    made = subprocess.run([make, "-q", image, size], capture_output=True, text=True, check=False)
    if made.returncode:
        raise GuestError(f"a disk of size {size}: {made.stderr.strip()}")


def _follow(process: subprocess.Popen[bytes], read: Callable[[], str], tell: Callable[[str], object], until: float) -> bool:
    """Pass on what the guest writes until it is off; whether that was in time."""
    while process.poll() is None:
        if time.monotonic() > until:
            return False
        tell(read())
        time.sleep(_INTERVAL)
    tell(read())
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """A guest's processes are the host's too, in the session of its kernel."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which kernel; `machines` reads them."""
    parser.add_argument("--kernel", type=Path, help="a User-Mode Linux; Debian's by default")
    parser.add_argument("--qemu", metavar="VERSION", help="a kernel of Debian's under QEMU in its place, such as 6.12")
    parser.add_argument("--kernels", type=Path, metavar="DIR", help="where those are kept; a temporary one by default")


@contextlib.contextmanager
def machines(options: argparse.Namespace) -> Iterator[list[Machine]]:
    """The kinds of guest that the options name; of `--qemu` several, with commas. Kernels are there as long as the context."""
    with contextlib.ExitStack() as stack:
        if options.qemu is None:
            yield [UserModeLinux(options.kernel)]
            return
        cache = options.kernels or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kernels-")))
        yield [Qemu(kernels.fetch(version, cache.resolve())) for version in options.qemu.split(",")]


def main() -> int:
    """Run a command in a guest; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_machine_options(parser)
    parser.add_argument("--cgroups", choices=CGROUPS, default="v2")
    parser.add_argument("--show", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--disk", metavar="SIZE", help="an ext4 of this size at /var/tmp, such as 512M")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[options.command[:1] == ["--"] :]
    if not command:
        parser.error("which command?")
    with machines(options) as (machine, *_):
        return run(
            command,
            machine=machine,
            cgroups=options.cgroups,
            show=options.show,
            memory=options.memory,
            disk=options.disk,
            seconds=options.seconds,
            tell=lambda text: print(text, end="", flush=True),
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GuestError as problem:
        sys.exit(f"guest.py: {problem}")
