"""From the first word of a sandbox's init to the "go" of its main process. Imports `running`.

Each step is taken when the one before it was heard of: met, admitted into its cgroups, ready, joined, entered.
"""

from __future__ import annotations

import contextlib
import errno
import os

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.model.errors import SandboxError, SetupError
from pytest_sandbox.primitives import process
from pytest_sandbox.sandbox.files import upper
from pytest_sandbox.sandbox.inside.main import GO, JOINED
from pytest_sandbox.sandbox.outside import ends
from pytest_sandbox.sandbox.outside.running import Pending, Running

#: What stands before a complaint of who is forked into a sandbox, in its stderr: `complain` of enter.c.
_COMPLAINT = b"pytest-sandbox: "
#: How long it is waited for the reason why nobody enters a sandbox, in seconds.
_WORD_TIME = 5.0


def meet(running: Running, pid: int) -> None:
    """Know init from now on; without a `pidfd` where it has ended meanwhile, which is a problem of the sandbox then."""
    running.pid = pid
    try:
        running.pidfd = os.pidfd_open(pid)
        if ends.is_hung_up(running.control):  # whose else pidfd this may be
            os.close(running.pidfd)
            running.pidfd = None
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    except OSError as error:  # it has ended, or there is no descriptor left for it
        running.problem = running.problem or SetupError("pidfd_open", str(pid), error.errno or 0)
        running.hang_up()
        return
    if running.end.abandoned:  # killed before it could be
        running.kill(None)


def admit(running: Running, pid: int) -> None:
    """Put the outermost init into its cgroups; it will fork main."""
    if running.pidfd is None:
        return
    try:
        running.cgroup.admit(pid)
    except SetupError as error:
        running.fail(error)
        return
    with contextlib.suppress(OSError):  # it has died, which its pidfd will tell
        running.control.say(b"g")


def ready(running: Running, descriptors: list[int], *, has_common: bool) -> None:
    """Its root is made. Let it be entered by a fork of the main process around it; the outermost has forked its own.

    descriptors: what its init has handed over; has_common: whether the outermost has a layer for what all have in common.
    Raises WireError where main is told to go, and cannot be.
    """
    expected = running.entering.recipe.descriptors if running.entering.recipe else 1 + running.order.scope + has_common
    if running.pidfd is None or len(descriptors) != expected:
        running.problem = running.problem or SetupError("receive descriptors", "of a sandbox that is ready", errno.EMFILE)
        _close(descriptors)
        running.kill(None)
        return
    running.layer, *others = descriptors
    running.own_inodes = upper.used_inodes(running.layer)
    if running.end.abandoned:  # nobody shall enter what is about to die
        _close(others)
        return
    if running.order.scope:
        running.below.netlink = Socket(fileno=others.pop(0))
    if running.parent is None and has_common:
        running.common = others.pop(0)
    pending, running.entering.pending = running.entering.pending, None
    if pending is None or running.parent is None:
        process.spare_init(running.pid or 0)  # and so all that it clones
        _enter(running)
        return
    try:
        _order_fork(running, running.parent, pending, others)
    except OSError as error:  # no descriptor is left for what must wait
        running.fail_unforked(SetupError.of("order a fork into a sandbox", error))
    finally:
        pending.close()
        _close(others)


def _order_fork(running: Running, parent: Running, pending: Pending, namespaces: list[int]) -> None:
    """Tell the main process around it to fork into it; with descriptors of its namespaces."""
    frame = running.order.to_frame() | pending.extra | {"asks": running.cgroup.has_no_tasks}
    frame |= {"namespaces": len(namespaces), "tasks": len(pending.tasks)}
    parent.below.ordered.add(running.name)
    running.entering.being_forked = True
    parent.send(frame, (*pending.descriptors.all(), *namespaces, *pending.tasks))


def join(running: Running) -> bool:
    """Main is in its namespaces, and says so. Whether it will say so again, when it has been put into its cgroups.

    Raises WireError where it says something else.
    """
    pid = running.talk.joiner()
    if pid is None:
        return False
    try:
        if running.cgroup.has_no_tasks and not running.entering.attached:
            running.talk.take(JOINED)
            running.cgroup.attach_to_v2(pid)
            running.entering.attached = True
            running.fork_is_over()
            with contextlib.suppress(OSError):  # it has died, which will be told
                running.talk.wire.say(GO)
            return True
        running.cgroup.verify(pid)
    except SetupError as error:
        running.fail_unforked(error)
        return False
    _enter(running)
    return False


def desert(running: Running) -> None:
    """Nobody is left who could enter it, and who ends of one of its first steps says so: in its stderr, or through its init.

    Where nobody was forked into it, whoever was to do that says why; he may not have done so yet.
    """
    running.fork_is_over()
    problem = _complaint(running)
    if problem is not None:
        running.fail(problem)
    else:
        running.entering.deserted = True
        running.entering.enter_by = monotonic() + _WORD_TIME


def why_not(running: Running) -> SandboxError | None:
    """Why one that has ended was not entered, where that is known: main could not, or the sandbox around it had ended."""
    parent = running.parent
    if (complaint := _complaint(running)) is not None or parent is None or not parent.ended:
        return complaint
    return SandboxError(f"never started: the sandbox around it had ended ({parent.problem or 'killed'})")


def _complaint(running: Running) -> SetupError | None:
    said = running.written.first_words()
    if not said.startswith(_COMPLAINT):
        return None
    return SetupError("enter a sandbox", said.removeprefix(_COMPLAINT).partition(b"\n")[0].decode("utf-8", "replace"), 0)


def _enter(running: Running) -> None:
    """Main is there, and waits for its "go"."""
    running.entering.entered = True
    running.fork_is_over()
    if not running.entering.held and not running.end.abandoned:
        _go(running)


def release(running: Running) -> None:
    """Let a sandbox that was held run; its clock starts now. Raises WireError as `ready` does."""
    running.entering.held, held = False, running.entering.held
    if held and running.entering.entered and not (running.end.abandoned or running.ended):
        _go(running)


def _go(running: Running) -> None:
    running.clock.start(running.order.spec.limits)
    running.talk.outbox.open(GO)


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
