"""The table of what sandboxes consumed, and its rows, which travel from workers of pytest-xdist. Imports `model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_sandbox.model.outcome import Ending, Leak, Outcome, Usage, counted
from pytest_sandbox.model.units import format_seconds, format_size

#: How many rows are shown without -v.
_ROWS = 20
#: The table's figures: what each is called there, the field of Usage, and how it is written.
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "wall": ("wall", format_seconds), "cpu": ("cpu", format_seconds), "memory": ("memory_peak", format_size),
    "pids": ("pids_peak", str), "disk": ("overlay_bytes", format_size), "network": ("network_sent", format_size),
    "read": ("bytes_read", format_size), "written": ("bytes_written", format_size),
}  # fmt: skip
#: Those of them that are shown only where some sandbox used any: files of most tests lie in memory.
_IF_ANY = ("read", "written")
#: Least width of a column, and of the ending: most tables of most runs then look the same.
_LEAST, _LEAST_PIDS, _LEAST_ENDING = 9, 5, 18


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
    columns = [name for name, (field, _) in _COLUMNS.items() if name not in _IF_ANY or _is_used(shown, field)]
    lines = [(*columns, "ending", "test"), *(_cells(row, columns) for row in shown)]
    least = [*(_LEAST_PIDS if name == "pids" else _LEAST for name in columns), _LEAST_ENDING]
    widths = [max(width, *(len(line[index]) for line in lines)) for index, width in enumerate(least)]
    for *figures, ending, name in lines:
        right = " ".join(f"{figure:>{width}}" for figure, width in zip(figures, widths, strict=False))
        yield f"{right}  {ending:<{widths[-1]}} {name}"
    if len(ordered) > len(shown):
        yield f"... and {len(ordered) - len(shown)} more (-v shows all)"
    yield from _unmeasured(shown, columns)


def _is_used(rows: Sequence[Row], field: str) -> bool:
    return any(getattr(row.outcome.usage, field) for row in rows)


def _cells(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    usage, ending = row.outcome.usage, row.outcome.ending
    figures = [
        "-" if value is None else form(value)
        for form, value in ((form, getattr(usage, field)) for field, form in map(_COLUMNS.__getitem__, columns))
    ]
    leaks = f" ({counted(row.outcome.leaks)} leaked)" if row.outcome.leaks else ""
    told = "" if ending is Ending.EXITED else ending.value
    return (*figures, told + leaks, f"[{row.kind}] {row.name}" if row.kind != "test" else row.name)


def _unmeasured(rows: Sequence[Row], shown: Sequence[str]) -> Iterator[str]:
    """Each reason for a missing figure once, with the columns that it is missing in."""
    columns: dict[str, dict[str, None]] = {}
    for name in shown:
        field, _ = _COLUMNS[name]
        for row in rows:
            # What stands in parentheses, such as which cgroup it is, differs where the reason is the same: the doctor says it.
            reason, _, _ = row.outcome.usage.missing.get(field, "").partition(" (")
            if reason:
                columns.setdefault(reason, {})[name] = None
    for reason, names in columns.items():
        yield f"not measured (-): {', '.join(names)}: {reason}"
