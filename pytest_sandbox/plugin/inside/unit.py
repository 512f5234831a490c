"""The main process of a test's sandbox: it runs its items by pytest's whole protocol, each report streamed as it is made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial

import pytest

from pytest_sandbox.plugin.builtin import interruption, ledger, strays
from pytest_sandbox.plugin.builtin.sections import captured_for
from pytest_sandbox.plugin.inside import early
from pytest_sandbox.plugin.inside.around import tell_strays, warnings_of_the_run
from pytest_sandbox.plugin.inside.world import World
from pytest_sandbox.plugin.others import reruns
from pytest_sandbox.plugin.others.coverage import measuring
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.wire.frames import Channel, Frame


def unit_body(world: World, order: Frame, inside: Inside) -> int:
    """The main process of a test sandbox.

    order: `items`, indexes; `following`, the one that comes after them, in another process, or None; `grows`, whether it is told,
    item by item, which one comes after the last of these, and where; `earlier`, how many attempts at a single one were made
    before; `waits`, whether it was made before its turn, and is told when that has come, and what comes after it.
    """
    world.begin(inside)
    if order["waits"]:
        begin = inside.channel.wait_for("begin")[0]
        world.take(begin["generators"])
        world.session.testsfailed = begin["failed"]
        order = order | {"following": begin["following"]}
    if order["earlier"]:
        world.seeds.forget()
    session, reporter = world.session, world.reporter
    reporter.leave_fixtures()
    if not hasattr(world.config, "workerinput"):  # of pytest-xdist's order nobody knows what is later
        reporter.other_hint = partial(early.hint, world.ledger.standing(), world.units, order["unit"])
    alone, item = len(order["items"]) == 1 and not order["grows"], session.items[order["items"][0]]
    try:
        for index, following, stays in _with_following(inside.channel, order):
            item = session.items[index]
            start = {"op": "start", "item": index, "captured": captured_for(item)}
            inside.channel.send({**start, "shares_network": inside.order.shares_network})
            world.numbers.begin(index, order["earlier"])
            nextitem = None if following is None else session.items[following]
            kept = nextitem if stays else None
            with ledger.keeping(session, nextitem, kept), reruns.attempts(item, alone=alone, earlier=order["earlier"]):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            tell_strays(world, item)
            reporter.news(item, ended=True)
            measuring.send(world.config, inside)
            world.tell_generators(inside)
            stops = interruption.send_stop(inside.channel, session)
            finish = {"op": "finish", "item": index}
            if stops or not stays:
                inside.channel.send(finish)
                break
            # Until the controller has read what the kernel counted, so that nothing of the next test is taken for this one's.
            inside.channel.ask(finish, "counted")
    except BaseException as error:  # noqa: BLE001  # the same of a test
        _break_off(world, inside, item, error)
    return world.end(inside)


def _break_off(world: World, inside: Inside, item: pytest.Item, error: BaseException) -> None:
    """The run is to end by an error of this item, or of a hook around it: say so, and tear down."""
    world.reporter.news(item)
    interruption.send(inside.channel, error)
    with warnings_of_the_run(world):
        for do in partial(ledger.leave, world.session), partial(strays.tell, world.config):  # as at the session's end
            try:
                do()
            except BaseException as late:  # noqa: BLE001, PERF203  # of its fixtures
                interruption.send_late(inside.channel, late)
    measuring.send(world.config, inside)


def _with_following(channel: Channel, order: Frame) -> Iterator[tuple[int, int | None, bool]]:
    """Each item with the one after it, which hooks must know before it begins, or None, and whether that one runs here too."""
    coming = deque[int](order["items"])
    while coming:
        index = coming.popleft()
        following, stays = (coming[0], True) if coming else (order["following"], False)
        if not coming and order["grows"]:
            told = channel.wait_for("next")[0]
            following, stays = told["item"], told["stays"]
            if stays:
                coming.append(following)
        yield index, following, stays
