"""What a sandbox costs, beside plain pytest, its peers, and the system calls alone: one command, one table.

    python benchmarks/measure.py [--suites NAME ...] [--variants NAME ...] [--repeat N] [--json FILE] [-- options for sandboxes]
    python benchmarks/measure.py --from FILE [--plot FILE.svg]

Makes virtual environments, writes and fetches the suites, and runs each by all variants in turn. A variant's cost is what it
takes above plain pytest of the same version, by medians. Where a variant would take hours, few tests are run, and the time is
scaled. The goals are said, and whether they are met; exit status 1 only where a suite could not be measured, or a long run
left something. Run it alone on the machine: others' cgroups and namespaces count as left. Imports only the standard library
and what lies beside it and in scripts/.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import delegation
import plot
import running
import suites
import table
import variants
import workplace
from results import Results
from suites import SUITES

VARIANTS = ("plain", "off", "sandbox", "jobs", "xdist", "forked", "isolate", "bwrap", "limit")


def parse() -> argparse.Namespace:
    """The command line; what stands behind "--" goes to pytest in the sandboxes' runs."""
    argv, extra = workplace.split_arguments(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, choices in (("--suites", tuple(SUITES)), ("--variants", VARIANTS)):
        parser.add_argument(name, nargs="+", choices=choices, default=choices, metavar="NAME", help=f"of {', '.join(choices)}")
    parser.add_argument("--repeat", type=int, metavar="N", help="turns that count (default: as many as each suite needs)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every run there")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="saved", help="measure nothing: show what was saved")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the costs, as SVG")
    options = parser.parse_args(argv)
    if options.repeat is not None and options.repeat < 1:
        parser.error("--repeat: at least 1")
    options.extra = extra
    return options


def measure(options: argparse.Namespace) -> Results:
    """Run everything that was asked for; saved after each suite, so that what has been measured is not lost."""
    # Constraints name the version of pytest that CI has, and what is compared is the newest, and each peer's.
    os.environ.pop("PIP_CONSTRAINT", None)
    with workplace.temporary() as place, delegation.delegated(os.getuid()) as cgroups:
        print("making environments ...", file=sys.stderr, flush=True)
        environments = variants.Environments(place)
        everything, missing = variants.variants(environments, options.extra)
        wanted = variants.chosen(everything, options.variants)
        machine = f"as uid {os.getuid()}; {platform.platform()}, {os.cpu_count()} CPUs"
        results = Results(machine, [], {name: why for name, why in missing.items() if name in options.variants})
        tools = running.Tools.make(place, environments, cgroups)
        for name in options.suites:
            suite = SUITES[name]
            at = suites.put(suite, place / name)
            results.suites[name] = running.Measurement(suite, at, wanted, tools).run(options.repeat or suite.repeat)
            results.versions = environments.versions()
            if options.json:
                results.save(options.json)
        return results


def main() -> int:
    """Measure, or read what was measured; print the table."""
    options = parse()
    results = Results.load(options.saved) if options.saved else measure(options)
    print(table.table(results))
    if options.plot:
        options.plot.write_text(plot.svg(results))
    return int(any(suite.refused or suite.left for suite in results.suites.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except workplace.WorkplaceError as problem:
        sys.exit(f"measure.py: {problem}")
