"""What no event tells the controller: that time, CPU time or room for output has run out. Imports `clock` and `running`."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pytest_sandbox._linux import proc
from pytest_sandbox.model.errors import SetupError
from pytest_sandbox.model.outcome import Ending
from pytest_sandbox.sandbox.outside.clock import Dying
from pytest_sandbox.sandbox.outside.running import Running

#: How long a process that ran out of time has to print its stacks, in seconds. (Where a CPU is free for it: a millisecond.)
STACKS_TIME = 2.0
#: How long nothing more is printed when they are complete, in seconds.
STACKS_LOOK = 0.02
#: How much may stand in the file of stacks beside the limit of output, in bytes.
_STACKS_ROOM = 1 << 20


def due(running: Running) -> float | None:
    """When `check` is to be called next, or nothing of it may be left; None: not as it is now."""
    end, entering = running.end, running.entering
    moments = [end.gone_by, entering.spared_until]
    if not end.is_near:
        moments += [running.clock.due, running.clock.next_look, None if entering.entered else entering.enter_by]
    return min((moment for moment in moments if moment is not None), default=None)


def check(running: Running, now: float, hear: Callable[[Running], None]) -> None:
    """Kill it if it has used up a limit; where that is time, its stacks are asked for first.

    hear: takes in what it has said by now. What it said before it met the limit must not be taken for unsaid.
    """
    entering, clock = running.entering, running.clock
    if entering.spared_until is not None and now >= entering.spared_until:
        _give_up_fork(running)
    if running.end.is_near:
        return
    if not entering.entered and entering.enter_by is not None and now >= entering.enter_by:
        why = "nobody has entered it, and nobody says why" if entering.deserted else "it is not ready after two minutes"
        running.fail(SetupError("make a sandbox", why, errno.ETIMEDOUT))
        if running.pidfd is None:
            running.hang_up()
        elif entering.being_forked:
            _give_up_fork(running)
    _check_time(running, now, hear)
    if clock.next_look is not None and now >= clock.next_look:
        _look(running, now, hear)


def _check_time(running: Running, now: float, hear: Callable[[Running], None]) -> None:
    if running.clock.dying is not None:
        _wait_for_stacks(running, running.clock.dying, now)
        return
    if not _is_over(running, now):
        return
    hear(running)  # with the end of a test its time begins anew
    if running.main is not None and not proc.exists(running.main):
        running.clock.prolong()  # its init is about to say how
    if not running.end.abandoned and _is_over(running, now):
        _out_of_time(running, _which_time(running, now), now)


def _is_over(running: Running, now: float) -> bool:
    due = running.clock.due
    return due is not None and now >= due


def _give_up_fork(running: Running) -> None:
    """The main process around it does not come to the end of its fork, nor of another one: a handler hangs, or it is hostile."""
    running.fork_is_over()
    if running.parent is not None:
        running.parent.fail(SetupError("fork a sandbox", "its main process does not come to an end of it", errno.ETIMEDOUT))


def _which_time(running: Running, now: float) -> Ending:
    """What ran out: CPU time, where that is over too and was first, by the pace at which it was used."""
    budget, due = running.clock.cpu, running.clock.due or now
    used = None if budget is None else running.clock.counted(running.cgroup.figure("cpu"))
    if budget is None or used is None or used < budget.seconds:
        return Ending.TIMED_OUT
    over = budget.began + (now - budget.began) * budget.seconds / used
    return Ending.CPU_TIME if over < due else Ending.TIMED_OUT


def _out_of_time(running: Running, why: Ending, now: float) -> None:
    if running.clock.dying is not None:
        return
    if not running.hears:  # it is not waited for
        running.kill(why)
        return
    size = running.written.stacks_size()
    running.clock.dying = Dying(now + STACKS_LOOK, now + STACKS_TIME, size, size)
    running.end.killed = running.end.killed or why
    running.ask_for_stacks()


def _wait_for_stacks(running: Running, dying: Dying, now: float) -> None:
    """Kill it when it has printed them, or does not."""
    if now < dying.look:
        return
    dying.until += now - dying.look  # when the controller was busy
    before_that, dying.seen = dying.seen, running.written.stacks_size()
    if dying.seen == before_that > dying.before or now >= dying.until:
        running.kill(running.end.killed)
    dying.look = now + STACKS_LOOK


def _look(running: Running, now: float, hear: Callable[[Running], None]) -> None:
    """A file has no event for its size, nor a cgroup one for its CPU time. `hear`: see `check`."""
    limit = running.order.spec.limits.output
    running.clock.look_again(now)
    stacks = max(0, running.written.stacks_size() - _STACKS_ROOM)
    if limit is not None and (written := running.written.size() + stacks) > limit:
        running.evidence.overran = written  # as it stands now: some cut their files
        hear(running)
        running.kill(Ending.TOO_MUCH_OUTPUT)
    elif _is_out_of_cpu(running):
        hear(running)  # with what a fixture says it begins anew
        if not running.end.abandoned and _is_out_of_cpu(running):
            _out_of_time(running, Ending.CPU_TIME, now)


def _is_out_of_cpu(running: Running) -> bool:
    return running.clock.cpu is not None and running.clock.is_out_of_cpu(running.cgroup.figure("cpu"))
