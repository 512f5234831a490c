"""What is enforced and measured on this machine, found by running: each limit is met by a program in a sandbox of its own.

    python scripts/enforcement.py [--who WHO]                    what this machine does for root, or for a user, to be read
    python scripts/enforcement.py --limits memory,pids           only these limits
    python scripts/enforcement.py --json "hybrid, root" > FILE   the same, as a column of that name
    python scripts/enforcement.py --join FILE ... > docs/enforced.md

What a limit did is told, not what was asked for: "yes" is written only where the program was stopped, slowed down or refused, and
the name of what does it stands beside it. Where nothing holds a limit, it must be refused; that is tried too. Needs the package
and what is in the standard library.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pwd
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import delegation
import workplace
from workplace import Identity

from pytest_sandbox import CallError, Ending, Limits, Result, Sandbox, SandboxError, Spec, UnavailableError, Usage, capabilities
from pytest_sandbox.model.spec import OF_TMPFS

MIB = 1 << 20
BEGIN = "import mmap, os, socket, sys, threading, time\n"
SPIN = "until = time.process_time() + {}\nwhile time.process_time() < until: pass\n"
DIRECT = """
fd = os.open(sys.argv[1], os.O_DIRECT | os.O_RDWR)
buffer = mmap.mmap(-1, 1 << 16)
began = time.monotonic()
for at in range(0, 2 << 20, 1 << 16): os.{}(fd, [buffer], at)
sys.exit(not time.monotonic() - began > 1)
"""
SEND = """
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
peer, _ = server.accept()
began, got = time.monotonic(), 0
threading.Thread(target=client.sendall, args=(bytes(1 << 19),)).start()
while got < 1 << 19: got += len(peer.recv(1 << 16))
sys.exit(not time.monotonic() - began > 1)
"""
HUGE = """
page = -1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000
held = mmap.mmap(*page)
held[0] = 1
try: mmap.mmap(*page)
except OSError: sys.exit(0)
sys.exit(1)
"""
THREADS = """
try:
    for _ in range(20): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
except RuntimeError:
    print("refused")  # what no cgroup counts, only the program knows
    raise
"""
PIN = "import errno\ntry: os.sched_setaffinity(0, {})\nexcept OSError: sys.exit(0)\nsys.exit(len(os.sched_getaffinity(0)) > 1)\n"


HEAD = """\
# What is enforced and measured where

Written by `scripts/enforcement.py`, which meets each limit with a program in a sandbox of its own; a column is a machine, by its
cgroups and user, with its kernel. What stands in a cell held the limit when this was run, or has measured the figure. `refused`:
a run that asks for the limit does not begin, for the reason of that number; where it is a default, the header line names it.
`pytest --sandbox-doctor` says the same of a machine without meeting the limits. Version 1 counts what a disk does only from the
first limit of one on, whoever sets it (Linux 6.10 and newer): a hybrid machine that never had one has no `reads` and `writes`."""
#: The first version whose tmpfs has user attributes; `pytest_sandbox.sandbox.machine.host.settled` is what follows from that.
ATTRIBUTES = (6, 6)
BY_DEFAULT = (
    "where it is asked for. As a default nothing holds it before Linux 6.6 where temporary files (`$TMPDIR`, `/var/tmp`) are on "
    "ext4, xfs or btrfs: tests write there then, and the header says so"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A limit's value, the program that meets it, and by what it is seen that the limit held. others: limits beside it."""

    value: float | str
    source: str
    held: Callable[[Result], bool]
    others: Mapping[str, int | None] = dataclasses.field(default_factory=dict)


def ended(ending: Ending) -> Callable[[Result], bool]:
    """Whether the sandbox ended so."""
    return lambda result: result.ending is ending


def succeeded(result: Result) -> bool:
    """Whether the program found by itself that the limit held."""
    return result.ok


def cases() -> dict[str, Case]:
    """By the limit's name, in the order of the documentation."""
    first, *others = sorted(os.sched_getaffinity(0))
    direct = {kind: DIRECT.format(f"p{kind}v") for kind in ("read", "write")}
    return {
        "memory": Case(64 * MIB, "held = b'x' * (200 << 20)", ended(Ending.OUT_OF_MEMORY)),
        "memory_high": Case(40 * MIB, "held = b'x' * (40 << 20)", lambda result: bool(result.usage.memory_high_events)),
        "swap": Case(0, "held = b'x' * (200 << 20)", ended(Ending.OUT_OF_MEMORY), {"memory": 64 * MIB}),
        "hugetlb": Case(2 * MIB, HUGE, succeeded),
        "pids": Case(20, THREADS, lambda result: result.ending is Ending.TOO_MANY_PROCESSES or result.stdout == b"refused\n"),
        "cpus": Case(0.25, SPIN.format(0.3), lambda result: (result.usage.throttled or 0) > 0.3),
        "cpuset": Case(str(first), PIN.format(set(others) or {first}), succeeded),
        "cpu_time": Case(0.5, SPIN.format(5), ended(Ending.CPU_TIME)),
        "timeout": Case(0.5, "time.sleep(20)", ended(Ending.TIMED_OUT)),
        "disk": Case(MIB, "open('/tmp/filled', 'wb').write(bytes(4 << 20))", ended(Ending.DISK_FULL)),
        "inodes": Case(50, "for n in range(99): open(f'/tmp/filled{n}', 'x')", ended(Ending.OUT_OF_INODES)),
        "files": Case(30, "try:\n    while True: os.dup(0)\nexcept OSError: sys.exit(0)", succeeded),
        "output": Case(MIB, "while True: os.write(1, bytes(1 << 16))", ended(Ending.TOO_MUCH_OUTPUT)),
        "io_read": Case(MIB, direct["read"], succeeded),
        "io_write": Case(MIB, direct["write"], succeeded),
        "io_read_ops": Case(16, direct["read"], succeeded),
        "io_write_ops": Case(16, direct["write"], succeeded),
        "bandwidth": Case(256 << 10, SEND, succeeded),
    }


@contextmanager
def on_disk() -> Iterator[str | None]:
    """A file of 4 MiB on a disk of the machine, if a directory for it lies on one."""
    for place in map(Path, (tempfile.gettempdir(), "/var/tmp", os.getcwd())):
        device = place.stat().st_dev
        if Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").exists() and os.access(place, os.W_OK):
            path = place / f"enforcement-{uuid.uuid4().hex}"
            path.write_bytes(os.urandom(4 * MIB))
            yield os.fspath(path)
            path.unlink()
            return
    yield None


def verdict(limit: str, case: Case, disk: str | None) -> str:
    """One cell of the table."""
    capability = capabilities()[limit]
    values: dict[str, Any] = {"timeout": 60.0, **case.others, limit: case.value}
    spec = Spec(limits=Limits(**values), asked=frozenset({limit}), writable=(disk,) if disk else ())
    if capability.available and limit.startswith("io_") and disk is None:
        return "not tried: no disk to write to"
    if limit == "cpuset" and len(os.sched_getaffinity(0)) == 1:
        return "not tried: one CPU" if capability.available else _no(spec, capability.reason)
    if limit == "hugetlb" and capability.available and not _huge_pages_are_there():
        return "not tried: no huge pages are reserved"
    if not capability.available:
        return _no(spec, capability.reason)
    try:
        result = Sandbox(spec).run([sys.executable, "-I", "-c", BEGIN + case.source, disk or ""])
    except SandboxError as error:
        return f"NO SANDBOX: {error}"
    return f"yes: {capability.reason}" if case.held(result) else f"BROKEN: {result.sentence} {result.stderr.decode()[-200:]}"


def _no(spec: Spec, reason: str) -> str:
    try:
        Sandbox(spec)
    except UnavailableError:
        return f"refused: {reason}"
    return f"BROKEN: taken, although {reason}"


def _huge_pages_are_there() -> bool:
    pools = Path("/sys/kernel/mm/hugepages").glob("hugepages-2048kB/free_hugepages")
    return any(int(pool.read_text(encoding="ascii")) >= 2 for pool in pools)


def measured() -> dict[str, str]:
    """Each field of Usage: that it is measured, or why not."""
    sandbox = Sandbox(Spec(limits=Limits(cpus=1.0) if capabilities()["cpus"].available else Limits()))
    try:
        sandbox.call(os.abort, 1)  # a function that raises, since it takes no argument: its outcome has the figures
        raise AssertionError
    except CallError as error:
        usage = error.outcome.usage
    names = [field.name for field in dataclasses.fields(Usage) if field.name != "missing"]
    return {name: "yes" if getattr(usage, name) is not None else f"no: {usage.missing[name]}" for name in names}


def _short(text: str) -> str:
    """Without what names this one machine: paths of cgroups and numbers of processes."""
    return text.partition(" (")[0].replace("|", "/")


def _version(column: dict[str, dict[str, str]]) -> tuple[int, ...]:
    return tuple(int(number) for number in column["about"]["kernel"].split(".")[:2])


def join(columns: list[dict[str, dict[str, str]]]) -> Iterator[str]:
    """Two tables, in Markdown."""
    names = [f"{column['about']['name']} ({column['about']['kernel'].partition('-')[0]})" for column in columns]
    yield HEAD
    for title, key in (("Limits", "limits"), ("Figures", "figures")):
        notes: dict[str, int] = {}
        yield f"\n## {title}\n"
        yield "| | " + " | ".join(names) + " |"
        yield "|---" * (len(names) + 1) + "|"
        for row in columns[0][key]:
            cells = []
            for column in columns:
                word, _, why = _short(column[key].get(row, "no: not known there")).partition(": ")
                if word == "yes" and row in OF_TMPFS and _version(column) < ATTRIBUTES:
                    word, why = why, BY_DEFAULT
                if word != "yes" and why:
                    number = notes.setdefault(why, len(notes) + 1)
                    cells.append(f"{word} [{number}]")
                else:
                    cells.append(why or word)
            yield f"| `{row}` | " + " | ".join(cells) + " |"
        yield ""
        yield from (f"{number}. {why}" for why, number in notes.items())


def again(options: argparse.Namespace) -> int:
    """Run this program as somebody, in cgroups of their own."""
    who = Identity("the caller")
    if options.who != "caller":
        who = Identity(options.systemd, pwd.getpwnam(options.systemd).pw_uid) if options.systemd else workplace.ordinary_user()
    bare = options.who == "bare-user"
    starter = delegation.scope(who.uid) if options.systemd and not bare else []
    argv = [*starter, sys.executable, __file__, *(["--json", options.json] if options.json else [])]
    argv += ["--limits", options.limits] if options.limits else []
    with workplace.temporary(who) as home, delegation.delegated(None if bare or starter else who.uid) as cgroups:
        (home / "tmp").mkdir()
        who.own(home)
        env = workplace.environment(who, home, Path(sys.executable)) | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        return who.run(argv, home, env, cgroups=cgroups)


def main() -> int:
    """Print a machine's column, or a table of several; 1 where something is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="NAME")
    parser.add_argument("--limits", metavar="NAME,...", help="only these, and no figures")
    parser.add_argument("--who", choices=("caller", "user", "bare-user"), help="in cgroups of their own, as of tests/run.py")
    parser.add_argument("--systemd", metavar="USER", help="systemd gives them their cgroups; as of tests/run.py")
    parser.add_argument("--join", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args()
    if options.join:
        print("\n".join(join([json.loads(path.read_text(encoding="utf-8")) for path in options.join])))
        return 0
    if options.who:
        return again(options)
    limits: dict[str, str] = {}
    wanted = cases()
    if options.limits:
        wanted = {limit: wanted[limit] for limit in options.limits.split(",")}
    # Before the limits, of which a disk's switches on what version 1 counts of it: since Linux 6.10, for good.
    figures = {} if options.limits else measured()
    with on_disk() as disk:
        for limit, case in wanted.items():
            limits[limit] = verdict(limit, case, disk)
            if not options.json:
                print(f"{limit:<22}{limits[limit]}", flush=True)
    if options.json:
        about = {"name": options.json, "kernel": os.uname().release}
        print(json.dumps({"about": about, "limits": limits, "figures": figures}, indent=1))
    else:
        print("\n".join(f"{name:<22}{what}" for name, what in figures.items()))
    return int(any(word.startswith(("BROKEN", "NO SANDBOX")) for word in limits.values()))


if __name__ == "__main__":
    sys.exit(main())
