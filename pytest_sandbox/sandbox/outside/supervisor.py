"""All sandboxes of a run: starts, limits and kills them, answers for them, and cleans up. Their events: `loop`.

It runs on the machine, outside of every sandbox, and believes of one only what the kernel confirms. Imports everything of
`sandbox/`; knows nothing of pytest.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.errors import SetupError, TeardownWarning, UnavailableError, warn_of_teardown
from pytest_sandbox.model.outcome import Change, Outcome, Usage
from pytest_sandbox.model.spec import OF_TMPFS, Network, Spec
from pytest_sandbox.primitives import process
from pytest_sandbox.primitives.cgroups import CgroupRun, settle
from pytest_sandbox.primitives.locks import Locks
from pytest_sandbox.primitives.namespaces import HOST_BASE, Identity
from pytest_sandbox.sandbox.cleanup import scratch
from pytest_sandbox.sandbox.cleanup.janitor import Janitor
from pytest_sandbox.sandbox.files import copying
from pytest_sandbox.sandbox.files.home import Refuses, takes_all
from pytest_sandbox.sandbox.files.layout import Layout, scratch_of
from pytest_sandbox.sandbox.inside.child import Body, Control, Order
from pytest_sandbox.sandbox.inside.launcher import launch
from pytest_sandbox.sandbox.machine import host
from pytest_sandbox.sandbox.outside.accounts import changes_of, fill_of, met_meanwhile, usage_of
from pytest_sandbox.sandbox.outside.cloning import PATIENCE
from pytest_sandbox.sandbox.outside.ends import make_descriptors
from pytest_sandbox.sandbox.outside.loop import Loop
from pytest_sandbox.sandbox.outside.running import Entering, Listener, Pending, Running
from pytest_sandbox.sandbox.outside.talk import Talk
from pytest_sandbox.sandbox.outside.written import Written
from pytest_sandbox.sandbox.wire.frames import Frame

#: How long a killed sandbox or a launcher may take to be gone before the run gives up waiting, in seconds.
CLOSING_TIME = 10.0


class Supervisor:
    """All sandboxes of a run. A context manager; on exit nothing of the run is left. refuses: see `Home`."""

    def __init__(self, name: str, layout: Layout, refuses: Refuses = takes_all) -> None:
        self._layout = layout
        self._name = name
        self._count = 0
        self._launchers: list[int] = []
        self._lost: set[str] = set()
        host.refuse_missing(("platform", "native"), host.capabilities())
        with contextlib.ExitStack() as undo:
            for fd in _fill_standard_descriptors():
                undo.callback(os.close, fd)
            self._loop = Loop(layout, refuses)
            undo.callback(self._loop.close)
            settle()  # the janitor belongs where this process will be
            self._janitor = undo.enter_context(Janitor())
            locks = Locks()
            undo.callback(locks.release)
            for _, path in layout.scratches:
                scratch.remove_left(os.path.dirname(path))
                self._janitor.watch("directory", path)
                scratch.make(path, locks)
                undo.callback(scratch.remove_or_warn, path)
            self._cgroups = CgroupRun.open(name, announce=self._janitor.watch_cgroups)
            undo.callback(self._cgroups.close)
            self._undo = undo.pop_all()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- starting -----------------------------------------------------------------------------------------------------

    def start_root(self, spec: Spec, body: Body, listener: Listener, *, scope: bool = True) -> Running:
        """Fork an outermost sandbox out of the calling process; `body` runs inside as its main process."""
        with _beginning() as undo:
            shares = spec.network is Network.HOST
            running, pending = self._prepare(undo, spec, listener, None, scope=scope, shares_network=shares)
            self._reap_launchers()
            given, control = pending.descriptors, Control(pending.inner, pending.tasks)
            close = sorted((self._loop.descriptors() | {self._janitor.fd}) - {*given.all(), *pending.all()})
            running.entering.enter_by = monotonic() + PATIENCE
            running.entering.launcher = launch(self._layout, running.order, given, control, body, close=close)
        self._launchers.append(running.entering.launcher)
        running.entering.pending = None
        pending.close()
        return running

    def _reap_launchers(self) -> None:
        for pid in tuple(self._launchers):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._launchers.remove(pid)
            for running in self._loop.running.values():
                if running.entering.launcher == pid:
                    running.entering.launcher = None

    def start(
        self,
        parent: Running,
        spec: Spec,
        listener: Listener,
        *,
        scope: bool = False,
        held: bool = False,
        prepare: Frame | None = None,
        **extra: object,
    ) -> Running:
        """Make a sandbox below `parent`, whose main process forks into it; `extra` goes into the frame that tells it to.

        held: it is made ready, and does nothing before `release`. prepare: a frame for the parent's main process, which
        answers "ripe" or "dropped"; only then is the sandbox begun, since its layers may not change under it.
        """
        with _beginning() as undo:
            running, pending = self._prepare(undo, spec, listener, parent, scope=scope, shares_network=False)
            running.entering.held = held
            pending.extra |= extra
            if prepare is not None:
                parent.below.preparing.add(running.name)
                parent.send(prepare | {"name": running.name})
            if parent.below.may_clone:
                self._loop.clone(running)
            else:
                parent.below.waiting.append(running)
        return running

    def _prepare(
        self,
        undo: contextlib.ExitStack,
        spec: Spec,
        listener: Listener,
        parent: Running | None,
        *,
        scope: bool,
        shares_network: bool,
    ) -> tuple[Running, Pending]:
        """A sandbox to be, and what it shall be given; `undo` has what that takes to be as before."""
        self._count += 1
        name = f"s{self._count}"
        cgroup = self._cgroups.create(name, spec.limits, leaf=self._layout.identity is not Identity.MAPPED)
        undo.callback(cgroup.remove)
        count_pids = "pids" in cgroup.unenforced and self._layout.identity is Identity.USER
        lost = {name: why.reason for name, why in cgroup.unenforced.items() if not (count_pids and name == "pids")}
        self._refuse_lost(spec, lost)
        if (own := scratch_of(self._layout, spec, name, scope=scope)) is not None:
            os.mkdir(own, 0o755)
            undo.callback(os.rmdir, own)
            lost |= dict.fromkeys(OF_TMPFS, "scratch")
        if lost:
            spec = host.without(spec, frozenset(lost))
        given, inner, control, wire = make_descriptors(self._owner)
        pending = Pending({}, given, (), inner)
        user, last = self._layout.identity is Identity.USER, self._layout.last_capability
        keep = () if user else tuple(process.ROOT_CAPABILITIES)
        # Whoever owns the namespaces of a sandbox could uncover there what its mounts hide, or what only they keep from root.
        may_mount = not spec.hide and (self._layout.identity is not Identity.SAME if parent is None else parent.order.may_mount)
        around = (None, None) if parent is None else (parent.order.files, parent.order.processes)
        files = self._rlimit(resource.RLIMIT_NOFILE, spec.limits.files, around[0], scope=scope)
        pids = spec.limits.pids if count_pids else None
        processes = self._rlimit(resource.RLIMIT_NPROC, pids, around[1], scope=scope)
        order = Order(name, spec, scope, shares_network, processes, files, keep, last, may_mount)
        running = Running(
            order=order,
            listener=listener,
            parent=parent,
            control=control,
            talk=Talk(wire),
            written=Written.of(given, spec.limits.output),
            cgroup=cgroup,
            entering=Entering(pending),
        )
        undo.callback(running.close)
        pending.tasks = cgroup.open_tasks()
        running.depth = 0 if parent is None else parent.depth + 1
        undo.callback(self._loop.drop, running)
        self._loop.add(running)
        return running, pending

    def _rlimit(self, which: int, limit: int | None, around: tuple[int, int] | None, *, scope: bool) -> tuple[int, int] | None:
        """What setrlimit(2) is told, soft and hard; None where that of the sandbox around it, of which it is a fork, stays.

        Nobody raises a hard limit again: that of a scope leaves room for all that may stand on it.
        """
        soft, hard = resource.getrlimit(which)
        if limit is None:
            return None if around is None else (soft, hard)
        most = {resource.RLIMIT_NOFILE: self._layout.most_files, resource.RLIMIT_NPROC: self._layout.most_pids}[which]
        return limit, limit if not scope else hard if most is None else max(limit, most)

    def _refuse_lost(self, spec: Spec, lost: Mapping[str, str]) -> None:
        """Refuse, or warn of, a limit that this machine was found to enforce and that does not hold here all the same."""
        for name, why in lost.items():
            if not host.capabilities()[name].available:
                continue
            if name in spec.asked:
                raise UnavailableError(f"the limit {name}", why, "see docs/host-setup, or leave the limit out")
            if name not in self._lost:
                self._lost.add(name)
                warnings.warn(TeardownWarning(f"the limit {name} is not enforced: {why}"), stacklevel=4)

    @property
    def _owner(self) -> tuple[int, int] | None:
        if self._layout.identity is not Identity.MAPPED:
            return None
        return HOST_BASE + self._layout.uid, HOST_BASE + self._layout.gid

    # -- running ------------------------------------------------------------------------------------------------------

    def run_while(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Serve every sandbox until `condition` is false, or so many seconds are over."""
        limit = None if seconds is None else monotonic() + seconds
        while condition():
            left = None if limit is None else limit - monotonic()
            if left is not None and left <= 0:
                return
            self.step(left)

    def step(self, timeout: float | None = None) -> None:
        """Wait for the next event or due time, and serve it."""
        self._loop.step(timeout)

    def release(self, running: Running) -> None:
        """Let a sandbox that was held run; its clock starts now."""
        self._loop.release(running)

    def changes(self, running: Running) -> tuple[tuple[Change, ...], bool]:
        """What a sandbox wrote so far, and whether that is cut."""
        return changes_of(running, self._layout, self._loop.layers_below(running))

    def has_below(self, running: Running) -> bool:
        """Whether there is a sandbox below this one."""
        return any(other.parent is running for other in self._loop.running.values())

    def usage(self, running: Running) -> Usage:
        """What a sandbox used so far."""
        running.evidence.memory = running.cgroup.snapshot()
        return usage_of(running, running.cgroup.read(), fill_of(running, self._layout))

    def met_meanwhile(self, running: Running, *, failed: bool) -> Outcome | None:
        """See `accounts`."""
        return met_meanwhile(running, self._layout, failed=failed)

    def refuse(self, spec: Spec) -> None:
        """Raise UnavailableError for a limit of `spec` that was asked for and that this machine cannot enforce."""
        host.refuse(spec, host.capabilities())

    def copy_out(self, running: Running, below: str, target: str, leaves_out: Callable[[str], bool] = copying.takes_all) -> int:
        """Copy what a sandbox that is ending wrote below `below` to the machine's directory `target`."""
        if running.layer is None:
            return 0
        return copying.copy_out(running.layer, self._layout.plan.trees, below, target, leaves_out)

    def may_have(self, running: Running, path: str) -> bool:
        """Whether a sandbox that is ending may have written something below this path."""
        return running.layer is not None and copying.may_have(running.layer, self._layout.plan.trees, path)

    def copy_files(self, running: Running, where: str, target: Callable[[], str], most: tuple[int, int]) -> copying.Copies:
        """Copy the files of an ending sandbox whose paths begin with `where` to the machine's directory `target()`.

        most: files and bytes.
        """
        if running.layer is None:
            return copying.Copies()
        return copying.copy_files(running.layer, self._layout.plan.trees, where, target, most)

    @property
    def not_home(self) -> Sequence[str]:
        """What outermost sandboxes that have ended wrote to what all have in common, and is lost: see `Home`."""
        return tuple(self._loop.not_home)

    def kill_innermost(self, keep: Sequence[Running]) -> None:
        """Kill every sandbox but those in `keep`."""
        for running in tuple(self._loop.running.values()):
            if running not in keep:
                running.kill(None)

    def kill_all(self) -> None:
        """Kill every sandbox, the innermost included, and wait until all are gone."""
        for running in tuple(self._loop.running.values()):
            running.end.abandoned = True
            running.entering.being_forked = False  # whoever forks into it dies too
            running.kill(None)
            if running.pidfd is None and running.entering.launcher is not None:
                with contextlib.suppress(ProcessLookupError):  # whoever has taken SIGCHLD for itself
                    os.kill(running.entering.launcher, signal.SIGKILL)  # not reaped yet, so the pid is still its own
        self.run_while(lambda: bool(self._loop.running), CLOSING_TIME)

    def close(self) -> None:
        """Kill what still runs and remove everything that the run made; waits for nothing longer than CLOSING_TIME."""
        try:
            self.kill_all()
            for pid in self._launchers:
                process.wait_or_kill(pid, CLOSING_TIME)
            for running in tuple(self._loop.running.values()):
                warn_of_teardown(f"{running.name}, pid {running.pid}, cannot be killed")
                running.close()
        finally:
            self._undo.close()


@contextlib.contextmanager
def _beginning() -> Iterator[contextlib.ExitStack]:
    """What is done for a sandbox that then cannot be begun is undone. SetupError, also for an OSError or ValueError."""
    with contextlib.ExitStack() as undo:
        try:
            yield undo
        except (OSError, ValueError) as error:
            raise SetupError.of("begin a sandbox", error) from error
        undo.pop_all()


def _fill_standard_descriptors() -> list[int]:
    """Put /dev/null where the caller has no stdin, stdout or stderr: no other descriptor may get such a number."""
    filled = []
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        filled.append(fd)
    os.close(fd)
    return filled
