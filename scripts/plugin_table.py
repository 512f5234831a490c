"""Prints the table of plugins in docs/compatibility.md, out of a run of their tests.

    python -m pytest tests/compat tests/plugin/test_coverage.py tests/plugin/test_xdist.py -o junit_family=xunit1 --junitxml=FILE
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

#: Of test modules whose plugins are beside pytest.
BESIDE = {"test_coverage": ("pytest-cov", "coverage"), "test_xdist": ("pytest-xdist",)}
KINDS = ("passed", "failed", "skipped")


def main(report: str) -> int:
    """Print it; 1 where a test has failed."""
    counts: dict[tuple[str, str], collections.Counter[str]] = {}
    modules: dict[tuple[str, str], set[str]] = {}
    for case in ET.parse(report).iter("testcase"):
        path = case.get("classname", "").split(".")
        module = next((part for part in path if part.startswith("test_")), "")
        named = [f"{name} {importlib.metadata.version(name)}" for name in BESIDE.get(module, ())]
        named += [entry.get("value", "") for entry in case.iter("property") if entry.get("name") == "distribution"]
        failed = case.find("failure") is not None or case.find("error") is not None
        kind = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        for one in named:
            name, _, version = one.partition(" ")
            counts.setdefault((name, version), collections.Counter())[kind] += 1
            modules.setdefault((name, version), set()).add("/".join(path[: path.index(module) + 1]) + ".py")
    print(f"| distribution | version | {' | '.join(KINDS)} | tests |\n|---|---|{'---|' * len(KINDS)}---|")
    for (name, version), count in sorted(counts.items()):
        where = ", ".join(f"`{module}`" for module in sorted(modules[name, version]))
        print(f"| {name} | {version} | {' | '.join(str(count[kind]) for kind in KINDS)} | {where} |")
    return int(any(count["failed"] for count in counts.values()))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
