"""How the plugin's tests look at a run: plain pytest and `--sandbox` side by side, report by report."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence

import pytest

from tests.conftest import PATIENCE, Pair, Runs

#: A sandboxed run that leaves nothing for a later one, in the order in which tests are written.
OPTIONS = ("--sandbox", "-p", "no:cacheprovider", "-p", "no:randomly")

#: Whether a test's process is in a sandbox, as an expression of its source; `os` is imported there.
INSIDE = f"os.readlink('/proc/self/ns/pid') != {os.readlink('/proc/self/ns/pid')!r}"


class Compare(Runs):
    """Runs pytest with and without --sandbox, with what is installed."""

    def __call__(self, *args: str, options: Sequence[str] = (), timeout: float = PATIENCE) -> Pair:
        """One run, twice."""
        return self.sequence(args, options=options, timeout=timeout)[0]

    def same(self, *args: str, screen: bool = True) -> Pair:
        """One run, twice, which must say the same."""
        return self(*args).assert_same(screen=screen)


@pytest.fixture
def compare(pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Runs of pytest with and without --sandbox, in pytester's directory."""
    made = Compare(pytester, tmp_path_factory.mktemp("compare") / "runs", {})
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(made.environment["PYTEST_DEBUG_TEMPROOT"]))
    return made


# -- suites whose fixtures log what they do ----------------------------------------------------------------------------

LOG = "--sandbox-writable=log.txt"

#: What each suite's conftest has: `log(text)` appends a line to a file that goes through to the machine.
CONFTEST = """
import pathlib, pytest
PATH = pathlib.Path(__file__).parent / "log.txt"

def write(text):
    with PATH.open("a") as file:
        file.write(text + "\\n")

@pytest.fixture(scope="session")
def log():
    return write

def maker(scope, name=None):
    @pytest.fixture(scope=scope, name=name or scope + "_value")
    def made(log, request):
        log(f"set up {scope} for {request.node.nodeid}")
        yield [scope]
        log(f"tear down {scope} for {request.node.nodeid}")
    return made

session_value = maker("session")
package_value = maker("package")
module_value = maker("module")
class_value = maker("class")
function_value = maker("function")
"""


def make(pytester: pytest.Pytester, conftest: str = "", **files: str) -> None:
    """Write a suite: paths with "/" spelled as "__", without ".py"."""
    pytester.makeconftest(CONFTEST + textwrap.dedent(conftest))
    (pytester.path / "log.txt").touch()
    for name, text in files.items():
        path = pytester.path / (name.replace("__init", "/!init").replace("__", "/").replace("/!init", "/__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def same_log(compare: Compare, *args: str) -> list[str]:
    """Run it both ways; outcomes and the log must be the same. Returns the log's lines."""
    pair = compare(*args, options=[LOG]).assert_same()
    assert pair.boxed.read("log.txt") == pair.plain.read("log.txt")
    lines = pair.plain.read("log.txt").splitlines()
    assert lines
    return lines


# -- machines that are changed -----------------------------------------------------------------------------------------

ROOT = os.geteuid() == 0


def run(arguments: Sequence[str], kernel: Callable[[], None] | None = None) -> tuple[int, str]:
    """The exit status of a pytest of its own, and all that it says."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, preexec_fn=kernel)
    return done.returncode, done.stdout


def diagnose(script: str, *, apart: Sequence[str] = ("-Urm",), user: int | None = None) -> str:
    """What the doctor says in namespaces in which a shell script has run; skips where the script cannot."""
    command = ["unshare", *apart, "sh", "-ec", f'{script}\nexec "$@"', "sh", sys.executable, "-m", "pytest_sandbox"]
    who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **who)  # type: ignore[call-overload]
    if not done.stdout.startswith("host: "):
        pytest.skip(f"the script cannot run here: {done.stderr}")
    assert "Traceback" not in done.stderr
    return str(done.stdout)
