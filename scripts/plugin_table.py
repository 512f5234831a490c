"""Prints the table of plugins in docs/compatibility.md, out of a run of their tests.

    python -m pytest tests/compat tests/plugin/coverage tests/plugin/xdist -o junit_family=xunit1 --junitxml=FILE
    python scripts/plugin_table.py FILE

Each test says which distributions it needs, with their versions (tests/compat/conftest.py); of those that are beside pytest this
interpreter is asked. Imports only the standard library.
"""

from __future__ import annotations

import collections
import importlib.metadata
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

#: Of folders of tests whose plugins are beside pytest.
BESIDE = {"coverage": ("pytest-cov", "coverage"), "xdist": ("pytest-xdist",)}
KINDS = ("passed", "failed", "skipped")


def main(report: str) -> int:
    """Print it; 1 where a test has failed."""
    counts: dict[tuple[str, str], collections.Counter[str]] = {}
    places: dict[tuple[str, str], set[str]] = {}
    for case in ET.parse(report).iter("testcase"):
        path = case.get("classname", "").split(".")
        *folders, module = path[: next((place for place, part in enumerate(path, 1) if part.startswith("test_")), 1)]
        beside = BESIDE.get(folders[-1], ()) if folders else ()
        named = [f"{name} {importlib.metadata.version(name)}" for name in beside]
        named += [entry.get("value", "") for entry in case.iter("property") if entry.get("name") == "distribution"]
        failed = case.find("failure") is not None or case.find("error") is not None
        kind = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        for one in named:
            name, _, version = one.partition(" ")
            counts.setdefault((name, version), collections.Counter())[kind] += 1
            places.setdefault((name, version), set()).add("/".join(folders) if beside else "/".join([*folders, f"{module}.py"]))
    print(f"| distribution | version | {' | '.join(KINDS)} | tests |\n|---|---|{'---|' * len(KINDS)}---|")
    for (name, version), count in sorted(counts.items()):
        where = ", ".join(f"`{place}`" for place in sorted(places[name, version]))
        print(f"| {name} | {version} | {' | '.join(str(count[kind]) for kind in KINDS)} | {where} |")
    return int(any(count["failed"] for count in counts.values()))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
