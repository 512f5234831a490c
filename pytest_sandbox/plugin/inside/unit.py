"""The main process of a test's sandbox: it runs its items by pytest's whole protocol, each report streamed as it is made."""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from pytest_sandbox.plugin.builtin import interruption, ledger
from pytest_sandbox.plugin.inside.world import World
from pytest_sandbox.plugin.others import reruns
from pytest_sandbox.plugin.others.coverage import measuring
from pytest_sandbox.sandbox.child import Inside
from pytest_sandbox.sandbox.wire import Channel, Frame


def unit_body(world: World, order: Frame, inside: Inside) -> int:
    """The main process of a test sandbox.

    order: `items`, indexes; `grows`, whether it is told, item by item, which one comes after the last of these; `earlier`, how
    many attempts at a single one were made before; `waits`, whether it was made before its turn, and is told when that has come.
    """
    world.begin(inside)
    if order["waits"]:
        begin = inside.channel.wait_for("begin")
        world.take(begin["generators"])
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
            world.tell_generators(inside)
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
    return world.end(inside)


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
