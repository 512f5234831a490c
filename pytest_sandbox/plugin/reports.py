"""Reports, warnings and properties as frames, and back. Imports pytest only.

Reports travel by pytest's own serializable hooks. What comes back was made by a sandbox: it is checked, and what JSON cannot
tell apart (tuples) is put right again.
"""

from __future__ import annotations

import builtins
import sys
import warnings
from typing import Any

import pytest

from pytest_sandbox.model.errors import WireError

_OUTCOMES = ("passed", "failed", "skipped")
_PHASES = ("setup", "call", "teardown")


def to_frame(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    """A report as a frame."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    return {"op": "report", "data": data, "skip": isinstance(report.longrepr, tuple)}


def from_frame(config: pytest.Config, frame: dict[str, Any], nodeid: str) -> pytest.TestReport:
    """The report of a frame, which must be one of the test `nodeid`. Raises WireError for what is no report of it."""
    try:
        report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=frame["data"])
        if not isinstance(report, pytest.TestReport):
            raise TypeError(f"it is a {type(report).__name__}")
        if frame.get("skip") and isinstance(report.longrepr, list):
            path, line, reason = report.longrepr
            report.longrepr = (str(path), int(line), str(reason))
        path, line, domain = report.location
        report.location = (str(path), line, str(domain))
        report.sections = [(str(name), str(content)) for name, content in report.sections]
        report.user_properties = [(str(name), value) for name, value in report.user_properties]
        report.duration = float(report.duration)
    except Exception as error:  # pytest's own classes raise what they like on nonsense
        raise WireError(f"a frame is no report: {error!r}") from error
    if report.nodeid != nodeid or report.outcome not in _OUTCOMES or report.when not in _PHASES:
        raise WireError(f"a report of {report.nodeid!r} ({report.when}, {report.outcome}) came from the sandbox of {nodeid!r}")
    return report


def warning_to_frame(message: warnings.WarningMessage, when: str, nodeid: str, location: object) -> dict[str, Any]:
    """A warning as a frame; its class only by name."""
    category = message.category
    return {
        "op": "warning",
        "text": str(message.message),
        "category": [category.__module__, category.__qualname__],
        "filename": message.filename,
        "lineno": message.lineno,
        "line": message.line,
        "when": when,
        "nodeid": nodeid,
        "location": location,
    }


def record_warning(config: pytest.Config, frame: dict[str, Any], nodeid: str) -> None:
    """Call `pytest_warning_recorded` as if the warning had been caught here."""
    try:
        category = _category(*map(str, frame["category"]))
        text, filename, lineno = str(frame["text"]), str(frame["filename"]), int(frame["lineno"])
        message = warnings.WarningMessage(_message(category, text), category, filename, lineno)
        message.line = None if frame.get("line") is None else str(frame["line"])
        location = tuple(frame["location"]) if isinstance(frame.get("location"), list) else None
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"a frame is no warning: {error!r}") from error
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={"warning_message": message, "nodeid": nodeid, "when": "runtest", "location": location}
    )


def _category(module: str, name: str) -> type[Warning]:
    """The class of that name where it is loaded here, or one that only has its name: a sandbox makes nothing be imported."""
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    return type(name.rpartition(".")[2], (Warning,), {"__module__": module})


def _message(category: type[Warning], text: str) -> Warning:
    """An instance without running foreign code: only Python's and pytest's own classes are called."""
    if category.__module__ == "builtins" or category.__module__.partition(".")[0] in ("pytest", "_pytest"):
        try:
            return category(text)
        except TypeError:
            pass
    return Warning(text)


def merge_sections(item: pytest.Item) -> None:
    """Make one section of what several processes captured in the same phase of one test."""
    merged: dict[tuple[str, str], str] = {}
    for when, key, content in item._report_sections:
        merged[when, key] = merged.get((when, key), "") + content
    item._report_sections[:] = [(when, key, content) for (when, key), content in merged.items()]
