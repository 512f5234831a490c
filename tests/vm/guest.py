"""Runs a command as root of a User-Mode Linux guest, on a kernel and with cgroups that the machine itself does not have.

    python tests/vm/guest.py [--kernel FILE] [--cgroups KIND] [--show DIR ...] [--memory 2G] [--seconds 600] COMMAND

Needs no KVM and no image: the guest sees the tree of the host below a layer in its memory, and what it writes is gone when it
ends. It has /tmp, /var/tmp, /run, /dev and /dev/shm for itself; `--show` lets a directory of the host's be seen there. The
command's output and exit status are this program's; 125 is a guest's that did not get so far, and 124 one's whose time ran out.

Cgroups are v2, v1, hybrid, none, or systemd: of version 2 with systemd as pid 1, and an ordinary user `tester` who has a manager
of his own, and gets a session by `su - tester`.

Debian: apt-get install user-mode-linux kmod iproute2, and for systemd: systemd dbus-user-session. Imports only the standard
library.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CGROUPS = ("v2", "v1", "hybrid", "none", "systemd")
NO_GUEST, NO_TIME = 125, 124
#: The ordinary user of a guest with systemd (init.sh).
USER = "tester"
#: What a manager of a user's own takes, and the packages of Debian's that have it.
_SYSTEMD = ("/lib/systemd/systemd", "/usr/lib/systemd/user/dbus.socket")
_INIT = Path(__file__).resolve().with_name("init.sh")
#: How often the guest's output is looked at, in seconds.
_INTERVAL = 0.1


class GuestError(Exception):
    """No guest can be booted; the text says why, and what to change."""


def default_kernel() -> Path:
    """What Debian calls the kernel."""
    found = shutil.which("linux.uml") or shutil.which("linux")
    if found is None:
        raise GuestError("there is no User-Mode Linux here. Fix: apt-get install user-mode-linux kmod, or --kernel FILE")
    return Path(found)


def run(
    command: Sequence[str],
    *,
    kernel: Path,
    cgroups: str = "v2",
    show: Sequence[Path] = (),
    memory: str = "2G",
    seconds: float = 600,
    tell: Callable[[str], object] = sys.stdout.write,
) -> int:
    """Boot, run, power off; the command's exit status, NO_GUEST or NO_TIME. tell: called with its output, as it comes."""
    if cgroups == "systemd" and not all(map(os.path.exists, _SYSTEMD)):
        raise GuestError(f"without {', '.join(_SYSTEMD)} no systemd runs. Fix: apt-get install systemd dbus-user-session")
    with tempfile.TemporaryDirectory(prefix="guest-") as directory:
        job = Path(directory)
        (job / "command").write_text(f"cd {shlex.quote(os.getcwd())}\n{shlex.join(command)}\n", encoding="utf-8")
        (job / "output").touch()
        argv = [*_one_processor(), *_arguments(kernel, job, cgroups, show, memory)]
        with (job / "console").open("wb") as console, (job / "output").open(encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
            try:
                in_time = _follow(process, output.read, tell, time.monotonic() + seconds)
            finally:
                _end(process)
        if not in_time:
            tell(f"guest.py: ended after {seconds:.0f} s\n")
            return NO_TIME
        try:
            return int((job / "status").read_text(encoding="ascii"))
        except (OSError, ValueError):
            tell("guest.py: the guest did not get so far. Its console:\n")
            tell((job / "console").read_text(encoding="utf-8", errors="replace")[-4000:])
            return NO_GUEST


def _arguments(kernel: Path, job: Path, cgroups: str, show: Sequence[Path], memory: str) -> list[str]:
    version = subprocess.run([kernel, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    options = subprocess.run([kernel, "--help"], capture_output=True, text=True, check=False).stdout
    modules = Path("/usr/lib/uml/modules", version)
    return [
        os.fspath(kernel),
        f"mem={memory}",
        *("rootfstype=hostfs", "rootflags=/", "ro", f"init={_INIT}", "quiet", "panic=-1", "con=null", "con0=null,fd:1"),
        f"job={job}",
        f"cgroups={cgroups}",
        *([f"show={','.join(map(os.fspath, show))}"] if show else []),
        *([f"modules={modules}"] if modules.is_dir() else []),
        # Newer kernels: faster than ptrace, and needed for more than one processor.
        *(["seccomp=on"] if "\nseccomp=" in options else []),
    ]


def _one_processor() -> list[str]:
    """A guest of one processor is two to four times slower where the host moves it about."""
    if shutil.which("taskset") is None:
        return []
    return ["taskset", "-c", str(random.choice(sorted(os.sched_getaffinity(0))))]


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


def main() -> int:
    """Run a command in a guest; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", type=Path, help="a User-Mode Linux; Debian's by default")
    parser.add_argument("--cgroups", choices=CGROUPS, default="v2")
    parser.add_argument("--show", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[options.command[:1] == ["--"] :]
    if not command:
        parser.error("which command?")
    return run(
        command,
        kernel=options.kernel or default_kernel(),
        cgroups=options.cgroups,
        show=options.show,
        memory=options.memory,
        seconds=options.seconds,
        tell=lambda text: print(text, end="", flush=True),
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GuestError as problem:
        sys.exit(f"guest.py: {problem}")
