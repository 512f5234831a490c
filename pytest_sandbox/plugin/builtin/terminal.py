"""What is written to the user's terminal, past pytest's own reporter or by it. Imports pytest."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

# Escape sequences of ECMA-48 and DEC's VT100: what every terminal of today knows.
_SAVE, _RESTORE, _ERASE_TO_END, _FAINT, _NORMAL = "\0337", "\0338", "\033[K", "\033[2m", "\033[0m"
#: The least room for a status, in columns.
_LEAST = 20


class Status:
    """A text that stands behind the last thing written, for as long as nothing more is: it is taken off before that."""

    def __init__(self) -> None:
        self._on: Any = None

    def put(self, config: pytest.Config, text: str) -> None:
        """Show it, in place of another one; nothing where it has no room."""
        self.take_off()
        writer: Any = getattr(config.pluginmanager.getplugin("terminalreporter"), "_tw", None)
        room = 0 if writer is None else writer.fullwidth - writer.width_of_current_line - 2
        if text and room >= _LEAST:
            cut = text if len(text) <= room else f"{text[: room - 3]}..."
            writer._file.write(f"{_SAVE} {_FAINT}{cut}{_NORMAL}{_RESTORE}")
            writer._file.flush()
            self._on = writer._file

    def take_off(self) -> None:
        """Erase it. To be called before anything is written."""
        file, self._on = self._on, None
        if file is not None:
            file.write(_ERASE_TO_END)
            file.flush()


#: There is one terminal.
STATUS = Status()


def has_status(config: pytest.Config) -> bool:
    """Whether a text can stand and go there: somebody's terminal, with pytest's own reporter."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    can = type(reporter) is pytest.TerminalReporter and os.environ.get("TERM", "dumb") != "dumb"
    return can and reporter.isatty and not os.environ.get("CI") and reporter.verbosity >= 0


def show(config: pytest.Config, text: str) -> None:
    """Write to pytest's terminal, as its own reporter does."""
    reporter = config.pluginmanager.getplugin("terminalreporter") if text else None
    if reporter is not None:
        STATUS.take_off()
        reporter._tw.write(text)
        reporter._tw.flush()


def show_bytes(data: bytes) -> None:
    """Show what a sandbox wrote past its capture."""
    if data:
        STATUS.take_off()
        stream = sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(data.decode("utf-8", "replace").encode(encoding, "replace").decode(encoding))
        stream.flush()


def show_error(text: str) -> None:
    """Show what belongs to pytest's stderr."""
    STATUS.take_off()
    sys.stderr.write(text)
    sys.stderr.flush()
