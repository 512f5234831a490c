"""Small suites that use plugins of others, run plain and with --sandbox: the same outcomes, files and words.

These plugins must not be active in the project's own suite: they would add options, files and lines to each of its runs. So they
are not beside pytest, where it would load them: `tests/run.py` installs the dependency group `compat` into a directory of its
own, `compat` in the virtual environment, which only the runs that are started here have on their path. Where somebody has
installed them beside pytest all the same, that will do too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

#: Where the plugins are; the variable is for other versions of them.
PLUGINS = Path(os.environ.get("SANDBOX_TEST_PLUGINS", Path(sys.prefix) / "compat"))
HELPERS = Path(__file__).resolve().parent.parent / "plugin" / "helpers"
#: How long a run may take, in seconds: a guest's kernel, and a machine with forty others to run, take many times as long.
PATIENCE = 300
#: What a run leaves that is none of its results; the last two pytester writes.
_IGNORED = ("__pycache__", ".pytest_cache", "stdout", "stderr")


@dataclasses.dataclass
class Run:
    """One run of pytest: its outcomes, what it printed, and the files that it left in its directory."""

    result: pytest.RunResult
    outcomes: list[tuple[str, str, str]]
    files: dict[str, bytes]

    @property
    def status(self) -> int:
        """The exit status."""
        return int(self.result.ret)

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.result.stdout.str() + "\n" + self.result.stderr.str()

    def line(self, part: str) -> str:
        """The first line printed that has this in it; "" if none has."""
        return next((line for line in self.text.splitlines() if part in line), "")

    def read(self, name: str) -> str:
        """The text of a file."""
        return self.files[name].decode()


class Compat:
    """Runs pytest with the named plugins only, with and without --sandbox, each from the same files in the same directory."""

    def __init__(self, pytester: pytest.Pytester, top: Path, plugins: Sequence[str], environment: dict[str, str]) -> None:
        self.pytester, self._top, self.environment = pytester, top, environment
        #: The beginning of each command.
        self.starter: list[str] = []
        self._plugins = ["pytest_sandbox.plugin.plugin", *plugins]

    def by_entry_points(self, modules: Sequence[str]) -> None:
        """Have pytest find these by itself, and pytest-sandbox, as where they are installed beside it; and no others."""
        del self.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        installed = importlib.metadata.distributions(path=[str(PLUGINS), *sys.path])
        found = {
            one.name: one.module.partition(".")[0] for dist in installed for one in dist.entry_points.select(group="pytest11")
        }
        self._plugins = [f"no:{name}" for name, top in found.items() if top not in {"pytest_sandbox", *modules}]

    def one(self, *args: str, sandbox: bool = True, timeout: float = PATIENCE) -> Run:
        """One run, in pytester's directory as it is."""
        record = self._top / "record.json"
        record.unlink(missing_ok=True)
        loaded = [word for name in ("outcome_recorder", *self._plugins) for word in ("-p", name)]
        options = ["--sandbox", "--sandbox-keep=never"] if sandbox else []
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.delenv("CI", raising=False)  # inline-snapshot does nothing there
            patch.setenv("OUTCOME_RECORD", str(record))
            command = [*self.starter, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *loaded, *options, *args]
            result = self.pytester.run(*command, timeout=timeout)
        found: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
        outcomes = [(report["nodeid"], report["when"], report["outcome"]) for report in found.get("reports", [])]
        return Run(result, outcomes, self.files())

    def both(self, *args: str, same: bool = True, timeout: float = PATIENCE) -> tuple[Run, Run]:
        """A plain and a sandboxed run; `same`: they must have the same outcomes and exit status."""
        return self.sequence(args, same=same, timeout=timeout)[0]

    def sequence(self, *runs: Sequence[str], same: bool = True, timeout: float = PATIENCE) -> list[tuple[Run, Run]]:
        """Several runs one after the other, first all of them plain, then from the same files again sandboxed."""
        saved = self._top / "saved"
        shutil.copytree(self.pytester.path, saved)
        plain = [self.one(*args, sandbox=False, timeout=timeout) for args in runs]
        shutil.rmtree(self.pytester.path)
        shutil.copytree(saved, self.pytester.path)
        os.chdir(self.pytester.path)
        boxed = [self.one(*args, timeout=timeout) for args in runs]
        shutil.rmtree(saved)
        pairs = list(zip(plain, boxed, strict=True))
        for one, other in pairs if same else ():
            assert other.outcomes == one.outcomes, other.text
            assert other.status == one.status, other.text
        return pairs

    def files(self) -> dict[str, bytes]:
        """What there is in pytester's directory."""
        top = self.pytester.path
        paths = [path for path in sorted(top.rglob("*")) if path.is_file() and not set(_IGNORED) & set(path.parts)]
        return {str(path.relative_to(top)): path.read_bytes() for path in paths}


@pytest.fixture
def plugins(request: pytest.FixtureRequest) -> list[str]:
    """What is loaded, by `-p`: the test module's LOADED."""
    found: list[str] = getattr(request.module, "LOADED", [])
    return found


@pytest.fixture
def needed(request: pytest.FixtureRequest, plugins: list[str]) -> list[str]:
    """Which modules must be installed: the test module's NEEDED, or else all that are loaded."""
    found: list[str] = getattr(request.module, "NEEDED", plugins)
    return found


@functools.cache
def _tops() -> dict[str, tuple[str, frozenset[str]]]:
    """What each distribution that is installed has at the top, with its version, by name: read once, since it is many files."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for one in importlib.metadata.distributions(path=[str(PLUGINS), *sys.path]):
        tops = frozenset(Path(str(file)).parts[0].removesuffix(".py") for file in one.files or ())
        found.setdefault(one.name, (one.version, tops))
    return found


def _distributions(modules: Sequence[str]) -> list[str]:
    """Which distributions have these modules, with their versions: for scripts/plugin_table.py."""
    wanted = {name.partition(".")[0] for name in modules}
    return sorted(f"{name} {version}" for name, (version, tops) in _tops().items() if tops & wanted)


def _is_there(name: str) -> bool:
    """Whether a package or module is among the plugins, or beside pytest."""
    return (PLUGINS / name).is_dir() or any(PLUGINS.glob(f"{name}.*")) or importlib.util.find_spec(name) is not None


@pytest.fixture
def in_the_group() -> bool:
    """Whether what is needed is in the group `compat`."""
    return True


@pytest.fixture
def compat(
    request: pytest.FixtureRequest,
    pytester: pytest.Pytester,
    tmp_path_factory: pytest.TempPathFactory,
    plugins: list[str],
    needed: list[str],
    *,
    in_the_group: bool,
) -> Compat:
    """Runs of pytest with `plugins`. Skips where `needed` is not installed, and fails where all that tests need should be."""
    request.node.user_properties += [("distribution", one) for one in _distributions(needed)]
    lacking = [name for name in needed if not _is_there(name)]
    if lacking:
        found = f"{', '.join(lacking)} not installed"
        if in_the_group and os.environ.get("SANDBOX_TESTS_LACK_NOTHING"):
            pytest.fail(f"{found}: it belongs into the group compat of pyproject.toml", pytrace=False)
        whose = "python tests/run.py, or pip install --group compat" if in_the_group else "of no group: pip install it"
        pytest.skip(f"{found}: {whose}, with --target {PLUGINS}")
    top = tmp_path_factory.mktemp("compat")
    (top / "temproot").mkdir()
    path = [str(PLUGINS), str(HELPERS), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "PYTEST_DEBUG_TEMPROOT": str(top / "temproot"),
    }
    pytester.makeini("[pytest]\n")
    return Compat(pytester, top, plugins, environment)
