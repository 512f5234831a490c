"""Whether a long run stays as fast and as small as it began, and leaves nothing behind.

    python benchmarks/long_run.py [--tests 2000] [-- options for the sandbox's run]

Runs trivial tests once plain and once with `--sandbox`, and prints for each: milliseconds per test and the controller's
memory over the first and the last tenth of the run, and how many file descriptors (the controller's), cgroups, mounts
and namespaces (the machine's) there were before and after. Exit status 1 where time or memory with `--sandbox` grew by
more than 10 %, or anything was left. Others who make cgroups meanwhile are counted too: run it alone on the machine.
Imports only the standard library and workplace.py.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import workplace
from cost import write_tests
from workplace import CHECKOUT

HERE = Path(__file__).resolve().parent
GROWTH = 1.10


def cgroups() -> int:
    """How many cgroups there are, in all hierarchies together."""
    return sum(1 for _ in os.walk("/sys/fs/cgroup"))


def mounts() -> int:
    """How many mounts this process sees."""
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def namespaces() -> int:
    """How many namespaces processes are in, as far as the caller may look."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        with contextlib.suppress(OSError):
            found.add(link.readlink())
    return len(found)


COUNTERS: dict[str, Callable[[], int]] = {"cgroups": cgroups, "mounts": mounts, "namespaces": namespaces}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run took at its two ends: milliseconds for each test, kB of the controller, and things counted."""

    name: str
    pace: tuple[float, float]
    memory: tuple[float, float]
    counts: dict[str, tuple[int, int]]

    def lines(self) -> list[str]:
        """The run's paragraph."""
        first, last = self.pace
        small, large = self.memory
        return [
            self.name,
            f"    ms per test, first and last tenth   {first:10.2f} {last:10.2f}   {last / first - 1:+.1%}",
            f"    controller's memory in kB           {small:10.0f} {large:10.0f}   {large / small - 1:+.1%}",
            *(f"    {name:35} {before:10} {after:10}" for name, (before, after) in self.counts.items()),
        ]

    def faults(self) -> list[str]:
        """What is not as it should be."""
        found = [f"{name}: {before} before, {after} after" for name, (before, after) in self.counts.items() if after > before]
        if self.pace[1] > self.pace[0] * GROWTH:
            found.append("tests at the end took over 10 % longer than at the start")
        if self.memory[1] > self.memory[0] * GROWTH:
            found.append("the controller is over 10 % larger at the end than at the start")
        return found


def measure(name: str, python: Path, folder: Path, options: list[str]) -> Result:
    """Run the tests once."""
    target = folder.parent / "long_run.json"
    env = {**os.environ, "LONG_RUN": str(target), "PYTHONPATH": str(HERE)}
    argv = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "long_run_probe", *options, str(folder)]
    before = {key: count() for key, count in COUNTERS.items()}
    result = subprocess.run(argv, cwd=folder, env=env, check=False, capture_output=True, text=True)
    after = {key: count() for key, count in COUNTERS.items()}
    if result.returncode:
        raise workplace.WorkplaceError(f"{name}: exit status {result.returncode}\n{result.stdout[-4000:]}{result.stderr[-2000:]}")
    probe = json.loads(target.read_text())
    counts = {"descriptors": tuple(probe["fds"])} | {key: (before[key], after[key]) for key in COUNTERS}
    return Result(name, tenths(pace(probe["times"])), tenths(probe["memory"]), counts)


def pace(times: list[float]) -> list[float]:
    """Milliseconds from one test's end to the next's."""
    return [(later - earlier) * 1000 for earlier, later in itertools.pairwise(times)]


def tenths(values: list[float]) -> tuple[float, float]:
    """The medians over the first and the last tenth: a mean would tell of the machine's other work."""
    part = max(1, len(values) // 10)
    return statistics.median(values[:part]), statistics.median(values[-part:])


def main() -> int:
    """Run plain and boxed; 1 if the boxed run grew or left something."""
    own, extra = workplace.split_arguments(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=2000, help="trivial tests in the run (default: 2000)")
    options = parser.parse_args(own)
    with workplace.temporary() as place:
        python = workplace.choose_interpreter([workplace.Identity("the caller")])
        inside = workplace.make_venv(python, place / "venv", str(CHECKOUT))
        folder = write_tests(place / "tests", options.tests)
        plain = measure("plain pytest", inside, folder, ["-p", "no:sandbox"])
        boxed = measure("pytest --sandbox", inside, folder, ["--sandbox", *extra])
    print("\n".join([*plain.lines(), *boxed.lines(), *(f"FAULT: {fault}" for fault in boxed.faults())]))
    return int(bool(boxed.faults()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except workplace.WorkplaceError as problem:
        sys.exit(f"long_run.py: {problem}")
