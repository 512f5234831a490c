"""What may come home to pytest's cache: its own process reads the values there, in this run and in the next. Imports pytest.

pytest believes what it finds: a list where it has left an object, or a million brackets, is an internal error of every later run,
and a gigabyte is read as it is. It writes its own values itself, so that of a sandbox they are never taken.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

#: How large a value may be, in bytes: the names of some 40,000 tests. What is read of it takes up to twenty times as much.
LARGEST = 4 << 20
#: How deep lists and objects may lie in each other. Python reads a thousand, less what is on the stack then.
DEEPEST = 100
_JSON = f"a value in pytest's cache is JSON, nested at most {DEEPEST} deep"
#: The first part of the names of values that pytest writes, and of those that we do.
_OWN = frozenset({"cache", "sandbox"})


def cache_of(config: pytest.Config) -> pytest.Cache | None:
    """pytest's cache; None where there is none, or a conftest has something else in its place."""
    found = getattr(config, "cache", None)
    return found if isinstance(found, pytest.Cache) else None


def refuses(config: pytest.Config) -> Callable[[str, int | None], str]:
    """See `Home`."""
    cache = cache_of(config)
    return functools.partial(_why_not, "" if cache is None else os.path.realpath(cache._cachedir / "v"))


def _why_not(values: str, path: str, file: int | None) -> str:
    if not values or not path.startswith(f"{values}/"):
        return ""
    if path[len(values) :].split("/")[1] in _OWN:
        return "pytest's own process writes that"
    return "" if file is None else _why_no_value(os.pread(file, LARGEST + 1, 0))


def _why_no_value(data: bytes) -> str:
    if len(data) > LARGEST:
        return f"a value in pytest's cache has at most {LARGEST >> 20}M"
    try:
        level = [json.loads(data)]
    except (ValueError, RecursionError):
        return _JSON
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
    return _JSON if level else ""


def _inside(value: Any) -> Any:  # noqa: ANN401  # JSON
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
