"""What no event tells the controller: that time, CPU time or room for output has run out. Imports `running`."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Collection

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.errors import SetupError
from pytest_sandbox.model.outcome import Ending
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.sandbox.running import Running
from pytest_sandbox.sandbox.states import Budget, Dying, Timer

#: How often a long test's output and CPU time are looked at, in seconds.
LOOK = 0.1
#: How often in the first moments, when a quick writer would fill memory, in seconds.
FIRST_LOOK = 0.01
#: How long a process that ran out of time has to print its stacks, in seconds. (Where a CPU is free for it: a millisecond.)
STACKS_TIME = 2.0
#: How long a process that has said all has at least to be gone, or one that has failed to tell the rest, in seconds.
END_TIME = 5.0
#: How often one is given that, as long as its time does not begin anew: for three reports and its end. Nobody is trusted to end.
END_TIMES = 4
#: How much longer a time may be, all in all, for what the controller was busy with meanwhile, in seconds.
MOST_EXCUSED = 60.0
#: How much may stand in the file of stacks beside the limit of output, in bytes.
_STACKS_ROOM = 1 << 20
#: How long nothing more is printed when they are complete, in seconds.
STACKS_LOOK = 0.02


def start(running: Running) -> None:
    """Its time begins."""
    limits = running.order.spec.limits
    running.started = monotonic()
    if running.allowed is None:
        allow(running, limits.timeout)
    running.cpu = None if limits.cpu_time is None else Budget(limits.cpu_time, running.started)
    if limits.output is not None or limits.cpu_time is not None:
        running.next_look = running.started + FIRST_LOOK


def grant(running: Running, limits: Limits | None) -> None:
    """What is done in a scope from now on has the time and the CPU time of these limits for itself; None: as much as it takes."""
    if running.dying is not None:
        return
    allow(running, None if limits is None else limits.timeout)
    running.cpu = None
    used = None if limits is None or limits.cpu_time is None else running.cgroup.figure("cpu")
    if limits is not None and limits.cpu_time is not None and used is not None:
        running.cpu = Budget(limits.cpu_time, monotonic(), used)
        running.next_look = running.cpu.began + FIRST_LOOK


def used_cpu(running: Running, used: float | None) -> float | None:
    """Of so much CPU time that a sandbox has used in all, what counts for its limit; in seconds."""
    return None if used is None else used - (running.cpu.before if running.cpu else 0.0)


def allow(running: Running, seconds: float | None) -> None:
    """So much time it has from now on, in seconds; None: as much as it takes."""
    if running.dying is None:
        running.allowed = None if seconds is None else Timer.begin(seconds)


def restart(running: Running) -> None:
    """Its time begins anew: another test does in it."""
    allow(running, None if running.allowed is None else running.allowed.seconds)


def prolong(running: Running) -> None:
    """It has said all that it has to, or that it has failed of a limit, and waited for the answer.

    To end is no part of what it has its time for, nor is our time; both take longer on a machine under load.
    """
    timer, due = running.allowed, monotonic() + END_TIME
    if timer is not None and timer.due < due and timer.prolonged < END_TIMES and running.dying is None:
        running.allowed = dataclasses.replace(timer, due=due, prolonged=timer.prolonged + 1)


def excuse(running: Running, seconds: float) -> None:
    """It has said something, and for so long nobody has heard it, nor answered: that is not its time."""
    if running.dying is None:
        running.allowed, running.timer = _later(running.allowed, seconds), _later(running.timer, seconds)


def _later(timer: Timer | None, seconds: float) -> Timer | None:
    if timer is None:
        return None
    excused = min(timer.excused + seconds, MOST_EXCUSED)
    return dataclasses.replace(timer, due=timer.due + excused - timer.excused, excused=excused)


def resume(running: Running) -> None:
    """All of its time begins anew: somebody has left the debugger."""
    restart(running)
    if running.timer is not None:
        running.timer = Timer.begin(running.timer.seconds, running.timer.grace)


def set_timer(running: Running, seconds: float, grace: float = 0.0) -> None:
    """What a sandbox asks for itself, besides its limit: to be killed so long from now, or later by a grace; 0: not any more."""
    running.timer = Timer.begin(seconds, grace) if seconds > 0 else None


def first(running: Running) -> Timer | None:
    """Of its time and of what it has set itself, what is over first."""
    return min(filter(None, (running.allowed, running.timer)), key=lambda timer: timer.due, default=None)


def next_due(everyone: Collection[Running]) -> float | None:
    """When `check` is to be called next."""
    due = [
        moment
        for running in everyone
        if not running.abandoned
        for moment in (
            _due(running),
            running.next_look,
            None if running.entered else running.enter_by,
        )
        if moment is not None
    ]
    due += [moment for running in everyone for moment in (running.gone_by, running.spared_until) if moment is not None]
    return min(due, default=None)


def _due(running: Running) -> float | None:
    """When its time is over, which does not run in a debugger, or when its stacks are looked at."""
    if running.dying is not None:
        return running.dying.look
    timer = None if running.hold else first(running)
    return None if timer is None else timer.due


def check(running: Running, now: float, hear: Callable[[Running], None]) -> None:
    """Kill it if it has used up a limit; where that is time, its stacks are asked for first.

    hear: takes in what it has said by now. What it said before it met the limit must not be taken for unsaid.
    """
    if running.spared_until is not None and now >= running.spared_until:
        _give_up_fork(running)
    if running.abandoned:
        return
    if not running.entered and running.enter_by is not None and now >= running.enter_by:
        running.fail(SetupError("make a sandbox", "it is not ready after two minutes", errno.ETIMEDOUT))
        if running.pidfd is None:
            running.hang_up()
        elif running.being_forked:
            _give_up_fork(running)
    _check_time(running, now, hear)
    if running.next_look is not None and now >= running.next_look:
        _look(running, now, hear)


def _check_time(running: Running, now: float, hear: Callable[[Running], None]) -> None:
    if running.dying is not None:
        _wait_for_stacks(running, running.dying, now)
        return
    if not _is_over(running, now):
        return
    hear(running)  # with the end of a test its time begins anew
    if not running.abandoned and _is_over(running, now):
        _out_of_time(running, _which_time(running, now), now)


def _is_over(running: Running, now: float) -> bool:
    due = _due(running)
    return due is not None and now >= due


def _give_up_fork(running: Running) -> None:
    """The main process around it does not come to the end of its fork, nor of another one: a handler hangs, or it is hostile."""
    running.fork_is_over()
    if running.parent is not None:
        running.parent.fail(SetupError("fork a sandbox", "its main process does not come to an end of it", errno.ETIMEDOUT))


def _which_time(running: Running, now: float) -> Ending:
    """What ran out: CPU time, where that is over too and was first, by the pace at which it was used."""
    budget, due = running.cpu, _due(running) or now
    used = None if budget is None else used_cpu(running, running.cgroup.figure("cpu"))
    if budget is None or used is None or used < budget.seconds:
        return Ending.TIMED_OUT
    over = budget.began + (now - budget.began) * budget.seconds / used
    return Ending.CPU_TIME if over < due else Ending.TIMED_OUT


def _out_of_time(running: Running, why: Ending, now: float) -> None:
    if running.dying is not None:
        return
    if not running.hears:  # it is not waited for
        running.kill(why)
        return
    size = running.stacks_size()
    running.dying = Dying(now + STACKS_LOOK, now + STACKS_TIME, size, size)
    running.killed = running.killed or why
    running.ask_for_stacks()


def _wait_for_stacks(running: Running, dying: Dying, now: float) -> None:
    """Kill it when it has printed them, or does not."""
    if now < dying.look:
        return
    before_that, dying.seen = dying.seen, running.stacks_size()
    if dying.seen == before_that > dying.before or now >= dying.until:
        running.kill(running.killed)
    dying.look = now + STACKS_LOOK


def _look(running: Running, now: float, hear: Callable[[Running], None]) -> None:
    """A file has no event for its size, nor a cgroup one for its CPU time. `hear`: see `check`."""
    limits, age = running.order.spec.limits, now - running.started
    # A twentieth of its age: a quick writer is caught early, and a long test is not looked at more often than needed.
    running.next_look = now + min(LOOK, max(FIRST_LOOK, age / 20))
    stacks = max(0, running.stacks_size() - _STACKS_ROOM)
    if limits.output is not None and (written := running.output() + stacks) > limits.output:
        running.overran = written  # as it stands now: some cut their files
        hear(running)
        running.kill(Ending.TOO_MUCH_OUTPUT)
    elif _is_out_of_cpu(running):
        hear(running)  # with what a fixture says it begins anew
        if not running.abandoned and _is_out_of_cpu(running):
            _out_of_time(running, Ending.CPU_TIME, now)


def _is_out_of_cpu(running: Running) -> bool:
    used = None if running.cpu is None else used_cpu(running, running.cgroup.figure("cpu"))
    return running.cpu is not None and used is not None and used >= running.cpu.seconds
