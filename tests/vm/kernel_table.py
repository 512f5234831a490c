"""What several kernels offer a sandbox: tries it in a guest of each, and prints the table of docs/internals/kernels.md.

    python tests/vm/kernel_table.py [--kernel FILE | --qemu 6.12,6.1,5.10] [--kernels DIR]

Nothing is read from a version. It wants a Python with this package and what that needs: the guests run the same one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_FILES = ("memory.peak", "memory.reclaim", "pids.peak", "io.stat", "memory.pressure", "hugetlb.2MB.max")


def _answer(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return f"no: {os.strerror(error.errno or 0)}"
    return "yes"


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_RDWR if path.name.endswith("peak") else os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _of_cgroups(top: Path) -> Iterator[tuple[str, str]]:
    yield "controllers of cgroup v2", (top / "cgroup.controllers").read_text().strip()
    one, disk = top / "probe", os.stat("/var/tmp").st_dev
    one.mkdir()
    for name in _FILES:
        yield f"`{name}`", "yes" if (one / name).exists() else "no"
    yield "`memory.peak` begins anew", _answer(lambda: _write(one / "memory.peak", "reset\n"))
    limit = f"{os.major(disk)}:{os.minor(disk)} wbps=1048576"
    yield "`io.max` of a disk", _answer(lambda: _write(one / "io.max", limit))
    yield "`cpuset.cpus`", _answer(lambda: _write(one / "cpuset.cpus", "0"))
    yield "`cgroup.kill`", _answer(lambda: _write(one / "cgroup.kill", "1"))
    one.rmdir()


def _map(path: str) -> None:
    from pytest_sandbox.sandbox.machine import probes

    error = probes.try_to_map(path)
    if error is not None:
        raise error


def _of_file_systems() -> Iterator[tuple[str, str]]:
    from pytest_sandbox.sandbox.machine import probes

    yield "user attributes on a tmpfs", _answer(lambda: os.setxattr(os.memfd_create("probe"), "user.probe", b"1"))
    for name, path in (("ext4", "/var/tmp"), ("tmpfs", "/tmp"), ("overlay", "/")):
        error = probes.try_in_child(lambda path=path: _map(path))  # type: ignore[misc]
        yield f"id-mapped {name}", f"no: {error.strerror}" if error else "yes"
    for name, again in (("overlay of a user, upper on a tmpfs", False), ("the same, a directory deleted and made again", True)):
        error = probes.try_in_child(lambda again=again: _overlay(again=again))  # type: ignore[misc]
        yield name, f"no: {error.strerror}" if error else "yes"


def _overlay(*, again: bool) -> None:
    """As a user, in namespaces of his own."""
    from pytest_sandbox._linux import syscalls
    from pytest_sandbox._linux.flags import Clone, Prctl

    os.setresgid(4711, 4711, 4711)
    os.setresuid(4711, 4711, 4711)
    syscalls.prctl(Prctl.SET_DUMPABLE, 1)
    syscalls.unshare(Clone.NEWUSER | Clone.NEWNS)
    for name, text in (("setgroups", "deny"), ("gid_map", "4711 4711 1"), ("uid_map", "4711 4711 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")
    syscalls.mount("probe", "/tmp", "tmpfs")
    for name in ("lower/d", "upper", "work", "root"):
        os.makedirs(f"/tmp/{name}")
    syscalls.mount("o", "/tmp/root", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr")
    if again:
        os.rmdir("/tmp/root/d")
        os.mkdir("/tmp/root/d")


def _inside() -> int:
    """In a guest: a row a line."""
    sys.path.insert(0, os.fspath(CHECKOUT))
    yes = [("`uname -r`", os.uname().release), *_of_cgroups(Path("/sys/fs/cgroup/guest")), *_of_file_systems()]
    yes += [("time namespaces", "yes" if os.path.exists("/proc/self/ns/time") else "no")]
    print("\n".join("\t".join(row) for row in yes))
    return 0


def main() -> int:
    """Boot each, and print the table."""
    if sys.argv[1:] == ["--inside"]:
        return _inside()
    import guest

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    guest.add_machine_options(parser)
    options = parser.parse_args()
    answers: list[dict[str, str]] = []
    with guest.machines(options) as machines:
        for machine in machines:
            said: list[str] = []
            command = [sys.executable, os.fspath(Path(__file__).resolve()), "--inside"]
            status = guest.run(command, machine=machine, disk="64M", tell=said.append)
            if status:
                sys.exit(f"{machine.name}: exit status {status}\n{''.join(said)}")
            rows = [line.partition("\t") for line in "".join(said).splitlines()]
            answers.append(
                {"kernel": machine.name.partition(" 6.")[0].partition(",")[0]} | {name: answer for name, _, answer in rows}
            )
    for number, name in enumerate(answers[0]):
        print("|", " | ".join([name, *(one[name] for one in answers)]), "|")
        if not number:
            print("|", " | ".join("---" for _ in range(len(answers) + 1)), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
