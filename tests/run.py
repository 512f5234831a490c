"""The test command: runs the suite as whoever calls it and, called by root, once more as an ordinary user.

    python tests/run.py [--only caller|user] [any argument of pytest]

Needs Python and pip, and leaves nothing behind. The package is built and installed into a virtual environment of its own
in a public temporary directory, because an ordinary user cannot read root's home, where the interpreter and the
checkout may be. The ordinary user is an unused number: no account has to be made for it. Imports only the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)
# Any number would do, but 65534: that is what an unmapped user looks like in a user namespace.
FIRST_UID = 4711
# What the user's run takes over from the caller's environment; everything else may point into the caller's home.
SHARED_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TERM", "TZ", "CI", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTEST_ADDOPTS")


class RunError(Exception):
    """The suite could not be run; the text says why, and what to change."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who runs the suite: a name for the summary, and the user id, None for the caller's own."""

    name: str
    uid: int | None = None

    def run(self, argv: list[str], cwd: Path, env: dict[str, str] | None = None, *, quiet: bool = False) -> int:
        """Run a command as this user; its exit status, 126 where this user cannot execute it."""
        groups: list[int] | None = [] if self.uid is not None else None
        output = subprocess.DEVNULL if quiet else None
        try:
            return subprocess.run(
                argv, cwd=cwd, env=env, stdout=output, stderr=output, check=False,
                user=self.uid, group=self.uid, extra_groups=groups,
            ).returncode  # fmt: skip
        except OSError:
            return 126

    def own(self, folder: Path) -> None:
        """Make `folder`, with all that is in it, this user's."""
        if self.uid is None:
            return
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)


def ordinary_user() -> Identity:
    """A user id that neither an account nor a process has."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            taken.add(process.stat().st_uid)
    uid = next(number for number in range(FIRST_UID, 60_000) if number not in taken)
    return Identity(f"an ordinary user (uid {uid})", uid)


def identities(only: str | None) -> list[Identity]:
    """Who the suite is to run as; `only` is "caller", "user" or None for both, where both can be had."""
    caller = Identity(f"the caller (uid {os.getuid()})")
    if os.getuid() != 0:
        if only == "user":
            return [caller]
        print("run.py: not root, so the suite runs as this user alone", flush=True)
        return [caller]
    return {"caller": [caller], "user": [ordinary_user()], None: [caller, ordinary_user()]}[only]


def interpreters() -> Iterator[str]:
    """Pythons to try: this one outside its virtual environment, then what is on the PATH and where distributions put it."""
    yield os.path.realpath(sys.executable)
    for folder in ("/usr/bin", "/usr/local/bin"):
        yield f"{folder}/python3"
    for minor in range(15, OLDEST[1] - 1, -1):
        if path := shutil.which(f"python3.{minor}"):
            yield path


def choose_interpreter(everyone: list[Identity]) -> str:
    """The first Python that all who run the suite can execute, and that can make virtual environments."""
    probe = f"import sys, venv, ensurepip; sys.exit(sys.version_info < {OLDEST})"
    for python in interpreters():
        if all(who.run([python, "-I", "-c", probe], Path("/"), quiet=True) == 0 for who in everyone):
            return python
    names = " and ".join(who.name for who in everyone)
    raise RunError(
        f"no Python of at least {OLDEST[0]}.{OLDEST[1]} with venv and ensurepip can be executed by {names}. "
        "Fix: install one outside of private homes (Debian: apt-get install python3-venv), or choose with --only"
    )


def public_directory() -> str | None:
    """Where to put the temporary directory: None for the usual place, if everyone can get there."""
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(folder).resolve()
        if all(parent.stat().st_mode & 0o001 for parent in [path, *path.parents]):
            return folder
    raise RunError("no temporary directory can be entered by everyone. Fix: set TMPDIR to one that can, as /tmp usually is")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A public temporary directory, removed at the end with whatever the tests left in it."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-tests-", dir=public_directory()))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        # Tests leave directories of mode 000 on purpose; only root could remove them as they are.
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


def install(python: str, folder: Path) -> Path:
    """A virtual environment with the package, built as users get it, and what its tests need; its interpreter."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = folder / "bin" / "python"
    pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location"]
    # pip reads dependency groups since 25.1; distributions ship older ones.
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
    subprocess.run([*pip, str(CHECKOUT), "--group", f"{CHECKOUT / 'pyproject.toml'}:test"], check=True)
    return inside


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


def environment(who: Identity, home: Path, python: Path) -> dict[str, str]:
    """The environment for `who`: a temporary directory of its own, and for an ordinary user also a home."""
    if who.uid is None:
        env = dict(os.environ)
    else:
        env = {name: os.environ[name] for name in SHARED_ENVIRONMENT if name in os.environ}
        env |= {"HOME": str(home), "USER": "tester", "LOGNAME": "tester"}
    path = f"{python.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    return env | {"TMPDIR": str(home / "tmp"), "PATH": path, "VIRTUAL_ENV": str(python.parent.parent)}


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
    status = who.run(argv, home / "checkout", environment(who, home, python))
    took = time.monotonic() - started
    return status, f"as {who.name}: {counts(report)}, exit status {status}, {took:.1f} s"


def main() -> int:
    """Run the suite as everyone it is to run as; the first exit status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["caller", "user"], help="run the suite once: as the caller, or as an ordinary user")
    options, arguments = parser.parse_known_args()
    everyone = identities(options.only)
    python = choose_interpreter(everyone)
    with workplace() as place:
        inside = install(python, place / "venv")
        results = [run_suite(who, place, inside, arguments) for who in everyone]
    print()
    for _, line in results:
        print(line, flush=True)
    return next((status for status, _ in results if status), 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RunError as problem:
        sys.exit(f"run.py: {problem}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
