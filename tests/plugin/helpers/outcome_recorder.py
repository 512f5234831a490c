"""A pytest plugin that writes down what a run said through hooks, as JSON, where OUTCOME_RECORD says. Imports pytest only."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import pytest


class Recorder:
    """Notes the calls of the reporting hooks, in order."""

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {"protocol": [], "reports": [], "warnings": [], "ends": []}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note it."""
        self.found["protocol"].append(["start", nodeid])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note it."""
        self.found["protocol"].append(["finish", nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note everything that other plugins read of a report."""
        self.found["protocol"].append([report.when, report.nodeid])
        self.found["reports"].append(
            {
                "nodeid": report.nodeid,
                "kind": type(report).__name__,
                "when": report.when,
                "outcome": report.outcome,
                "location": list(report.location),
                "wasxfail": getattr(report, "wasxfail", None),
                "longrepr": report.longreprtext if not isinstance(report.longrepr, tuple) else list(report.longrepr),
                "sections": [list(section) for section in report.sections],
                "properties": [[name, str(value)] for name, value in report.user_properties],
                "keywords": sorted(report.keywords),
                "duration": report.duration,
            }
        )

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str) -> None:
        """Note it."""
        category = warning_message.category.__name__
        text = str(warning_message.message)
        self.found["warnings"].append([category, text, when, nodeid, warning_message.filename, warning_message.lineno])

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write all of it; only the process that runs the session comes here."""
        self.found["ends"].append([int(exitstatus), session.testsfailed, session.testscollected])
        with open(os.environ["OUTCOME_RECORD"], "w", encoding="utf-8") as file:
            json.dump(self.found, file)


def pytest_configure(config: pytest.Config) -> None:
    """Note all, whatever else is switched off."""
    config.pluginmanager.register(Recorder(), "outcome-recorder")
