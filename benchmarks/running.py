"""Runs a suite by its variants in turn, so that whatever else the machine does hits all of them alike.

Imports the standard library, what lies beside it, and of scripts/ what makes environments and compares outcomes.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import compare_suites
import ends
import variants
import workplace
from results import Ends, Runs, SuiteResult
from suites import Place, Suite
from variants import Environments, Variant

HERE = Path(__file__).resolve().parent
#: Without these there is nothing to compare with, or nothing to say; a peer may be missing.
NEEDED = {"plain", "off", "sandbox", "jobs"}
#: Of somebody else's tests no more may be deselected than one in so many: the rest would not be that suite.
LARGEST_PART = 10

Outcomes = dict[str, str]


class RunFailedError(Exception):
    """A run did not say what it should; the text names what it said."""


@dataclasses.dataclass(frozen=True)
class Tools:
    """What is made once: a directory for everything, the environments, the C program, and cgroups for it."""

    place: Path
    environments: Environments
    limit: Path | None
    cgroups: Sequence[Path]

    @classmethod
    def make(cls, place: Path, environments: Environments, cgroups: Sequence[Path]) -> Tools:
        """Compile, and copy plugins to where an environment finds them, and nothing else beside them."""
        (place / "tmp").mkdir()
        (place / "plugins").mkdir()
        for plugin in (HERE / "ends_probe.py", compare_suites.HERE / "outcome_recorder.py"):
            shutil.copy(plugin, place / "plugins")
        limit = compile_limit(place) if shutil.which("cc") else None
        return cls(place, environments, limit, [path for path in cgroups if _is_used(path)])


def compile_limit(place: Path) -> Path:
    """The C program, in that directory."""
    program = place / "limit"
    subprocess.run(["cc", "-O2", "-o", program, HERE / "limit.c"], check=True)
    return program


def _is_used(cgroup: Path) -> bool:
    """Whether a sandbox has a cgroup of that hierarchy: of version 1 for memory, processes and CPU time; of version 2 at all."""
    version_2 = not Path("/sys/fs/cgroup/memory").exists() and (cgroup / "cgroup.kill").exists()
    return version_2 or any((cgroup / name).exists() for name in ("memory.limit_in_bytes", "pids.max", "cpuacct.usage"))


class Measurement:
    """A suite's turns. `everything` are the variants that were asked for; those that the suite is not for are left out."""

    def __init__(self, suite: Suite, at: Place, everything: Mapping[str, Variant], tools: Tools) -> None:
        self._suite = suite
        self._at = at
        self._tools = tools
        names = [name for name in everything if name not in suite.without and not name.startswith("plain-")]
        self._variants = variants.chosen(dict(everything), names)
        self._expected: Outcomes = {}
        self._extra: tuple[str, ...] = ()
        self.result = SuiteResult(suite.name, suite.title, suite.tests, suite.session_fixture)

    def run(self, repeat: int) -> SuiteResult:
        """Everything, `repeat` times; what a failure makes impossible is said in the result."""
        try:
            if self._suite.foreign:
                self._find_comparable()
            for variant in self._variants.values():
                tests = min(self._suite.samples.get(variant.name, self.result.tests), self.result.tests)
                self.result.runs[variant.name] = Runs(variant.name, variant.title, variant.base, tests)
            # The first turn fills the caches of files and bytecode; a trial has, and in a long run they are little.
            for turn in range(int(self._suite.foreign or self._suite.ends), repeat + 1):
                self._say(f"turn {turn} of {repeat}" if turn else "warming up")
                self._take_turn(counts=turn > 0)
        except RunFailedError as failure:
            self.result.refused = str(failure)
        return self.result

    def _take_turn(self, *, counts: bool) -> None:
        for variant in list(self._variants.values()):
            runs = self.result.runs[variant.name]
            try:
                wall, noted = self._once(variant, runs.tests)
            except RunFailedError as failure:
                self._give_up(variant, failure)
                continue
            if counts:
                runs.walls.append(wall)
                runs.ends += [noted] if noted else []

    def _give_up(self, variant: Variant, failure: RunFailedError) -> None:
        """Go on without a peer; anything else, or what others are counted from, is a failure of the suite."""
        if variant.name in NEEDED or any(other.base == variant.name for other in self._variants.values()):
            raise failure
        del self._variants[variant.name]
        self.result.runs.pop(variant.name, None)
        self.result.missing[variant.name] = str(failure)

    def _say(self, what: str) -> None:
        print(f"{self._suite.name}: {what} ...", file=sys.stderr, flush=True)

    # ---- one run

    def _once(self, variant: Variant, tests: int) -> tuple[float, Ends | None]:
        """Seconds for the suite, by a run of so many of its tests, and its ends if they are looked at.

        RunFailedError where it is no run.
        """
        if variant.name == "limit":
            return self._limit(tests), None
        if variant.name == "bwrap":
            walls = [self._pytest(variant, [test])[0] for test in self._sample(tests)]
            return sum(walls) / tests * self.result.tests, None
        if tests < self.result.tests:
            return self._extrapolated(variant, tests), None
        return self._pytest(variant, None)

    def _extrapolated(self, variant: Variant, tests: int) -> float:
        """What all tests would take, by what the first one takes and the further ones of the sample do."""
        sample = self._sample(tests)
        first, _ = self._pytest(variant, sample[:1])
        all_of_it, _ = self._pytest(variant, sample)
        return first + (all_of_it - first) / (tests - 1) * (self.result.tests - 1)

    def _pytest(self, variant: Variant, sample: Sequence[str] | None) -> tuple[float, Ends | None]:
        noted, outcomes = self._tools.place / "ends.json", self._tools.place / "outcomes.json"
        python = self._tools.environments.python(variant.pytest, self._at.requirements)
        env = workplace.environment(workplace.Identity("the caller"), self._tools.place, python)
        env |= {"ENDS": str(noted), "OUTCOMES": str(outcomes), "PYTHONPATH": str(self._tools.place / "plugins")}
        argv = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *variant.options, *self._plugins(sample)]
        argv += [*self._at.options, *(sample or [*self._at.paths, *self._extra])]
        if variant.name == "bwrap":
            argv = [*_BWRAP, *argv]
        outcomes.unlink(missing_ok=True)
        before = ends.count() if self._suite.ends else {}
        started = time.perf_counter()
        status = run(argv, self._at.folder, env)
        wall = time.perf_counter() - started
        if self._suite.foreign and sample is None:
            self._check(variant, outcomes)
        if status:
            raise RunFailedError(f"{variant.title}: {status}")
        return wall, ends.read(noted, before, ends.count()) if self._suite.ends else None

    def _plugins(self, sample: Sequence[str] | None) -> list[str]:
        """The same for all variants, so that what they cost is no difference."""
        return [
            *(["-p", "outcome_recorder"] if self._suite.foreign and sample is None else []),
            *(["-p", "ends_probe"] if self._suite.ends else []),
        ]

    def _sample(self, tests: int) -> list[str]:
        """So many of the suite's tests, from all over it."""
        passed = [test for test, outcome in self._expected.items() if outcome == "passed"]
        names = passed or [f"test_it.py::test_{number}" for number in range(self.result.tests)]
        return names[:: max(1, len(names) // tests)][:tests]

    def _limit(self, tests: int) -> float:
        """Seconds for so many sandboxes."""
        words = [word for path in self._tools.cgroups for word in ("--cgroup", str(path))]
        with tempfile.TemporaryDirectory(dir=self._tools.place) as place:
            argv = [
                str(self._tools.limit), "--count", str(tests), "--resident", str(self._suite.resident), *words, place,
            ]  # fmt: skip
            result = subprocess.run(argv, check=False, capture_output=True, text=True)
        if result.returncode:
            raise RunFailedError(f"limit.c: {result.stderr.strip()}")
        return float(result.stdout) * tests / 1e6

    # ---- somebody else's tests

    def _find_comparable(self) -> None:
        """Deselect what does not pass, or is not skipped, with all variants alike; refuse a suite of which too little is left."""
        seen: list[Outcomes] = []
        for number in range(self._suite.trials):
            self._say(f"trial {number + 1} of {self._suite.trials}")
            for variant in list(self._variants.values()):
                if variant.pytest and variant.name not in self._suite.samples:
                    try:
                        seen.append(self._outcomes(variant, seen[:1]))
                    except RunFailedError as failure:
                        self._give_up(variant, failure)
        tests = sorted(set().union(*seen))
        apart = tuple(test for test in tests if not _is_comparable({one.get(test, "") for one in seen}))
        # pytest deselects whatever begins so.
        self.result.deselected = [test for test in tests if test.startswith(apart)]
        if len(self.result.deselected) * LARGEST_PART > len(tests):
            raise RunFailedError(f"not comparable: {len(self.result.deselected)} of {len(tests)} tests differ, or do not pass")
        # Collectors are in it too, where they were skipped.
        self._expected = {test: outcome for test, outcome in seen[0].items() if test not in set(self.result.deselected)}
        self.result.tests = sum("::" in test for test in self._expected)
        listed = self._tools.place / f"{self._suite.name}.deselected"
        listed.write_text("".join(f"--deselect={test}\n" for test in self.result.deselected))
        self._extra = (f"@{listed}",)

    def _outcomes(self, variant: Variant, others: Sequence[Outcomes]) -> Outcomes:
        """What becomes of each test, in the trial. RunFailedError where that differs much from another variant's."""
        said = ""
        try:
            self._pytest(variant, None)
        except RunFailedError as failure:
            if not (self._tools.place / "outcomes.json").exists():
                raise
            said = str(failure)
        found = read_outcomes(self._tools.place / "outcomes.json")
        for other in others:
            apart = sum(found.get(test) != outcome for test, outcome in other.items())
            if apart * LARGEST_PART > len(other):
                raise RunFailedError(f"not comparable: {apart} of {len(other)} tests differ. {said}")
        return found

    def _check(self, variant: Variant, outcomes: Path) -> None:
        found = read_outcomes(outcomes)
        if self._expected and found != self._expected:
            apart = sorted(test for test in {*found, *self._expected} if found.get(test) != self._expected.get(test))
            said = ", ".join(f"{test} ({self._expected.get(test)}, now {found.get(test)})" for test in apart[:5])
            raise RunFailedError(f"not comparable: with {variant.title} {len(apart)} outcomes differ: {said}")


#: A view of the machine that cannot be written to, with all namespaces: what takes a shell script to have.
_BWRAP = (
    "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
    "--setenv", "TMPDIR", "/dev/shm",
)  # fmt: skip


def run(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> str:
    """Run a command; "" or what went wrong, with the end of its output."""
    clean = {name: value for name, value in env.items() if name not in {"PYTEST_ADDOPTS", "PYTEST_PLUGINS"}}
    result = subprocess.run(argv, cwd=folder, env=clean, check=False, capture_output=True, text=True, errors="replace")
    if not result.returncode:
        return ""
    return f"exit status {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"


def read_outcomes(path: Path) -> Outcomes:
    """The outcomes that outcome_recorder.py has written, in words. RunFailedError where it came to none."""
    reports = compare_suites.read(path)
    if reports is None:
        raise RunFailedError("the run did not finish")
    one = compare_suites.Run(0, 0.0, reports)
    return {test: one.outcome(test) for test in reports}


def _is_comparable(outcomes: set[str]) -> bool:
    """Whether a test has one outcome, in which nothing failed."""
    return len(outcomes) == 1 and not any(word in {"", "failed"} for outcome in outcomes for word in outcome.split(" "))
