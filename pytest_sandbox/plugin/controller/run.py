"""The plugin object of a sandboxed run: refuses what cannot be had, and hands the run to the walk."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import sys
from collections import ChainMap
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NoReturn

import pytest

from pytest_sandbox.model.capability import Capability
from pytest_sandbox.model.errors import SetupError, UnavailableError
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.plugin.builtin import junit, strays, watchdog
from pytest_sandbox.plugin.builtin.ledger import Ledger
from pytest_sandbox.plugin.builtin.settling import SEVERAL, past_counting
from pytest_sandbox.plugin.controller.walk import Walk
from pytest_sandbox.plugin.inside import meeting
from pytest_sandbox.plugin.inside.threads import Threads
from pytest_sandbox.plugin.others import asked, carried, dependency, loaded, refused, sybil
from pytest_sandbox.plugin.others.coverage.measured import measure
from pytest_sandbox.plugin.planning import paths, resolve, scopes
from pytest_sandbox.plugin.planning.through import let_through
from pytest_sandbox.plugin.reporting.book import Book
from pytest_sandbox.plugin.reporting.header import header
from pytest_sandbox.primitives.pages import shared
from pytest_sandbox.sandbox.machine import host


def register(config: pytest.Config, settings: resolve.Settings) -> None:
    """Make this run sandboxed, which is not one of pytest-xdist."""
    config.pluginmanager.register(Alone(config, settings), "sandbox-controller")


def known(config: pytest.Config, settings: resolve.Settings) -> Mapping[str, Capability]:
    """What this machine can do, in this run. Raises UsageError for what the run asks for and cannot have here."""
    refused.refuse_green()
    found: Mapping[str, Capability] = host.capabilities()
    if option := past_counting(config):
        found = ChainMap({"output": _uncounted(option)}, found)  # type: ignore[arg-type]  # which nobody changes
    try:
        host.refuse_missing(["platform"], found)  # without which nothing else can be tried
        host.refuse_missing(sorted(settings.require), found)
        if not settings.degrade:
            _refuse_for_all(config, settings.base.spec, found)
    except UnavailableError as error:
        raise pytest.UsageError(f"--sandbox: {error}") from error
    except OSError as error:  # of what it takes to try: a process, descriptors
        raise pytest.UsageError(f"--sandbox: {SetupError.of('try what this machine can do', error)}") from error
    return found


def _refuse_for_all(config: pytest.Config, spec: Spec, found: Mapping[str, Capability]) -> None:
    try:
        host.refuse(spec, found)
    except UnavailableError as error:
        names = [one.name for one in host.unenforced(spec, found) if one.name in spec.asked]
        who = ", ".join(filter(None, dict.fromkeys(resolve.origin_in_run(config, name) for name in names)))
        raise pytest.UsageError(f"{who or '--sandbox'}: {error}") from error


def _uncounted(option: str) -> Capability:
    reason = f"with {option}, tests write straight to pytest's own output, where nobody counts it"
    return Capability("output", False, reason, "capture by descriptors (--capture=fd), or take what there is (--sandbox-degrade)")


#: What the controller has open for each test that runs, and for those that are made and end meanwhile.
_DESCRIPTORS = 24
#: Why workers of pytest-xdist run one test at a time.
HANDED_OUT = "pytest-xdist hands them out"


class Controller:
    """What is the same for each process that has sandboxes."""

    def __init__(self, config: pytest.Config, settings: resolve.Settings) -> None:
        if not config.pluginmanager.has_plugin("reports"):
            raise pytest.UsageError(
                "--sandbox: with -p no:reports no report can leave a sandbox: leave that out, or run with --no-sandbox"
            )
        self.config = config
        self._given = self.settings = settings
        self.jobs, self._why_fewer = self._at_once()
        config.stash[SEVERAL] = self.jobs > 1
        self.known = known(config, settings)
        self.settings = dataclasses.replace(settings, base=self._settled(settings.base, self.known))
        self.book = Book(config, self.settings)
        self.ledger = Ledger()
        config.pluginmanager.register(self.ledger, "sandbox-ledger")

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        """Say which threads modules start as they are imported: they run in this process, and in no sandbox."""
        threads = Threads()
        result = yield
        if names := threads.named():
            self.book.warn_of_threads_at_import(session, ", ".join(names))
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """See `junit.keep_to_schema`; and with -q, which leaves out pytest's header, say all the same what is not enforced."""
        junit.keep_to_schema(self.config)
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and not getattr(reporter, "showheader", True):
            for line in header(self.settings.base.spec, self.known)[1:]:
                self.book.say(line)

    def pytest_report_header(self) -> list[str]:
        """What is enforced, and loudly what is not; and how many tests run at once."""
        jobs = [f"sandbox: {self._told_jobs()}"] if self.settings.jobs > 1 else []
        return [*header(self.settings.base.spec, self.known), *jobs]

    def _at_once(self) -> tuple[int, str]:
        """How many tests run at once, and why no more."""
        option = self.config.option
        if hasattr(self.config, "workerinput"):
            return 1, HANDED_OUT
        if getattr(option, "usepdb", False) or getattr(option, "trace", False):
            return 1, "a debugger has the terminal"
        if getattr(option, "capture", "fd") in ("no", "tee-sys"):
            return 1, "output is shown as it comes (-s)"
        if getattr(option, "max_suite_reruns", None) is not None:
            return 1, "pytest-rerunfailures counts the reruns of all tests (--max-suite-reruns)"
        most = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _DESCRIPTORS - 2)
        return min(self.settings.jobs, most), "" if most >= self.settings.jobs else "there are no more descriptors (ulimit -n)"

    def _told_jobs(self) -> str:
        why = f": {self._why_fewer}" if self._why_fewer else ""
        return f"{'one test at a time' if self.jobs == 1 else f'up to {self.jobs} tests at once'}{why}"

    def _run_one_at_a_time(self, session: pytest.Session) -> None:
        """Where tests have to do with each other, or with how long they take."""
        if self.jobs == 1:
            return
        why = ""
        if dependency.is_used(self.config):
            why = "pytest-dependency has tests ask how earlier ones have ended"
        elif loaded(self.config, "pytest_benchmark.plugin") is not None and any(
            "benchmark" in getattr(item, "fixturenames", ()) for item in session.items
        ):
            why = "pytest-benchmark measures how long some take"
        elif "uvloop" in sys.modules:
            why = "uvloop's loops, where a wider fixture has one, share with their forks what wakes them"
        elif held := next(iter(meeting.found().values()), ""):
            why = f"a module or plugin holds {held}, where tests would meet"
        if why:
            self.jobs, self._why_fewer = 1, why
            self.book.say(f"sandbox: {self._told_jobs()}")

    @contextlib.contextmanager
    def walk(self, session: pytest.Session, *, in_order: bool) -> Iterator[Walk]:
        """The walk over what was collected. What cannot be had is refused, by a UsageError, before anything runs."""
        try:
            refused.refuse_green()
            self._plan(session)
            dependency.find(self.config, session.items)
            self._run_one_at_a_time(session)
            measure(self.config)
            watchdog.note(self.config)
            asked.name_beforehand(self.config, session.items)
            asked.name_what_may_be_asked(self.config, session.items)
            boxed = [item for item, plan in zip(session.items, self.plans, strict=True) if plan.enabled]
            for name in refused.shortened_reports(self.config, boxed):
                self.book.say(f"sandbox: the report of {name} will lack what it notes of tests in sandboxes; outcomes are right")
            order = scopes.units(session.items, self.plans)
            workers = getattr(self.config, "workerinput", {}).get("workercount", 1)
            forks = sum(isinstance(entry, scopes.Unit) for entry in order) // workers
            with (
                carried.carrying(self.config, boxed),
                strays.collected(self.config),
                shared(forks),
                Walk(session, order, self.settings, self.book, self.ledger, jobs=self.jobs, in_order=in_order) as walk,
            ):
                yield walk
        except pytest.UsageError:
            carried.spare(self.config)
            raise

    def _plan(self, session: pytest.Session) -> None:
        plans = [self._given.base, *resolve.plans(session.items, self._given)]
        # Items without a marker go on to have one plan.
        changed = {plan: self._settled(plan, self.known) for plan in dict.fromkeys(plans)}
        if self.settings.degrade:
            self.book.tell_degraded([new.spec for new in changed.values()], self.known)
            changed = {plan: dataclasses.replace(new, spec=host.degraded(new.spec)) for plan, new in changed.items()}
        plans = [changed[plan] for plan in plans]
        plans[1:] = map(_with_its_document, plans[1:], session.items)
        refused.refuse_lost_results(self.config, session.items, plans[1:])
        refused.refuse_parted(session.items, plans[1:])
        base, *self.plans = let_through(self.config, session.items, plans, self.book.say)
        self.settings = dataclasses.replace(self.settings, base=base)
        self._refuse(session.items)
        self._tell_absent()

    @staticmethod
    def _settled(plan: resolve.Plan, known: Mapping[str, Capability]) -> resolve.Plan:
        return dataclasses.replace(plan, spec=host.settled(plan.spec, known))

    def _refuse(self, items: Sequence[pytest.Item]) -> None:
        if self.settings.degrade:
            return
        first: dict[str, str] = {}
        for plan, item in dict(zip(self.plans, items, strict=True)).items():
            for line in self._missing(plan):
                first.setdefault(line, item.nodeid)
        if first:
            raise pytest.UsageError("\n".join(f"{nodeid}: {line}" for line, nodeid in first.items()))

    def _missing(self, plan: resolve.Plan) -> list[str]:
        """What a plan asks for and cannot have here, in lines."""
        try:
            if plan.enabled:
                host.refuse(plan.spec, self.known)
        except UnavailableError as error:
            return str(error).splitlines()
        return []

    def _tell_absent(self) -> None:
        """Say what there was not to hide: a typing error, or a path that only other machines have."""
        hidden = dict.fromkeys(path for plan in self.plans if plan.enabled for path in plan.spec.hide)
        for path in paths.absent(hidden):
            self.book.say(f"sandbox: nothing to hide: {path} does not exist here")


def _with_its_document(plan: resolve.Plan, item: pytest.Item) -> resolve.Plan:
    """The plan, with one sandbox for the document that the item is a part of, if nobody has said otherwise."""
    document = sybil.document(item) if plan.is_alone else None
    return plan if document is None else dataclasses.replace(plan, group=document)


_GUARD = "sandbox-guard"


class _Guard:
    """A plugin while our loop does not run: nobody else's runs a test, which would be on the machine itself."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> NoReturn:
        """Refuse it."""
        raise pytest.UsageError(_refusal(item))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> NoReturn:
        """Refuse it where that is not called first. What else is raised here would be the test's own error."""
        pytest.exit(_refusal(item), returncode=pytest.ExitCode.USAGE_ERROR)


def _refusal(item: pytest.Item) -> str:
    return (
        f"--sandbox: a plugin's or conftest's own pytest_runtestloop runs {item.nodeid}, which would be without a sandbox. "
        "Fix: run without that, or with --no-sandbox"
    )


class Alone(Controller):
    """The plugin object of a run in one process."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """See that nobody else's loop runs tests, which would do so without sandboxes."""
        with self._guarded():
            return (yield)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        plugins = self.config.pluginmanager
        plugins.register(_Guard(), _GUARD)
        try:
            yield
        finally:
            plugins.unregister(name=_GUARD)

    @contextlib.contextmanager
    def _unguarded(self) -> Iterator[None]:
        plugins = self.config.pluginmanager
        guard = plugins.unregister(name=_GUARD)
        try:
            yield
        finally:
            plugins.register(guard, _GUARD)

    def loop(self, session: pytest.Session) -> bool | None:
        """The run itself, in the place of pytest's own loop."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            return None  # pytest's own says so
        if session.items:
            with self._unguarded(), self.walk(session, in_order=True) as walk:
                walk.all()
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> Generator[None, object, object]:
        """All is gone."""
        self.book.finish()
        result = yield
        self.book.raise_late(exitstatus)
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The usage table, and where kept files are."""
        self.book.summary(terminalreporter)
