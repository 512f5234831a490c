"""What a sandbox has left unsaid of a test, or others add, put into its reports."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from _pytest.skipping import Xfail

from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.plugin.builtin import marks
from pytest_sandbox.plugin.builtin.reports import is_of_subtest
from pytest_sandbox.plugin.builtin.sections import add_another_error, joined
from pytest_sandbox.plugin.reporting.report import add_section, fail, make_failure, make_report


def completed(
    item: pytest.Item, reports: Sequence[pytest.TestReport], sentence: str, outcome: Outcome | None, lasted: float | None
) -> list[pytest.TestReport]:
    """A full set of reports of a test whose sandbox has ended, which fails in the phase that it was in.

    lasted: that phase, in seconds; None: none had begun.
    """
    own = [report for report in reports if not is_of_subtest(report)]
    said = {report.when: report for report in own}
    when = "teardown"
    if "setup" not in said:
        when = "setup"
    elif "call" not in said and said["setup"].passed:
        when = "call"
    failure = make_failure(item, when, sentence, outcome, before=own[-1] if own else None)
    if lasted is not None:
        failure.duration = min(failure.duration, lasted)
    _as_expected(item, failure)
    found = [report for report in reports if report.when != "teardown"] + [failure]
    return found if when == "teardown" else [*found, make_report(item, "teardown", before=failure)]


def fail_after_all(item: pytest.Item, done: Sequence[pytest.TestReport], outcome: Outcome) -> None:
    """A limit that ends tests was met, and the test has said all it had to: that is its failure all the same."""
    if any(_has_failed(report) and not _is_unexpected(report) for report in done):
        add_section(done, outcome)
        return
    own = (report for report in reversed(done) if report.when != "teardown" and not is_of_subtest(report))
    last = next(own, done[-1])
    fail(last, outcome.sentence, outcome)
    _as_expected(item, last)


def merge(item: pytest.Item, done: list[pytest.TestReport], closed: pytest.TestReport) -> None:
    """Put what a closing scope had to say into the teardown of its last test, which is the last of `done`."""
    last = done[-1]
    if closed.passed or last.failed:
        last.duration += closed.duration
        if not closed.passed:
            add_another_error(last, str(closed.longrepr) if closed.failed else _reason(closed))
        last.sections = joined(last.sections, closed.sections)
        return
    if closed.skipped and last.skipped:
        # As plain pytest's group of exceptions, which is neither a skip nor an expected failure by itself.
        closed.outcome, closed.longrepr = "failed", f"errors during test teardown: {_reason(last)}; {_reason(closed)}"
        vars(closed).pop("wasxfail", None)
        if (expected := _may_fail(item)) is not None:
            closed.outcome, closed.wasxfail = "skipped", expected.reason
    closed.sections = joined(last.sections, closed.sections)
    closed.user_properties = last.user_properties
    closed.duration += last.duration
    done[-1] = closed


def _is_unexpected(report: pytest.TestReport) -> bool:
    """Whether it has failed by passing: `_pytest.skipping` and `_pytest.unittest` put it so."""
    return report.failed and report.longreprtext.startswith(("[XPASS(strict)]", "Unexpected success"))


def _has_failed(report: pytest.TestReport) -> bool:
    """Whether it failed, be it as expected."""
    return report.failed or (report.skipped and hasattr(report, "wasxfail"))


def _reason(report: pytest.TestReport) -> str:
    """Why a teardown was skipped."""
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", report.longrepr))


def _may_fail(item: pytest.Item) -> Xfail | None:
    """The mark by which a test is expected to fail, by whatever it does."""
    expected = marks.expected_failure(item)
    if expected is None and getattr(getattr(item, "obj", None), "__unittest_expecting_failure__", False):
        expected = Xfail(reason="", run=True, strict=True, raises=None)  # as unittest.expectedFailure means it
    return None if expected is None or expected.raises is not None or item.config.getoption("runxfail", False) else expected


def _as_expected(item: pytest.Item, report: pytest.TestReport) -> None:
    """A test that is expected to fail may do so by the end of its sandbox."""
    expected = _may_fail(item)
    if expected is not None and report.when != "teardown":
        report.outcome = "skipped"
        report.wasxfail = f"{expected.reason or ''} [{report.longrepr}]".strip()
