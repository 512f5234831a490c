"""Figures by `pytest --sandbox`: what a scope or a test has used is its own, and what a test makes is told apart."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from pytest_sandbox.model.spec import MIB
from pytest_sandbox.model.units import parse_seconds, parse_size


@pytest.mark.needs("memory")
def test_a_scope_is_billed_apart(pytester: pytest.Pytester) -> None:
    """What a fixture of the session holds is the scope's, within 5 %: a test that only reads it has nothing of it."""

    def peaks(size: int) -> dict[str, int]:
        pytester.makepyfile(
            f"""
            import pytest
            @pytest.fixture(scope="session")
            def held(): return b"x" * ({size} << 20)
            @pytest.mark.parametrize("n", range(2))
            def test_reads(held, n): assert held[n << 20 : (n << 20) + 1] in (b"x", b"")
            """
        )
        result = pytester.runpytest_subprocess("--sandbox", "--sandbox-usage")
        result.assert_outcomes(passed=2)
        rows = [line.split() for line in result.outlines if line.endswith("[scope] session") or "::test_reads" in line]
        return {row[-1]: parse_size(row[2]) or 0 for row in rows if row[2][-1] in "kMG"}

    # pytest's own pages, which a scope and a test write to and so have, are the same in both.
    full, empty = peaks(100), peaks(0)
    if "session" not in full:
        pytest.skip("no peak is measured here")
    assert full.keys() == empty.keys()
    assert len(full) == 3
    for name, peak in full.items():
        held = 100 * MIB if name == "session" else 0
        assert peak - empty[name] == pytest.approx(held, abs=5 * MIB)


@pytest.mark.needs("memory")
def test_what_a_test_makes_is_billed_apart(pytester: pytest.Pytester) -> None:
    """By `sandbox_factory`, also where the test is killed meanwhile: the sum of times, the greatest peak, in each report."""
    pytester.makepyfile(
        """
        import sys, pytest
        SOURCE = "import time\\nx = bytearray({size} << 20)\\nwhile (took := time.process_time()) < {seconds}: pass\\nprint(took)"
        def use(factory, size, seconds):
            return float(factory.run([sys.executable, "-c", SOURCE.format(size=size, seconds=seconds)]).stdout)
        def test_made(sandbox_factory, record_property):
            record_property("made_by_itself", use(sandbox_factory, 100, 0.2) + use(sandbox_factory, 10, 0.3))
            assert False
        @pytest.mark.sandbox(timeout=5)
        def test_killed(sandbox_factory): use(sandbox_factory, 10, 1000)
        def test_none(sandbox_factory): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-usage", "--junitxml=out.xml", "-ojunit_family=xunit1")
    result.assert_outcomes(passed=1, failed=2)
    told = ["(sandbox_factory made 2 more, *)", "(sandbox_factory made 1 more, *)"]
    result.stdout.fnmatch_lines_random([*told, "*[[]2 made by[]] *::test_made", "*[[]1 made by[]] *::test_killed"])
    found = {
        case.get("name"): {
            one.get("name"): float(one.get("value", 0)) for one in case.iter("property") if "made" in str(one.get("name"))
        }
        for case in ET.parse(pytester.path / "out.xml").iter("testcase")
    }
    assert [found[name].get("sandbox_made", 0) for name in ("test_made", "test_killed", "test_none")] == [2, 1, 0]
    made = found["test_made"]
    assert made["sandbox_made_wall"] > 0.5
    if "sandbox_made_cpu" in made:
        its_own = made["made_by_itself"]  # on a slow machine the memory alone takes longer than it spins
        assert its_own - 0.1 <= made["sandbox_made_cpu"] <= 1.2 * its_own + 0.5
    if "sandbox_made_memory_peak" in made:
        assert 100 * MIB <= made["sandbox_made_memory_peak"] < 130 * MIB


@pytest.mark.usefixtures("true_cpu_clock")
def test_cpu_time_of_a_scope_is_its_own(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its fixtures, not of the scopes and tests below: also where no cgroup counts it."""
    pytester.makepyfile(
        """
        import os, time, pytest
        def spin(seconds):
            until = time.process_time() + seconds * float(os.environ["TIMES"])
            while time.process_time() < until: pass
        @pytest.fixture(scope="session")
        def outer(): spin(0.2)
        @pytest.fixture(scope="module")
        def inner(outer): spin(0.4)
        @pytest.mark.parametrize("n", range(2))
        def test_it(inner, n): spin(0.8)
        """
    )

    def used(times: str) -> dict[str, float]:
        monkeypatch.setenv("TIMES", times)
        result = pytester.runpytest_subprocess("--sandbox", "--sandbox-usage")
        result.assert_outcomes(passed=2)
        rows = [line.split() for line in result.outlines if "[scope]" in line or "::test_it" in line]
        found = {row[-1]: parse_seconds(row[1]) or 0 for row in rows if row[1] != "-"}
        assert len(found) == 4, result.outlines
        return found

    idle = used("0")
    for name, seconds in used("1").items():
        expected = 0.2 if name == "session" else 0.8 if "::" in name else 0.4
        assert expected <= seconds < expected + 0.1 + 2 * idle[name], (name, idle)
