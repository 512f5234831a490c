"""Paths that tests may change though nobody said so: what is written for later runs. Imports `cached`, `resolve` and below.

The cache directory and Hypothesis's examples are common to all sandboxes, and never the machine's own: pytest follows what it
finds there. The log file, and directories that other plugins were told to fill, are. Each only if this user may write it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.pathlib import fnmatch_ex

from pytest_sandbox.plugin.planning.cached import cache_of
from pytest_sandbox.plugin.planning.resolve import Plan
from pytest_sandbox.primitives.overlay import is_below
from pytest_sandbox.sandbox.machine.probes import cwd


def let_through(
    config: pytest.Config, items: Sequence[pytest.Item], plans: Sequence[Plan], say: Callable[[str], None]
) -> list[Plan]:
    """The plans, with these paths common to all sandboxes, or writable; directories are made now if some item needs them.

    What should be common and cannot be is said.
    """
    common = []
    for path in filter(os.path.isdir, _there(_common(config, items))):
        if why := _why_not_common(config, path):
            say(f"sandbox: what tests write to {path} is gone with them: {why}")
        else:
            common.append(path)
    writable = _there((*_log_file(config), *_results(config)))
    changed = {plan: _with(plan, common, writable) for plan in set(plans)} if common or writable else {}
    return [changed.get(plan, plan) for plan in plans]


def _why_not_common(config: pytest.Config, path: str) -> str:
    """Why what a test changes there must be nobody else's, and nothing that comes home; "" if it may be."""
    places = (config.rootpath, cwd(), sys.prefix, tempfile.gettempdir(), config.option.basetemp or config.rootpath)
    for place in places:
        if is_below(os.path.realpath(os.path.join(cwd(), place)), [path]):
            return f"{place} lies in it. Fix: name another directory"
    if _is_collected(config, path):
        fix = "Fix: let norecursedirs match it, as it does .pytest_cache"
        return f"pytest looks for tests there, and would run what one leaves. {fix}"
    return ""


def _is_collected(config: pytest.Config, path: str) -> bool:
    """Whether pytest may look into a directory for modules, conftests, or documents with examples, in a later run."""
    root, directory = Path(os.path.realpath(config.rootpath)), Path(path)
    if not directory.is_relative_to(root):
        return False
    parts = [one for one in (directory, *directory.parents) if one.is_relative_to(root) and one != root]
    return not any(fnmatch_ex(pattern, one) for pattern in config.getini("norecursedirs") for one in parts)


def _there(paths: Iterable[str]) -> list[str]:
    found = dict.fromkeys(os.path.realpath(os.path.join(cwd(), path)) for path in paths)
    return [path for path in found if os.path.exists(path) and os.access(path, os.W_OK)]


def _with(plan: Plan, common: Sequence[str], writable: Sequence[str]) -> Plan:
    spec = plan.spec
    new = tuple(dict.fromkeys((*spec.writable, *(path for path in writable if path not in spec.hide))))
    # What somebody has let through is the machine's own, whatever else it is.
    beside = tuple(path for path in common if path not in spec.hide and not is_below(path, spec.writable))
    return dataclasses.replace(plan, spec=dataclasses.replace(spec, writable=new, common=beside))


def _common(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[str]:
    """Directories in which tests find what earlier ones have left, in this run and in others."""
    cache: Any = cache_of(config)
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
