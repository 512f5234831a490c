"""pytest's side of a sandbox: what scope sandboxes and test sandboxes do with the items they inherited by the fork.

scope:  "prepare" frames: set up what a new sandbox needs of this scope; "spawn": fork into it; "close": tear down, and end
unit:   run the items one after the other by the whole pytest_runtest_protocol, each report streamed as it is made
"""

from __future__ import annotations

import atexit
import contextlib
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from gc import collect, freeze
from os import getpid
from threading import enumerate as living_threads
from typing import Any

import pytest
from _pytest.capture import CaptureManager
from _pytest.logging import LoggingPlugin, caplog_records_key
from _pytest.nodes import Node
from _pytest.outcomes import TEST_OUTCOME
from _pytest.runner import CallInfo

from pytest_sandbox.plugin import carried, dependency, interruption, ledger, measuring, others, reports, reruns, timers
from pytest_sandbox.plugin.generators import Generators
from pytest_sandbox.plugin.reporter import Reporter, silence_foreign_hooks
from pytest_sandbox.plugin.scopes import Need, Unit
from pytest_sandbox.plugin.settling import settle_in
from pytest_sandbox.plugin.tmp import Numbers
from pytest_sandbox.sandbox.child import Inside
from pytest_sandbox.sandbox.main import fork_into
from pytest_sandbox.sandbox.wire import Channel, Frame


class World:
    """What every process of the run shares by fork: the session, and the units. keeps_terminal: see `settling`.

    failed: units, by index, for which a scope could not set up all; as plain pytest does, nothing more is set up for them.
    broken: the parameter of each fixture that failed, by definition's id. heir: the unit, by index, whose sandbox is to tell what
    plugins have noted while fixtures were set up for it.
    """

    def __init__(
        self, session: pytest.Session, units: Sequence[Unit], book: ledger.Ledger, numbers: Numbers, *, keeps_terminal: bool
    ) -> None:
        self.session = session
        self.numbers = numbers
        self.config = session.config
        self.units = units
        self.book = book
        self.keeps_terminal = keeps_terminal
        self.reporter = Reporter(session.config)
        self.protocol = session.config.hook.pytest_runtest_protocol
        self.failed: set[int] = set()
        self.broken: dict[int, object] = {}
        self.heir: int | None = None
        self.generators = Generators()
        self.generators.note()


def _begin(world: World, inside: Inside) -> None:
    world.book.disown(world.session)
    world.generators.restore()
    settle_in(world.config, inside, keeps=world.keeps_terminal)
    measuring.begin(world.config)
    world.reporter.owner = getpid()
    carried.begin(world.config)
    others.keep_off()


def _take(world: World, handed: Frame | None) -> None:
    """Have what the controller hands on: see `Baton`."""
    world.generators.put(handed)
    if handed is not None:
        dependency.enter(world.session, handed.get("ends", ()))


def _tell_generators(world: World, inside: Inside) -> None:
    if news := world.generators.news():
        inside.channel.send({"op": "generators", **news})


# -- scopes -----------------------------------------------------------------------------------------------------------


def scope_body(world: World, node: Node, inside: Inside) -> int:
    """The main process of a scope's sandbox."""
    _begin(world, inside)
    if not world.config.pluginmanager.hasplugin("sandbox-reporter"):
        # Here, in the outermost scope, and not in each child: registering takes a millisecond.
        world.config.pluginmanager.register(world.reporter, "sandbox-reporter")
        timers.take_over(world.config)
        world.book.forget(world.session)
        world.reporter.listens = True  # from now on: pluggy has just told it every warning of the run so far
        silence_foreign_hooks(world.reporter, world.config)
        reruns.take_over(world.config)
        # A worker of pytest-xdist has something else there while it runs.
        vars(world.config.hook)["pytest_runtest_protocol"] = world.protocol
    ledger.enter(world.session, node)
    collect()
    freeze()  # what is here now is garbage in no child; a child's collector need not touch, and so copy, it
    while True:
        frame, descriptors = inside.channel.receive()
        _take(world, frame.get("generators"))
        world.session.testsfailed = frame["failed"]
        if frame["op"] == "prepare":
            if not _make_ripe(world, inside, frame):
                return _leave(inside)
        elif frame["op"] == "spawn":
            _spawn(world, inside, frame, descriptors)
        elif frame["op"] == "close":
            _close(world, inside, frame["item"])
            return _leave(inside)


def _make_ripe(world: World, inside: Inside, frame: Frame) -> bool:
    """Set up what a sandbox needs; False where this process is spoilt, since a thread runs in it that its children would miss."""
    try:
        duration = _prepare(world, inside, frame["prepare"])
    except _ThreadStarted as spoilt:
        item = world.session.items[frame["item"]]
        # Whoever sets the fixtures up again will say what they have to say.
        with suppress(Exception), _around(world, item, "teardown"):
            ledger.leave(world.session)
        measuring.send(world.config, inside)
        inside.channel.send({"op": "threaded", "name": spoilt.name, "threads": spoilt.threads})
        return False
    except BaseException as error:  # noqa: BLE001  # KeyboardInterrupt and pytest.exit too: the controller does what they ask
        measuring.send(world.config, inside)
        interruption.send(inside.channel, error)
        inside.channel.send({"op": "dropped", "name": frame["name"]})
        return True
    finally:
        _tell_generators(world, inside)
    world.heir = frame["prepare"][0][0]
    world.reporter.news(world.session.items[frame["item"]])
    measuring.send(world.config, inside)
    inside.channel.send({"op": "prepared", "duration": duration})
    inside.channel.send({"op": "ripe", "name": frame["name"]})
    return True


def _spawn(world: World, inside: Inside, frame: Frame, descriptors: Sequence[int]) -> None:
    unit, inherits = world.units[frame["unit"]], world.heir in (None, frame["unit"])

    def body(child: Inside) -> int:
        world.heir = frame["unit"] if inherits else None
        if not inherits:
            _forget_strays(world.config)
        return unit_body(world, frame, child) if frame["node"] is None else scope_body(world, unit.chain[frame["node"]], child)

    with measuring.sheltered(world.config):
        fork_into(inside, frame, descriptors, body)
    if inherits:
        world.heir = None
        _forget_strays(world.config)


def _forget_strays(config: pytest.Config) -> None:
    """Errors of finalizers and threads that pytest has noted and no test has told, and the like: somebody else has them."""
    for module, name in (("unraisableexception", "unraisable_exceptions"), ("threadexception", "thread_exceptions")):
        key = getattr(sys.modules.get(f"_pytest.{module}"), name, None)
        if key is not None and (noted := config.stash.get(key, None)):
            noted.clear()
    others.SoftFailures.forget()


def _prepare(world: World, inside: Inside, wanted: Sequence[tuple[int, int, Sequence[int]]]) -> float:
    """Set up fixtures: of a unit, for an item of it, by the indexes of its needs; returns how long it took, in seconds.

    What one unit could not have, since another of its fixtures failed before, the next one has set up that needs it too.
    """
    duration, tried, failed = 0.0, set[int](), list[tuple[int, int]]()
    for unit_index, item_index, need_indexes in wanted:
        unit = world.units[unit_index]
        reach = 0 if unit_index in world.failed else _reach(world, unit)
        needed = [unit.above[index] for index in need_indexes if index < reach]
        needed = [need for need in needed if id(need.definition) not in tried]
        if needed:
            inside.channel.send({"op": "for", "unit": unit_index, "item": item_index})
            took, count = _set_up(world, inside, world.session.items[item_index], needed)
            duration += took
            tried.update(id(need.definition) for need in needed[: count + 1])  # the one that failed is not set up again, either
            if count < len(needed):
                world.failed.add(unit_index)
                failed.append((unit_index, unit.above.index(needed[count])))
    every = {id(world.units[unit].above[need].definition): (unit, need) for unit, _, needs in wanted for need in needs}
    left = [place for definition, place in every.items() if definition not in tried]
    if left or failed:
        inside.channel.send({"op": "left", "needs": left, "failed": failed})
    return duration


def _reach(world: World, unit: Unit) -> int:
    """How many of a unit's needs pytest would set up: none after one that has failed for an item before."""
    broken = world.broken
    failed = (
        index for index, need in enumerate(unit.above) if id(need.definition) in broken and need.has(broken[id(need.definition)])
    )
    return next(failed, len(unit.above))


class _ThreadStarted(BaseException):
    """A fixture has started a thread, which no fork inherits."""

    def __init__(self, name: str, threads: Sequence[str]) -> None:
        super().__init__(name)
        self.name, self.threads = name, list(threads)


def _set_up(world: World, inside: Inside, item: pytest.Item, needed: Sequence[Need]) -> tuple[float, int]:
    """How long it took, in seconds, and how many could be set up: not what comes after one that fails."""

    def work() -> int:
        __tracebackhide__ = True
        for count, need in enumerate(needed):
            # Said before it is done: should this process die of it, the controller knows whose fault it was.
            inside.channel.send({"op": "fixture", "name": need.name})
            with world.reporter.watching_threads() as watched:
                worked = ledger.set_up(item, need)
            if not worked:
                world.broken[id(need.definition)] = need.parameter
                return count
            started = [thread.name for thread in living_threads() if thread not in watched.before]
            result = need.definition.cached_result
            if started and result is not None and result[2] is None:
                raise _ThreadStarted(watched.starter or need.name, started)
        return len(needed)

    measuring.name_phase(world.config, item, "setup")
    with _around(world, item, "setup"), timers.timed(item):
        call = CallInfo.from_call(work, "setup", reraise=(BaseException,))
    return call.duration, call.result or 0


@contextlib.contextmanager
def _around(world: World, item: pytest.Item, when: str) -> Iterator[None]:
    """Within: what pytest's own plugins do around the whole protocol of an item, and around a phase of it."""
    with (
        _named(item, when),
        _within(world.config, "faulthandler", item),
        _caught_warnings(world, item),
        _within(world.config, "assertion", item),
        _captured(world.config, item, when),
    ):
        yield


@contextlib.contextmanager
def _named(item: pytest.Item, when: str) -> Iterator[None]:
    """PYTEST_CURRENT_TEST."""
    from _pytest.runner import _update_current_test_var

    _update_current_test_var(item, when)  # type: ignore[arg-type]  # a phase
    try:
        yield
    finally:
        _update_current_test_var(item, None)


@contextlib.contextmanager
def _within(config: pytest.Config, name: str, item: pytest.Item) -> Iterator[None]:
    """What a plugin of pytest's own does around an item's protocol: assertions say what differs, a watchdog watches."""
    plugin: Any = config.pluginmanager.getplugin(name)
    if plugin is None:
        yield
        return
    wrapper = plugin.pytest_runtest_protocol(item)
    next(wrapper)
    with contextlib.closing(wrapper):
        yield


@contextlib.contextmanager
def _captured(config: pytest.Config, item: pytest.Item, when: str) -> Iterator[None]:
    """Capture output and logging for the item's report, in the order of the sections that plain pytest has."""
    capture: CaptureManager | None = config.pluginmanager.getplugin("capturemanager")
    logging: LoggingPlugin | None = config.pluginmanager.getplugin("logging-plugin")
    with contextlib.ExitStack() as stack:
        if logging is not None:
            logging.log_cli_handler.set_when(when)
            item.stash.setdefault(caplog_records_key, {})
            made: Any = logging._runtest_for(item, when)
            # pytest 8 has a plain generator here.
            stack.enter_context(made if hasattr(made, "__enter__") else contextlib.contextmanager(lambda: made)())
        if capture is not None:
            stack.enter_context(capture.item_capture(when, item))
        yield


@contextlib.contextmanager
def _caught_warnings(world: World, item: pytest.Item) -> Iterator[None]:
    from _pytest.warnings import catch_warnings_for_item

    if not world.config.pluginmanager.hasplugin("warnings"):
        yield
        return
    with catch_warnings_for_item(config=world.config, ihook=item.ihook, when="runtest", item=item):
        yield


def _close(world: World, inside: Inside, index: int) -> None:
    """Tear down what this scope set up; an error goes into the teardown report of its last item."""
    item = world.session.items[index]
    item._report_sections.clear()

    def leave() -> None:
        __tracebackhide__ = True
        ledger.leave(world.session)

    measuring.name_phase(world.config, item, "teardown")
    reraise = pytest.exit.Exception if item.config.getoption("usepdb", False) else (pytest.exit.Exception, KeyboardInterrupt)
    with _around(world, item, "teardown"):
        try:
            call = CallInfo.from_call(leave, "teardown", reraise=reraise)
        except reraise as error:
            interruption.send(inside.channel, error)
            call = CallInfo.from_call(lambda: None, "teardown")
        collect()
    world.reporter.news(item)
    # Plugins see one report of a teardown, and the last test's own process makes that.
    if call.excinfo is None and not others.SoftFailures.any():
        report = pytest.TestReport.from_item_and_call(item, call)
    else:
        _expect_failures(item)
        reruns.in_scope(item)
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
    measuring.send(world.config, inside)
    _tell_generators(world, inside)
    inside.channel.send(reports.to_frame(world.config, report) | {"op": "closed"})


def _expect_failures(item: pytest.Item) -> None:
    """Know of the item what its set-up, in another process, has found out: whether it may fail. One that is skipped may not."""
    from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks, xfailed_key

    with suppress(*TEST_OUTCOME):  # a mark's condition is foreign code
        item.stash[xfailed_key] = None if evaluate_skip_marks(item) else evaluate_xfail_marks(item)


# -- units ------------------------------------------------------------------------------------------------------------


def unit_body(world: World, order: Frame, inside: Inside) -> int:
    """The main process of a test sandbox.

    order: `items`, indexes; `grows`, whether it is told, item by item, which one comes after the last of these; `earlier`, how
    many attempts at a single one were made before; `waits`, whether it was made before its turn, and is told when that has come.
    """
    _begin(world, inside)
    if order["waits"]:
        begin = inside.channel.wait_for("begin")
        _take(world, begin["generators"])
        world.session.testsfailed = begin["failed"]
    session, reporter = world.session, world.reporter
    reporter.leave_fixtures()
    items, grows = order["items"], order["grows"]
    alone = len(items) == 1 and not grows
    try:
        for index, following in _with_following(inside.channel, items, grows=grows):
            inside.channel.send({"op": "start", "item": index, "shares_network": inside.order.shares_network})
            world.numbers.begin(index, order["earlier"])
            item = session.items[index]
            nextitem = None if following is None else session.items[following]
            with reruns.attempts(item, alone=alone, earlier=order["earlier"]):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            reporter.news(item, ended=True)
            measuring.send(world.config, inside)
            _tell_generators(world, inside)
            stops = {name: str(why) for name in ("shouldstop", "shouldfail") if (why := getattr(session, name))}
            if stops:
                inside.channel.send({"op": "stop", **stops})
            finish = {"op": "finish", "item": index}
            if stops or following is None:
                inside.channel.send(finish)
                break
            # Until the controller has read what the kernel counted, so that nothing of the next test is taken for this one's.
            inside.channel.ask(finish, "counted")
    except BaseException as error:  # noqa: BLE001  # the same of a test
        interruption.send(inside.channel, error)
        with suppress(BaseException):
            ledger.leave(session)  # as plain pytest does at the session's end
        measuring.send(world.config, inside)
    _run_exit_functions()
    return _leave(inside)


def _with_following(channel: Channel, items: Sequence[int], *, grows: bool) -> Iterator[tuple[int, int | None]]:
    """Each item with the one after it, which pytest must know before it begins; None after the last."""
    coming: deque[int | None] = deque(items)
    if not grows:
        coming.append(None)
    while (index := coming.popleft()) is not None:
        if not coming:
            coming.append(channel.wait_for("next")["item"])
        yield index, coming[0]


def _run_exit_functions() -> None:
    """The sandbox's own atexit functions; what it inherited was dropped when it began."""
    with suppress(BaseException):
        atexit._run_exitfuncs()


def _leave(inside: Inside) -> int:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    inside.channel.send({"op": "done"})
    with suppress(EOFError):
        inside.channel.wait_for("bye")
    return 0
