"""The goals, and whether the figures meet them: said, never asserted. Imports results.py."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator

from results import Results, Runs, SuiteResult, divided


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is wanted, what was seen, and whether that is it; None where it was not measured."""

    wanted: str
    seen: str
    met: bool | None

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return f"goal: {self.wanted}. seen: {self.seen}. {verdict}"


def at_most(wanted: str, figure: float | None, bound: float, unit: str = "") -> Goal:
    """A goal that is a bound."""
    if figure is None:
        return Goal(wanted, "nothing", None)
    return Goal(wanted, f"{figure:.2f}{unit}", figure <= bound)


def goals(results: Results) -> list[Goal]:
    """All of them."""
    nothing = SuiteResult("", "", 0, session_fixture=False)
    trivial, heavy, long = (results.suites.get(name, nothing) for name in ("trivial", "heavy", "long"))
    return [
        at_most("a sandbox costs at most 0.8 of pytest-forked's fork", trivial.ratio("sandbox", "forked"), 0.8),
        at_most("and at most 2.5 of its system calls from C", trivial.ratio("sandbox", "limit"), 2.5),
        at_most("with two jobs at most 0.6 of that with one", trivial.ratio("jobs", "sandbox"), 0.6),
        *(_beside_xdist(suite) for suite in results.suites.values() if suite.session_fixture),
        _growth(trivial, heavy),
        _off(trivial),
        *_ends(long),
    ]


def _beside_xdist(suite: SuiteResult) -> Goal:
    ours, theirs = suite.wall("jobs"), suite.wall("xdist")
    wanted = f"two jobs take less time than two workers of pytest-xdist ({suite.name})"
    if ours is None or theirs is None:
        return Goal(wanted, "nothing", None)
    return Goal(wanted, f"{ours:.2f} s and {theirs:.2f} s", ours < theirs)


def _growth(trivial: SuiteResult, heavy: SuiteResult) -> Goal:
    """In milliseconds a test, from small processes to large ones."""
    wanted = "a large process makes a test dearer by less than with pytest-forked"
    grown = []
    for variant in ("sandbox", "forked"):
        small, large = trivial.cost(variant), heavy.cost(variant)
        if small is None or large is None:
            return Goal(wanted, "nothing", None)
        grown.append(large - small)
    return Goal(wanted, f"{grown[0]:.2f} ms and {grown[1]:.2f} ms", grown[0] < grown[1])


def _off(trivial: SuiteResult) -> Goal:
    """Measurable is what is more than plain runs differ by among themselves."""
    wanted = "not asked for, it costs nothing that can be measured"
    off, plain = trivial.measured("off"), trivial.measured("plain")
    if off is None or plain is None:
        return Goal(wanted, "nothing", None)
    apart = statistics.median(one - other for one, other in zip(off.walls, plain.walls, strict=False))
    spread = max(plain.walls) - min(plain.walls)
    return Goal(wanted, f"{apart * 1000:+.0f} ms a run, where plain runs differ by {spread * 1000:.0f} ms", apart <= spread)


def _ends(long: SuiteResult) -> Iterator[Goal]:
    boxed, plain = long.measured("sandbox"), long.measured("plain")
    paces = boxed and plain and [_pace(boxed, end) - _pace(plain, end) for end in (0, 1)]
    yield at_most(
        "at the end of a long run a test costs at most 1.05 of what it did at the start",
        divided(paces[1], paces[0]) if paces else None, 1.05,
    )  # fmt: skip
    wanted = "a finished test leaves at most 1 KB more in the controller than in plain pytest"
    if not boxed or not plain:
        yield Goal(wanted, "nothing", None)
        return
    ours, theirs = (statistics.median(ends.growth for ends in runs.ends) for runs in (boxed, plain))
    yield Goal(wanted, f"{ours:.0f} B and {theirs:.0f} B", ours <= theirs + 1024)
    yield Goal("a long run leaves nothing", "; ".join(long.left) or "nothing", not long.left)


def _pace(runs: Runs, end: int) -> float:
    return statistics.median(ends.pace[end] for ends in runs.ends)
