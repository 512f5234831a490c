"""What several tests at once take of the machine, and each of its own limits."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from pytest_sandbox.model.spec import most
from tests.plugin.jobs.conftest import meeting, run


def test_limits(pytester: pytest.Pytester) -> None:
    """Each has its own, and meets them by itself."""
    pytester.makepyfile("""
        import pytest, sys, time
        @pytest.mark.sandbox(timeout=1)
        @pytest.mark.parametrize("number", range(4))
        def test_slow(number): time.sleep(60 if number % 2 else 0)
        @pytest.mark.sandbox(output="1M")
        def test_loud():
            import os
            while True: os.write(1, bytes(1 << 16))
        def test_last(): pass
    """)
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=4", "-rA")
    result.assert_outcomes(passed=3, failed=3)
    text = result.stdout.str()
    assert len(re.findall("^timed out: killed after", text, re.MULTILINE)) == 2
    assert len(re.findall("^too much output: ended at", text, re.MULTILINE)) == 1


@pytest.mark.needs("memory")
def test_memory(pytester: pytest.Pytester, place: Any) -> None:
    """Tests whose limits do not fit the machine's memory together run one by one, until it is known what they take."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) >> 10 for line in file if line.startswith("MemAvailable:"))
    pytester.makepyfile(f"""{meeting(place)}
@pytest.mark.parametrize("number", range(3))
def test_it(number):
    try: meet(str(number), 2, seconds=2)
    finally: (PLACE / str(number)).unlink()
""")
    options = (f"--sandbox-memory={free * 3 // 4}M", "--sandbox-jobs=2")
    run(pytester, place, *options).assert_outcomes(failed=3)
    pytester.makepyfile(
        f"{meeting(place)}\n@pytest.mark.parametrize('number', range(2))\ndef test_it(number): meet(str(number), 2)"
    )
    run(pytester, place, *options).assert_outcomes(passed=2)


@pytest.mark.parametrize(("limit", "jobs"), [(128, 3), (256, 8)])
def test_few_descriptors(pytester: pytest.Pytester, limit: int, jobs: int) -> None:
    """As many at once as there are descriptors for; none fails for want of one."""
    pytester.makepyfile("import pytest, time\n@pytest.mark.parametrize('n', range(24))\ndef test_it(n): time.sleep(0.2)")
    command = f"ulimit -n {limit} && exec {sys.executable} -m pytest --sandbox --sandbox-jobs=32"
    result = pytester.run("sh", "-c", command)
    result.assert_outcomes(passed=24)
    result.stdout.fnmatch_lines([f"sandbox: up to {jobs} tests at once: there are no more descriptors (ulimit -n)"])


@pytest.mark.parametrize(
    "limit", [pytest.param(limit, marks=pytest.mark.needs(limit.partition("=")[0])) for limit in ("memory=32M", "pids=16")]
)
def test_scopes_have_room_for_all(pytester: pytest.Pytester, limit: str) -> None:
    """What many sandboxes take of their scope's limits is no part of what its fixtures may have."""
    pytester.makepyfile("import pytest, time\n@pytest.mark.parametrize('n', range(24))\ndef test_it(n): time.sleep(0.5)")
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=16", f"--sandbox-{limit}")
    result.assert_outcomes(passed=24)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("memory", "pids")])
def test_scopes_have_what_a_limit_can_be(pytester: pytest.Pytester, name: str) -> None:
    """Where tests already have the most that the kernel can hold there is no more for a scope, and it needs none."""
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=2", f"--sandbox-{name}={most(name)}").assert_outcomes(passed=1)
