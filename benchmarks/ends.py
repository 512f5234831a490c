"""What a long run was like at its two ends, and what it left on the machine. Imports the standard library and results.py."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from results import Ends


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


def count() -> dict[str, int]:
    """How many there are of each now, on the whole machine: others who make some meanwhile are counted too."""
    return {name: counter() for name, counter in COUNTERS.items()}


def read(noted: Path, before: dict[str, int], after: dict[str, int]) -> Ends:
    """What ends_probe.py has written of a run, and what was counted around it."""
    probe = json.loads(noted.read_text())
    memory = tenths(probe["memory"])
    between = len(probe["memory"]) - max(1, len(probe["memory"]) // 10)
    counts = {"descriptors": tuple(probe["fds"])} | {name: (before[name], after[name]) for name in before}
    return Ends(tenths(pace(probe["times"])), memory, (memory[1] - memory[0]) * 1024 / max(1, between), counts)


def pace(times: Sequence[float]) -> list[float]:
    """Milliseconds from one test's end to the next's."""
    return [(later - earlier) * 1000 for earlier, later in itertools.pairwise(times)]


def tenths(values: Sequence[float]) -> tuple[float, float]:
    """The medians over the first and the last tenth: a mean would tell of the machine's other work."""
    part = max(1, len(values) // 10)
    return statistics.median(values[:part]), statistics.median(values[-part:])
