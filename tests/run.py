"""The test command: runs the suite as whoever calls it and, called by root, once more as an ordinary user.

    python tests/run.py [--only WHO] [--systemd USER] [--python PROGRAM] [--pytest VERSION] [--venv DIR] [any argument of pytest]

Needs Python and pip, and leaves nothing behind. The package is built and installed into a virtual environment of its own
in a public temporary directory, because an ordinary user cannot read root's home, where the interpreter and the
checkout may be. The ordinary user is an unused number: no account has to be made for it. It runs the suite in cgroups of
its own, as systemd gives them to a session; `--only bare-user` is a user without, as in a container. With `--systemd` it is
systemd that gives them, to root and to USER, whose manager must run. `--venv` is an environment that has it all, for a machine
without a network (tests/vm/suite.py). Where there is more than one processor both run at the same time and
are shown one after the other. Imports only the standard library and scripts/.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import delegation
import workplace
from workplace import CHECKOUT, Identity

WHO = ("caller", "user", "bare-user")
#: Without these there is no sandbox, and of most tests nothing is left but skips.
EXPECTED = "platform,native,user,mount,pid,net,ipc,uts,cgroup,proc,timeout,output,files,disk,inodes"
#: The environment's name for a directory that gets a report of each half, in JUnit's XML (tests/vm/suite.py).
REPORTS = "SANDBOX_TESTS_REPORTS"


def identities(only: str | None, account: str | None) -> list[Identity]:
    """Who the suite is to run as; `only` is one of WHO, or None for the caller and, where that is root, a user: `account`."""
    caller = Identity(f"the caller (uid {os.getuid()})")
    if os.getuid() != 0:
        print("run.py: not root, so the suite runs as this user alone", flush=True)
        return [caller]
    user = Identity(f"the user {account}", pwd.getpwnam(account).pw_uid) if account else workplace.ordinary_user()
    return {"caller": [caller], "user": [user], "bare-user": [user], None: [caller, user]}[only]


def copy_checkout(target: Path) -> None:
    """The checkout without the package: what is tested is what was installed."""
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for source in CHECKOUT.iterdir():
        if source.name.startswith(".") or source.name in {"pytest_sandbox", "build", "dist", "_build"}:
            continue
        if source.is_dir():
            shutil.copytree(source, target / source.name, ignore=skip, symlinks=True)
        else:
            shutil.copy2(source, target / source.name)


def counts(report: Path) -> str:
    """How many tests did what, from pytest's own JUnit report."""
    try:
        suites = list(ET.parse(report).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):
        return "no result"
    total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    bad = total["failures"] + total["errors"]
    return f"{total['tests'] - bad - total['skipped']} passed, {bad} failed, {total['skipped']} skipped"


def run_suite(
    who: Identity, home: Path, python: Path, arguments: list[str], *, cgroups: Sequence[Path] = (), starter: Sequence[str] = ()
) -> tuple[int, str]:
    """Run pytest as `who`, in a home of their own, in these cgroups, by `starter`; its exit status, and one line about it."""
    (home / "tmp").mkdir()
    (home / "checkout").mkdir()
    copy_checkout(home / "checkout")
    who.own(home)
    print(f"\n== pytest as {who.name}, with {'a scope' if starter else f'{len(cgroups)} cgroups'} delegated", flush=True)
    started = time.monotonic()
    report = home / "junit.xml"
    argv = [*starter, str(python), "-m", "pytest", f"--junitxml={report}", *arguments]
    # What the groups of pyproject.toml do not have is an error then, and no reason to skip a test.
    env = workplace.environment(who, home, python) | {"SANDBOX_TESTS_LACK_NOTHING": "1"}
    status = who.run(argv, home / "checkout", env, cgroups=cgroups)
    took = time.monotonic() - started
    if REPORTS in os.environ and report.exists():
        shutil.copy(report, f"{os.environ[REPORTS]}/uid-{os.getuid() if who.uid is None else who.uid}.xml")
    return status, f"as {who.name}: {counts(report)}, exit status {status}, {took:.1f} s"


@contextlib.contextmanager
def output_through_a_pipe() -> Iterator[None]:
    """Where the output goes to a file, put a pipe before it: tests look at which files change, and this is none of theirs."""
    if not stat.S_ISREG(os.fstat(1).st_mode):
        yield
        return
    saved = os.dup(1), os.dup(2)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        try:
            for fd in (1, 2):
                os.dup2(cat.stdin.fileno(), fd)
            yield
        finally:
            sys.stdout.flush()
            for old, fd in zip(saved, (1, 2), strict=True):
                os.dup2(old, fd)
                os.close(old)


def run_beside(commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Run these at the same time, and show what each prints one after the other; exit status and last line of each."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands[1:]]
        outputs: list[int | IO[bytes]] = [subprocess.PIPE, *files]
        started = [
            stack.enter_context(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
            for command, output in zip(commands, outputs, strict=True)
        ]
        assert started[0].stdout is not None
        results = []
        for process, lines in zip(started, (started[0].stdout, *files), strict=True):
            if lines in files:
                process.wait()
                lines.seek(0)
            last = b""
            for line in lines:
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
                last = line
            results.append((process.wait(), last.decode(errors="replace").strip()))
    return results


def main() -> int:
    """Run the suite as everyone it is to run as; the first exit status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WHO, help="run the suite once, as one of these")
    parser.add_argument("--systemd", metavar="USER", help="have systemd delegate a scope, to root and to this user")
    parser.add_argument("--python", metavar="PROGRAM", help="the interpreter, in place of the first that all can execute")
    parser.add_argument("--pytest", metavar="VERSION", help="a version of pytest, such as 8.4, in place of the newest")
    parser.add_argument("--venv", type=Path, help="a virtual environment to use, in place of a new one")
    told = "capabilities beside namespaces without which no test is run; `nothing`: not even those"
    parser.add_argument("--expect", default="", metavar="NAME,...", help=told)
    options, arguments = parser.parse_known_args()
    everyone = identities(options.only, options.systemd)
    with workplace.temporary() as place:
        inside = options.venv / "bin" / "python" if options.venv else None
        inside = inside or workplace.make_test_venv(everyone, place / "venv", options.python, options.pytest)
        results = []
        if len(everyone) > 1 and len(os.sched_getaffinity(0)) > 1:
            same = [sys.executable, __file__, f"--venv={inside.parent.parent}"]
            same += ["--systemd", options.systemd] if options.systemd else []
            same += [f"--expect={options.expect}"]
            results += run_beside([[*same, "--only", who, *arguments] for who in ("caller", "user")])
            everyone = []
        arguments = arguments if options.expect == "nothing" else [f"--expect={EXPECTED},{options.expect}", *arguments]
        for who in everyone:
            bare = options.only == "bare-user"
            starter = delegation.scope(who.uid) if options.systemd and not bare else []
            with (
                output_through_a_pipe(),
                workplace.temporary(who) as home,
                delegation.delegated(None if bare or starter else who.uid) as cgroups,
            ):
                results.append(run_suite(who, home, inside, arguments, cgroups=cgroups, starter=starter))
    print()
    for _, line in results:
        print(line, flush=True)
    return next((status for status, _ in results if status), 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except workplace.WorkplaceError as problem:
        sys.exit(f"run.py: {problem}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
