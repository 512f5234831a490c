"""How much of what a sandbox says of a test is kept until the run's end, and what is too much. Imports nothing of the controller.

Its output, also in its reports and what it has shown on the terminal, counts for its limit `output`; for all else that it says
there is a bound of the same kind, without which forged reports would fill the controller's memory.
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import pytest

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.units import format_size
from pytest_sandbox.plugin.builtin.reports import is_of_subtest
from pytest_sandbox.plugin.builtin.sections import size_of
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.wire.frames import Frame

#: The most that is kept of one test besides its output, in bytes: what the limit of that is by default.
MOST = 64 << 20
#: What a value takes besides its text. None takes less than a byte of its frame.
_NODE = 32
#: Up to here a frame is taken for the most that one of its size can be: to weigh each takes longer than to act on it.
_UNWEIGHED = MOST // 8
#: By `take` and `show`; coverage has a bound of its own.
_WEIGHED_ELSEWHERE = ("report", "closed", "terminal", "coverage")
_OUTPUT = ("Captured stdout", "Captured stderr")
_Key: TypeAlias = "tuple[str, int]"


@dataclasses.dataclass(slots=True)
class _Sections:
    """Those of one kind. sizes: of each, which stands in the reports of later phases too. held: of those of all reports."""

    sizes: dict[_Key, int] = dataclasses.field(default_factory=dict)
    held: int = 0

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    def add(self, key: _Key, content: str, most: int | None) -> str:
        """Count one; what is kept of it: in three phases, and of more than there may be no more than that."""
        self.sizes[key] = max(self.sizes.get(key, 0), size_of(content))
        if most is None:
            return content
        kept = content[: max(0, (3 * most if self.total <= most else most) - self.held)]
        self.held += len(kept)
        return kept if len(kept) == len(content) else f"{kept}\n[the rest was not kept]"


@dataclasses.dataclass(slots=True)
class Kept:
    """What is kept of the test that runs, or of what a scope does for one; a new one begins with the next.

    of_scopes: bytes of output in its reports that are of others. texts: bytes that it has shown on the terminal. said: all else.
    """

    of_scopes: int = 0
    texts: int = 0
    said: int = 0
    _output: _Sections = dataclasses.field(default_factory=_Sections)
    _others: _Sections = dataclasses.field(default_factory=_Sections)

    def begin(self, running: Running, captured: int) -> None:
        """Take its word for what scopes have written for it, as far as those may."""
        outer, most = running.parent, 0
        while outer is not None and captured > most:
            limit = outer.order.spec.limits.output
            most, outer = (captured if limit is None else most + limit), outer.parent
        self.of_scopes = min(captured, most)

    def weigh(self, running: Running, frame: Frame) -> None:
        """Count what it has just said, if that is neither a report nor output. Raises WireError where it is too much."""
        if frame["op"] not in _WEIGHED_ELSEWHERE:
            self._count(running, frame)

    def take(self, running: Running, frame: Frame, report: pytest.TestReport, number: int) -> None:
        """Count a report, the one of this number, and cut of its sections what is too much. Raises WireError as `weigh` does."""
        limit, sections = running.order.spec.limits.output, list[tuple[str, str]]()
        for name, content in report.sections:
            key = name, number if is_of_subtest(report) and name.endswith(" call") else -1
            is_output = name.startswith(_OUTPUT)
            kind, most = (self._output, None if limit is None else limit + self.of_scopes) if is_output else (self._others, MOST)
            sections.append((name, kind.add(key, content, most)))
        self._count(running, frame, sum(len(content) for _, content in report.sections))
        report.sections = sections
        running.evidence.taken = self._taken

    def show(self, running: Running, text: str) -> bool:
        """Count what is to be shown on the terminal; whether it may be. Who shows too much is killed."""
        self.texts += size_of(text)
        running.evidence.taken = self._taken
        limit, size = running.order.spec.limits.output, running.written.size() + running.evidence.taken
        if limit is None or size <= limit:
            return True
        running.overrun(size)
        return False

    @property
    def _taken(self) -> int:
        return self.texts + max(0, self._output.total - self.of_scopes)

    def _count(self, running: Running, frame: Frame, elsewhere: int = 0) -> None:
        """Count the last frame, of which so much is counted elsewhere."""
        at_most = running.talk.size * _NODE
        self.said += at_most if self.said + at_most <= _UNWEIGHED else _weight(frame) - elsewhere
        if (total := self.said + self._others.total) > MOST:
            most = format_size(MOST)
            raise WireError(f"it has said {format_size(total)} besides its output (errors, logs, properties), of at most {most}")


def _weight(value: object) -> int:
    """About how much memory plain data takes, in bytes."""
    weight, left = 0, [value]
    while left:
        one = left.pop()
        weight += _NODE
        if isinstance(one, str):
            weight += len(one)
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
    return weight
