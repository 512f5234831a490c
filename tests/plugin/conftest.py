"""How the plugin's tests look at a run: plain pytest and `--sandbox` side by side, report by report."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

HELPERS = Path(__file__).resolve().parent / "helpers"

#: What is different in any two runs, and what only a sandboxed run says.
_NOISE = (
    (re.compile(r"0x[0-9a-f]{6,}"), "0x..."),
    (re.compile(r" *\b\d+\.\d+[mu]?s( \(\d+:\d\d:\d\d\))?"), " N.NNs"),  # aligned to the right, whatever its width
    (re.compile(r"cache from \d+:\d\d:\d\d ago"), "cache from 0:00:00 ago"),
    (re.compile(r'(time|timestamp)="[^"]*"'), r'\1="..."'),
    (re.compile(r"\n=+ sandbox files kept =+(\n/\S+  \S+)*"), ""),
    (re.compile(r"\n(sandbox: |\.{3} )[^\n]*"), ""),
    (re.compile(r"(={3,}|-{3,}|_{3,}) ?(.*?) ?\1=*"), r"= \2 ="),
    (re.compile(r"={2,}"), "="),
)

#: A sandboxed run that leaves nothing for a later one, in the order in which tests are written.
OPTIONS = ("--sandbox", "-p", "no:cacheprovider", "-p", "no:randomly")
#: How long an inner run may take, in seconds: a guest's kernel, and a machine with forty others to run, take many times as long.
PATIENCE = 300


def without_noise(text: str) -> str:
    """The text without what any two runs differ by."""
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


@dataclasses.dataclass
class Run:
    """One run of pytest: what it printed, what its hooks said, and the files that it left in its directory."""

    result: pytest.RunResult
    record: dict[str, Any]
    files: dict[str, str]

    @property
    def status(self) -> int:
        """The exit status."""
        return int(self.result.ret)

    @property
    def reports(self) -> list[dict[str, Any]]:
        """Every report, in order."""
        found: list[dict[str, Any]] = self.record.get("reports", [])
        return found

    def outcomes(self) -> list[tuple[str, str, str]]:
        """Test, phase and outcome of every report."""
        return [(report["nodeid"], report["when"], report["outcome"]) for report in self.reports]

    def report(self, nodeid: str, when: str = "call") -> dict[str, Any]:
        """The report of a phase of one test, which may be named by its end."""
        return next(report for report in self.reports if report["nodeid"].endswith(nodeid) and report["when"] == when)

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.result.stdout.str() + "\n" + self.result.stderr.str()

    def comparable(self) -> dict[str, Any]:
        """The record, without what any two runs differ by."""
        reports = []
        for report in self.reports:
            plain = {key: value for key, value in report.items() if key != "duration"}
            plain["sections"] = [pair for pair in plain["sections"] if not _is_extra(pair)]
            plain["properties"] = [pair for pair in plain["properties"] if not pair[0].startswith("sandbox_")]
            reports.append(plain)
        whole = json.dumps(self.record | {"reports": reports}, indent=1)
        found: dict[str, Any] = json.loads(without_noise(whole))
        return found

    def screen(self) -> list[str]:
        """The lines printed, without what any two runs differ by."""
        text = "\n" + self.result.stdout.str()
        for report in self.reports:
            for name, content in report["sections"]:
                if name.startswith("Sandbox"):
                    text = re.sub(rf"\n-+ {name} -+\n{re.escape(content.rstrip())}", "", text)
        return without_noise(text).splitlines()


def _is_extra(section: list[str]) -> bool:
    """What only a sandboxed run says; and the letters that plain pytest prints for unittest's subtests, and captures."""
    return section[0].startswith("Sandbox") or (section[0] == "Captured stdout call" and set(section[1]) <= set("u,-"))


def _lines(record: dict[str, Any]) -> list[str]:
    """A line for each thing that hooks were told, so that a difference is short."""
    return [f"{kind}: {json.dumps(entry)}" for kind, entries in record.items() for entry in entries]


def _same(plain: list[str], boxed: list[str], what: str) -> None:
    difference = "\n".join(difflib.unified_diff(plain, boxed, "plain", "sandboxed", lineterm="", n=3))
    if difference:
        pytest.fail(f"{what} differs:\n{difference}", pytrace=False)


@dataclasses.dataclass
class Pair:
    """The same run twice: without and with --sandbox."""

    plain: Run
    boxed: Run

    def assert_same(self, *, screen: bool = True) -> Pair:
        """Fail where the sandboxed run said anything else than the plain one."""
        _same(_lines(self.plain.comparable()), _lines(self.boxed.comparable()), "what hooks were told")
        assert self.boxed.status == self.plain.status
        if screen:
            _same(self.plain.screen(), self.boxed.screen(), "what was printed")
        return self


class Compare:
    """Runs pytest with and without --sandbox, each from the same files."""

    def __init__(self, pytester: pytest.Pytester, top: Path) -> None:
        self.pytester = pytester
        self.top = top
        self.top.mkdir()

    def one(self, *args: str | os.PathLike[str], sandbox: bool = True, timeout: float = PATIENCE) -> Run:
        """One run, in pytester's directory as it is."""
        record = self.top / "record.json"
        record.unlink(missing_ok=True)
        options = ["--sandbox"] if sandbox else []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OUTCOME_RECORD", str(record))
            patch.setenv("PYTHONPATH", str(HELPERS), prepend=os.pathsep)
            command = [sys.executable, "-m", "pytest", "-p", "outcome_recorder", *options, *(os.fspath(arg) for arg in args)]
            result = self.pytester.run(*command, timeout=timeout)
        found = json.loads(record.read_text()) if record.exists() else {}
        return Run(result, found, dict(_files(self.pytester.path)))

    def sequence(self, *runs: Sequence[str], options: Sequence[str] = (), timeout: float = PATIENCE) -> list[Pair]:
        """Several runs one after the other, each sequence from the same files; options are the sandboxed runs' own."""
        saved = self.top / "saved"
        shutil.copytree(self.pytester.path, saved)
        plain = [self.one(*args, sandbox=False, timeout=timeout) for args in runs]
        self._restore(saved)
        boxed = [self.one(*args, *options, timeout=timeout) for args in runs]
        shutil.rmtree(saved)
        return [Pair(*pair) for pair in zip(plain, boxed, strict=True)]

    def __call__(self, *args: str, options: Sequence[str] = (), timeout: float = PATIENCE) -> Pair:
        """One run, twice."""
        return self.sequence(args, options=options, timeout=timeout)[0]

    def same(self, *args: str, screen: bool = True) -> Pair:
        """One run, twice, which must say the same."""
        return self(*args).assert_same(screen=screen)

    def _restore(self, saved: Path) -> None:
        for path in self.pytester.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(saved, self.pytester.path, dirs_exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(os.environ["PYTEST_DEBUG_TEMPROOT"])
        Path(os.environ["PYTEST_DEBUG_TEMPROOT"]).mkdir()


def _files(top: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(top.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield str(path.relative_to(top)), path.read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def compare(pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Runs of pytest with and without --sandbox, in pytester's directory."""
    top = tmp_path_factory.mktemp("compare")
    (top / "temproot").mkdir()
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(top / "temproot"))
    return Compare(pytester, top / "runs")


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
    assert pair.boxed.files["log.txt"] == pair.plain.files["log.txt"]
    lines = pair.plain.files["log.txt"].splitlines()
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
