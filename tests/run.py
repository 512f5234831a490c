"""The test command: runs the suite as whoever calls it and, called by root, once more as an ordinary user.

    python tests/run.py [--only caller|user] [any argument of pytest]

Needs Python and pip, and leaves nothing behind. The package is built and installed into a virtual environment of its own
in a public temporary directory, because an ordinary user cannot read root's home, where the interpreter and the
checkout may be. The ordinary user is an unused number: no account has to be made for it. Imports only the standard
library and scripts/workplace.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import workplace
from workplace import CHECKOUT, Identity


def identities(only: str | None) -> list[Identity]:
    """Who the suite is to run as; `only` is "caller", "user" or None for both, where both can be had."""
    caller = Identity(f"the caller (uid {os.getuid()})")
    if os.getuid() != 0:
        if only == "user":
            return [caller]
        print("run.py: not root, so the suite runs as this user alone", flush=True)
        return [caller]
    return {"caller": [caller], "user": [workplace.ordinary_user()], None: [caller, workplace.ordinary_user()]}[only]


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


def run_suite(who: Identity, place: Path, python: Path, arguments: list[str]) -> tuple[int, str]:
    """Run pytest as `who`; its exit status, and one line about it."""
    home = place / ("user" if who.uid is not None else "caller")
    (home / "tmp").mkdir(parents=True)
    (home / "checkout").mkdir()
    copy_checkout(home / "checkout")
    who.own(home)
    print(f"\n== pytest as {who.name}", flush=True)
    started = time.monotonic()
    report = home / "junit.xml"
    argv = [str(python), "-m", "pytest", f"--junitxml={report}", *arguments]
    status = who.run(argv, home / "checkout", workplace.environment(who, home, python))
    took = time.monotonic() - started
    return status, f"as {who.name}: {counts(report)}, exit status {status}, {took:.1f} s"


def main() -> int:
    """Run the suite as everyone it is to run as; the first exit status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["caller", "user"], help="run the suite once: as the caller, or as an ordinary user")
    options, arguments = parser.parse_known_args()
    everyone = identities(options.only)
    python = workplace.choose_interpreter(everyone)
    with workplace.temporary() as place:
        group = f"{CHECKOUT / 'pyproject.toml'}:test"
        inside = workplace.make_venv(python, place / "venv", str(CHECKOUT), "--group", group)
        results = [run_suite(who, place, inside, arguments) for who in everyone]
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
