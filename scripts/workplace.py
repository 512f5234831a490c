"""Where scripts run pytest: Pythons, users and directories that an ordinary user can reach too.

Shared by tests/run.py, scripts/ and benchmarks/. Imports only the standard library and delegation.py, since it
makes the environments that everything else is installed into.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import delegation

CHECKOUT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)
# Any number would do, but 65534: that is what an unmapped user looks like in a user namespace.
FIRST_UID = 4711
# What another user's run takes over from the caller's environment; everything else may point into the caller's home.
SHARED_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TERM", "TZ", "CI", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTEST_ADDOPTS")


class WorkplaceError(Exception):
    """pytest could not be run; the text says why, and what to change."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who runs the suite: a name for the summary, and the user id, None for the caller's own."""

    name: str
    uid: int | None = None

    def run(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: dict[str, str] | None = None,
        *,
        output: int | IO[bytes] | None = None,
        timeout: float | None = None,
        cgroups: Sequence[Path] = (),
    ) -> int:
        """Run a command as this user; its exit status, 126 where this user cannot execute it, 124 where time ran out.

        With a timeout the command gets a session of its own, all of which is killed when the time is over. `cgroups` are
        those to start it in; WorkplaceError where one does not take us.
        """
        groups: list[int] | None = [] if self.uid is not None else None
        with _inside(cgroups):
            try:
                process = subprocess.Popen(
                    argv, cwd=cwd, env=env, stdout=output, stderr=output, start_new_session=timeout is not None,
                    user=self.uid, group=self.uid, extra_groups=groups,
                )  # fmt: skip
            except OSError:
                return 126
        with process:
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return 124
            except BaseException:
                process.kill()
                raise

    def own(self, folder: Path) -> None:
        """Make `folder`, with all that is in it, this user's."""
        if self.uid is None:
            return
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)


@contextlib.contextmanager
def _inside(cgroups: Sequence[Path]) -> Iterator[None]:
    try:
        with delegation.inside(cgroups):
            yield
    except OSError as error:
        raise WorkplaceError(
            f"a process cannot be started in {' and '.join(map(str, cgroups))}: {error}. "
            "Fix: start this in a cgroup that processes may leave and come back to, as a new systemd-run --scope"
        ) from error


def ordinary_user() -> Identity:
    """A user id that neither an account nor a process has."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            taken.add(process.stat().st_uid)
    uid = next(number for number in range(FIRST_UID, 60_000) if number not in taken)
    return Identity(f"an ordinary user (uid {uid})", uid)


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
        if all(who.run([python, "-I", "-c", probe], Path("/"), output=subprocess.DEVNULL) == 0 for who in everyone):
            return python
    names = " and ".join(who.name for who in everyone)
    raise WorkplaceError(
        f"no Python of at least {OLDEST[0]}.{OLDEST[1]} with venv and ensurepip can be executed by {names}. "
        "Fix: install one outside of private homes (Debian: apt-get install python3-venv)"
    )


def public_directory() -> str | None:
    """Where to put the temporary directory: None for the usual place, if everyone can get there."""
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(folder).resolve()
        if all(parent.stat().st_mode & 0o001 for parent in [path, *path.parents]):
            return folder
    raise WorkplaceError("no temporary directory can be entered by everyone. Fix: set TMPDIR to one that can, as /tmp usually is")


@contextlib.contextmanager
def temporary(who: Identity | None = None) -> Iterator[Path]:
    """A public temporary directory, of `who` if given, removed at the end with whatever the tests left in it."""
    # What ends a job in CI would else leave the directory behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="sandbox-tests-", dir=public_directory()))
    folder.chmod(0o755)
    if who is not None:
        who.own(folder)
    try:
        yield folder
    finally:
        # Tests leave directories of mode 000 on purpose; only root could remove them as they are.
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


def make_venv(python: str, folder: Path, *what: str) -> Path:
    """A virtual environment with what `pip install` makes of `what`; its interpreter."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = folder / "bin" / "python"
    # pip reads dependency groups since 25.1; distributions ship older ones.
    pip_install(inside, "--upgrade", "pip>=25.1")
    pip_install(inside, *what)
    return inside


def make_test_venv(everyone: list[Identity], folder: Path, python: str | None = None, pytest: str | None = None) -> Path:
    """A virtual environment with this checkout and what its tests need, which all of these can use; its interpreter.

    python: whose, or the first that they can use. pytest: its version, such as 8.4, or the newest. Plugins of others go into a
    directory `compat` in it, where pytest does not find them: tests/compat/conftest.py says why.
    """
    groups = CHECKOUT / "pyproject.toml"
    exactly = [] if pytest is None else [f"pytest=={pytest}.*"]
    inside = make_venv(python or choose_interpreter(everyone), folder, str(CHECKOUT), "--group", f"{groups}:test", *exactly)
    pip_install(inside, "--target", str(folder / "compat"), "--group", f"{groups}:compat", *exactly)
    return inside


def pip_install(python: Path, *what: str) -> None:
    """Install into the virtual environment of `python`; WorkplaceError with pip's own words where pip fails."""
    pip(str(python), "install", "--no-warn-script-location", "--root-user-action=ignore", *what)


def pip(python: str, command: str, *arguments: str) -> None:
    """Run pip, silently unless it fails: what it warns about is seldom of use, and hides what the caller prints."""
    argv = [python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(argv, check=False, capture_output=True, text=True)
    if result.returncode:
        raise WorkplaceError(f"pip {command} {' '.join(arguments)} failed:\n{result.stderr[-4000:]}")


def environment(who: Identity, home: Path, python: Path) -> dict[str, str]:
    """The environment for `who`: a temporary directory of its own, and for an ordinary user also a home."""
    if who.uid is None:
        env = dict(os.environ)
    else:
        env = {name: os.environ[name] for name in SHARED_ENVIRONMENT if name in os.environ}
        env |= {"HOME": str(home), "USER": "tester", "LOGNAME": "tester"}
    path = f"{python.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    return env | {"TMPDIR": str(home / "tmp"), "PATH": path, "VIRTUAL_ENV": str(python.parent.parent)}


def split_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A script's own arguments, and what stands behind "--" for the pytest that it starts."""
    at = list(words).index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])
