"""Paths that tests may really change though nobody said so: what is written for later runs. Imports pytest and `resolve`.

The cache directory, Hypothesis's examples, the log file, and directories that other plugins were told to fill; each only if this
user may write it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pytest_sandbox.plugin.planning.resolve import Plan


def let_through(config: pytest.Config, items: Sequence[pytest.Item], plans: Sequence[Plan]) -> list[Plan]:
    """The plans, with these paths writable in each sandbox; directories are made now if some item needs them."""
    paths = [os.path.realpath(path) for path in _paths(config, items)]
    paths = [path for path in dict.fromkeys(paths) if os.path.exists(path) and os.access(path, os.W_OK)]
    if not paths:
        return list(plans)
    changed = {plan: _with(plan, paths) for plan in set(plans)}
    return [changed[plan] for plan in plans]


def _with(plan: Plan, paths: Sequence[str]) -> Plan:
    spec = plan.spec
    new = tuple(path for path in paths if path not in spec.hide)
    return dataclasses.replace(plan, spec=dataclasses.replace(spec, writable=tuple(dict.fromkeys((*spec.writable, *new)))))


def _paths(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[str]:
    cache: Any = getattr(config, "cache", None)
    if cache is not None:
        with contextlib.suppress(AttributeError, OSError):
            cache._ensure_cache_dir_and_supporting_files()  # as the end of the run would: a test may use config.cache
        yield str(cache._cachedir)
    examples = os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY", ".hypothesis")
    if any(getattr(getattr(item, "obj", None), "is_hypothesis_test", False) for item in items):
        with contextlib.suppress(OSError):
            os.makedirs(examples, exist_ok=True)
    yield examples
    yield from _log_file(config)
    yield from _results(config)


#: Directories that other plugins are told to have tests write their results to: a plugin's module, and the option's name.
_RESULTS = (("allure_pytest", "allure_report_dir"), ("pytest_memray", "memray_bin_path"))


def _results(config: pytest.Config) -> Iterator[str]:
    for module, name in _RESULTS:
        directory = getattr(config.option, name, None)
        if isinstance(directory, str) and module in sys.modules:
            with contextlib.suppress(OSError):
                os.makedirs(directory, exist_ok=True)
            yield directory


def _log_file(config: pytest.Config) -> Iterator[str]:
    handler: Any = getattr(config.pluginmanager.getplugin("logging-plugin"), "log_file_handler", None)
    path, stream = getattr(handler, "baseFilename", os.devnull), getattr(handler, "stream", None)
    if path == os.devnull or stream is None:
        return
    # Every process writes through an offset of its own: only appending keeps them from overwriting each other.
    flags = fcntl.fcntl(stream.fileno(), fcntl.F_GETFL)
    fcntl.fcntl(stream.fileno(), fcntl.F_SETFL, flags | os.O_APPEND)
    yield path
