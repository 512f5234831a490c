"""What the command line, the ini file and `--help` know of the table of options."""

from __future__ import annotations

import dataclasses
import runpy
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from pytest_sandbox import Ending, Outcome, Usage
from pytest_sandbox.plugin.planning import options
from pytest_sandbox.plugin.reporting import usage_table


class OptionsOnly:
    """A plugin that adds the options and nothing else: these tests are about words, not about sandboxes."""

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        """Add the options."""
        options.add_options(parser)

    @pytest.hookimpl(wrapper=True)
    def pytest_load_initial_conftests(self, parser: pytest.Parser, args: list[str]) -> Generator[None]:
        """Look for misspelled options when every conftest has added its own."""
        yield
        options.check_unknown(parser, args)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Make the marker known."""
        config.addinivalue_line("markers", options.MARKER_HELP)


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """A run that has the options; the installed plugin, which would add them too, is off."""
    return pytester.runpytest_inprocess("-p", "no:sandbox", *args, plugins=[OptionsOnly()])


def refusal(pytester: pytest.Pytester, *args: str) -> str:
    """The error text of a run that must end as a usage error before any test."""
    pytester.makepyfile("def test(): open('ran', 'w')")
    result = run(pytester, *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not (pytester.path / "ran").exists()
    return result.stderr.str()


LIMITS = ["memory", "swap", "pids", "cpus", "cpu_time", "timeout", "disk", "inodes", "files", "output"]
RUN_ONLY = ["require", "degrade", "jobs", "usage", "doctor"]
NAMES = ["scope", "network", *LIMITS, "writable", "hide", "scratch", "keep", *RUN_ONLY]


def test_every_name_is_an_option_an_ini_key_and_an_argument(pytester: pytest.Pytester) -> None:
    """The same name everywhere, with dashes on the command line; what is for a whole run is no argument of the marker."""
    text = run(pytester, "--help").stdout.str()
    for name in NAMES:
        assert f"--sandbox-{name.replace('_', '-')}" in text
        assert (f"sandbox_{name} (" in text) == (name != "doctor")
    marker = run(pytester, "--markers").stdout.str()
    for name in [*NAMES, "enabled", "group"]:
        assert (f"{name}=..." in marker) == (name not in RUN_ONLY)


def test_help_shows_the_defaults(pytester: pytest.Pytester) -> None:
    """In the units in which they are typed."""
    text = " ".join(run(pytester, "--help").stdout.str().split())
    for words in (
        "--sandbox-memory=SIZE most memory, page cache included (default: 2G)",
        "(default: no limit)",
        "(default: auto)",
    ):
        assert words in text


def test_every_value_that_can_be_typed_is_taken(pytester: pytest.Pytester) -> None:
    """Options stay text until they are resolved, as pytest-xdist sends them to its workers."""
    pytester.plugins += [OptionsOnly(), "no:sandbox"]
    args = [
        "--sandbox",
        "--sandbox-memory=64M",
        "--sandbox-cpu-time=2s",
        "--sandbox-hide=a",
        "--sandbox-hide=b",
        "--sandbox-usage",
    ]
    config = pytester.parseconfig(*args)
    given = [
        config.getoption(name) for name in ("sandbox", "sandbox_memory", "sandbox_cpu_time", "sandbox_hide", "sandbox_usage")
    ]
    assert given == [True, "64M", "2s", ["a", "b"], True]
    assert config.getoption("sandbox_disk") is None


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("--sandbox-memory=64Q", ["--sandbox-memory", "'64Q'", "64M"]),
        ("--sandbox-memory=64", ["64 bytes", "at least 1M"]),
        ("--sandbox-disk=0", ["at least 4k"]),
        ("--sandbox-inodes=1", ["at least 8", "overlays"]),
        ("--sandbox-pids=2", ["at least 3", "two helpers"]),
        ("--sandbox-files=3", ["at least 24", "keep about 15 open"]),
        ("--sandbox-timeout=soon", ["'soon'", "500ms"]),
        ("--sandbox-cpus=0", ["'0'", "0.5"]),
        ("--sandbox-pids=1.5", ["'1.5'", "512"]),
        ("--sandbox-scope=modul", ["'modul'", "test, class, module, package, session", "did you mean 'module'?"]),
        ("--sandbox-network=lo", ["auto, loopback, none, shared, host"]),
        ("--sandbox-keep=yes", ["never, failed, always"]),
        ("--sandbox-writable=", ["''", "path"]),
        ("--sandbox-require=,", ["','", "all"]),
        ("--sandbox-jobs=0", ["'0'"]),
        ("--sandbox-jobs=many", ["'many'"]),
        ("--sandbox-jobs=none", ["'none'", "write 1 or more, or auto"]),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(pytester: pytest.Pytester, arg: str, words: list[str]) -> None:
    """The error names the option, the value and what can be written."""
    text = refusal(pytester, arg)
    assert f"argument {arg.partition('=')[0]}:" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("arg", "guess"),
    [
        ("--sandbox-memroy=64M", "'--sandbox-memory'"),
        ("--sandbox-cpu_time=2", "'--sandbox-cpu-time'"),
        ("--sandboxed", "'--sandbox'"),
    ],
)
def test_a_misspelled_option_is_told_the_closest(pytester: pytest.Pytester, arg: str, guess: str) -> None:
    """The error of pytest itself would not guess."""
    assert f"unknown option {arg.partition('=')[0]}: did you mean {guess}?" in refusal(pytester, arg)


def test_what_is_like_no_option_is_told_none(pytester: pytest.Pytester) -> None:
    """That all of them begin alike is no likeness."""
    assert "unknown option --sandbox-foo (pytest --help lists all of them)" in refusal(pytester, "--sandbox-foo")


@pytest.mark.parametrize("value", ["0", "none", "x"])
def test_how_many_jobs_there_may_be(pytester: pytest.Pytester, value: str) -> None:
    """One message, which says what can be written."""
    assert f"{value!r} is not a number of sandboxes: write 1 or more, or auto" in refusal(pytester, f"--sandbox-jobs={value}")


@pytest.mark.parametrize("name", ["group", "enabled"])
def test_an_option_that_only_the_marker_has(pytester: pytest.Pytester, name: str) -> None:
    """Where it is to be written is told, and no other option that looks like it."""
    words = f"unknown option --sandbox-{name}: {name} is for the marker only: use @pytest.mark.sandbox({name}=...)"
    assert words in refusal(pytester, f"--sandbox-{name}=x")


def test_options_of_others_are_left_alone(pytester: pytest.Pytester) -> None:
    """A conftest may have an option whose name begins like ours."""
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--sandbox-colour')")
    pytester.makepyfile("def test(pytestconfig): assert pytestconfig.getoption('--sandbox-colour') == 'red'")
    assert run(pytester, "--sandbox-colour=red").ret == pytest.ExitCode.OK


def test_importing_costs_no_machinery() -> None:
    """A run without a sandbox imports the vocabulary only: nothing of the layers between, and nothing of the kernel's."""
    code = (
        "import sys, pytest; before = set(sys.modules);"
        "import pytest_sandbox.plugin.planning.options, pytest_sandbox.plugin.planning.resolve;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = ("pytest_sandbox.model", "pytest_sandbox.plugin")
    foreign = [name for name in done.stdout.split() if name != "pytest_sandbox" and not name.startswith(allowed)]
    assert foreign == []


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_platforms_can_import_it(platform: str) -> None:
    """Nothing that only Linux has is touched by an import: a suite shared with Windows keeps its options, keys and filters.

    Whatever is public has its name there; only what makes sandboxes is refused.
    """
    linux_only = ["fcntl", "resource", "termios", "pwd", "grp", "cffi", "_cffi_backend", "pyroute2", "filelock"]
    code = f"""
import os, signal, sys, pytest
sys.platform = {platform!r}
sys.modules.update(dict.fromkeys({linux_only!r}))
if {platform!r} == "win32":
    del os.register_at_fork, os.fork, os.geteuid, os.getuid, signal.SIGKILL, signal.pthread_sigmask
import pytest_sandbox, pytest_sandbox.plugin.plugin
for name in pytest_sandbox.__all__:
    try:
        getattr(pytest_sandbox, name)
    except pytest_sandbox.UnavailableError:
        print(name)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["CallError", "Result", "Sandbox", "capabilities"]


def test_the_docs_list_every_option_as_it_is() -> None:
    """The tables in docs/options.md are those that conf.py makes of the table of options; building the docs writes them."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "options.md").read_text()
    assert runpy.run_path(str(docs / "conf.py"))["with_tables"](page) == page


def test_the_docs_can_be_read_as_they_are() -> None:
    """Also where nobody fills a link in: with a text each."""
    top = Path(__file__).parents[2]
    pages = [page for page in (*top.glob("*.md"), *top.glob("docs/**/*.md")) if "_generated" not in page.parts]
    assert [str(page) for page in pages if "[](" in page.read_text(encoding="utf-8")] == []


def test_the_docs_say_what_each_figure_is() -> None:
    """In docs/usage.md: a name for each field of Usage, in order; and, of those in the table at the run's end, its column."""
    page = (Path(__file__).parents[2] / "docs" / "usage.md").read_text()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert [name for name, *_ in rows] == [field.name for field in dataclasses.fields(Usage) if field.name != "missing"]
    row = usage_table.Row("test", Outcome(Ending.EXITED, None, Usage(wall=1, bytes_read=1, bytes_written=1)), "test")
    shown = next(usage_table.table([row], everything=True)).split()
    assert {column for _, _, column, _ in rows if column} | {"ending", "test"} == set(shown)
