"""Several sandboxes at once, beside one after the other, plain pytest, and pytest-xdist's workers without isolation.

    python benchmarks/jobs.py [--jobs 2] [--repeat 5] [--suite NAME ...]

Each suite is run by all variants in turn, so that whatever else the machine does hits all of them alike; shown are medians of the
wall time, and their ratios. Imports only the standard library and workplace.py.
"""

from __future__ import annotations

import argparse
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

_FIXTURE = """
import time, pytest
@pytest.fixture(scope="session")
def session():
    time.sleep(2)
    return list(range(100))
"""
#: Name, what is measured, and the files.
SUITES = {
    "trivial": ("500 trivial tests", {"test_it.py": "".join(f"def test_{n}(): pass\n" for n in range(500))}),
    "fixture": (
        "200 trivial tests after a session fixture of 2 s",
        {"conftest.py": _FIXTURE, "test_it.py": "".join(f"def test_{n}(session): pass\n" for n in range(200))},
    ),
    "waiting": (
        "60 tests that wait for 100 ms, after the same",
        {
            "conftest.py": _FIXTURE,
            "test_it.py": "import time\n" + "".join(f"def test_{n}(session): time.sleep(0.1)\n" for n in range(60)),
        },
    ),
    "working": (
        "60 tests that compute for 100 ms, in six files, after the same",
        {
            "conftest.py": _FIXTURE,
            **{
                f"test_{name}.py": "import time\ndef work():\n    until = time.process_time() + 0.1\n"
                "    while time.process_time() < until: pass\n" + "".join(f"def test_{n}(session): work()\n" for n in range(10))
                for name in "abcdef"
            },
        },
    ),
}


def run(python: Path, options: list[str], folder: Path) -> float:
    """One run; its wall time in seconds. WorkplaceError where a test did not pass."""
    argv = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)]
    started = time.perf_counter()
    result = subprocess.run(argv, cwd=folder, check=False, capture_output=True, text=True)
    took = time.perf_counter() - started
    if result.returncode:
        raise workplace.WorkplaceError(
            f"{options}: exit status {result.returncode}\n{result.stdout[-4000:]}{result.stderr[-2000:]}"
        )
    return took


def main() -> int:
    """Measure and print a table for each suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="sandboxes, and workers of pytest-xdist, at once (default: 2)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each variant (default: 5)")
    parser.add_argument("--suite", nargs="*", choices=SUITES, default=list(SUITES), help="which (default: all)")
    options = parser.parse_args()
    off = ["-p", "no:sandbox", "-p", "no:xdist"]
    variants = {
        "plain pytest": off,
        f"pytest-xdist -n {options.jobs}": ["-p", "no:sandbox", "-n", str(options.jobs)],
        "--sandbox": ["-p", "no:xdist", "--sandbox"],
        f"--sandbox --sandbox-jobs={options.jobs}": ["-p", "no:xdist", "--sandbox", f"--sandbox-jobs={options.jobs}"],
    }
    with workplace.temporary() as place:
        interpreter = workplace.choose_interpreter([workplace.Identity("the caller")])
        python = workplace.make_venv(interpreter, place / "venv", str(CHECKOUT), "pytest-xdist")
        for suite in options.suite:
            title, files = SUITES[suite]
            folder = place / suite
            folder.mkdir()
            for name, text in {"pytest.ini": "[pytest]\n", **files}.items():
                (folder / name).write_text(text)
            walls: dict[str, list[float]] = {name: [] for name in variants}
            for turn in range(-1, options.repeat):  # the first fills the caches of files and bytecode
                for name, arguments in variants.items():
                    wall = run(python, arguments, folder)
                    if turn >= 0:
                        walls[name].append(wall)
            medians = {name: statistics.median(each) for name, each in walls.items()}
            plain, xdist, one, several = medians.values()
            print(f"\n{title}\n")
            for name, each in walls.items():
                print(f"{name:32} {medians[name]:7.2f} s   {min(each):6.2f} to {max(each):6.2f} s")
            print(f"above plain, several / one: {(several - plain) / (one - plain):.2f}; several / xdist: {several / xdist:.2f}")
    print(f"\n{options.repeat} runs each, interleaved, as uid {os.getuid()}. {platform.platform()}, {os.cpu_count()} CPUs.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except workplace.WorkplaceError as error:
        sys.exit(str(error))
