"""What a test's processes captured, as the sections of its reports: in pytest's order, whichever process it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pytest

PHASES = ("setup", "call", "teardown")
#: What pytest captures, in its order.
_CAPTURED = ("stdout", "stderr", "log")
_Name = TypeVar("_Name")


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
    for phase in PHASES:
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


def add_another_error(report: pytest.TestReport, text: str) -> None:
    """Have the report of a teardown that says what was raised tell what else was."""
    report.sections.append(("Another error at teardown", text))
