"""Small suites that use plugins of others, run plain and with --sandbox: the same outcomes, files and words.

These plugins must not be active in the project's own suite: they would add options, files and lines to each of its runs. So they
are not beside pytest, where it would load them: `tests/run.py` installs the dependency group `compat` into a directory of its
own, `compat` in the virtual environment, which only the runs that are started here have on their path. Where somebody has
installed them beside pytest all the same, that will do too.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Pair, Runs

#: Where the plugins are; the variable is for other versions of them.
PLUGINS = Path(os.environ.get("SANDBOX_TEST_PLUGINS", Path(sys.prefix) / "compat"))


class Compat(Runs):
    """Runs pytest with the named plugins only, with and without --sandbox."""

    def __init__(self, pytester: pytest.Pytester, top: Path, plugins: Sequence[str]) -> None:
        # inline-snapshot does nothing in CI.
        environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(PLUGINS), "CI": None}
        super().__init__(pytester, top, environment, "--sandbox-keep=never")
        self.loaded += ["no:cacheprovider", "pytest_sandbox.plugin.plugin", *plugins]

    def by_entry_points(self, modules: Sequence[str]) -> None:
        """Have pytest find these by itself, and pytest-sandbox, as where they are installed beside it; and no others."""
        del self.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        installed = importlib.metadata.distributions(path=[str(PLUGINS), *sys.path])
        found = {
            one.name: one.module.partition(".")[0] for dist in installed for one in dist.entry_points.select(group="pytest11")
        }
        others = [f"no:{name}" for name, top in found.items() if top not in {"pytest_sandbox", *modules}]
        self.loaded = ["outcome_recorder", "no:cacheprovider", *others]

    def both(self, *args: str, same: bool = True, timeout: float = PATIENCE) -> Pair:
        """A plain and a sandboxed run; `same`: they must have the same outcomes and exit status."""
        (pair,) = self.sequence(args, timeout=timeout)
        return pair.assert_same_ends() if same else pair


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
    pytester.makeini("[pytest]\n")
    return Compat(pytester, tmp_path_factory.mktemp("compat"), plugins)
