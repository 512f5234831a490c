"""One suite, run as plain pytest and with --sandbox, side by side: what several folders of tests look at."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HELPERS = Path(__file__).resolve().parent / "plugin" / "helpers"
#: How long an inner run may take, in seconds: a guest's kernel, and a machine with forty others to run, take many times as long.
PATIENCE = 300
#: What a run leaves that is none of its results; the last two pytester writes.
_NO_RESULTS = frozenset({"__pycache__", "stdout", "stderr"})

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


def without_noise(text: str) -> str:
    """The text without what any two runs differ by."""
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


@dataclasses.dataclass
class Run:
    """One run of pytest: what it printed, what its hooks said, and the files that it left in its directory, but for caches."""

    result: pytest.RunResult
    record: dict[str, Any]
    files: dict[str, bytes]

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

    def line(self, part: str) -> str:
        """The first line printed that has this in it; "" if none has."""
        return next((line for line in self.text.splitlines() if part in line), "")

    def read(self, name: str) -> str:
        """The text of a file."""
        return self.files[name].decode(errors="replace")

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


class Pair(NamedTuple):
    """The same run twice: without and with --sandbox."""

    plain: Run
    boxed: Run

    def assert_same_ends(self) -> Pair:
        """Fail where the sandboxed run had other outcomes, or another exit status."""
        assert self.boxed.outcomes() == self.plain.outcomes(), self.boxed.text
        assert self.boxed.status == self.plain.status, self.boxed.text
        return self

    def assert_same(self, *, screen: bool = True) -> Pair:
        """Fail where the sandboxed run said anything else than the plain one."""
        _same(_lines(self.plain.comparable()), _lines(self.boxed.comparable()), "what hooks were told")
        assert self.boxed.status == self.plain.status
        if screen:
            _same(self.plain.screen(), self.boxed.screen(), "what was printed")
        return self


class Runs:
    """Runs pytest in pytester's directory, with and without --sandbox, each from the same files.

    environment: variables of each run; None: without that one. starter: the beginning of each command. loaded: by `-p`. options:
    of a sandboxed run.
    """

    def __init__(self, pytester: pytest.Pytester, top: Path, environment: dict[str, str | None], *options: str) -> None:
        self.pytester, self.top = pytester, top
        self._temproot = top / "temproot"
        self._temproot.mkdir(parents=True)
        path = [environment.get("PYTHONPATH"), str(HELPERS), os.environ.get("PYTHONPATH")]
        self.environment = environment | {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTEST_DEBUG_TEMPROOT": str(self._temproot),
            "OUTCOME_RECORD": str(top / "record.json"),
        }
        self.starter: list[str] = []
        self.loaded = ["outcome_recorder"]
        self._options = ("--sandbox", *options)

    def one(self, *args: str | os.PathLike[str], sandbox: bool = True, timeout: float = PATIENCE) -> Run:
        """One run, in pytester's directory as it is."""
        record = self.top / "record.json"
        record.unlink(missing_ok=True)
        loaded = [word for name in self.loaded for word in ("-p", name)]
        with self.in_environment():
            command = [*self.starter, sys.executable, "-m", "pytest", *loaded, *(self._options if sandbox else ())]
            result = self.pytester.run(*command, *(os.fspath(arg) for arg in args), timeout=timeout)
        found = json.loads(record.read_text()) if record.exists() else {}
        return Run(result, found, self.files())

    @contextlib.contextmanager
    def in_environment(self) -> Iterator[None]:
        """Have the variables of a run."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            yield

    def sequence(self, *runs: Sequence[str], options: Sequence[str] = (), timeout: float = PATIENCE) -> list[Pair]:
        """Several runs one after the other, each sequence from the same files; options are the sandboxed runs' own."""
        saved = self.top / "saved"
        shutil.copytree(self.pytester.path, saved)
        plain = [self.one(*args, sandbox=False, timeout=timeout) for args in runs]
        self._restore(saved)
        boxed = [self.one(*args, *options, timeout=timeout) for args in runs]
        shutil.rmtree(saved)
        return [Pair(*pair) for pair in zip(plain, boxed, strict=True)]

    def _restore(self, saved: Path) -> None:
        for path in self.pytester.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(saved, self.pytester.path, dirs_exist_ok=True)
        shutil.rmtree(self._temproot)
        self._temproot.mkdir()

    def files(self) -> dict[str, bytes]:
        """What there is in pytester's directory."""
        top = self.pytester.path
        paths = [path for path in sorted(top.rglob("*")) if path.is_file() and not _NO_RESULTS & set(path.parts)]
        return {str(path.relative_to(top)): path.read_bytes() for path in paths}
