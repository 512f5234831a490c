"""An outcome in a test's report: the details for people, and junit's properties. Imports `header`, `resolve` and `reports`."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Iterator, Sequence

import pytest

from pytest_sandbox.model.outcome import Ending, Made, Outcome, Usage
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.model.texts import printable
from pytest_sandbox.model.units import format_seconds, format_size
from pytest_sandbox.plugin.builtin import stacks
from pytest_sandbox.plugin.builtin.sections import add_another_error, joined
from pytest_sandbox.plugin.planning import resolve
from pytest_sandbox.plugin.planning.options import BY_NAME
from pytest_sandbox.plugin.reporting.header import shown_limit

#: How much of too much output is shown, in bytes, of its beginning and of its end.
_SHOWN = 1 << 15
#: How many changed paths are listed.
_PATHS = 20
#: The shortest wait for a resource that is told, in seconds.
_WORTH_TELLING = 0.1
_PROPERTIES = tuple(field.name for field in dataclasses.fields(Usage) if field.name != "missing")
#: The limit that is met at each ending by one.
_LIMITS = {
    Ending.OUT_OF_MEMORY: "memory",
    Ending.TIMED_OUT: "timeout",
    Ending.CPU_TIME: "cpu_time",
    Ending.TOO_MANY_PROCESSES: "pids",
    Ending.TOO_MANY_OPEN_FILES: "files",
    Ending.DISK_FULL: "disk",
    Ending.OUT_OF_INODES: "inodes",
    Ending.TOO_MUCH_OUTPUT: "output",
}
#: Those that a scope has from the test that it works for; the others are the run's.
_OF_TIME = ("timeout", "cpu_time")
#: The figures that are told of several sandboxes together.
_OF_MANY = ("wall", "cpu", "memory_peak", "pids_peak")


def make_report(item: pytest.Item, when: str, before: pytest.TestReport | None = None) -> pytest.TestReport:
    """A report that no test made itself, of a phase that passed.

    before: that of the phase before it, whose captured output it has too, as pytest's own reports have.
    """
    captured = [] if before is None else [section for section in before.sections if section[0].startswith("Captured ")]
    keywords = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(item.nodeid, item.location, keywords, "passed", None, when, captured)  # type: ignore[arg-type]


def make_failure(
    item: pytest.Item, when: str, text: str, outcome: Outcome | None, before: pytest.TestReport | None = None
) -> pytest.TestReport:
    """One of a phase that failed by the end of its sandbox, with its outcome; before: see `make_report`."""
    report = make_report(item, when, before)
    if outcome is not None:
        report.duration = outcome.usage.wall
    fail(report, text, outcome)
    return report


def fail(report: pytest.TestReport, text: str, outcome: Outcome | None) -> None:
    """Have a report that passed, or was skipped, be a failure. It keeps what it has, and its duration.

    With the outcome it gets a description of that, and what had been captured and not yet reported when the sandbox ended.
    """
    report.outcome, report.longrepr = "failed", text
    vars(report).pop("wasxfail", None)
    if outcome is not None:
        parts = (("stdout", outcome.stdout), ("stderr", outcome.stderr))
        is_long = outcome.ending is Ending.TOO_MUCH_OUTPUT
        left = [(f"Captured {name} {report.when}", _text(content, is_long=is_long)) for name, content in parts if content]
        report.sections = [("Sandbox", describe(outcome, text)), *joined(report.sections, left)]


def add_error(report: pytest.TestReport, text: str, outcome: Outcome | None) -> None:
    """Have the report of a teardown be a failure, see `fail`, or one that has failed tell of another."""
    if report.failed:
        add_another_error(report, text)
    else:
        fail(report, text, outcome)


def _text(content: bytes, *, is_long: bool) -> str:
    """Output, of which only both ends are shown where it was too much: nobody reads on to what stands below 64 MB of it."""
    left_out = len(content) - 2 * _SHOWN
    if is_long and left_out > 0:
        content = content[:_SHOWN] + b"\n... %d bytes are left out here ...\n" % left_out + content[-_SHOWN:]
    return content.decode("utf-8", "replace")


def add_outcome(
    item: pytest.Item,
    done: Sequence[pytest.TestReport],
    outcome: Outcome,
    made: Made | None,
    tests: int,
    *,
    shares_network: bool,
) -> None:
    """Put an outcome into the reports of a test, for people and for junit; see `Book.add_test`."""
    done[-1].user_properties = [
        *done[-1].user_properties,
        *_properties(outcome, tests, shares_network=shares_network),
        *(properties_of_many("made", made) if made is not None else ()),
    ]
    add_section(done, outcome)
    more = f"\n(of {tests} tests that shared a sandbox)" if tests > 1 else ""
    more += (
        f"\n(sandbox_factory made {made.count} more, which are not in these figures: {_figures(made.usage)})"
        if made is not None
        else ""
    )
    first = "".join(f"{line}\n" for line in _origins(item, outcome))
    for report in done:
        for index, (name, text) in enumerate(report.sections):
            if name == "Sandbox":
                said = f"{outcome.sentence}\n" if text.startswith(f"{outcome.sentence}\n") else ""
                report.sections[index] = name, said + first + text.removeprefix(said) + more


def _origins(item: pytest.Item, outcome: Outcome) -> Iterator[str]:
    """Where each limit comes from that the sentence says was met; how to set one that is a default."""
    for name in _met(outcome, resolve.plan(item, resolve.settings(item.config)).spec.limits):
        yield _origin(name, resolve.origin(item, name), f", or @pytest.mark.sandbox({name}=...)")


def origins_for_scope(item: pytest.Item, outcome: Outcome, limits: Limits) -> str:
    """The same, in brackets, of the limits of a scope's sandbox, which worked for an item: whose limits of time it has."""
    own = resolve.plan(item, resolve.settings(item.config)).spec.limits
    met = _met(outcome, dataclasses.replace(limits, timeout=own.timeout, cpu_time=own.cpu_time))
    found = [
        _origin(name, resolve.origin(item, name) if name in _OF_TIME else resolve.origin_in_run(item.config, name))
        for name in met
    ]
    return f" ({'; '.join(found)})" if found else ""


def _origin(name: str, origin: str, or_else: str = "") -> str:
    return f"limit {name}: {f'set by {origin}' if origin else f'the default; to set it: {BY_NAME[name].flag}{or_else}'}"


def _met(outcome: Outcome, limits: Limits) -> Iterator[str]:
    """The limits that the sentence says were met; not another's: that of a cgroup around pytest, or of a timer of the test's."""
    for ending, name in _LIMITS.items() if outcome.ending in _LIMITS else ():
        value, (_, _, figures) = getattr(limits, name), outcome.sentence.partition(f"{ending.value}: ")
        if value is not None and re.search(rf"\blimit {re.escape(shown_limit(name, value))}(?!\w)", figures):
            yield name


def add_section(done: Sequence[pytest.TestReport], outcome: Outcome) -> None:
    """Describe the outcome in the first report that failed, if it is not there already."""
    failed = next((report for report in done if report.failed), None)
    if failed is not None and not any(name == "Sandbox" for name, _ in failed.sections):
        failed.sections.append(("Sandbox", describe(outcome, failed.longreprtext)))
        _name_limit(failed, outcome.ending)


def _name_limit(report: pytest.TestReport, ending: Ending) -> None:
    """Put the limit before what the short summary, junit and --tb=line say of an exception that was its consequence."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and ending not in (Ending.EXITED, Ending.SIGNALLED, Ending.NO_REPORT):
        crash.message = f"{ending.value}: {crash.message}"


def describe(outcome: Outcome, said: str = "") -> str:
    """The ending, the figures, leaks, changes and stacks of an outcome, for a failed test's report that says `said`."""
    lines = [_figures(outcome.usage)]
    if outcome.sentence not in said and not outcome.ok:
        lines.insert(0, outcome.sentence)
    for leak in outcome.leaks:
        lines.append(f"left running, killed now: {leak.command} (pid {leak.pid} inside)")
    shown = outcome.changes[:_PATHS]
    for change in shown:
        lines.append(f"{change.kind.value}: {printable(change.path)}" + (f" ({format_size(change.size)})" if change.size else ""))
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


def _properties(outcome: Outcome, tests: int, *, shares_network: bool) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [("sandbox_ending", outcome.ending.value)]
    for name in _PROPERTIES:
        value = getattr(outcome.usage, name)
        if value is not None:
            found.append(_pair(name, _rounded(value)))
    if outcome.leaks:
        found.append(("sandbox_leaks", "; ".join(leak.command for leak in outcome.leaks)))
    if tests > 1:
        found.append(("sandbox_tests", tests))
    if shares_network:
        found.append(("sandbox_network", "shared with the scope around it"))
    return found


def properties_of_many(kind: str, many: Made) -> list[tuple[str, object]]:
    """How many of a kind there were, and the figures that are told of several."""
    figures = {kind: many.count, **{f"{kind}_{name}": getattr(many.usage, name) for name in _OF_MANY}}
    return [(f"sandbox_{name}", _rounded(value)) for name, value in figures.items() if value is not None]


@functools.lru_cache(maxsize=1024, typed=True)
def _pair(name: str, value: object) -> tuple[str, object]:
    """A property; the same one for tests that have it in common: pytest keeps them all to the run's end."""
    return sys.intern(f"sandbox_{name}"), value


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value
