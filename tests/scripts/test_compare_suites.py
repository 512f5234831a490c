"""scripts/compare_suites.py: what counts as the same outcome, on which every claim about other people's suites rests."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import compare_suites
import workplace

EVERY_OUTCOME = """
    import pytest

    @pytest.fixture
    def broken():
        raise ValueError("no fixture")

    @pytest.fixture
    def leaves_badly():
        yield
        raise ValueError("no teardown")

    def test_passes(): pass
    def test_fails(): assert 0, "as it must"
    def test_errors(broken): pass
    def test_fails_late(leaves_badly): pass
    @pytest.mark.skip(reason="not today")
    def test_skips(): pass
    @pytest.mark.xfail
    def test_xfails(): assert 0
    @pytest.mark.xfail
    def test_xpasses(): pass
"""


@pytest.fixture
def record(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> compare_suites.Run:
    """A real run of pytest on a test of each outcome, as the recorder tells it."""
    outcomes = pytester.path / "outcomes.json"
    monkeypatch.setenv("OUTCOMES", str(outcomes))
    monkeypatch.setenv("PYTHONPATH", str(compare_suites.HERE))
    pytester.makepyfile(test_it=EVERY_OUTCOME)
    pytester.runpytest_subprocess("-p", "outcome_recorder", "-p", "no:cacheprovider")
    return compare_suites.Run(1, 0.0, compare_suites.read(outcomes))


def test_every_outcome_has_words_of_its_own(record: compare_suites.Run) -> None:
    """No two ways to end are taken for the same."""
    names = ("passes", "fails", "errors", "fails_late", "skips", "xfails", "xpasses")
    assert {name: record.outcome(f"test_it.py::test_{name}") for name in names} == {
        "passes": "passed",
        "fails": "failed",
        "errors": "setup failed",
        "fails_late": "passed, teardown failed",
        "skips": "setup skipped",
        "xfails": "xfailed",
        "xpasses": "xpassed",
    }


def test_the_reason_is_the_first_line(record: compare_suites.Run) -> None:
    """A difference is explained by what the test said, in one line."""
    assert record.reason("test_it.py::test_fails") == "AssertionError: as it must"
    assert record.reason("test_it.py::test_skips") == "Skipped: not today"
    assert record.reason("test_it.py::test_passes") == ""


def run(outcomes: Mapping[str, str] | None) -> compare_suites.Run:
    """A run of tests with these outcomes of their call."""
    reports: Any = None if outcomes is None else {test: [("call", outcome, "")] for test, outcome in outcomes.items()}
    return compare_suites.Run(0, 1.0, reports)


def compare(*runs: Mapping[str, str] | None) -> compare_suites.Comparison:
    """The comparison of a plain, a boxed and another plain run."""
    return compare_suites.Comparison("psutil", "1", workplace.Identity("user", 4711), *map(run, runs))


def test_a_test_that_differs_in_the_sandbox_alone_is_a_fault() -> None:
    """That is what the script is for."""
    comparison = compare({"a": "passed", "b": "passed"}, {"a": "failed", "b": "passed"}, {"a": "passed", "b": "passed"})
    assert (comparison.tests, comparison.different, comparison.unstable) == (2, ["a"], [])


def test_a_test_that_is_missing_in_the_sandbox_is_a_fault() -> None:
    """Silence is no outcome."""
    assert compare({"a": "passed"}, {}, {"a": "passed"}).different == ["a"]


def test_a_test_that_differs_between_plain_runs_is_unstable() -> None:
    """It says nothing about a sandbox, whatever it did in it."""
    comparison = compare({"a": "passed"}, {"a": "failed"}, {"a": "failed"})
    assert (comparison.different, comparison.unstable) == ([], ["a"])


def test_a_run_that_did_not_finish_is_no_success() -> None:
    """However few differences there are then."""
    assert not compare({}, None, {}).finished


def test_a_known_difference_has_a_reason_and_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for the suite, the test and the user that it is known of."""
    known = tmp_path / "known.json"
    known.write_text('[{"suite": "psutil", "test": "a*", "as": ["user"], "reason": "asserts on the clock"}]')
    monkeypatch.setattr(compare_suites, "KNOWN", known)
    plain = {"ab": "passed", "b": "passed"}
    comparison = compare(plain, {"ab": "failed", "b": "failed"}, plain)
    assert (comparison.known, comparison.different) == ({"ab": "asserts on the clock"}, ["b"])


def test_failing_alike_shows_nothing() -> None:
    """A suite of which little passes, and one of which there is nothing, cannot say that all is well."""
    few = {"a": "failed", "b": "failed", "c": "passed"}
    assert compare(few, few, few).shows_nothing
    assert not compare(few | {"d": "passed"}, few, few).shows_nothing
    assert any("nothing is shown" in line for line in compare(few, few, few).details())
