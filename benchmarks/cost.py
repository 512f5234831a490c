"""What a sandbox costs for each test, beside plain pytest and pytest-forked's bare fork.

    python benchmarks/cost.py [--tests 500] [--repeat 5] [-- options for the sandbox's run]

Makes a virtual environment for the newest pytest and one for the newest that pytest-forked works with, writes trivial
tests, and runs the variants in turn, so that whatever else the machine does hits all of them alike. A variant's cost is
what it takes above plain pytest of its own environment, by medians. Imports only the standard library and workplace.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import workplace
from workplace import CHECKOUT

# Newest first; 9.2 is where pytest-forked 1.7.5 began to fail every test.
PYTESTS_FOR_FORKED = ("pytest", "pytest<9.2", "pytest<9.1", "pytest<9")
TEST = "def test_{number}():\n    assert True\n\n\n"


@dataclasses.dataclass
class Variant:
    """A way to run the tests, and the wall time in seconds that each run of it took."""

    name: str
    python: Path
    options: list[str]
    plain: Variant | None = None
    walls: list[float] = dataclasses.field(default_factory=list)

    @property
    def wall(self) -> float:
        """The median run, in seconds."""
        return statistics.median(self.walls)

    def cost(self, tests: int) -> float:
        """Milliseconds for each test above plain pytest of the same environment."""
        return 0.0 if self.plain is None else (self.wall - self.plain.wall) / tests * 1000


def run(variant: Variant, folder: Path) -> float:
    """One run; its wall time in seconds. WorkplaceError where a test did not pass: there is nothing to measure then."""
    argv = [str(variant.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *variant.options, str(folder)]
    started = time.perf_counter()
    result = subprocess.run(argv, cwd=folder, check=False, capture_output=True, text=True)
    took = time.perf_counter() - started
    if result.returncode:
        output = result.stdout[-4000:] + result.stderr[-2000:]
        raise workplace.WorkplaceError(f"{variant.name}: exit status {result.returncode}\n{output}")
    return took


def write_tests(folder: Path, count: int) -> Path:
    """A module of `count` trivial tests, and an ini file that keeps any other away."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_trivial.py").write_text("".join(TEST.format(number=number) for number in range(count)))
    return folder


def forked_environment(python: str, place: Path) -> Path:
    """A virtual environment with pytest-forked and the newest pytest that it passes a test under."""
    inside = workplace.make_venv(python, place / "forked", "pytest-forked")
    one = write_tests(place / "one", 1)
    for requirement in PYTESTS_FOR_FORKED:
        workplace.pip_install(inside, "--upgrade", requirement)
        argv = [str(inside), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--forked", str(one)]
        if subprocess.run(argv, cwd=one, check=False, capture_output=True).returncode == 0:
            return inside
    raise workplace.WorkplaceError(f"pytest-forked passes no test under any of {', '.join(PYTESTS_FOR_FORKED)}")


def versions(python: Path) -> str:
    """What is compared, for the table's foot."""
    code = (
        "import importlib.metadata as m, sys\n"
        "names = {d.name for d in m.distributions()} & {'pytest', 'pytest-forked', 'pytest-sandbox'}\n"
        "print('Python', sys.version.split()[0], *(f'{n} {m.version(n)}' for n in sorted(names)))"
    )
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def variants(place: Path, extra: list[str]) -> list[Variant]:
    """All variants, each with the environment that it runs in."""
    python = workplace.choose_interpreter([workplace.Identity("the caller")])
    newest = workplace.make_venv(python, place / "newest", str(CHECKOUT))
    forked = forked_environment(python, place)
    plain_newest = Variant("plain pytest", newest, ["-p", "no:sandbox"])
    plain_forked = Variant("plain pytest, as old as pytest-forked needs", forked, ["-p", "no:forked"])
    return [
        plain_newest,
        Variant("pytest-sandbox installed, not asked for", newest, [], plain_newest),
        Variant("pytest --sandbox", newest, ["--sandbox", *extra], plain_newest),
        plain_forked,
        Variant("pytest-forked --forked", forked, ["--forked"], plain_forked),
    ]


def table(everything: list[Variant], tests: int) -> str:
    """Medians, costs for each test, and their ratio to pytest-forked's."""
    base = everything[-1].cost(tests)
    lines = [
        f"{'variant':45} {'median':>9} {'min':>9} {'max':>9} {'above plain':>14} {'/ forked':>9}",
        *(
            f"{v.name:45} {v.wall:7.2f} s {min(v.walls):7.2f} s {max(v.walls):7.2f} s"
            + (f" {v.cost(tests):8.2f} ms/t {v.cost(tests) / base:9.2f}" if v.plain else "")
            for v in everything
        ),
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure and print the table."""
    own, extra = workplace.split_arguments(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=500, help="trivial tests in a run (default: 500)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each variant (default: 5)")
    options = parser.parse_args(own)
    with workplace.temporary() as place:
        everything = variants(place, extra)
        folder = write_tests(place / "tests", options.tests)
        for turn in range(-1, options.repeat):
            for variant in everything:
                wall = run(variant, folder)
                # The first turn fills the caches of files and bytecode.
                if turn >= 0:
                    variant.walls.append(wall)
        print(table(everything, options.tests))
        print(f"\n{options.tests} tests, {options.repeat} runs each, interleaved, as uid {os.getuid()}.")
        print(
            f"{platform.platform()}, {os.cpu_count()} CPUs. {versions(everything[0].python)}; {versions(everything[-1].python)}."
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except workplace.WorkplaceError as problem:
        sys.exit(f"cost.py: {problem}")
