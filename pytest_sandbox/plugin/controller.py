"""The controller: walks the units, opens and closes scope sandboxes, and makes reports of what it hears. Runs no test code.

    for each unit:   open what its chain lacks -> run -> close what the next one does not need -> report
    for each item:   logstart, its reports (the teardown held back until scopes that end with it are closed), logfinish
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence

import pytest
from _pytest.nodes import Node

from pytest_sandbox.model.errors import SandboxError, UnavailableError, WireError
from pytest_sandbox.model.outcome import Ending, Outcome
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.plugin import inside, ledger, resolve, scopes
from pytest_sandbox.plugin.fixtures import Requests
from pytest_sandbox.plugin.report import Book, describe
from pytest_sandbox.plugin.reports import from_frame, record_warning
from pytest_sandbox.plugin.scopes import Need, Unit
from pytest_sandbox.plugin.tmp import keep_changes, keep_tmp_path
from pytest_sandbox.sandbox import host
from pytest_sandbox.sandbox.child import Inside
from pytest_sandbox.sandbox.running import Running
from pytest_sandbox.sandbox.supervisor import Supervisor
from pytest_sandbox.sandbox.wire import Frame

#: How long scopes may take to tear down after Ctrl-C, in seconds.
PATIENCE = 10.0


def register(config: pytest.Config, settings: resolve.Settings) -> None:
    """Make this run sandboxed."""
    if hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None):
        raise pytest.UsageError(
            "--sandbox does not run under pytest-xdist in this version. Fix: leave out -n (or --dist, --tx), or use --no-sandbox"
        )
    known = host.capabilities()
    try:
        host.refuse_missing(sorted(settings.require), known)
        if not settings.degrade:
            host.refuse(settings.base.spec, known)
    except UnavailableError as error:
        raise pytest.UsageError(f"--sandbox: {error}") from error
    config.pluginmanager.register(Controller(config, settings, known), "sandbox-controller")


@dataclasses.dataclass(eq=False)
class Scope:
    """An open scope sandbox: its node, and the set-ups that it has made or is to make, by the fixture's definition."""

    node: Node
    running: Running
    has: dict[int, int | None]
    last_item: int
    outcome: Outcome | None = None
    closed: pytest.TestReport | None = None
    setting_up: str = ""


class Controller:
    """The plugin object of a sandboxed run."""

    def __init__(self, config: pytest.Config, settings: resolve.Settings, known: dict[str, host.Capability]) -> None:
        self.config = config
        self.settings = settings
        self.known = known
        self.book = Book(config, settings)
        self.ledger = ledger.Ledger()
        config.pluginmanager.register(self.ledger, "sandbox-ledger")

    def pytest_report_header(self) -> list[str]:
        """What is enforced, and loudly what is not."""
        return self.book.header(self.known)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """The run itself, in the place of pytest's own loop; what cannot be had is refused before anything runs."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            return None  # pytest's own says so
        if not session.items:
            return True
        self.plans = resolve.plans(session.items, self.settings)
        self._refuse(session.items)
        with _Run(self, session) as run:
            run.all()
        return True

    def _refuse(self, items: Sequence[pytest.Item]) -> None:
        for plan, item in {plan: item for plan, item in zip(self.plans, items)}.items():
            if plan.enabled and not self.settings.degrade:
                try:
                    host.refuse(plan.spec, self.known)
                except UnavailableError as error:
                    raise pytest.UsageError(f"{item.nodeid}: {error}") from error

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The usage table, and where kept files are."""
        self.book.summary(terminalreporter)


class _Run:
    """One walk over the units."""

    def __init__(self, controller: Controller, session: pytest.Session) -> None:
        self.controller, self.session, self.config = controller, session, session.config
        self.order = scopes.units(session.items, controller.plans)
        self.units = [entry for entry in self.order if isinstance(entry, Unit)]
        self.open: list[Scope] = []
        self.broken: dict[int, str] = {}
        with contextlib.suppress(AttributeError):
            self.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # or each child makes its own
        keeps = _keeps_terminal(self.config)
        self.world = inside.World(session, self.units, controller.ledger, keeps_terminal=keeps)
        self.supervisor = self._supervisor(keeps)
        self.requests = Requests(self.supervisor)

    def _supervisor(self, keeps: bool) -> Supervisor:
        writable = dict.fromkeys(path for unit in self.units for path in unit.spec.writable)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        scratch = self.controller.settings.scratch
        layout = host.make_layout(host.find_identity(), writable, scratch and os.path.join(scratch, f"pytest-sandbox-{name}"))
        if keeps:
            layout = dataclasses.replace(layout, keep_descriptors=inside.terminal_descriptors(self.config))
        try:
            return Supervisor(name, layout)
        except (OSError, SandboxError) as error:
            raise pytest.UsageError(f"--sandbox: {error}") from error

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and self.open:
                self._close_in_a_hurry()
        finally:
            self.supervisor.close()

    # -- the walk -----------------------------------------------------------------------------------------------------

    def all(self) -> None:
        """Every unit and every item that is not sandboxed, in order."""
        for position, entry in enumerate(self.order):
            following = next((later for later in self.order[position + 1 :] if isinstance(later, Unit)), None)
            if isinstance(entry, Unit):
                self._run_unit(entry, following)
            else:
                self._run_here(position, entry)
            if self.session.shouldfail:
                raise self.session.Failed(self.session.shouldfail)
            if self.session.shouldstop:
                raise self.session.Interrupted(self.session.shouldstop)

    def _run_here(self, position: int, index: int) -> None:
        item = self.session.items[index]
        later = next((entry for entry in self.order[position + 1 :] if isinstance(entry, int)), None)
        nextitem = None if later is None else self.session.items[later]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)

    def _run_unit(self, unit: Unit, following: Unit | None) -> None:
        remaining = unit.items
        while remaining:
            told = _Telling(self, unit, remaining)
            try:
                told.run()
            except _Unrunnable as problem:
                told.fail(str(problem))
            remaining = told.remaining
            self._finish(told, following if not remaining else unit, unit)
            if self.session.shouldfail or self.session.shouldstop:
                return

    def _finish(self, told: _Telling, following: Unit | None, unit: Unit) -> None:
        """Report what was held back, after closing the scopes that end here."""
        told.report_all_but_last()
        if self.session.shouldfail or self.session.shouldstop:
            following = None
        for scope in self._ending(following):
            told.merge(self.close(scope))
        told.report_last()
        told.raise_interruption()
        del unit

    # -- scopes -------------------------------------------------------------------------------------------------------

    def _ending(self, following: Unit | None) -> list[Scope]:
        """The open scopes that the following unit cannot use, innermost first."""
        keep = 0
        if following is not None:
            for scope, node in zip(self.open, following.chain):
                if scope.node is not node or scope.outcome is not None:
                    break
                keep += 1
                if self._changes(scope, following):  # what stands on it must go before it may change
                    break
        return list(reversed(self.open[keep:]))

    def _changes(self, scope: Scope, unit: Unit) -> bool:
        """Whether the unit needs something of an open scope that it does not have yet, or not with this parameter."""
        return any(self._lacks(scope, need) for need in unit.above if need.node is scope.node)

    def _lacks(self, scope: Scope, need: Need) -> bool:
        return id(need.definition) not in scope.has or scope.has[id(need.definition)] != need.index

    def reach(self, unit: Unit, told: _Telling) -> Running:
        """Open what the unit's chain lacks; the running sandbox from which it is to be forked."""
        for need in unit.above:
            if id(need.definition) in self.broken:
                raise _Unrunnable(self.broken[id(need.definition)])
        for depth, node in enumerate(unit.chain):
            if depth < len(self.open):
                continue
            if depth == 0:
                self._open_session(node, unit)
            else:
                self._open_below(self.open[depth - 1], unit, depth, told)
        return self.open[-1].running

    def _open_session(self, node: Node, unit: Unit) -> None:
        listener = _ScopeListener(self)
        world = self.world

        def body(found: Inside) -> int:
            return inside.scope_body(world, node, found)

        running = self.supervisor.start_root(self._scope_spec(unit.spec), body, listener)
        self.open.append(Scope(node, running, {}, unit.items[-1]))
        listener.scope = self.open[-1]
        self.supervisor.run_while(lambda: running.layer is None and not running.ended)
        if running.ended:
            raise pytest.UsageError(_explain(running, self.open[-1]))

    def _open_below(self, parent: Scope, unit: Unit, depth: int, told: _Telling) -> None:
        node = unit.chain[depth]
        wanted = self._prepare(parent, [unit, *self._later(unit, depth)])
        listener = _ScopeListener(self)
        running = self._fork(parent, unit, listener, told, wanted, node=depth, scope=True)
        self.open.append(Scope(node, running, {}, unit.items[-1]))
        listener.scope = self.open[-1]

    def _scope_spec(self, spec: Spec) -> Spec:
        """A scope's sandbox has the run's limits, not those of the test that happens to come first; and no time limit."""
        base = self.controller.settings.base.spec
        limits = dataclasses.replace(base.limits, timeout=None, cpu_time=None)
        del spec
        return dataclasses.replace(base, limits=limits)

    def _later(self, unit: Unit, depth: int) -> Iterator[Unit]:
        """Units after this one that will use the same sandbox at `depth`, for as long as they come one after the other."""
        start = self.units.index(unit) + 1
        for later in self.units[start:]:
            if later.chain[: depth + 1] != unit.chain[: depth + 1]:
                return
            yield later

    def _prepare(self, scope: Scope, units: Sequence[Unit]) -> list[tuple[int, list[int]]]:
        """What a scope must set up before a sandbox is forked from it, for one or several units; noted as had from now on.

        For several, only what does not change what an earlier one needs: after the fork the scope must stay as it is.
        """
        wanted = []
        fixed: set[int] = set()
        for position, unit in enumerate(units):
            indexes = []
            for index, need in enumerate(unit.above):
                key = id(need.definition)
                if need.node is not scope.node or key in self.broken or not self._lacks(scope, need):
                    fixed.add(key)
                    continue
                if position and (key in fixed or key in scope.has or self._is_skipped(unit)):
                    continue
                scope.has[key] = need.index
                fixed.add(key)
                indexes.append(index)
            if indexes and not (position == 0 and self._is_skipped(unit)):
                wanted.append((self.units.index(unit), indexes))
            elif indexes:
                for index in indexes:
                    scope.has.pop(id(unit.above[index].definition), None)
        return wanted

    def _is_skipped(self, unit: Unit) -> bool:
        """Whether marks say that none of the unit's items will run, so that nothing is set up for it."""
        from _pytest.skipping import evaluate_skip_marks

        try:
            return all(evaluate_skip_marks(self.session.items[index]) for index in unit.items)
        except Exception:  # a mark's condition is foreign code; the item itself will say what is wrong with it
            return False

    def start_unit(self, unit: Unit, items: Sequence[int], told: _Telling) -> Running:
        """Fork the unit's sandbox, and have its scope set up what the unit needs."""
        self.reach(unit, told)
        scope = self.open[-1]
        wanted = self._prepare(scope, [unit])
        return self._fork(scope, unit, told, told, wanted, node=None, scope=unit.can_spawn, items=list(items))

    def _fork(
        self,
        parent: Scope,
        unit: Unit,
        listener: object,
        told: _Telling,
        wanted: list[tuple[int, list[int]]],
        *,
        node: int | None,
        scope: bool,
        items: list[int] | None = None,
    ) -> Running:
        parent.last_item = unit.items[-1]
        for above in self.open:
            above.last_item = unit.items[-1]
        parent.running.listener.told = told  # type: ignore[attr-defined]
        spec = unit.spec if node is None else self._scope_spec(unit.spec)
        running = self.supervisor.start(
            parent.running, spec, listener, scope=scope, unit=self.units.index(unit), node=node, items=items, prepare=wanted  # type: ignore[arg-type]
        )
        self.supervisor.run_while(lambda: running.layer is None and not running.ended and not parent.running.ended)
        if running.ended or parent.running.ended:
            self._give_up(parent, running)
        return running

    def _give_up(self, parent: Scope, running: Running) -> None:
        self.supervisor.run_while(lambda: not running.ended and parent.running.ended)
        if parent.outcome is not None:
            scope = self._first_dead()
            what = f"the sandbox of {_name(scope.node)}, which sets up fixture {scope.setting_up!r}, " if scope.setting_up else "the sandbox around it "
            text = f"{what}ended: {scope.outcome.sentence}\n{describe(scope.outcome)}" if scope.outcome else f"{what}ended"
            self._mark_broken(scope, text)
            raise _Unrunnable(text)
        if running.problem is not None:
            raise _Unrunnable(f"the sandbox could not be made: {running.problem}")

    def _first_dead(self) -> Scope:
        return next(scope for scope in self.open if scope.outcome is not None)

    def _mark_broken(self, scope: Scope, text: str) -> None:
        """A fixture that takes its scope's sandbox down is not set up again for the next test."""
        if not scope.setting_up:
            return
        for unit in self.units:
            for need in unit.above:
                if need.name == scope.setting_up and need.node is scope.node:
                    self.broken[id(need.definition)] = text

    def close(self, scope: Scope) -> pytest.TestReport | None:
        """Have a scope tear down; its report, with what else there is to say."""
        self.open.remove(scope)
        if scope.outcome is None:
            scope.running.send({"op": "close", "item": scope.last_item})
            self.supervisor.run_while(lambda: scope.outcome is None)
        self.controller.book.add_scope(scope.node, scope.outcome)
        if scope.closed is None and scope.outcome is not None and not scope.running.abandoned:
            item = self.session.items[scope.last_item]
            text = f"the sandbox of {_name(scope.node)} ended before it had torn down: {scope.outcome.sentence}"
            return _report(item, "teardown", "failed", text, describe(scope.outcome))
        return scope.closed

    def _close_in_a_hurry(self) -> None:
        """After Ctrl-C or an error: kill tests, let scopes tear down for a while."""
        with contextlib.suppress(Exception, KeyboardInterrupt):
            limit = time.monotonic() + PATIENCE
            self.supervisor.kill_innermost([scope.running for scope in self.open])
            while self.open and time.monotonic() < limit:
                scope = self.open.pop()
                if scope.outcome is None:
                    scope.running.send({"op": "close", "item": scope.last_item})
                while scope.outcome is None and time.monotonic() < limit:
                    self.supervisor.step(max(0.0, limit - time.monotonic()))


class _Unrunnable(Exception):  # noqa: N818  # not an error of ours: the test's
    """Why a unit could not be started; the text is the test's error."""


class _ScopeListener:
    """Hears a scope's sandbox."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.scope: Scope | None = None
        self.told: _Telling | None = None

    def on_frame(self, running: Running, frame: Frame) -> None:
        """See `inside.scope_body` for what a scope says."""
        scope, op = self.scope, frame["op"]
        config = self.run.config
        if op == "fixture" and scope is not None:
            scope.setting_up = str(frame.get("name", ""))
        elif op == "prepared":
            if scope is not None:
                scope.setting_up = ""
            if self.told is not None:
                self.told.prepared += float(frame.get("duration") or 0.0)
        elif op == "closed" and scope is not None:
            scope.closed = from_frame(config, frame, self.run.session.items[scope.last_item].nodeid)
        elif op == "warning":
            index = scope.last_item if scope is not None else 0
            record_warning(config, frame, self.run.session.items[index].nodeid)
        elif op == "terminal":
            _show(config, str(frame.get("text", "")))
        elif op in ("exit", "interrupt", "internal") and self.told is not None:
            self.told.interruption = frame
        elif op == "hold":
            running.hold = bool(frame.get("value"))

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """The scope is gone."""
        _show_bytes(running.read_shown())
        if self.scope is not None:
            self.scope.outcome = outcome
            keep_tmp_path(self.run.config, self.run.supervisor, running, failed=False, used=True)


class _Telling:
    """One run of (the rest of) a unit: hears its sandbox, and makes complete sets of reports out of it."""

    def __init__(self, run: _Run, unit: Unit, items: Sequence[int]) -> None:
        self.run_, self.unit, self.items = run, unit, tuple(items)
        self.position = 0
        self.started = False
        self.reports: list[pytest.TestReport] = []
        self.finished: list[tuple[pytest.Item, list[pytest.TestReport]]] = []
        self.prepared = 0.0
        self.interruption: Frame | None = None
        self.outcome: Outcome | None = None
        self.running: Running | None = None

    @property
    def item(self) -> pytest.Item:
        """The item that is running, or the last that was."""
        return self.run_.session.items[self.items[min(self.position, len(self.items) - 1)]]

    @property
    def remaining(self) -> tuple[int, ...]:
        """What is still to be run, in a fresh sandbox, after this one ended."""
        return () if self.interruption is not None else self.items[self.position :]

    def run(self) -> None:
        """Start the sandbox and wait until it is gone."""
        self._log_start()
        self.running = self.run_.start_unit(self.unit, self.items, self)
        self.running.reported = False
        self.run_.supervisor.run_while(lambda: self.outcome is None and self.running is not None and not self.running.ended)

    def _log_start(self) -> None:
        if not self.started:
            self.started = True
            item = self.item
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)

    # -- what the sandbox says ----------------------------------------------------------------------------------------

    def on_frame(self, running: Running, frame: Frame) -> None:
        """See `inside.unit_body` for what a unit says. Raises WireError for what it must not say."""
        op = frame["op"]
        if op == "report":
            report = from_frame(self.run_.config, frame, self.item.nodeid)
            self.reports.append(report)
            running.failed = running.failed or report.failed
        elif op == "start":
            self._expect(frame)
            self._log_start()
        elif op == "finish":
            self._expect(frame)
            self._next()
            running.reported = self.position == len(self.items)
        elif op == "warning":
            record_warning(self.run_.config, frame, self.item.nodeid)
        elif op == "errno":
            running.errno = int(frame.get("errno") or 0)
        elif op == "hold":
            running.hold = bool(frame.get("value"))
        elif op == "terminal":
            _show(self.run_.config, str(frame.get("text", "")))
        elif op == "junit":
            self.run_.controller.book.junit(self.item, frame)
        elif op in ("exit", "interrupt", "internal", "stop"):
            self.interruption = frame
        else:
            self.run_.requests.on_frame(running, frame)

    def _expect(self, frame: Frame) -> None:
        if self.position >= len(self.items) or frame.get("item") != self.items[self.position]:
            raise WireError(f"item {frame.get('item')!r} is not the one that runs")

    def _next(self) -> None:
        self.finished.append((self.item, self.reports))
        self.reports = []
        self.position += 1
        self.started = False

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """The sandbox is gone: whatever was not reported is reported now, with the ending."""
        _show_bytes(running.read_shown())
        self.outcome = outcome
        config = self.run_.config
        if self.position < len(self.items) and not (self.interruption and not self.reports):
            self._complete(outcome.sentence, describe(outcome), outcome)
        elif outcome.ending is Ending.OUT_OF_MEMORY and self.finished:
            # Something in the sandbox was killed, even if the test did not notice.
            _, done = self.finished[-1]
            if not any(report.failed for report in done):
                item = self.item
                done.insert(-1 if done and done[-1].when == "teardown" else len(done), _report(item, "call", "failed", outcome.sentence, ""))
                done[:] = [report for report in done if not (report.when == "call" and report.passed)]
        failed = any(report.failed for _, done in self.finished for report in done)
        for item, done in self.finished[-1:]:
            self.run_.controller.book.add_test(item, done, outcome)
        used = any("tmp_path" in getattr(item, "fixturenames", ()) or "tmp_path_factory" in getattr(item, "fixturenames", ()) or "pytester" in getattr(item, "fixturenames", ()) for item, _ in self.finished)
        keep_tmp_path(config, self.run_.supervisor, running, failed=failed, used=used)
        kept = keep_changes(config, self.run_.supervisor, running, outcome, failed=failed)
        if kept and self.finished:
            self.run_.controller.book.kept(self.finished[-1], kept)

    def fail(self, text: str) -> None:
        """Report an item that could not be run at all."""
        if self.position < len(self.items) and self.interruption is None:
            self._complete(text, "", None)

    def _complete(self, sentence: str, details: str, outcome: Outcome | None) -> None:
        """Make a full set of reports of what the sandbox left unsaid about its current item."""
        item = self.item
        self._log_start()
        said = {report.when for report in self.reports}
        when = "setup" if "setup" not in said else "call" if "call" not in said and self._passed("setup") else "teardown"
        if when == "teardown":
            self.reports = [report for report in self.reports if report.when != "teardown"]
        failure = _report(item, when, "failed", sentence, details)
        if outcome is not None:
            failure.duration = outcome.usage.wall
            failure.sections += _output_sections(outcome, when)
        _as_expected(item, failure)
        self.reports.append(failure)
        if when != "teardown":
            self.reports.append(_report(item, "teardown", "passed", None, ""))
        self._next()

    def _passed(self, when: str) -> bool:
        return any(report.when == when and report.passed for report in self.reports)

    # -- what is reported ---------------------------------------------------------------------------------------------

    def report_all_but_last(self) -> None:
        """Fire every report but the last teardown, which scopes that end with it may still change."""
        for position, (item, done) in enumerate(self.finished):
            if position == 0 and done and self.prepared:
                done[0].duration += self.prepared
            last = position == len(self.finished) - 1
            self._fire(item, done[:-1] if last else done)
            if not last:
                item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def report_last(self) -> None:
        """Fire the last."""
        if self.finished:
            item, done = self.finished[-1]
            self._fire(item, done[-1:])
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self.finished = []

    def _fire(self, item: pytest.Item, done: Sequence[pytest.TestReport]) -> None:
        for report in done:
            item.ihook.pytest_runtest_logreport(report=report)

    def merge(self, closed: pytest.TestReport | None) -> None:
        """Put what a closing scope had to say into the teardown of its last test, as plain pytest does."""
        if closed is None or not self.finished:
            return
        done = self.finished[-1][1]
        if not done:
            return
        last = done[-1]
        if closed.failed and not last.failed:
            closed.sections = last.sections + closed.sections
            closed.user_properties = last.user_properties
            closed.duration += last.duration
            closed.nodeid = last.nodeid
            done[-1] = closed
            return
        last.duration += closed.duration
        if closed.failed:
            last.sections.append(("Another error at teardown", str(closed.longrepr)))
        last.sections += closed.sections

    def raise_interruption(self) -> None:
        """Do in the controller what a test or fixture did to its process: exit, Ctrl-C, an internal error, a stop."""
        frame = self.interruption
        if frame is None:
            return
        if frame["op"] == "exit":
            code = frame.get("returncode")
            pytest.exit(str(frame.get("reason", "")), returncode=code if isinstance(code, int) else None)
        if frame["op"] == "interrupt":
            raise KeyboardInterrupt
        if frame["op"] == "stop":
            self.run_.session.shouldstop = str(frame.get("reason", ""))
            return
        raise RuntimeError(f"in the sandbox of {self.item.nodeid}:\n{frame.get('traceback')}")


def _name(node: Node) -> str:
    return node.nodeid or "the session"


def _report(item: pytest.Item, when: str, outcome: str, text: str | None, details: str) -> pytest.TestReport:
    keywords = dict.fromkeys(item.keywords, 1)
    report = pytest.TestReport(item.nodeid, item.location, keywords, outcome, text, when)  # type: ignore[arg-type]
    if details:
        report.sections.append(("Sandbox", details))
    return report


def _output_sections(outcome: Outcome, when: str) -> list[tuple[str, str]]:
    """What had been captured and not yet reported when the sandbox ended."""
    parts = (("stdout", outcome.stdout), ("stderr", outcome.stderr))
    return [(f"Captured {name} {when}", content.decode("utf-8", "replace")) for name, content in parts if content]


def _as_expected(item: pytest.Item, report: pytest.TestReport) -> None:
    """A test that is expected to fail, by whatever it does, may do so by the end of its sandbox."""
    from _pytest.skipping import evaluate_xfail_marks

    try:
        expected = evaluate_xfail_marks(item)
    except Exception:  # the mark's condition is foreign code
        return
    if expected is not None and expected.raises is None and not item.config.option.runxfail and report.when != "teardown":
        report.outcome = "skipped"
        report.wasxfail = f"{expected.reason or ''} [{report.longrepr}]".strip()  # type: ignore[attr-defined]


def _keeps_terminal(config: pytest.Config) -> bool:
    option = config.option
    if option.capture == "no" or option.usepdb or option.trace:
        return True
    try:
        return os.isatty(0)
    except OSError:
        return False


def _show(config: pytest.Config, text: str) -> None:
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter._tw.write(text)
        reporter._tw.flush()


def _show_bytes(data: bytes) -> None:
    if data:
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()


def _explain(running: Running, scope: Scope) -> str:
    outcome = scope.outcome
    reason = running.problem or (outcome.sentence if outcome else "it ended at once")
    errors = outcome.stderr.decode("utf-8", "replace").strip() if outcome else ""
    return f"--sandbox: the first sandbox could not be made: {reason}. Fix: run pytest --sandbox-doctor, which names what is missing. {errors}"


