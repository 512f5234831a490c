"""The table of what sandboxes consumed, and its rows, which travel from workers of pytest-xdist. Imports `model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_sandbox.model.outcome import Ending, Leak, Outcome, Usage
from pytest_sandbox.model.units import format_seconds, format_size

#: How many rows are shown without -v.
_ROWS = 20
#: The table's figures: what each is called there, the field of Usage, and how it is written.
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "wall": ("wall", format_seconds), "cpu": ("cpu", format_seconds), "memory": ("memory_peak", format_size),
    "pids": ("pids_peak", str), "disk": ("overlay_bytes", format_size), "network": ("network_sent", format_size),
}  # fmt: skip
#: Least width of each, and of the ending: most tables of most runs then look the same.
_LEAST = (9, 9, 9, 5, 9, 9, 18)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One sandbox, or what several of one kind used: whose it is, and what kind of it, `test` for a test alone."""

    name: str
    outcome: Outcome
    kind: str

    def to_plain(self) -> dict[str, object]:
        """What the table needs of it, as plain data."""
        usage = dataclasses.asdict(self.outcome.usage) | {"missing": dict(self.outcome.usage.missing)}
        leaks = [(leak.pid, leak.command) for leak in self.outcome.leaks]
        return {"name": self.name, "kind": self.kind, "ending": self.outcome.ending.value, "usage": usage, "leaks": leaks}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Row:
        """The same, from a worker of pytest-xdist."""
        leaks = tuple(Leak(*leak) for leak in plain["leaks"])
        return cls(plain["name"], Outcome(Ending(plain["ending"]), None, Usage(**plain["usage"]), leaks=leaks), plain["kind"])


def table(rows: Sequence[Row], *, everything: bool) -> Iterator[str]:
    """Its lines, longest first; everything: all of them, however many."""
    ordered = sorted(rows, key=lambda row: (row.outcome.usage.wall, row.outcome.usage.memory_peak or 0), reverse=True)
    shown = ordered if everything else ordered[:_ROWS]
    lines = [(*_COLUMNS, "ending", "test"), *map(_cells, shown)]
    widths = [max(least, *(len(line[index]) for line in lines)) for index, least in enumerate(_LEAST)]
    for *figures, ending, name in lines:
        right = " ".join(f"{figure:>{width}}" for figure, width in zip(figures, widths, strict=False))
        yield f"{right}  {ending:<{widths[-1]}} {name}"
    if len(ordered) > len(shown):
        yield f"... and {len(ordered) - len(shown)} more (-v shows all)"
    yield from _unmeasured(shown)


def _cells(row: Row) -> tuple[str, ...]:
    usage, ending = row.outcome.usage, row.outcome.ending
    figures = [
        "-" if value is None else form(value)
        for form, value in ((form, getattr(usage, field)) for field, form in _COLUMNS.values())
    ]
    leaks = f" ({len(row.outcome.leaks)} leaked)" if row.outcome.leaks else ""
    told = "" if ending is Ending.EXITED else ending.value
    return (*figures, told + leaks, f"[{row.kind}] {row.name}" if row.kind != "test" else row.name)


def _unmeasured(rows: Sequence[Row]) -> Iterator[str]:
    """Each reason for a missing figure once, with the columns that it is missing in."""
    columns: dict[str, dict[str, None]] = {}
    for name, (field, _) in _COLUMNS.items():
        for row in rows:
            # What stands in parentheses, such as which cgroup it is, differs where the reason is the same: the doctor says it.
            reason, _, _ = row.outcome.usage.missing.get(field, "").partition(" (")
            if reason:
                columns.setdefault(reason, {})[name] = None
    for reason, names in columns.items():
        yield f"not measured (-): {', '.join(names)}: {reason}"
