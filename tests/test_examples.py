"""The README's first command: the example suite, on a copy that its tests may delete in vain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a directory, with its content."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of the example suite."""
    copy = shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return Path(copy)


def run(examples: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the copy, as a user would."""
    argv = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", *options, str(examples)]
    return subprocess.run(argv, cwd=examples, check=False, capture_output=True, text=True)


def test_examples_pass_and_leave_nothing(examples: Path) -> None:
    """All pass (two of root's are skipped for a user), the copy is as it was, the host's files are too."""
    before, hosts = tree(examples), Path("/etc/hosts").read_bytes()
    result = run(examples, "--sandbox")
    skipped = 0 if os.access("/etc/hosts", os.W_OK) else 2
    assert result.returncode == 0, result.stdout
    assert re.search(rf"\b{18 - skipped} passed", result.stdout), result.stdout
    assert tree(examples) == before
    assert Path("/etc/hosts").read_bytes() == hosts
    assert not Path("/tmp/left-by-a-test").exists()


def test_examples_name_the_leak(examples: Path) -> None:
    """The forgotten daemon is named by its command line, with the test that started it."""
    result = run(examples, "--sandbox", "-k", "leaks")
    assert "sleep 987654" in result.stdout
    assert "test_leaks_a_process" in result.stdout


def test_examples_refuse_to_run_outside(examples: Path) -> None:
    """Without a sandbox they would delete what they are given: none does."""
    before = tree(examples)
    result = run(examples, "--no-sandbox")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "pytest --sandbox examples" in result.stdout
    assert tree(examples) == before
