"""Warnings as frames, and back. Imports pytest and `fields`.

What comes back was made by a sandbox: nothing is imported for it, and no code is run but Python's own and pytest's.
"""

from __future__ import annotations

import builtins
import linecache
import sys
import sysconfig
import warnings
from typing import Any

import pytest

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.plugin.builtin.fields import writable_text


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
    when = frame.get("when")
    if when not in ("config", "collect", "runtest"):
        raise WireError(f"a warning of no time: {when!r}")
    return {"warning_message": message, "nodeid": nodeid if when == "runtest" else "", "when": when, "location": location}


def of_the_run(warning: dict[str, Any]) -> dict[str, Any]:
    """What it is called with where the run has ended in the midst of a test, and what is torn down then is no test's."""
    return {**warning, "nodeid": "", "when": "config"}


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
