"""Reports and their properties as frames, and back.

Reports travel by pytest's own serializable hooks. What comes back was made by a sandbox: it is checked, and what JSON cannot
tell apart (tuples) or pytest's form leaves out is put right again.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.plugin.builtin.fields import duration, whole_number, xml_text
from pytest_sandbox.plugin.builtin.sections import PHASES, add_another_error
from pytest_sandbox.sandbox.wire import values

#: What every report has: pytest's hooks bring it over in a form of their own.
_OF_PYTEST = frozenset(
    {
        "nodeid", "location", "keywords", "outcome", "longrepr", "when", "user_properties", "sections", "duration", "start",
        "stop", "id", "context", "$report_type", "_report_type", "_subtest.context",
    }
)  # fmt: skip
#: How long a name may be that is no test's.
_LONGEST_NAME = 2000
_KNOWN: pytest.StashKey[frozenset[str]] = pytest.StashKey()
_PLAIN = (str, int, float, bool, type(None))


def is_of_subtest(report: pytest.TestReport) -> bool:
    """Whether it is a subtest's, which says "call" too: of pytest's own, or of pytest-subtests."""
    return getattr(report, "context", None) is not None


def with_error(report: pytest.TestReport, error: pytest.TestReport) -> pytest.TestReport:
    """The report of a teardown, with another error of that: this takes its place, but stands below one that has failed."""
    if report.failed:
        add_another_error(report, error.longreprtext)
        return report
    error.duration += report.duration
    return error


class _Text(TerminalRepr):
    """Stands for a representation that travels as text only (of a doctest, of an unknown fixture).

    Not plain text, since the short summary shows the first line of that.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write it."""
        for line in self._text.splitlines():
            tw.line(line)


def _sendable(value: Any) -> Any:  # noqa: ANN401  # a test or plugin may have put anything there
    """It, or its text where JSON has no form for it: infinity, what contains itself, keys that are no text."""
    try:
        json.dumps(value, allow_nan=False, default=repr)  # as the wire does
    except Exception:  # noqa: BLE001  # what a foreign repr raises, too
        return _text(value)
    return value


def _text(value: object) -> str:
    with contextlib.suppress(Exception):
        return str(value)
    return f"<{type(value).__name__} that has no text>"


def _packed(value: object) -> Any:  # noqa: ANN401  # what JSON takes
    """It, packed, or its text, which is all that junit shows of it, where it is no plain data."""
    try:
        form = values.pack(value)
        json.dumps(form)  # whole numbers of more than 4300 digits have no text
    except (TypeError, ValueError, RecursionError):
        return _text(value)
    return form


def to_frame(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    """A report as a frame."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    if data.get("$report_type", "TestReport") != "TestReport":  # a class whose plugin has no hooks for it, or is not loaded
        module = _module_of_subtests()
        data = (module and module.pytest_report_to_serializable(report)) or {**data, "$report_type": "TestReport"}
    data["user_properties"] = [(_text(name), _packed(value)) for name, value in report.user_properties]
    subtest = data.get("_subtest.context")
    if isinstance(subtest, dict) and not isinstance(subtest.get("msg"), str | None):
        subtest["msg"] = _text(subtest["msg"])
    if "result" in vars(report):  # pytest's own form has no value for an attribute of this name
        data["result"] = vars(report)["result"]
    plain = _take_added(data)
    longrepr = report.longrepr
    if longrepr is not None and not (isinstance(longrepr, str | tuple) or hasattr(longrepr, "toterminal")):
        data["longrepr"] = _text(longrepr)  # as it is shown: `repr_failure` may give any object
    frame: dict[str, Any] = {
        "op": "report",
        "data": data,
        "plain": plain,
    }
    frame["skip"] = isinstance(longrepr, tuple)
    frame["text"] = isinstance(data.get("longrepr"), str) and not isinstance(longrepr, str)
    context = getattr(report, "context", None)
    if context is not None:  # pytest sends a subtest's arguments as what repr makes of them
        arguments = dict(getattr(context, "kwargs", None) or {})
        frame["arguments"] = {name: value for name, value in arguments.items() if isinstance(value, _PLAIN)}
    frame["subtests"] = _subtests(config).get(_id(report), 0)
    return frame


def _take_added(data: dict[str, Any]) -> dict[str, Any]:
    """Take out what plugins have added to a report, packed: plain data, such as a set, for which JSON has no form."""
    packed = {}
    for name in data.keys() - _OF_PYTEST:
        value = data.pop(name)
        try:
            packed[name] = values.pack(value)
        except (TypeError, RecursionError):
            data[name] = _sendable(value)
    return packed


def _subtests(config: pytest.Config) -> dict[object, int]:
    """pytest's count of failed subtests by test, from which the terminal reporter makes the test itself fail."""
    module = _module_of_subtests()
    counts: Any = module and config.stash.get(module.failed_subtests_key, None)  # by ids, whose type changed
    return {} if counts is None else counts


def _module_of_subtests() -> Any:  # noqa: ANN401  # a module, or None: pytest 8 has it not
    return sys.modules.get("_pytest.subtests")


def _id(report: pytest.TestReport) -> object:
    return getattr(report, "id", report.nodeid)


def identity(item: pytest.Item) -> Any:  # noqa: ANN401  # a NodeId from pytest 9.2 on
    """By what reports of an item go: not always its nodeid, which a class may override."""
    return item.id if hasattr(pytest.Item, "id") else item.nodeid


def from_frame(config: pytest.Config, frame: dict[str, Any], item: pytest.Item) -> pytest.TestReport:
    """The report of a frame, which must be one of the test. Raises WireError for what is no report of it."""
    nodeid = str(identity(item))
    try:
        report = _from_frame(config, frame)
    except Exception as error:  # pytest's own classes raise what they like on nonsense
        raise WireError(f"a frame is no report: {error!r}") from error
    if not (_names(report.nodeid, nodeid) or _is_nobodys(report, item)) or report.when not in PHASES:
        raise WireError(f"a report of {report.nodeid!r} ({report.when}, {report.outcome}) came from the sandbox of {nodeid!r}")
    _share(report, item)
    count = whole_number(frame, "subtests")
    if count < 0:
        raise WireError(f"{count} subtests have failed")
    if count:
        _subtests(config)[_id(report)] = count
    return report


def _share(report: pytest.TestReport, item: pytest.Item) -> None:
    """Let a report, which pytest keeps to the run's end, have texts that the item has too, and not copies of them."""
    if report.location == item.location:
        report.location = item.location
    own: Any = report  # its `id` is read-only
    if getattr(report, "_id", None) == identity(item):
        own._id = identity(item)
    report.keywords = {sys.intern(name): value for name, value in report.keywords.items()}
    own.outcome, own.when = sys.intern(report.outcome), sys.intern(str(report.when))


def _names(given: object, nodeid: str) -> bool:
    """Whether an id is that of a test, to which plugins may have added something (xdist's "@group")."""
    if not isinstance(given, str) or not given.startswith(nodeid):
        return False
    added = given[len(nodeid) :]
    return not added or (added[0] in "@ " and added.isprintable())


def _is_nobodys(report: pytest.TestReport, item: pytest.Item) -> bool:
    """Whether it is called what no test is: a conftest shows another name, or makes reports of a test's steps."""
    known = item.session.stash.get(_KNOWN, None)
    if known is None:
        known = item.session.stash[_KNOWN] = frozenset(str(identity(one)) for one in item.session.items)
    name: Any = report.nodeid
    if not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST_NAME:
        return False
    return not any(name[:end] in known and _names(name, name[:end]) for end in range(1, len(name) + 1))


def _from_frame(config: pytest.Config, frame: dict[str, Any]) -> pytest.TestReport:
    plain = {str(name): values.unpack(form) for name, form in (frame.get("plain") or {}).items() if name not in _OF_PYTEST}
    data, module = frame["data"] | plain, _module_of_subtests()
    report: pytest.TestReport = (module and module.pytest_report_from_serializable(data)) or (
        config.hook.pytest_report_from_serializable(config=config, data=data)
    )
    if not isinstance(report, pytest.TestReport):
        raise TypeError(f"it is a {type(report).__name__}")
    report.__dict__.pop("node", None)  # xdist's, an object, and never a sandbox's
    if not hasattr(pytest.Item, "id"):
        report.__dict__.pop("id", None)
    if frame.get("skip") and isinstance(report.longrepr, list):
        path, line, reason = report.longrepr
        report.longrepr = (str(path), int(line), str(reason))
    elif frame.get("text"):
        report.longrepr = _Text(str(report.longrepr))
    path, line, domain = report.location
    report.location = (str(path), line, str(domain))
    report.sections = [(str(name), str(content)) for name, content in report.sections]
    report.user_properties = [(xml_text(name), values.unpack(form)) for name, form in report.user_properties]
    report.duration = duration({"duration": report.duration})
    _check(report)
    context = getattr(report, "context", None)
    if context is not None and frame.get("arguments"):
        context.kwargs.update(frame["arguments"])
    return report


def _check(report: pytest.TestReport) -> None:
    """Raise TypeError for what would break pytest's own reporters, which trust what they are given."""
    shadowed = [name for name in vars(report) if callable(getattr(type(report), name, None))]
    if shadowed:
        raise TypeError(f"it takes the place of {', '.join(shadowed)}")
    if not isinstance(report.keywords, dict):
        raise TypeError("its keywords are none")
    excused = hasattr(report, "wasxfail")  # which is what pytest's reporters ask
    if excused and not isinstance(report.wasxfail, str):
        raise TypeError("its reason to fail is no text")
    outcome: Any = report.outcome
    if not isinstance(outcome, str) or not outcome.isprintable():
        raise TypeError("its outcome is no word")
    if report.failed and report.longrepr is None:
        raise TypeError("it failed for no reason")
    if report.skipped and not excused and not isinstance(report.longrepr, tuple):
        if report.longrepr is None:
            raise TypeError("it was skipped for no reason")
        # A hook has made a skip of it, with the error that it had; pytest's reporters want to know where.
        report.longrepr = (report.location[0], report.location[1] or 0, str(report.longrepr))
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and [type(field) for field in (crash.path, crash.lineno, crash.message)] != [str, int, str]:
        raise TypeError("its crash was nowhere")
    context = getattr(report, "context", None)
    if context is not None and not (isinstance(context.msg, str | None) and isinstance(context.kwargs, dict)):
        raise TypeError("its subtest has no name")
    hash(_id(report))
    str(report.longrepr)  # here it may raise
