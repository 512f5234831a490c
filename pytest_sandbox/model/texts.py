"""Text that comes from a sandbox, as it may be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text that a terminal and a file can be written with, on one line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
