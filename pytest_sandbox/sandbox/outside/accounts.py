"""The account of one sandbox: usage, changes, and the whole outcome, from what the kernel counted. Imports `watch`, `verdict`.

Only init's last words are taken from inside, and of them only what no cgroup has counted.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import resource

from pytest_sandbox._linux import proc
from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.outcome import Change, Ending, Leak, Outcome, Usage
from pytest_sandbox.model.spec import Limits
from pytest_sandbox.primitives.cgroups import CgroupUsage, MemorySnapshot, OomKill, oom_kill
from pytest_sandbox.sandbox.files import upper
from pytest_sandbox.sandbox.files.layout import Layout, scratch_of
from pytest_sandbox.sandbox.outside import watch
from pytest_sandbox.sandbox.outside.evidence import Failure, Told
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.verdict import FULL, Facts, judge
from pytest_sandbox.sandbox.wire.words import NO_ROOM

#: How many descriptors a call may lack, and give back before it says so: subprocess has four pipes.
_ONE_CALL = 8
_NOT_REACHED = "its main process was gone before it could be read"


def outcome_of(running: Running, layout: Layout, below: tuple[int, ...]) -> Outcome:
    """Everything that is known of a sandbox that is gone; `below` are the layers under its own."""
    words, evidence, dying = running.last_words, running.evidence, running.clock.dying
    counted = running.cgroup.read()
    fill = fill_of(running, layout)
    usage = usage_of(running, counted, fill)
    untold = dataclasses.replace(
        usage, oom_kills=None if usage.oom_kills is None else max(0, usage.oom_kills - evidence.told.kills)
    )
    status = os.waitstatus_to_exitcode(words.status) if words and words.status is not None else None
    facts = dataclasses.replace(
        _facts(running, counted, evidence.told, untold, fill, status),
        killed=running.end.killed or _overrun(running, usage),
        output=max(running.written.size() + evidence.taken, evidence.overran),
        ran=_ran(running, usage),
        cpu=running.clock.counted(usage.cpu),
        waited=watch.STACKS_TIME if _was_waited_for(running) else 0.0,
        mute=dying is not None and dying.is_mute,
        failed=evidence.failed or bool(status),
        reported=evidence.reported,
    )
    ending, sentence = judge(facts)
    stdout, stderr, output_cut = running.written.read_output()
    changes, cut = changes_of(running, layout, below)
    return Outcome(
        ending=ending,
        status=status,
        usage=usage,
        sentence=str(running.problem) if running.problem else sentence,
        stdout=stdout,
        stderr=stderr,
        stacks=running.written.read_stacks(),
        leaks=tuple(Leak(pid, line) for pid, line in words.leaks) if words else (),
        changes=changes,
        changes_cut=cut,
        output_cut=output_cut,
    )


def met_meanwhile(running: Running, layout: Layout, *, failed: bool) -> Outcome | None:
    """Which limit was met since this was last asked, in a sandbox that goes on, with what it used so far; None: none was.

    failed: whether what ran since then did, without which no limit that refuses is of interest.
    """
    names = ("oom_kills", "memory_oom_events", "pids_max_events")
    figures = running.cgroup.figures(*names)
    kills, ooms, refused = (int(figures.get(name, 0)) for name in names)
    evidence = running.evidence
    before, evidence.told = evidence.told, Told(kills, ooms, refused)
    limit, output = running.order.spec.limits.output, running.written.size()
    # More than that in its files is still there when they are looked at next, which ends the sandbox.
    overran = limit is not None and output <= limit < output + evidence.taken
    if kills <= before.kills and not failed and not overran:
        return None
    counted, fill = running.cgroup.read(), fill_of(running, layout)
    usage = dataclasses.replace(usage_of(running, counted, fill), oom_kills=kills - before.kills)
    told = None if counted.pids_max_events is None else refused - before.refused
    facts = dataclasses.replace(
        _facts(running, counted, before, usage, fill, 0),
        killed=Ending.TOO_MUCH_OUTPUT if overran else None,
        output=output + evidence.taken,
        processes_refused=told,
        failed=failed,
    )
    ending, sentence = judge(facts)
    return None if ending is Ending.EXITED else Outcome(ending, None, usage, sentence)


def _facts(
    running: Running, counted: CgroupUsage, told: Told, usage: Usage, fill: upper.Fill | None, status: int | None
) -> Facts:
    """What is known of it since so much was told; usage has the kills since then."""
    kill = oom_kill(running.cgroup.log_name, running.clock.started) if usage.oom_kills else None
    failure, forks = running.evidence.failure, None if counted.pids_max_events is None else counted.pids_max_events - told.refused
    refused = running.cgroup.refused() if forks else None
    return Facts(
        limits=_limits(running),
        usage=usage,
        status=status,
        processes_refused=forks,
        disk_full=max(failure.disk_full, fill.disk_full if fill else 0.0),
        inodes_full=max(failure.inodes_full, fill.inodes_full if fill else 0.0),
        files=failure.files,
        errno=failure.errno,
        victim=kill.victim if kill else None,
        own_memory=_was_its_own(counted, told, kill),
        own_pids=refused.own if refused else True,
        pids_around=refused.around if refused else "",
    )


def note_failure(running: Running, number: int) -> bool:
    """Keep the errno that main says it has failed of. Whether its limit is seen to be used up, if that is what it says.

    Then it waits for the answer, so that what it does next, as in a teardown, cannot have made room again.
    """
    evidence, before = running.evidence, running.evidence.failure
    disk, inodes = upper.shares(running.layer) if number in NO_ROOM and running.layer is not None else (0.0, 0.0)
    files = _files_met(running) if number == errno.EMFILE else None
    is_met = max(disk, inodes) >= FULL or files is not None
    # What fails next, as in a teardown, is of no interest where a limit was met before, or may have been.
    if not is_met and (before.is_met or before.errno == errno.EAGAIN):
        number = before.errno
    evidence.failure = Failure(
        number,
        max(before.disk_full, disk),
        max(before.inodes_full, inodes),
        files or before.files,
        is_met=is_met or before.is_met,
    )
    return is_met


def _files_met(running: Running) -> tuple[int, int] | None:
    """Of who has just spoken: the limit of descriptors, and how many it has, where it has met that and has not lowered it."""
    own, speaker = running.order.spec.limits.files, running.talk.speaker
    if own is None or speaker is None or (found := proc.descriptors(speaker)) is None:
        return None
    limit, used = found
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return found if limit >= min(own, hard) and used + _ONE_CALL >= limit else None


def _was_its_own(counted: CgroupUsage, told: Told, kill: OomKill | None) -> bool | None:
    """Whether it was its own limit of memory that the kernel has killed for, since so much was told; None: that or one around it.

    Version 2 counts an OOM where the limit is that was met, and a kill where the victim was. Version 1 counts the kill, and each
    time that a limit was met, also where giving back page cache was enough; of which limit it killed, only the log says.
    """
    ooms = counted.memory_oom_events
    if ooms is not None and ooms > told.ooms:
        return True
    if ooms == 0 or (ooms is None and counted.memory_max_events == 0):
        return False
    return kill.own if kill else None  # of version 2: that was told before, but the kill may have been counted a moment later


def _limits(running: Running) -> Limits:
    first, cpu = running.clock.first, running.clock.cpu
    timeout, cpu_time = None if first is None else first.seconds, None if cpu is None else cpu.seconds
    limits = running.order.spec.limits
    if (timeout, cpu_time) == (limits.timeout, limits.cpu_time):
        return limits
    return dataclasses.replace(limits, timeout=timeout, cpu_time=cpu_time)


def _ran(running: Running, usage: Usage) -> float:
    """Since its time last began, which it does anew with each test in it."""
    first = running.clock.first
    return usage.wall if first is None else (running.end.killed_at or monotonic()) - first.began


def _was_waited_for(running: Running) -> bool:
    """Whether it was waited for the end of its stacks as long as it is for anybody's."""
    dying, killed = running.clock.dying, running.end.killed_at
    return dying is not None and killed is not None and killed >= dying.until


def _overrun(running: Running, usage: Usage) -> Ending | None:
    """A limit that was passed between two looks of the controller, by what then ended by itself."""
    limits = running.order.spec.limits
    if limits.output is not None and running.written.size() + running.evidence.taken > limits.output:
        return Ending.TOO_MUCH_OUTPUT
    budget, used = running.clock.cpu, running.clock.counted(usage.cpu)
    if budget is not None and used is not None and used > budget.seconds:
        return Ending.CPU_TIME
    return None


def fill_of(running: Running, layout: Layout) -> upper.Fill | None:
    """How much it wrote; None before it has a layer, and where that is too much to be counted."""
    if running.layer is None:
        return None
    if scratch_of(layout, running.order.spec, running.name, scope=running.order.scope) is not None:
        return upper.fill_by_walking(running.layer, layout.plan.trees)
    return upper.fill(running.layer, running.own_inodes)


def changes_of(running: Running, layout: Layout, below: tuple[int, ...]) -> tuple[tuple[Change, ...], bool]:
    """What it wrote, and whether that is cut."""
    if running.layer is None:
        return (), False
    scratch = scratch_of(layout, running.order.spec, running.name, scope=running.order.scope)
    fill = upper.fill(running.layer, running.own_inodes) if scratch is None else None
    if fill is not None and fill.inodes == 0:
        return (), False
    return upper.changes(running.layer, layout.plan.trees, below)


def bill(running: Running) -> None:
    """Note for the sandbox around it what it was reaped with, which its init's own figures are a part of."""
    parent, words = running.parent, running.last_words
    if parent is None or parent.below.used is None or running.pid is None:
        return
    if words is None:
        parent.below.used = None
        return
    for name, value in words.reaped().items():
        parent.below.used[name] = parent.below.used.get(name, 0) + value


def usage_of(running: Running, counted: CgroupUsage, fill: upper.Fill | None) -> Usage:
    """What it used; of what nobody counted, why."""
    missing = dict(counted.missing)
    snapshot = running.evidence.memory or MemorySnapshot.none(_NOT_REACHED)
    words = running.last_words
    figures = {field.name: getattr(counted, field.name) for field in dataclasses.fields(counted) if field.name != "missing"}
    for name, value in words.reaped().items() if words else ():
        if figures[name] is None and running.below.used is None:
            missing[name] = "a sandbox below it was killed, and what that has used cannot be told from what this has"
        elif figures[name] is None and running.below.used is not None:
            figures[name] = max(0, value - running.below.used.get(name, 0))  # an init is reaped by the one that cloned it
            missing.pop(name, None)
    network = words.network if words and not running.order.shares_network else None
    if network is None:
        missing |= dict.fromkeys(("network_received", "network_sent"), _no_network(running))
    missing |= {f"memory_{part}": why for part, why in snapshot.missing.items()}
    if fill is None:
        many = f"it has left more than {upper.MOST_COUNTED} files below scratch, which sets no limit to them"
        why = "it ended before its layer was there" if running.layer is None else many
        missing |= dict.fromkeys(("overlay_bytes", "overlay_inodes"), why)
    return Usage(
        wall=monotonic() - running.clock.started,
        **figures,
        memory_anon=snapshot.anon,
        memory_file=snapshot.file,
        memory_kernel=snapshot.kernel,
        overlay_bytes=fill.bytes if fill else None,
        overlay_inodes=fill.inodes if fill else None,
        network_received=network[0] if network else None,
        network_sent=network[1] if network else None,
        missing=missing,
    )


def _no_network(running: Running) -> str:
    if running.last_words is None:
        return "it is read at the end, and the sandbox was killed, or still runs"
    if running.order.shares_network:
        return "it had no network of its own, but shared the one around it"
    return "the kernel did not show its interfaces"
