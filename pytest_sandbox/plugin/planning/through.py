"""Paths that tests may change though nobody said so: what is written for later runs. Imports pytest, `resolve` and `primitives`.

The cache directory and Hypothesis's examples are common to all sandboxes, and never the machine's own: pytest follows what it
finds there. The log file, and directories that other plugins were told to fill, are. Each only if this user may write it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from pytest_sandbox.plugin.planning.resolve import Plan
from pytest_sandbox.primitives.overlay import is_below


def let_through(config: pytest.Config, items: Sequence[pytest.Item], plans: Sequence[Plan]) -> list[Plan]:
    """The plans, with these paths common to all sandboxes, or writable; directories are made now if some item needs them."""
    common = [path for path in _there(_common(config, items)) if os.path.isdir(path) and not _has_project(config, path)]
    writable = _there((*_log_file(config), *_results(config)))
    changed = {plan: _with(plan, common, writable) for plan in set(plans)} if common or writable else {}
    return [changed.get(plan, plan) for plan in plans]


def _has_project(config: pytest.Config, path: str) -> bool:
    """Whether it is the rootdir or around that (cache_dir = .): then what a test changes is nobody else's."""
    return is_below(os.path.realpath(config.rootpath), [path])


def _there(paths: Iterable[str]) -> list[str]:
    found = dict.fromkeys(os.path.realpath(path) for path in paths)
    return [path for path in found if os.path.exists(path) and os.access(path, os.W_OK)]


def _with(plan: Plan, common: Sequence[str], writable: Sequence[str]) -> Plan:
    spec = plan.spec
    new = tuple(dict.fromkeys((*spec.writable, *(path for path in writable if path not in spec.hide))))
    # What somebody has let through is the machine's own, whatever else it is.
    beside = tuple(path for path in common if path not in spec.hide and not is_below(path, spec.writable))
    return dataclasses.replace(plan, spec=dataclasses.replace(spec, writable=new, common=beside))


def _common(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[str]:
    """Directories in which tests find what earlier ones have left, in this run and in others."""
    cache: Any = getattr(config, "cache", None)
    if cache is not None:
        with contextlib.suppress(AttributeError, OSError):
            cache._ensure_cache_dir_and_supporting_files()  # as the end of the run would: a test may use config.cache
        yield str(cache._cachedir)
    examples = os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY") or ".hypothesis"
    if any(getattr(getattr(item, "obj", None), "is_hypothesis_test", False) for item in items):
        with contextlib.suppress(OSError):
            os.makedirs(examples, exist_ok=True)
    yield examples


#: Directories that other plugins are told to have tests write their results to: a plugin's module, and the option's name.
_RESULTS = (
    ("allure_pytest", "allure_report_dir"),
    ("pytest_memray", "memray_bin_path"),
    ("pytest_mpl", "mpl_results_path"),
)


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
