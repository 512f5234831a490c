"""A pytest plugin for compare_suites.py: writes what became of every test to the JSON file that $OUTCOMES names.

It listens to reports alone, so that it says the same of a run with a sandbox and of one without. Imports pytest only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


class Recorder:
    """Collects [nodeid, when, outcome, first line of the reason] of every report in the process that made it."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._pid = os.getpid()
        self._rows: list[list[str]] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what could not be collected, or was skipped whole."""
        if not report.passed:
            self._add(report.nodeid, "collect", report.outcome, report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase of a test; subtests come as further reports of the same phase."""
        outcome: str = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        self._add(report.nodeid, str(report.when), outcome, report)

    def pytest_sessionfinish(self) -> None:
        """Write everything, once, in the process that pytest was started in."""
        if os.getpid() == self._pid:
            self._target.write_text(json.dumps(self._rows))

    def _add(self, nodeid: str, when: str, outcome: str, report: pytest.CollectReport | pytest.TestReport) -> None:
        if os.getpid() == self._pid:
            self._rows.append([nodeid, when, outcome, _reason(report)])


def _reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    """The first line of why, or ""."""
    longrepr = report.longrepr
    if isinstance(longrepr, tuple):
        return str(longrepr[2])
    crash = getattr(longrepr, "reprcrash", None)
    text = str(crash.message) if crash is not None else report.longreprtext
    return text.strip().split("\n", 1)[0][:200]


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder."""
    config.pluginmanager.register(Recorder(Path(os.environ["OUTCOMES"])), "outcome-recorder")
