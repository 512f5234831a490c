"""What is written to the user's terminal, past pytest's own reporter or by it. Imports pytest."""

from __future__ import annotations

import sys

import pytest


def show(config: pytest.Config, text: str) -> None:
    """Write to pytest's terminal, as its own reporter does."""
    reporter = config.pluginmanager.getplugin("terminalreporter") if text else None
    if reporter is not None:
        reporter._tw.write(text)
        reporter._tw.flush()


def show_bytes(data: bytes) -> None:
    """Show what a sandbox wrote past its capture."""
    if data:
        stream = sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(data.decode("utf-8", "replace").encode(encoding, "replace").decode(encoding))
        stream.flush()


def show_error(text: str) -> None:
    """Show what belongs to pytest's stderr."""
    sys.stderr.write(text)
    sys.stderr.flush()
