"""Runs the suite in guests whose kernel and cgroups this machine does not have.

    python tests/vm/suite.py [--kernel FILE | --qemu VERSION,...] [--cgroups v2,v1,hybrid,none,systemd] [--disk SIZE]
        [--seconds 3600] [--reports DIR] [arguments of tests/run.py]

Installs the package into one virtual environment, which every guest sees, and runs tests/run.py in one guest after the other.
What a guest is, and what it takes, is in guest.py. Imports only the standard library, scripts/ and what lies beside it.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import guest
import workplace
from machine import GuestError
from workplace import CHECKOUT, Identity

_OF_CGROUPS = "--expect=pids,cpus,cpu_time,kill"
_OF_V2 = f"{_OF_CGROUPS},memory,swap,memory_high"
#: What tests/run.py is told of a kind of cgroups: who made the guest knows what it has, and need not ask a probe. Newer kernels
#: may have no memory controller of version 1 (CONFIG_MEMCG_V1).
OF_KIND = {
    "v2": [f"{_OF_V2},io"], "systemd": [_OF_V2, f"--systemd={guest.USER}"],
    "v1": [_OF_CGROUPS], "hybrid": [_OF_CGROUPS], "none": [],
}  # fmt: skip


def main() -> int:
    """Run the suite in each kind of guest; the first exit status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    guest.add_machine_options(parser)
    parser.add_argument("--cgroups", default="v2", help=f"of {', '.join(guest.CGROUPS)}; several with commas")
    parser.add_argument("--memory", default="4G", help="of each guest; a test of the wire takes more than 1G")
    parser.add_argument("--disk", metavar="SIZE", help="an ext4 of this size at /var/tmp of each guest")
    parser.add_argument("--seconds", type=float, default=3600, help="for each guest")
    parser.add_argument("--reports", type=Path, metavar="DIR", help="for JUnit's XML, of each guest in a directory of its own")
    options, arguments = parser.parse_known_args()
    results = []
    with workplace.temporary() as place, guest.machines(options) as machines:
        everyone = [Identity("the caller"), workplace.ordinary_user()]
        inside = workplace.make_test_venv(everyone, place / "venv")
        command = [str(inside), str(CHECKOUT / "tests" / "run.py"), f"--venv={place / 'venv'}"]
        for machine, cgroups in itertools.product(machines, options.cgroups.split(",")):
            name = f"{machine.name}, cgroups {cgroups}"
            print(f"\n==== a guest: {name}", flush=True)
            began = time.monotonic()
            status = guest.run(
                [*command, *OF_KIND[cgroups], *arguments],
                machine=machine,
                cgroups=cgroups,
                show=[place, *([CHECKOUT] if CHECKOUT.is_relative_to("/tmp") else [])],
                memory=options.memory,
                disk=options.disk,
                seconds=options.seconds,
                reports=options.reports and options.reports / name.replace(", ", "-").replace(" ", "-"),
                tell=lambda text: print(text, end="", flush=True),
            )
            results.append((name, status, time.monotonic() - began))
    print()
    for name, status, took in results:
        print(f"{name}: exit status {status}, {took:.0f} s", flush=True)
    return next((status for _, status, _ in results if status), 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (workplace.WorkplaceError, GuestError) as problem:
        sys.exit(f"suite.py: {problem}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"suite.py: {error}")
