"""The entry point: options, the marker, and the decision whether this run is sandboxed. Imports `options` and `resolve`.

Without `--sandbox` nothing else of the package is imported, on no platform, but for the small `forks` and `output`.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_sandbox.plugin.planning import options, resolve
from pytest_sandbox.primitives import (  # now:
    forks,  # noqa: F401 - its handler is to come before those of conftest files
    output,  # noqa: F401 - later, stdout is pytest's capture
)

if TYPE_CHECKING:
    from pytest_sandbox.plugin.inside.fixtures import SandboxFactory, SandboxInfo


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add everything that `options` lists."""
    options.add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> Generator[None, None, None]:
    """Refuse misspelled `--sandbox-...` with a suggestion, once conftest files had their say."""
    try:
        yield
    except Exception:
        if "--sandbox-doctor" in args:
            sys.stderr.write("a conftest.py keeps the doctor from its work; without it: pytest --sandbox-doctor --noconftest\n")
        raise
    options.check_unknown(parser, args)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; where the run is sandboxed, also the controller."""
    config.addinivalue_line("markers", options.MARKER_HELP)
    try:
        _configure(config)
    except pytest.UsageError as error:
        if not hasattr(config, "workerinput"):
            raise
        from pytest_sandbox.plugin.controller import distributed

        distributed.register_refused(config, str(error))


def _configure(config: pytest.Config) -> None:
    if not resolve.enabled(config):
        if hasattr(config, "workerinput"):
            from pytest_sandbox.plugin.controller import distributed

            distributed.refuse_without(config)
        return
    settings = resolve.settings(config)
    if not (config.option.collectonly or config.option.help or getattr(config.option, "markers", False)):
        _register(config, settings)


def _register(config: pytest.Config, settings: resolve.Settings) -> None:
    """Make this run sandboxed. Raises UsageError for one that cannot be."""
    if sys.platform != "linux":
        raise pytest.UsageError(
            f"--sandbox needs Linux: {sys.platform} has no namespaces. Fix: run these tests on Linux, or with --no-sandbox"
        )
    from pytest_sandbox.plugin.controller import distributed, run
    from pytest_sandbox.plugin.others import refused

    if not (config.option.showfixtures or config.option.show_fixtures_per_test):
        refused.refuse_kept(config)
    if distributed.is_worker(config):
        distributed.register_worker(config, settings)
    elif distributed.is_master(config):
        distributed.register_master(config, settings)
    else:
        run.register(config, settings)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """The sandboxed run's loop: after those of conftest files and later plugins, and before pytest's own, as that is."""
    loop = getattr(session.config.pluginmanager.getplugin("sandbox-controller"), "loop", None)
    found: bool | None = None if loop is None else loop(session)
    return found


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """`--sandbox-doctor`: print what this machine can do, and whether it is what the run asks for, and end."""
    if not config.getoption("sandbox_doctor"):
        return None
    from pytest_sandbox.__main__ import main

    return main(lambda: _refusal(config))


def _refusal(config: pytest.Config) -> str:
    """Why a run with these options and this ini file would be refused before its tests are known; "" where it would not."""
    try:
        _register(config, resolve.settings(config))
    except pytest.UsageError as error:
        return str(error).removeprefix("--sandbox: ")
    return ""


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> SandboxInfo:
    """The test's own sandbox: `spec`, `limits`, `usage()` so far, `changes()` so far. Skips where the test has none."""
    _skip_elsewhere()
    from pytest_sandbox.plugin.inside import fixtures

    return fixtures.sandbox(request.config)


@pytest.fixture
def sandbox_factory(request: pytest.FixtureRequest) -> SandboxFactory:
    """Makes further sandboxes below this test's: `sandbox_factory(memory="64M").run(["prog"])`, `.call(function, 1)`."""
    _skip_elsewhere()
    from pytest_sandbox.plugin.inside import fixtures

    return fixtures.sandbox_factory(request.config)


def _skip_elsewhere() -> None:
    """What is imported then is Linux's alone."""
    if sys.platform != "linux":
        pytest.skip(f"this test runs in no sandbox: {sys.platform} has no namespaces")
