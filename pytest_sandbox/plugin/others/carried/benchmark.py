"""pytest-benchmark: each benchmark's figures, from the test that measured them to the table, the files and the comparison.

Read from its versions 5.1 and 5.3. The state is `config._benchmarksession.benchmarks`, a list of `stats.Metadata`, to
which the fixture adds; `pytest_sessionfinish` and the summary make everything of it. A benchmark's names, options, group,
`extra_info`, measurements and profile travel; its parameters are the controller's own item's. `--benchmark-cprofile-dump` writes
when a benchmark ends: the controller does so too.
"""

from __future__ import annotations

import json
import pstats
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.texts import printable
from pytest_sandbox.sandbox.wire import values

from .base import Fields, field, probe, rows

_NAME = "pytest-benchmark"
#: More seconds than any timer counts, and few enough that sums and squares of them are numbers.
_MOST = 1e18
_METADATA = ("name", "fullname", "group", "extra_info", "iterations", "stats", "options", "fixture")


def find(config: pytest.Config, _items: Sequence[pytest.Item]) -> Benchmarks | None:
    """The carrier, where benchmarks are measured. UsageError where this version cannot be read."""
    session: Any = config._benchmarksession  # type: ignore[attr-defined]  # the plugin's
    stats: Any = sys.modules.get("pytest_benchmark.stats")
    utils: Any = sys.modules.get("pytest_benchmark.utils")
    probe(
        _NAME,
        "benchmark",
        (session, "session", ("benchmarks", "disabled", "skip", "finish")),
        (stats, "package", ("Metadata", "Stats")),
        (utils, "package", ("safe_dumps", "slugify", "funcname")),
    )
    return None if session.disabled or session.skip else Benchmarks(session, stats, utils)


class _Fixture:
    """What `stats.Metadata` takes from the fixture that measured."""

    def __init__(self, item: Any, fields: Fields) -> None:  # noqa: ANN401  # a Function: it may have a callspec
        callspec = getattr(item, "callspec", None)
        self.name, self.fullname = printable(field(fields, "name", str)), printable(field(fields, "fullname", str))
        group = field(fields, "group", str, type(None))
        self.group = None if group is None else printable(group)
        self.param = None if callspec is None else callspec.id
        self.params = None if callspec is None else callspec.params
        self.extra_info = _unpacked(fields)
        self.has_error = field(fields, "has_error", bool) or not fields.get("data")
        self.cprofile_stats: pstats.Stats | None = None


class Benchmarks:
    """See `base.Carrier`."""

    name = _NAME

    def __init__(self, session: Any, stats: Any, utils: Any) -> None:  # noqa: ANN401  # foreign
        self._session, self._stats, self._utils = session, stats, utils
        self._known = 0

    def begin(self) -> None:
        """See `base.Carrier`."""
        self._known = len(self._session.benchmarks)

    def news(self, item: pytest.Item) -> Fields | None:
        """See `base.Carrier`."""
        new = self._session.benchmarks[self._known :]
        self._known += len(new)
        return {"benchmarks": [self._fields(item, one) for one in new]} if new else None

    def _fields(self, item: pytest.Item, one: Any) -> Fields:  # noqa: ANN401  # a Metadata
        missing = [name for name in _METADATA if not hasattr(one, name)]
        if missing:
            raise AttributeError(f"{_NAME}: the benchmark of {item.nodeid} has no {', '.join(missing)}")
        funcname, profile = self._utils.funcname, getattr(one, "cprofile_stats", None)
        return {
            "name": str(one.name),
            "fullname": str(one.fullname),
            "group": None if one.group is None else str(one.group),
            "extra_info": self._as_saved(one.extra_info),
            "options": {name: funcname(value) if callable(value) else value for name, value in one.options.items()},
            "iterations": one.iterations,
            "data": [value if isinstance(value, int) else float(value) for value in one.stats.data],
            "has_error": bool(one.fixture.has_error),
            "profile": None if profile is None else [_line(*line) for line in profile.stats.items()],
        }

    def _as_saved(self, value: object) -> Any:  # noqa: ANN401  # of JSON
        """A value as --benchmark-json would write it; what it could not write fails no test that does not ask for that."""
        try:
            return values.pack(json.loads(self._utils.safe_dumps(value)))
        except (TypeError, ValueError, RecursionError) as error:
            return values.pack({"unserializable": repr(error)})

    def read(self, item: pytest.Item, fields: Fields) -> Callable[[], None]:
        """See `base.Carrier`."""
        found = [self._metadata(item, row) for row in rows(fields, "benchmarks")]

        def remember() -> None:
            for one in found:
                self._session.benchmarks.append(one)
                self._dump(one)

        return remember

    def end(self, unheard: Sequence[pytest.Item]) -> None:
        """See `base.Carrier`. Whoever was killed has no figures."""

    def _metadata(self, item: pytest.Item, fields: Fields) -> Any:  # noqa: ANN401  # a Metadata
        options = field(fields, "options", dict)
        if not all(type(value) in (str, int, float, bool, type(None)) for value in options.values()):
            raise WireError("an option of a benchmark is no plain value")
        data = field(fields, "data", list)
        if not all(type(value) in (int, float) and abs(value) <= _MOST for value in data):
            raise WireError("a measurement of a benchmark is no number")
        if field(fields, "iterations", int) < 1:
            raise WireError("a benchmark has no iterations")
        fixture = _Fixture(item, fields)
        made = self._stats.Metadata(fixture, iterations=fields["iterations"], options=options)
        made.stats.data.extend(data)
        profile = field(fields, "profile", list, type(None))
        if profile is not None:
            made.cprofile_stats = _profile(profile)
        return made

    def _dump(self, one: Any) -> None:  # noqa: ANN401  # a Metadata
        prefix, profile = getattr(self._session, "cprofile_dump", None), getattr(one, "cprofile_stats", None)
        if not prefix or profile is None:
            return
        # As `BenchmarkFixture._save_cprofile` names it: slugify leaves no separator, and the prefix ends in a dash.
        target = Path(f"{prefix}-{self._utils.slugify(one.fixture.name)}.prof")
        target.parent.mkdir(parents=True, exist_ok=True)
        profile.dump_stats(target)


def _unpacked(fields: Fields) -> Fields:
    """What a test has noted in `extra_info`. Raises WireError for what is nothing that JSON has."""
    found = values.unpack(fields.get("extra_info"))
    json.dumps(found)
    return field({"extra_info": found}, "extra_info", dict)  # type: ignore[no-any-return]


def _line(function: Any, figures: Any) -> list[Any]:  # noqa: ANN401  # what `pstats.Stats.stats` has
    called, callers = figures[:4], figures[4]
    return [list(function), list(called), [[list(caller), list(counts)] for caller, counts in callers.items()]]


def _profile(lines: list[Any]) -> pstats.Stats:
    """What `cProfile` had measured. Raises WireError."""
    made = pstats.Stats()
    table: dict[Any, Any] = {}
    try:
        for function, figures, callers in lines:
            entries = {_function(caller): _figures(counts) for caller, counts in callers}
            table[_function(function)] = (*_figures(figures), entries)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"a profile is none: {error}") from error
    made.stats = table  # type: ignore[attr-defined]  # typeshed does not know it
    return made


def _function(parts: Any) -> tuple[str, int, str]:  # noqa: ANN401  # of a frame
    path, line, name = parts
    return str(path), int(line), str(name)


def _figures(parts: Any) -> tuple[int, int, float, float]:  # noqa: ANN401  # of a frame
    primitive, calls, total, cumulative = parts
    return int(primitive), int(calls), float(total), float(cumulative)
