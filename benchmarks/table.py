"""The table of results, in plain text. Imports results.py and goals.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import goals
from results import Results, Runs, SuiteResult

HEAD = f"{'':34} {'wall':>9} {'min':>8} {'max':>8} {'above plain':>13} {'/ forked':>9} {'/ C':>7} {'wall / xdist':>13}"


def table(results: Results) -> str:
    """Everything, a paragraph for each suite."""
    lines = []
    for suite in results.suites.values():
        lines += [*_suite(suite), ""]
    lines += [f"no figures of {name}: {reason}" for name, reason in results.missing.items()]
    lines += [str(goal) for goal in goals.goals(results)]
    return "\n".join([*lines, "", results.machine, *results.versions])


def _suite(suite: SuiteResult) -> Iterator[str]:
    count = max((len(runs.walls) for runs in suite.runs.values()), default=0)
    yield f"{suite.title} ({suite.tests} tests; medians of {count})"
    if suite.refused:
        yield f"    REFUSED: {_short(suite.refused)}"
        return
    yield HEAD
    for runs in suite.runs.values():
        if runs.walls:
            yield _row(suite, runs)
    for runs in suite.runs.values():
        if runs.ends:
            yield from _ends(runs)
    for name, reason in suite.missing.items():
        yield f"    no figures of {name}: {_short(reason)}"
    if suite.deselected:
        yield f"    deselected, as they do not pass with all alike ({len(suite.deselected)}):"
        yield from (f"        {test}" for test in suite.deselected)


def _short(reason: str) -> str:
    """Its first and its last line; all of it is in what is saved."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys((lines[0], lines[-1])))


def _row(suite: SuiteResult, runs: Runs) -> str:
    cells = [
        f"{runs.title:34}", f"{runs.median:7.2f} s", f"{min(runs.walls):8.2f}", f"{max(runs.walls):8.2f}",
        *((" " * width for width in (13, 9, 7)) if runs.base == runs.variant else _costs(suite, runs.variant)),
        _cell(_beside_xdist(suite, runs), 13),
    ]  # fmt: skip
    note = f"  from {runs.tests} tests" if runs.tests != suite.tests else ""
    return (" ".join(cells) + note).rstrip()


def _costs(suite: SuiteResult, variant: str) -> Iterator[str]:
    yield _cell(suite.cost(variant), 8, " ms/t")
    yield _cell(suite.ratio(variant, "forked"), 9)
    yield _cell(suite.ratio(variant, "limit"), 7)


def _beside_xdist(suite: SuiteResult, runs: Runs) -> float | None:
    wall, theirs = suite.wall(runs.variant), suite.wall("xdist")
    return wall / theirs if wall is not None and theirs and runs.variant != "limit" else None


def _cell(figure: float | None, width: int, unit: str = "") -> str:
    return " " * (width + len(unit)) if figure is None else f"{figure:{width}.2f}{unit}"


def _ends(runs: Runs) -> Iterator[str]:
    first, last = ([ends.pace[end] for ends in runs.ends] for end in (0, 1))
    growth = statistics.median(ends.growth for ends in runs.ends)
    yield (
        f"    {runs.title:30} first tenth {statistics.median(first):6.2f} ms/t, last {statistics.median(last):6.2f}; "
        f"controller {runs.ends[-1].memory[1] / 1024:.1f} MB at the end, {growth:+.0f} B a test"
    )
    for ends in runs.ends:
        yield from (f"        LEFT: {text}" for text in ends.left)
