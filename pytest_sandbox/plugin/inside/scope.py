"""The main process of a scope's sandbox: it sets up what the sandboxes forked from it need, forks into them, and tears down.

"prepare" frames: set up what a new sandbox needs of this scope; "spawn": fork into it; "close": tear down, and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from gc import collect, freeze
from os import fstat

import pytest
from _pytest.nodes import Node
from _pytest.runner import CallInfo, check_interactive_exception

from pytest_sandbox.plugin.builtin import interruption, ledger, marks, reports, strays
from pytest_sandbox.plugin.builtin.tracebacks import unseen
from pytest_sandbox.plugin.inside.around import around, stray_error
from pytest_sandbox.plugin.inside.reporter import silence_foreign_hooks
from pytest_sandbox.plugin.inside.unit import unit_body
from pytest_sandbox.plugin.inside.world import World
from pytest_sandbox.plugin.others import check, reruns, timers
from pytest_sandbox.plugin.others.coverage import measuring
from pytest_sandbox.plugin.planning.scopes import Need, Unit, has_setup
from pytest_sandbox.sandbox.inside.child import Inside, Next
from pytest_sandbox.sandbox.inside.main import fork
from pytest_sandbox.sandbox.wire.frames import Frame


def scope_body(world: World, node: Node, inside: Inside, opener: tuple[int, int] | None = None) -> int | Next:
    """The main process of a scope's sandbox; comes back at its end, and in each process that it forks.

    opener: unit and item that it is opened for, by index; None: the session.
    """
    world.begin(inside)
    if not world.config.pluginmanager.hasplugin("sandbox-reporter"):
        # Here, in the outermost scope, and not in each child: registering takes a millisecond.
        world.config.pluginmanager.register(world.reporter, "sandbox-reporter")
        timers.take_over(world.config)
        world.seeds.take_over()
        world.children.take_over()
        world.ledger.forget(world.session)
        world.reporter.listens = True  # from now on: pluggy has just told it every warning of the run so far
        silence_foreign_hooks(world.reporter, world.config)
        reruns.take_over(world.config)
        # A worker of pytest-xdist has something else there while it runs.
        vars(world.config.hook)["pytest_runtest_protocol"] = world.protocol
    _enter(world, node, inside, opener)
    collect()
    world.loops.note()
    world.tell_meeting(inside)
    freeze()  # what is here now is garbage in no child; a child's collector need not touch, and so copy, it
    while True:
        frame, descriptors = inside.channel.receive()
        world.take(frame.get("generators"))
        world.session.testsfailed = frame["failed"]
        if frame["op"] == "prepare":
            if not _make_ripe(world, inside, frame):
                return world.end(inside)
        elif frame["op"] == "spawn":
            forked = _spawn(world, inside, frame, descriptors)
            if forked is not None:
                return forked
        elif frame["op"] == "close":
            world.seeds.tear_down(world.session.items[frame["item"]], world.generators, frame.get("generators"))
            _close(world, inside, frame["item"])
            return world.end(inside)


def _enter(world: World, node: Node, inside: Inside, opener: tuple[int, int] | None) -> None:
    """Set up the collectors down to this one: a part of the set-up of the item that it is opened for, if they do anything."""
    if opener is None or not has_setup(node):
        ledger.enter(world.session, node)
        return
    unit, index = opener
    item = world.session.items[index]
    inside.channel.send({"op": "for", "unit": unit, "item": index})
    measuring.name_phase(world.config, item, "setup")
    with around(world, item, "setup"), world.seeds.set_up(item):
        ledger.enter(world.session, node)
    inside.channel.send({"op": "for", "unit": None})


def _make_ripe(world: World, inside: Inside, frame: Frame) -> bool:
    """Set up what a sandbox needs; False where this process is spoilt, since a thread runs in it that its children would miss."""
    spoilt, duration = None, 0.0
    try:
        duration = _prepare(world, inside, frame["prepare"])
    except _ThreadStarted as started:
        spoilt = started
    except BaseException as error:  # noqa: BLE001  # KeyboardInterrupt and pytest.exit too: the controller does what they ask
        measuring.send(world.config, inside)
        interruption.send(inside.channel, error)
        inside.channel.send({"op": "dropped", "name": frame["name"]})
        return True
    finally:
        world.loops.note()
        world.tell_generators(inside)
    if spoilt is not None:
        _close(world, inside, frame["item"])
        inside.channel.send({"op": "threaded", "name": spoilt.name, "threads": spoilt.threads})
        return False
    world.tell_meeting(inside)
    world.heir = frame["prepare"][0][0]
    world.reporter.news(world.session.items[frame["item"]])
    measuring.send(world.config, inside)
    inside.channel.send({"op": "prepared", "duration": duration})
    inside.channel.send({"op": "ripe", "name": frame["name"]})
    return True


def _spawn(world: World, inside: Inside, frame: Frame, descriptors: Sequence[int]) -> Next | None:
    """Fork a sandbox: what comes next in its process, and None in this one."""
    unit, inherits = world.units[frame["unit"]], world.heir in (None, frame["unit"])

    def body(child: Inside) -> int | Next:
        world.heir = frame["unit"] if inherits else None
        world.once.forget_others(frame["unit"])
        if not inherits:
            _forget_strays(world.config)
        if frame["node"] is None:
            return unit_body(world, frame, child)
        return scope_body(world, unit.chain[frame["node"]], child, frame["opener"])

    forked = None
    world.children.note()
    measuring.shelter(world.config)
    try:
        forked = fork(inside, frame, descriptors)
    finally:
        if forked is None:  # it stays so in the new one, until that begins
            measuring.leave_shelter(world.config)
    if forked is not None:
        return Next(forked, body)
    world.once.is_over(frame["unit"])
    if inherits:
        world.heir = None
        _forget_strays(world.config)
    return None


def _forget_strays(config: pytest.Config) -> None:
    """Errors of finalizers and threads that pytest has noted and no test has told, and the like: somebody else has them."""
    strays.forget(config)
    check.SoftFailures.forget()


def _prepare(world: World, inside: Inside, wanted: Sequence[tuple[int, int, Sequence[int]]]) -> float:
    """Set up fixtures: of a unit, for one of its items, by the indexes of its needs; returns how long it took, in seconds.

    What one unit could not have, since another of its fixtures failed before, the next one has set up that needs it too.
    """
    duration, tried, failed, left = 0.0, set[int](), list[tuple[int, int]](), list[tuple[int, int]]()
    for unit_index, item_index, need_indexes in wanted:
        unit = world.units[unit_index]
        reach = 0 if (unit_index, item_index) in world.failed else _reach(world, unit, item_index)
        needed = [unit.above[index] for index in need_indexes if index < reach]
        needed = [need for need in needed if id(need.definition) not in tried]
        if needed:
            inside.channel.send({"op": "for", "unit": unit_index, "item": item_index})
            took, count = _set_up(world, inside, unit_index, world.session.items[item_index], needed)
            duration += took
            tried.update(id(need.definition) for need in needed[: count + 1])  # the one that failed is not set up again, either
            if count < len(needed):
                world.failed.add((unit_index, item_index))
                place = (unit_index, unit.above.index(needed[count]))
                if id(needed[count].definition) in world.broken:
                    failed.append(place)
                elif world.once.lacks(needed[count]):
                    left.append(place)
    every = {id(world.units[unit].above[need].definition): (unit, need) for unit, _, needs in wanted for need in needs}
    left += [place for definition, place in every.items() if definition not in tried]
    if left or failed:
        inside.channel.send({"op": "left", "needs": left, "failed": failed})
    return duration


def _reach(world: World, unit: Unit, item: int) -> int:
    """How many of a unit's needs pytest would set up for this item: none after one of its own that has failed before."""
    broken = world.broken
    own = ((index, need) for index, need in enumerate(unit.above) if item in unit.asked[index])
    failed = (index for index, need in own if id(need.definition) in broken and need.has(broken[id(need.definition)]))
    return next(failed, len(unit.above))


class _ThreadStarted(BaseException):
    """A fixture has started a thread, which no fork inherits."""

    def __init__(self, name: str, threads: Sequence[str]) -> None:
        super().__init__(name)
        self.name, self.threads = name, list(threads)


def _set_up(world: World, inside: Inside, unit: int, item: pytest.Item, needed: Sequence[Need]) -> tuple[float, int]:
    """How long it took, in seconds, and how many could be set up: not what comes after one that fails."""

    @unseen
    def work() -> int:
        __tracebackhide__ = True
        for count, need in enumerate(needed):
            # Said before it is done: should this process die of it, the controller knows whose fault it was. And heard before
            # it is done: what the kernel has killed for memory by then was not its fault.
            inside.channel.ask({"op": "fixture", "name": need.name}, "heard")
            with world.reporter.watching_threads() as watched:
                error = ledger.set_up(item, need)
            _tell_output(inside)
            if error is not None:
                if world.ledger.caches(error):
                    world.broken[id(need.definition)] = need.parameter
                else:
                    world.once.raise_in(unit, need, error)
                return count
            started = watched.threads.started()
            result = need.definition.cached_result
            if started and result is not None and result[2] is None:
                raise _ThreadStarted(watched.starter or need.name, started)
        return len(needed)

    measuring.name_phase(world.config, item, "setup")
    with around(world, item, "setup"), world.seeds.set_up(item), timers.timed(item):
        call = CallInfo.from_call(work, "setup", reraise=(BaseException,))
    return call.duration, call.result or 0


def _tell_output(inside: Inside) -> None:
    """Say it where a fixture has written more than the limit, of which the end of the capture leaves nothing in the files."""
    files, limit = inside.descriptors, inside.order.spec.limits.output
    written = sum(fstat(fd).st_size for fd in (files.stdout, files.stderr, files.shown))
    if limit is not None and written > limit:
        inside.channel.send({"op": "overran", "output": written})


def _close(world: World, inside: Inside, index: int) -> None:
    """Tear down what this scope set up; an error goes into the teardown report of its last item."""
    item = world.session.items[index]
    stops = interruption.stops_of(world.session)  # of a set-up: the tests that it was for say so
    item._report_sections.clear()
    measuring.name_phase(world.config, item, "teardown")
    reraise = pytest.exit.Exception if item.config.getoption("usepdb", False) else (pytest.exit.Exception, KeyboardInterrupt)
    with around(world, item, "teardown"):
        try:
            call = CallInfo.from_call(partial(_tear_down, world.session), "teardown", reraise=reraise)
        except reraise as error:
            interruption.send(inside.channel, error)
            call = CallInfo.from_call(lambda: None, "teardown")
    world.reporter.news(item)
    # Plugins see one report of a teardown, and the last test's own process makes that.
    if call.excinfo is None and not check.SoftFailures.any():
        report = pytest.TestReport.from_item_and_call(item, call)
    else:
        _expect_failures(item)
        reruns.in_scope(item)
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
        if check_interactive_exception(call, report):
            try:
                item.ihook.pytest_exception_interact(node=item, call=call, report=report)
            except reraise as error:  # whoever leaves a debugger
                interruption.send(inside.channel, error)
    del call  # and so what its traceback has held
    collect()
    if (stray := stray_error(world, item)) is not None:
        report = reports.with_error(report, stray)
    interruption.send_stop(inside.channel, world.session, stops)
    measuring.send(world.config, inside)
    world.tell_generators(inside)
    inside.channel.send(reports.to_frame(world.config, report) | {"op": "closed"})


@unseen
def _tear_down(session: pytest.Session) -> None:
    __tracebackhide__ = True
    ledger.leave(session)
    collect()
    strays.tell(session.config)


def _expect_failures(item: pytest.Item) -> None:
    """Know of the item what its set-up, in another process, has found out: whether it may fail. One that is skipped may not."""
    from _pytest.skipping import xfailed_key

    item.stash[xfailed_key] = None if marks.skips(item) else marks.expected_failure(item)
