"""What was measured, and the figures that follow from it; as JSON and back. Imports only the standard library."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Ends:
    """What a run was like over its first and its last tenth, and what there was before and after it.

    pace: medians of milliseconds from one test's end to the next's. memory: medians of the controller's kB. growth: bytes of the
    controller for each test that was finished between the middles of both tenths. counts: things by name, before and after.
    """

    pace: tuple[float, float]
    memory: tuple[float, float]
    growth: float
    counts: dict[str, tuple[int, int]]

    @property
    def left(self) -> list[str]:
        """What there was more of after the run."""
        return [f"{name}: {before} before, {after} after" for name, (before, after) in self.counts.items() if after > before]


@dataclasses.dataclass
class Runs:
    """All runs of one variant on one suite.

    base: the variant that is plain pytest here, which may be this one. tests: how many of the suite's tests were run. walls: the
    seconds that each run took, or would have taken for all tests.
    """

    variant: str
    title: str
    base: str | None
    tests: int
    walls: list[float] = dataclasses.field(default_factory=list)
    ends: list[Ends] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """The median run, in seconds."""
        return statistics.median(self.walls)


@dataclasses.dataclass
class SuiteResult:
    """A suite's runs by variant; what was deselected, and why a variant, or the whole suite (refused), has no figures."""

    name: str
    title: str
    tests: int
    session_fixture: bool
    runs: dict[str, Runs] = dataclasses.field(default_factory=dict)
    deselected: list[str] = dataclasses.field(default_factory=list)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    refused: str = ""

    def measured(self, variant: str | None) -> Runs | None:
        """The runs of a variant, if there are any to speak of."""
        runs = None if self.refused or variant is None else self.runs.get(variant)
        return runs if runs and runs.walls else None

    def wall(self, variant: str | None) -> float | None:
        """Seconds for the whole suite."""
        runs = self.measured(variant)
        return None if runs is None else runs.median

    def cost(self, variant: str | None) -> float | None:
        """Milliseconds for each test above plain pytest of the same version; a program that is no pytest is above nothing."""
        runs, wall = self.measured(variant), self.wall(variant)
        if runs is None or wall is None:
            return None
        base = self.wall(runs.base) if runs.base is not None else 0.0
        return None if base is None else (wall - base) / self.tests * 1000

    @property
    def left(self) -> list[str]:
        """What runs with sandboxes have left behind, where that was looked at."""
        found = [runs for name in ("sandbox", "jobs") if (runs := self.measured(name))]
        return [text for runs in found for ends in runs.ends for text in ends.left]

    def ratio(self, variant: str, other: str) -> float | None:
        """The cost of one by that of another."""
        return divided(self.cost(variant), self.cost(other))


@dataclasses.dataclass
class Results:
    """Everything: the machine and the versions in words, and what could not be measured at all."""

    machine: str
    versions: list[str]
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    suites: dict[str, SuiteResult] = dataclasses.field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` has written."""
        fields: dict[str, Any] = json.loads(path.read_text())
        for suite in fields["suites"].values():
            for runs in suite["runs"].values():
                runs["ends"] = [Ends(**ends) for ends in runs["ends"]]
            suite["runs"] = {name: Runs(**runs) for name, runs in suite["runs"].items()}
        fields["suites"] = {name: SuiteResult(**suite) for name, suite in fields["suites"].items()}
        return cls(**fields)


def divided(one: float | None, other: float | None) -> float | None:
    """A ratio of two figures, if both are there and it means something: what costs nothing is no measure."""
    return one / other if one is not None and other is not None and other > 0 else None
