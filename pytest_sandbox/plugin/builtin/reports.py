"""Reports, warnings and properties as frames, and back. Imports pytest and `values`.

Reports travel by pytest's own serializable hooks. What comes back was made by a sandbox: it is checked, and what JSON cannot
tell apart (tuples) or pytest's form leaves out is put right again.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import linecache
import sys
import sysconfig
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter
from _pytest.junitxml import bin_xml_escape

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.units import LARGEST
from pytest_sandbox.sandbox import values

_OUTCOMES = ("passed", "failed", "skipped", "rerun", "retried")  # the last are pytest-rerunfailures' and pytest-retry'
_PHASES = ("setup", "call", "teardown")


def is_of_subtest(report: pytest.TestReport) -> bool:
    """Whether it is a subtest's, which says "call" too: of pytest's own, or of pytest-subtests."""
    return getattr(report, "context", None) is not None


#: What pytest captures, in its order.
_CAPTURED = ("stdout", "stderr", "log")
#: What every report has: pytest's hooks bring it over in a form of their own.
_OF_PYTEST = frozenset(
    {
        "nodeid", "location", "keywords", "outcome", "longrepr", "when", "user_properties", "sections", "duration", "start",
        "stop", "id", "context", "$report_type", "_report_type", "_subtest.context",
    }
)  # fmt: skip
_Name = TypeVar("_Name")
_PLAIN = (str, int, float, bool, type(None))


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
        with contextlib.suppress(Exception):
            return str(value)
        return f"<{type(value).__name__} that has no text>"
    return value


def _sendable_property(one: Any) -> Any:  # noqa: ANN401  # the same
    return (one[0], _sendable(one[1])) if isinstance(one, (tuple, list)) and len(one) == 2 else _sendable(one)


def to_frame(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    """A report as a frame."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    data["user_properties"] = [_sendable_property(one) for one in report.user_properties]
    plain = _take_added(data)
    longrepr = report.longrepr
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
    try:
        from _pytest.subtests import failed_subtests_key
    except ImportError:  # pytest 8
        return {}
    counts: Any = config.stash.get(failed_subtests_key, None)  # by ids, whose type changed
    return {} if counts is None else counts


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
    if not _names(report.nodeid, nodeid) or report.outcome not in _OUTCOMES or report.when not in _PHASES:
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


def whole_number(frame: dict[str, Any], name: str) -> int:
    """A field that is a number, or missing: 0. Raises WireError for what is neither."""
    value = frame.get(name) or 0
    if not isinstance(value, int):
        raise WireError(f"{name} of a frame is {type(value).__name__}")
    return value


def seconds(frame: dict[str, Any], name: str, least: float = 0.0) -> float:
    """A field that is a duration of at least so much, or missing: 0. Raises WireError for what is neither."""
    value = frame.get(name) or 0.0
    try:
        if isinstance(value, (int, float)) and least <= value <= LARGEST:
            return float(value)
    except OverflowError:
        pass
    raise WireError(f"{name} of a frame is no duration")


def duration(frame: dict[str, Any]) -> float:
    """How long something took by a clock that a test may have set back (freezegun), as plain pytest has it. Raises WireError."""
    return seconds(frame, "duration", least=-LARGEST)


def _from_frame(config: pytest.Config, frame: dict[str, Any]) -> pytest.TestReport:
    plain = {str(name): values.unpack(form) for name, form in (frame.get("plain") or {}).items() if name not in _OF_PYTEST}
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=frame["data"] | plain)
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
    report.user_properties = [(xml_text(name), value) for name, value in report.user_properties]
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
    excused = getattr(report, "wasxfail", None)
    if excused is not None and not isinstance(excused, str):
        raise TypeError("its reason to fail is no text")
    if report.failed and report.longrepr is None:
        raise TypeError("it failed for no reason")
    if report.skipped and excused is None and not isinstance(report.longrepr, tuple):
        raise TypeError("it was skipped for no reason")
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and [type(field) for field in (crash.path, crash.lineno, crash.message)] != [str, int, str]:
        raise TypeError("its crash was nowhere")
    context = getattr(report, "context", None)
    if context is not None and not (isinstance(context.msg, str | None) and isinstance(context.kwargs, dict)):
        raise TypeError("its subtest has no name")
    hash(_id(report))
    str(report.longrepr)  # here it may raise


def warning_to_frame(message: warnings.WarningMessage, when: str, nodeid: str, location: object) -> dict[str, Any]:
    """A warning as a frame; its class only by name."""
    category = message.category
    return {
        "op": "warning",
        "text": str(message.message),
        "category": [category.__module__, category.__qualname__],
        "filename": message.filename,
        "lineno": message.lineno,
        # Read here: the controller opens no file that a sandbox names. That may be a FIFO, or the terminal.
        "line": linecache.getline(message.filename, message.lineno) if message.line is None else message.line,
        "source": message.source is not None,
        "when": when,
        "nodeid": nodeid,
        "location": location,
    }


def warning_from_frame(config: pytest.Config, frame: dict[str, Any], nodeid: str) -> dict[str, Any]:
    """What `pytest_warning_recorded` is to be called with, as if the warning had been caught here. Raises WireError."""
    try:
        category = _category(*map(str, frame["category"]))
        text, filename, lineno = writable_text(frame["text"]), writable_text(frame["filename"]), _line(frame["lineno"])
        if hasattr(config, "workerinput") and not _is_everywhere(category):
            text, category = f"{category.__name__}: {text}", _known(category)
        message = warnings.WarningMessage(_message(category, text), category, filename, lineno)
        message.line = writable_text(frame.get("line") or "")
        message.source = object() if frame.get("source") else None  # pytest then says how to find where it was made
        location = _location(frame.get("location"))
    except Exception as error:  # a module that is named may raise what it likes when it is looked into
        raise WireError(f"a frame is no warning: {error!r}") from error
    return {"warning_message": message, "nodeid": nodeid, "when": "runtest", "location": location}


def writable_text(value: object) -> str:
    """Text that can be written to a file, and sent by pytest-xdist: no half of a surrogate pair."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def xml_text(value: object) -> str:
    """Text that can be written to an XML file, as pytest does it."""
    return str(bin_xml_escape(writable_text(value)))


def _line(value: object) -> int:
    number = int(str(value))
    if not 0 <= number < 1 << 31:
        raise ValueError(f"{number} is no line")
    return number


def _location(value: object) -> tuple[str, int, str] | None:
    if not isinstance(value, list):
        return None
    path, line, function = value
    return writable_text(path), _line(line), writable_text(function)


def _is_everywhere(category: type[Warning]) -> bool:
    """Whether pytest-xdist's controller has a warning's class too: of its module it imports what a worker names."""
    top = category.__module__.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("_pytest", "pytest"):
        return True
    path = getattr(sys.modules.get(category.__module__), "__file__", None) or ""
    found = getattr(sys.modules.get(category.__module__), category.__qualname__, None)
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return found is category and any(path.startswith(f"{directory}/") for directory in installed)


def _known(category: type[Warning]) -> type[Warning]:
    return next(base for base in category.__mro__ if base.__module__ == "builtins")  # Warning, in the end


def sendable(value: object) -> Any:  # noqa: ANN401  # plain data, as deep as it is
    """What pytest-xdist can send of it: of a report that was made by a sandbox nothing shall take a worker down."""
    if isinstance(value, dict):
        return {sendable(key): sendable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [sendable(one) for one in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, int) and not -(1 << 31) <= value < 1 << 63:  # execnet packs any negative one into four bytes
        return writable_text(value)
    return value if isinstance(value, (bool, int, float, bytes, type(None))) else writable_text(value)


def _category(module: str, name: str) -> type[Warning]:
    """The class of that name where it is loaded here, or one that only has its name: a sandbox makes nothing be imported."""
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)  # no __getattr__ of a lazy module
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


def captured_for(item: pytest.Item) -> int:
    """How many bytes of output stand in the sections of an item, which is to run: what scopes wrote when they set up for it."""
    return sum(size_of(content) for _, key, content in item._report_sections if key in ("stdout", "stderr"))


def size_of(text: str) -> int:
    """Of the bytes that it was read from, of which one that is no text became a replacement character, of three; at most."""
    return len(text.encode("utf-8", "surrogatepass")) - 2 * text.count("\ufffd")


def joined(first: list[tuple[str, str]], second: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sections of two processes that tear down after one test: captured output of one name becomes one, copies fall away."""
    found = list(first)
    names = [name for name, _ in first]
    for name, content in second:
        if name.startswith("Captured ") and name in names:
            index = names.index(name)
            found[index] = (name, _after(found[index][1], name, content))
        elif (name, content) not in first:
            found.append((name, content))
    return in_order(found)


def in_order(sections: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Captured output of one phase in pytest's order, whichever process it came from; all else stays in its place."""
    content = dict(sections)
    if len(content) != len(sections):
        return sections
    names = list(content)
    for phase in _PHASES:
        _put_in_order(names, [f"Captured {key} {phase}" for key in _CAPTURED])
    return [(name, content[name]) for name in names]


def _put_in_order(names: list[_Name], order: Sequence[_Name]) -> None:
    """Have those of `order` that are among the names, each once, follow each other as they do there, in the places they have."""
    there = [name for name in order if name in names]
    places = [place for place, name in enumerate(names) if name in there]
    for place, name in zip(places, there, strict=True):
        names[place] = name


def _after(before: str, name: str, content: str) -> str:
    # The log's section comes without the end of its last line.
    return before + ("\n" if before and "log" in name.split() else "") + content


def merge_sections(item: pytest.Item) -> None:
    """Make one section of what several processes captured in the same phase of one test, in the order of one process."""
    merged: dict[tuple[str, str], str] = {}
    for when, key, content in item._report_sections:
        merged[when, key] = _after(merged.get((when, key), ""), key, content)
    names = list(merged)
    for phase in dict.fromkeys(when for when, _ in names):
        _put_in_order(names, [(phase, key) for key in _CAPTURED])
    item._report_sections[:] = [(when, key, merged[when, key]) for when, key in names]
