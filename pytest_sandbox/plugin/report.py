"""What the user reads: header, details of an ending, usage table, junit's properties. Imports pytest and `model`."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.fixtures import FixtureDef
from _pytest.nodes import Node

from pytest_sandbox.model.capability import Capability
from pytest_sandbox.model.outcome import Ending, Leak, Made, Outcome, Usage
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.model.units import format_seconds, format_size
from pytest_sandbox.plugin import resolve, stacks
from pytest_sandbox.plugin.options import BY_NAME
from pytest_sandbox.sandbox import host

_ROWS = 20
_WORTH_TELLING = 0.1
_PROPERTIES = tuple(field.name for field in dataclasses.fields(Usage) if field.name != "missing")
#: Those of them that are told of what a test makes itself.
_OF_MADE = ("wall", "cpu", "memory_peak", "pids_peak")
#: The table's figures: what each is called there, the field of Usage, and how it is written.
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "wall": ("wall", format_seconds), "cpu": ("cpu", format_seconds), "memory": ("memory_peak", format_size),
    "pids": ("pids_peak", str), "disk": ("overlay_bytes", format_size), "network": ("network_sent", format_size),
}  # fmt: skip
#: Least width of each, and of the ending: most tables of most runs then look the same.
_LEAST = (9, 9, 9, 5, 9, 9, 18)


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    name: str
    outcome: Outcome
    kind: str

    def to_plain(self) -> dict[str, object]:
        """What the table needs of it, as plain data."""
        usage = dataclasses.asdict(self.outcome.usage) | {"missing": dict(self.outcome.usage.missing)}
        leaks = [(leak.pid, leak.command) for leak in self.outcome.leaks]
        return {"name": self.name, "kind": self.kind, "ending": self.outcome.ending.value, "usage": usage, "leaks": leaks}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> _Row:
        """The same, from a worker of pytest-xdist."""
        leaks = tuple(Leak(*leak) for leak in plain["leaks"])
        return cls(plain["name"], Outcome(Ending(plain["ending"]), None, Usage(**plain["usage"]), leaks=leaks), plain["kind"])


def _not_enforced(missing: Sequence[Capability], asked: Collection[str]) -> Iterator[str]:
    """Each reason once, with its limits; what stands in parentheses, such as which cgroup it is, the doctor says."""
    limits: dict[str, list[str]] = {}
    for one in missing:
        reason, _, _ = one.reason.partition(" (")
        words = " (asked for, but --sandbox-degrade)" if one.name in asked else ""
        limits.setdefault(reason, []).append(f"{one.name}{words}")
    for reason, names in limits.items():
        yield f"sandbox: NOT ENFORCED: {', '.join(names)}: {reason}"


def _where_layers_are(spec: Spec, attributes: Capability) -> str:
    """The header's line on a kernel whose tmpfs has no user attributes."""
    if spec.scratch is None:
        return f"sandbox: NOT COMPLETE: {attributes.reason}. Fix: {attributes.fix}"
    line = f"sandbox: NOT COMPLETE: tests write to {spec.scratch}, wider fixtures to a tmpfs: {attributes.reason}"
    return line if "scratch" in spec.asked else f"{line}. --sandbox-scratch=none keeps tests on the tmpfs, with limits of disk"


class Book:
    """Everything that is said about the run's sandboxes."""

    def __init__(self, config: pytest.Config, settings: resolve.Settings) -> None:
        self._config = config
        self._settings = settings
        self._rows: list[_Row] = []
        self._kept: list[tuple[str, Path]] = []
        self._sharing: list[str] = []
        #: What workers of pytest-xdist say, and who.
        self._said: dict[str, list[str]] = {}

    def to_plain(self, header: Sequence[str]) -> dict[str, object]:
        """All that was noted, as plain data, for the controller of pytest-xdist; header: this machine's."""
        return {
            "rows": [row.to_plain() for row in self._rows],
            "kept": [(nodeid, os.fspath(path)) for nodeid, path in self._kept],
            "sharing": list(self._sharing),
            "said": [*header, *self._said],
        }

    def add_worker(self, plain: Mapping[str, Any], who: str, header: Sequence[str]) -> None:
        """Take over what a worker has noted; what its machine lacks is said, if `header` has not done so."""
        for row in map(_Row.from_plain, plain["rows"]):
            self._rows.append(row if row.kind == "test" else dataclasses.replace(row, kind=f"{row.kind} {who}"))
        self._kept += [(nodeid, Path(path)) for nodeid, path in plain["kept"]]
        self._sharing += plain["sharing"]
        for line in plain["said"]:
            if line not in header:
                self._said.setdefault(line, []).append(who)

    def say(self, line: str) -> None:
        """Say something about the run: now, or where this is a worker of pytest-xdist, at the end."""
        if hasattr(self._config, "workerinput"):
            self._said[line] = []
        else:
            show(self._config, f"{line}\n")

    def header(self, known: Mapping[str, Capability]) -> list[str]:
        """One line of what a sandbox is here, and one for each thing that this machine cannot do."""
        spec = self._settings.base.spec
        missing = host.unenforced(spec, known)
        names = {capability.name for capability in missing}
        limits = [
            f"{name} {_limit(name, value)}"
            for name, value in dataclasses.asdict(spec.limits).items()
            if value is not None and name not in names
        ]
        lines = [f"sandbox: network {spec.network.value}, {', '.join(limits)}"]
        lines.extend(_not_enforced(missing, spec.asked))
        attributes = known.get("xattr")
        if attributes is not None and not attributes.available:
            lines.append(_where_layers_are(spec, attributes))
        return lines

    def tell_degraded(self, specs: Iterable[Spec], known: Mapping[str, Capability]) -> None:
        """Say which limits that markers ask for nothing enforces here, each once, but for those that the header has named."""
        base = self._settings.base.spec
        told = {one.name for one in host.unenforced(base, known)} & base.asked
        for spec in specs:
            asked = [one for one in host.unenforced(spec, known) if one.name in spec.asked - told]
            told |= {one.name for one in asked}
            for line in _not_enforced(asked, spec.asked):
                self.say(line)

    def add_test(
        self,
        item: pytest.Item,
        done: list[pytest.TestReport],
        outcome: Outcome,
        made: Made | None,
        *,
        shares_network: bool,
        tests: int,
    ) -> None:
        """Note a test's outcome, and put it into its reports.

        made: what it made by `sandbox_factory`. tests: how many its sandbox ran; it was the last of them.
        """
        if self._settings.usage:
            self._rows.append(_Row(item.nodeid, outcome, "test" if tests == 1 else f"{tests} tests, up to"))
            if made is not None:
                self._rows.append(_Row(item.nodeid, Outcome(Ending.EXITED, None, made.usage), f"{made.count} made by"))
        if shares_network:
            self._sharing.append(item.nodeid)
        if done:
            done[-1].user_properties = [
                *done[-1].user_properties,
                *_properties(outcome, tests, shares_network=shares_network),
                *(_properties_of_made(made) if made is not None else ()),
            ]
            _add_section(done, outcome, made, tests)
        if outcome.leaks and done and not any(report.failed for report in done):
            error = self._warn_of_leaks(item, outcome, tests)
            if error is not None:
                properties = done[-1].user_properties
                done[-1] = make_report(item, "teardown", "failed", error, outcome)
                done[-1].user_properties = properties

    def _warn_of_leaks(self, item: pytest.Item, outcome: Outcome, tests: int) -> str | None:
        """Warn as if the test had, by the filters that hold for it; what is said where they make it an error."""
        from _pytest.warnings import catch_warnings_for_item

        who = "" if tests == 1 else f", or one of the {tests - 1} tests before it in the same sandbox did"
        warning = LeakWarning(_left_running(outcome, who))
        place = str(item.path), (item.location[1] or 0) + 1
        if not self._config.pluginmanager.hasplugin("warnings"):
            self._warn(item, warning, *place)
            return None
        try:
            with catch_warnings_for_item(config=self._config, ihook=item.ihook, when="runtest", item=item):
                warnings.warn_explicit(warning, LeakWarning, *place)
        except LeakWarning as error:
            return f"LeakWarning: {error}"
        return None

    def warn_of_threads(self, item: pytest.Item, definition: FixtureDef[Any], threads: str) -> None:
        """Say that a fixture of a wider scope is set up by each test's sandbox, and how to have it once."""
        code = getattr(definition.func, "__code__", None)
        warning = ThreadWarning(
            f"fixture {definition.argname!r} starts a thread ({threads}), which no fork inherits: it is set up anew in the "
            "sandbox of each test. To have it set up once, let its tests share a sandbox: "
            f"@pytest.mark.sandbox(scope={definition.scope!r})"
        )
        self._warn(item, warning, code.co_filename if code else str(item.path), code.co_firstlineno if code else 1)

    def _warn(self, node: Node, warning: pytest.PytestWarning, path: str, line: int) -> None:
        message = warnings.WarningMessage(warning, type(warning), path, line)
        self._config.hook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": message, "nodeid": node.nodeid, "when": "runtest", "location": None}
        )

    def add_scope(self, node: Node, outcome: Outcome | None) -> None:
        """Note what a scope's own sandbox used, its fixtures, apart from the tests below; and what they have left running."""
        if outcome is not None and outcome.leaks:
            warning = LeakWarning(f"fixtures of {node.nodeid or 'the session'} {_left_running(outcome)}")
            self._warn(node, warning, str(node.path), 1)
        if outcome is not None and self._settings.usage:
            self._rows.append(_Row(node.nodeid or "session", outcome, "scope"))

    def kept(self, item: pytest.Item, done: Sequence[pytest.TestReport], path: Path) -> None:
        """Say where a test's files are."""
        self._kept.append((item.nodeid, path))
        for report in done:
            if report.failed:
                report.sections.append(("Sandbox files", f"what it wrote is kept in {path}"))
                break

    def summary(self, terminal: pytest.TerminalReporter) -> None:
        """The usage table, longest first; which tests shared a network (with -v); where files are kept; what workers said."""
        if self._said:
            terminal.section("sandbox on workers")
            for line, who in self._said.items():
                terminal.write_line(f"{', '.join(who)}: {line}")
        if self._sharing and terminal.verbosity > 0:
            terminal.section("sandbox network shared with the scope around the test")
            for nodeid in self._sharing:
                terminal.write_line(nodeid)
        if self._settings.usage and self._rows:
            terminal.section("sandbox usage")
            for line in _table(self._rows, everything=terminal.verbosity > 0):
                terminal.write_line(line)
        if self._kept:
            terminal.section("sandbox files kept")
            for nodeid, path in self._kept:
                terminal.write_line(f"{path}  {nodeid}")


def _left_running(outcome: Outcome, who: str = "") -> str:
    names = "; ".join(f"{leak.command} (pid {leak.pid})" for leak in outcome.leaks)
    return f"left {len(outcome.leaks)} process(es) running{who}, killed now: {names}"


class ThreadWarning(pytest.PytestWarning):
    """A fixture of a wider scope starts a thread, and so is set up in each test's sandbox instead of once."""


class LeakWarning(pytest.PytestWarning):
    """A test left processes behind. They are killed; whoever started them should have."""


def make_report(item: pytest.Item, when: str, result: str, text: str | None, outcome: Outcome | None = None) -> pytest.TestReport:
    """A report that no test made itself; with an outcome, that of the sandbox which should have made it."""
    keywords = dict.fromkeys(item.keywords, 1)
    report = pytest.TestReport(item.nodeid, item.location, keywords, result, text, when)  # type: ignore[arg-type]
    if outcome is not None:
        report.duration = outcome.usage.wall
        # What had been captured and not yet reported when the sandbox ended.
        parts = (("stdout", outcome.stdout), ("stderr", outcome.stderr))
        captured = [(f"Captured {name} {when}", content.decode("utf-8", "replace")) for name, content in parts if content]
        report.sections += [("Sandbox", describe(outcome, text or "")), *captured]
    return report


def _add_section(done: Sequence[pytest.TestReport], outcome: Outcome, made: Made | None, tests: int) -> None:
    """Describe the outcome in the first report that failed, if it is not there already, and of how many tests it is."""
    for report in done:
        if report.failed and not any(name == "Sandbox" for name, _ in report.sections):
            report.sections.append(("Sandbox", describe(outcome, report.longreprtext)))
            name_limit(report, outcome.ending)
            break
    more = f"\n(of {tests} tests that shared a sandbox)" if tests > 1 else ""
    more += (
        f"\n(sandbox_factory made {made.count} more, which are not in these figures: {_figures(made.usage)})"
        if made is not None
        else ""
    )
    for report in done:
        report.sections = [(name, text + more if name == "Sandbox" else text) for name, text in report.sections]


def name_limit(report: pytest.TestReport, ending: Ending) -> None:
    """Put the limit before what the short summary, junit and --tb=line say of an exception that was its consequence."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and ending not in (Ending.EXITED, Ending.SIGNALLED, Ending.NO_REPORT):
        crash.message = f"{ending.value}: {crash.message}"


def show(config: pytest.Config, text: str) -> None:
    """Write to pytest's terminal, as its own reporter does."""
    reporter = config.pluginmanager.getplugin("terminalreporter") if text else None
    if reporter is not None:
        reporter._tw.write(text)
        reporter._tw.flush()


def show_bytes(data: bytes) -> None:
    """Show what a sandbox wrote past its capture."""
    if data:
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()


def show_error(text: str) -> None:
    """Show what belongs to pytest's stderr."""
    sys.stderr.write(text)
    sys.stderr.flush()


def describe(outcome: Outcome, said: str = "") -> str:
    """The ending, the figures, leaks, changes and stacks of an outcome, for a failed test's report that says `said`."""
    lines = [_figures(outcome.usage)]
    if outcome.sentence not in said and not outcome.ok:
        lines.insert(0, outcome.sentence)
    for leak in outcome.leaks:
        lines.append(f"left running, killed now: {leak.command} (pid {leak.pid})")
    shown = outcome.changes[:_ROWS]
    for change in shown:
        lines.append(f"{change.kind.value}: {change.path}" + (f" ({format_size(change.size)})" if change.size else ""))
    if len(outcome.changes) > len(shown):
        more = f"{len(outcome.changes) - len(shown)}{'+' if outcome.changes_cut else ''}"
        lines.append(f"... and {more} more paths")
    if outcome.stacks:
        lines += ["", stacks.cut(outcome.stacks).rstrip()]
    return "\n".join(lines)


def _figures(usage: Usage) -> str:
    parts = [f"wall {format_seconds(usage.wall)}"]
    if usage.cpu is not None:
        parts.append(f"cpu {format_seconds(usage.cpu)}")
    if usage.memory_peak is not None:
        shares = {"anon": usage.memory_anon, "file": usage.memory_file, "kernel": usage.memory_kernel}
        split = ", ".join(f"{name} {format_size(value)}" for name, value in shares.items() if value is not None)
        parts.append(f"memory peak {format_size(usage.memory_peak)}{split and f' ({split} at the end)'}")
    if usage.memory_max_events:
        parts.append(f"met its memory limit {usage.memory_max_events} times")
    if usage.memory_high_events:
        parts.append(f"slowed down over memory_high {usage.memory_high_events} times")
    if usage.pids_peak is not None:
        parts.append(f"processes peak {usage.pids_peak}")
    if usage.throttled:
        parts.append(f"throttled {format_seconds(usage.throttled)}")
    for name, stalled in (("cpu", usage.cpu_stalled), ("memory", usage.memory_stalled), ("io", usage.io_stalled)):
        if stalled is not None and stalled >= _WORTH_TELLING:
            parts.append(f"waited {format_seconds(stalled)} for {name}")
    if usage.overlay_bytes:
        parts.append(f"written and left {format_size(usage.overlay_bytes)}")
    return ", ".join(parts)


def _limit(name: str, value: Any) -> str:  # noqa: ANN401  # a number, or a list of CPUs
    form = BY_NAME[name].metavar
    if form == "SIZE":
        return format_size(value)
    return format_seconds(value) if form == "SECONDS" else str(value) if isinstance(value, str) else f"{value:g}"


def _properties(outcome: Outcome, tests: int, *, shares_network: bool) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [("sandbox_ending", outcome.ending.value)]
    for name in _PROPERTIES:
        value = getattr(outcome.usage, name)
        if value is not None:
            found.append((f"sandbox_{name}", _rounded(value)))
    if outcome.leaks:
        found.append(("sandbox_leaks", "; ".join(leak.command for leak in outcome.leaks)))
    if tests > 1:
        found.append(("sandbox_tests", tests))
    if shares_network:
        found.append(("sandbox_network", "shared with the scope around it"))
    return found


def _properties_of_made(made: Made) -> list[tuple[str, object]]:
    figures = {"made": made.count, **{f"made_{name}": getattr(made.usage, name) for name in _OF_MADE}}
    return [(f"sandbox_{name}", _rounded(value)) for name, value in figures.items() if value is not None]


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value


def _table(rows: list[_Row], *, everything: bool) -> Iterator[str]:
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


def _cells(row: _Row) -> tuple[str, ...]:
    usage, ending = row.outcome.usage, row.outcome.ending
    figures = [
        "-" if value is None else form(value)
        for form, value in ((form, getattr(usage, field)) for field, form in _COLUMNS.values())
    ]
    leaks = f" ({len(row.outcome.leaks)} leaked)" if row.outcome.leaks else ""
    told = "" if ending is Ending.EXITED else ending.value
    return (*figures, told + leaks, f"[{row.kind}] {row.name}" if row.kind != "test" else row.name)


def _unmeasured(rows: Sequence[_Row]) -> Iterator[str]:
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
