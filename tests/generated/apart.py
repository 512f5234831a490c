"""Which tests of a suite differ by their nature with --sandbox, in what, and why; for compare.py, all else of them is the same.

What is apart is so by a test's node id, as plain pytest has told of it: a sandboxed run has no say in what it is excused from.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import generator

Event = Sequence[Any]


@dataclasses.dataclass
class Apart:
    """Node ids, by what is not compared of them; outcomes and order are of all but those that are `lost`."""

    #: Nothing that is reported of these.
    lost: set[str] = dataclasses.field(default_factory=set)
    #: The text of a failure.
    texts: set[str] = dataclasses.field(default_factory=set)
    #: What is captured and said in the teardown.
    teardowns: set[str] = dataclasses.field(default_factory=set)
    #: The same of the set-up, too, and how often those warn.
    around: set[str] = dataclasses.field(default_factory=set)
    #: Whether the teardown fails.
    ends: set[str] = dataclasses.field(default_factory=set)
    #: What is captured while it runs.
    calls: set[str] = dataclasses.field(default_factory=set)
    #: Kinds of warnings, whoever gives them.
    warnings: str = "$^"
    #: Lines of what is captured.
    lines: str = "$^"
    reasons: set[str] = dataclasses.field(default_factory=set)

    @property
    def tests(self) -> set[str]:
        """All of them."""
        return self.lost | self.texts | self.teardowns | self.around | self.ends | self.calls


@dataclasses.dataclass(frozen=True)
class Ran:
    """A suite, and what plain pytest has shown of it."""

    suite: generator.Suite
    events: Sequence[Event]
    output: str

    @functools.cached_property
    def tests(self) -> list[str]:
        """Those that ran, in their order."""
        return list(dict.fromkeys(event[1] for event in self.events if event[0] == "start"))

    @functools.cached_property
    def texts(self) -> list[tuple[str, str, str]]:
        """Test, phase and text of each failure, also of those that were expected and are not shown."""
        return [(event[1], event[2], event[5]) for event in self.events if event[0] == "report" and event[5]]

    def telling(self, pattern: str) -> list[str]:
        """Tests in a failure of which this is."""
        return [test for test, _, text in self.texts if re.search(pattern, text, re.MULTILINE)]

    def since(self, pattern: str) -> list[str]:
        """The first of those, and all tests after it."""
        first = next(iter(self.telling(pattern)), None)
        return [] if first is None else self.tests[self.tests.index(first) :]

    def named(self, names: frozenset[str]) -> list[str]:
        """Tests of these functions."""
        return [test for test in self.tests if test.rpartition("::")[2].partition("[")[0] in names]

    def stopped(self) -> list[str]:
        """The last test, where it was not meant to be the last one."""
        return self.tests[-1:] if re.search(r"^!+ |! stopping after|^= .*!!!", self.output, re.MULTILINE) else []


#: pytest's own assertion: what it raises where a fixture's set-up was ended by SystemExit.
_OWN = (
    r"assert not self\._finalizers|previous item was not torn down properly|^(E   )?AssertionError$|"
    r"/_pytest/(fixtures|runner)\.py:\d+: AssertionError$"
)
_EXIT = r"SystemExit: (set-up|setup|tearDownClass)|(?s:\b(in|def) tearDownClass\b.*\bBaseException: base)"
_LEFT = r"Pytest(UnraisableException|UnhandledThreadException)Warning"


def _broken(ran: Ran) -> list[str]:
    """Tests that fail by pytest's own assertion, where that is told of and where it was expected to fail."""
    return [*ran.telling(_OWN), *re.findall(r"^(?:ERROR|FAILED) (\S+) - AssertionError$", ran.output, re.MULTILINE)]


def _left(ran: Ran) -> list[str]:
    """Those that leave something, and those that are told of it, as they run when it is found."""
    return [*ran.named(ran.suite.leaving), *ran.telling(_LEFT)] if ran.suite.leaving else []


@dataclasses.dataclass(frozen=True)
class Rule:
    """A reason, the fields of Apart, and which tests."""

    why: str
    fields: str
    who: Callable[[Ran], Sequence[str]]


INTENDED_OF_TESTS = (
    Rule(
        "pytest fails by an assertion of its own in later tests that need a fixture that has raised SystemExit",
        "lost",
        _broken,
    ),
    Rule(
        "a fixture that has raised SystemExit is never torn down by pytest, nor in time what is around a class whose "
        "tearDownClass has, or has raised another BaseException",
        "ends around",
        lambda ran: ran.since(_EXIT),
    ),
    Rule(
        "of a teardown's errors pytest tells those of unittest's tearDown only, not a wider fixture's",
        "teardowns",
        lambda ran: ran.telling(r"\b(in|def) tearDown\b"),
    ),
    Rule(
        "what a test leaves to be collected is so in its own process, and told of it; what threads leave is told there, too",
        "lost",
        _left,
    ),
    Rule(
        "with -p no:warnings that is printed as the next test runs",
        "around calls",
        lambda ran: ran.tests if ran.suite.leaving and "no:warnings" in ran.suite.arguments else [],
    ),
    Rule(
        "an error of pytest's own, before a fixture runs, is met by scope and test",
        "texts",
        lambda ran: ran.telling(r"E +pytest\.PytestRemovedIn10Warning"),
    ),
    Rule(
        "the errors of a test's teardown and of its scopes' come from several processes",
        "teardowns",
        lambda ran: ran.telling(r"errors (during test teardown|while tearing down .*) \("),
    ),
    Rule(
        "what was set up early, for tests that then do not run, is torn down all the same, and what is torn down after "
        "pytest.exit() or Ctrl-C is so in the test's process",
        "teardowns",
        Ran.stopped,
    ),
    Rule(
        "--showlocals shows, of pytest itself, times and what its process holds",
        "texts",
        lambda ran: ran.telling(r"^(E +)?func +=.*call_and_report\.<locals>"),
    ),
    Rule(
        "a traceback through all of pytest shows the way by which a fixture was set up, or its failure found",
        "texts",
        lambda ran: ran.telling("") if "--full-trace" in ran.suite.arguments else [],
    ),
    Rule(
        "the progress letters of unittest's subtests are captured by plain pytest as if the test had written them",
        "calls",
        lambda ran: ran.named(ran.suite.letters),
    ),
    Rule(
        "narrower scopes are set up anew as a parametrized fixture of a wider one moves, since they are forks of its own; or a "
        "package's fixture is not defined in its conftest",
        "around",
        lambda ran: ran.tests if ran.suite.moves else [],
    ),
)
NO_WARNINGS = "Python prints a warning once for each place, and remembers that in a memory that sandboxes do not share"


def find(ran: Ran) -> Apart:
    """What differs of a suite by its nature."""
    apart = Apart()
    for rule in INTENDED_OF_TESTS:
        tests = set(rule.who(ran))
        for field in rule.fields.split():
            getattr(apart, field).update(tests)
        apart.reasons |= {rule.why} if tests else set()
    if ran.suite.leaving:
        apart.warnings = _LEFT
    if "no:warnings" in ran.suite.arguments:
        apart.lines = r"^\S+:\d+: \w*Warning: .*\n((Instance|as each|Use|See) .*\n)*(  .*\n)?"
        apart.reasons.add(NO_WARNINGS)
    return apart


def events(found: Sequence[Event], apart: Apart) -> Iterator[Event]:
    """The events, without what is apart."""
    for event in found:
        if event[0] == "report":
            if event[1] not in apart.lost and not (event[1] in apart.ends and event[2] == "teardown"):
                yield _report(event, apart)
        elif event[0] != "warning" or not _is_warning_apart(event, apart):
            yield event


def _is_warning_apart(event: Event, apart: Apart) -> bool:
    """Whether it is of such a test; of one whose set-up and teardown are apart, whether it is not the test's own."""
    _, _, test, category, message, *_ = event
    own = test.rpartition("::")[2].partition("[")[0] in message
    if not test and apart.teardowns:  # of the run's end, where more may be torn down
        return "teardown" in message or bool(re.search(apart.warnings, category))
    return bool(re.search(apart.warnings, category)) or test in apart.lost or (test in apart.around and not own)


def _report(event: Event, apart: Apart) -> Event:
    kind, test, when, outcome, xfail, text, is_tuple, sections, *more = event
    by_phase = {"setup": apart.around, "call": apart.calls, "teardown": apart.around | apart.teardowns}
    phases = [phase for phase, tests in by_phase.items() if test in tests]
    if test in apart.texts or when in phases:
        text = ""
    sections = [
        [name, _without(apart.lines, said)] for name, said in sections if not any(name.endswith(f" {phase}") for phase in phases)
    ]
    return (kind, test, when, outcome, xfail, text, is_tuple, [one for one in sections if one[1]], *more)


def _without(lines: str, text: str) -> str:
    """The text without these lines, and without headlines that have none below."""
    without = re.sub(lines, "", text, flags=re.MULTILINE)
    return without if without == text else re.sub(r"^-+ Captured std\w+ \w+ -+\n(?=[-=_])", "", without, flags=re.MULTILINE)


_HEADLINE, _SECTION = re.compile(r"^_+ (.*) _+$"), re.compile(r"^= (.*) =$")
#: What the summary begins with for each test; a reason may have more lines.
_ENTRY = re.compile(r"^(FAILED|ERROR|PASSED|XFAIL|XPASS|SKIPPED|SUB\w+)\b")
#: Sections of the output in which what tests do is added up.
_SUMS = re.compile(r"^(warnings summary.*|.*\d+ \w+( in N s)?.*)$")
#: Lines that do not say which tests they are about.
_PROGRESS = re.compile(r"^(\S+\.py )?[.FEsxXu,-]+( +\[ *\d+(%|/\d+)\])?$|^SKIPPED \[\d+\]|^\d+ \w+.* in N s$|^Interrupted|^!+ ")


def output(text: str, apart: Apart) -> Iterator[str]:
    """The lines on the terminal, without those about tests that are apart, and without sums."""
    names = [".".join(test.split("::")[1:]) for test in apart.tests]
    # What plain pytest tears down after the last test is not captured.
    has_raw = bool(apart.teardowns | apart.ends)
    left_out, section = has_raw, ""  # with -q nothing is above it
    for line in _without(apart.lines, text).splitlines():
        if found := _SECTION.match(line):
            section = found[1]
            left_out = bool(_SUMS.match(section)) or (has_raw and found[1] == "test session starts")
        elif found := _HEADLINE.match(line):
            left_out = any(re.search(rf"(^| ){re.escape(name)}( |$)", found[1]) for name in names)
        elif _ENTRY.match(line) and section == "short test summary info":  # else it is a letter that a test has captured
            left_out = any(test in line for test in apart.tests)
        if not left_out and not _PROGRESS.match(line) and not any(test in line for test in apart.tests):
            yield line


def junit(text: str, apart: Apart) -> Iterator[str]:
    """The tests of a JUnit file that are not apart."""
    names = {test.rpartition("::")[2] for test in apart.tests}
    for case in ET.fromstring(text).iter("testcase"):
        if case.get("name") not in names:
            yield _without(apart.lines, ET.tostring(case, encoding="unicode"))
