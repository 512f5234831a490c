"""What a worker or the machine cannot do: the run is refused before a test runs, whoever finds it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_sandbox import capabilities
from tests.plugin.xdist.conftest import run

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

pytest.importorskip("execnet")
pytest.importorskip("xdist")


@pytest.mark.parametrize("tx", ["popen", f"popen//python={sys.executable}"])
def test_usage_error_of_a_marker(pytester: pytest.Pytester, compare: Compare, tx: str) -> None:
    """What only a worker can find is the run's usage error all the same, with its text; no test runs."""
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox(memory='64Q')\ndef test_1(): pass\ndef test_2(): open('ran', 'w')\n")
    found = run(compare, "--dist=load", "--tx", f"2*{tx}")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    errors = found.result.stderr.str()
    assert "ERROR: test_usage_error_of_a_marker.py::test_1: @pytest.mark.sandbox(memory='64Q')" in errors
    assert "INTERNALERROR" not in found.text + errors
    assert "crashed" not in found.text + errors


def test_limit_that_only_a_marker_asks_for(pytester: pytest.Pytester, compare: Compare) -> None:
    """A marker's limit that the machine cannot enforce is refused, with the reason and the fix."""
    lacking = [name for name in ("memory_high", "hugetlb", "io_read", "cpuset") if not capabilities()[name].available]
    if not lacking:
        pytest.skip("this machine can enforce every limit")
    value = repr("0") if lacking[0] == "cpuset" else repr("64M")
    pytester.makepyfile(f"import pytest\n@pytest.mark.sandbox({lacking[0]}={value})\ndef test_1(): pass\n")
    found = run(compare, "-n2")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert capabilities()[lacking[0]].reason in " ".join(found.result.stderr.str().split())


def test_refused_before_a_worker_is_there(pytester: pytest.Pytester, compare: Compare) -> None:
    """What this machine cannot do, the run's controller says itself."""
    pytester.makepyfile("def test_1(): pass\n")
    found = run(compare, "-n2", "--sandbox-require=flight")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert len(os.listdir(os.environ["PROCESS_RECORD"])) <= 1
    assert run(compare, "-n2", "--pdb").status == pytest.ExitCode.USAGE_ERROR


def test_refused_by_a_worker_only(pytester: pytest.Pytester, compare: Compare) -> None:
    """A worker of another interpreter speaks for itself, and is not started again and again."""
    pytester.makepyfile("def test_1(): pass\n")
    found = run(compare, "--dist=load", "--tx", f"popen//python={sys.executable}", "--sandbox-require=flight")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert "flight" in found.result.stderr.str()
    assert len(os.listdir(os.environ["PROCESS_RECORD"])) == 2


def test_worker_without_the_plugin(pytester: pytest.Pytester, compare: Compare) -> None:
    """Where nobody would make sandboxes no test is run, also if only the ini file asks for them."""
    pytester.makepyfile("def test_1(): open('ran', 'w')\n")
    pytester.makeini("[pytest]\nsandbox = true\n")
    bare = pytester.path / "bare"
    bare.write_text(f'#!/bin/sh\nexec env -u PYTHONPATH {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    found = run(compare, "--dist=load", "--tx", f"popen//python={bare}", sandbox=False)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert "pytest-sandbox is not installed for worker gw0" in found.result.stderr.str()
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize(
    ("ini", "words"),
    [
        ("sandbox = true", "without sandboxes"),
        ("sandbox = true\nsandbox_memory = 64M\nsandbox_hide = /etc/hostname", "memory, hide"),
    ],
)
def test_worker_without_the_ini_file(pytester: pytest.Pytester, compare: Compare, ini: str, words: str) -> None:
    """Where the ini file did not come along no test is run, be it without sandboxes or with other limits."""
    inner = pytester.mkdir("inner")
    (inner / "test_1.py").write_text("import pathlib\ndef test_1(): pathlib.Path('ran').touch()\n")
    pytester.makeini(f"[pytest]\n{ini}\n")
    elsewhere = compare.top / "elsewhere"
    elsewhere.mkdir()
    option = ("--sandbox",) if "memory" in ini else ()
    tx = f"popen//chdir={elsewhere}"
    found = run(compare, *option, "--dist=load", "--tx", tx, f"--rsyncdir={inner}", str(inner), sandbox=False)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    errors = found.result.stderr.str()
    assert words in errors
    assert "ini file" in errors
    assert not list(elsewhere.rglob("ran"))


def test_worker_that_does_not_load_the_plugin(pytester: pytest.Pytester, compare: Compare) -> None:
    """It is told, once it has ended."""
    pytester.makepyfile("def test_1(): pass\n")
    pytester.makeini("[pytest]\nsandbox = true\n")
    blind = pytester.path / "blind"
    blind.write_text(f'#!/bin/sh\nPYTEST_ADDOPTS="-p no:sandbox" exec {sys.executable} "$@"\n')
    blind.chmod(0o755)
    found = run(compare, "--dist=load", "--tx", f"popen//python={blind}", sandbox=False)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert "has run its tests without sandboxes" in found.result.stderr.str()
