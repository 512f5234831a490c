"""The controller's event loop over many running sandboxes: starts, limits, kills, reads usage, cleans up.

    order -> start -> hello (init's pid) -> cgroup, go -> frames of main ... -> exit -> pid 1 dead -> Outcome

It runs on the machine, outside of every sandbox, and believes of one only what the kernel confirms. Imports everything of
`sandbox/`; knows nothing of pytest.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType

from pytest_sandbox.model.errors import SandboxError, SetupError, TeardownWarning, WireError
from pytest_sandbox.model.outcome import Change, Ending, Leak, Outcome, Usage
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.primitives.cgroups import CgroupRun, CgroupUsage, MemorySnapshot, oom_victim
from pytest_sandbox.primitives.namespaces import HOST_BASE, Identity
from pytest_sandbox.sandbox import host, upper
from pytest_sandbox.sandbox.child import Body, Descriptors, Order
from pytest_sandbox.sandbox.janitor import Janitor
from pytest_sandbox.sandbox.launcher import launch
from pytest_sandbox.sandbox.layout import Layout
from pytest_sandbox.sandbox.running import Listener, Running, prepare
from pytest_sandbox.sandbox.verdict import Facts, judge
from pytest_sandbox.sandbox.wire import Frame

#: How often a long test's output is looked at, in seconds; a file has no event for its size.
LOOK = 0.1
#: How long a process that ran out of time has to print its stacks, in seconds.
STACKS_TIME = 0.25
#: How long a killed sandbox may take to be gone before the run gives up waiting, in seconds.
GONE_TIME = 30.0


class Supervisor:
    """All sandboxes of a run. A context manager; on exit nothing of the run is left."""

    def __init__(self, name: str, layout: Layout) -> None:
        self._layout = layout
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._running: dict[str, Running] = {}
        self._count = 0
        self._launchers: list[int] = []
        self._known: dict[str, host.Capability] | None = None
        with contextlib.ExitStack() as undo:
            self._janitor = Janitor()
            undo.callback(self._janitor.close)
            if layout.scratch_path:
                os.mkdir(layout.scratch_path, 0o700)
                self._janitor.watch("directory", layout.scratch_path)
                undo.callback(shutil.rmtree, layout.scratch_path, ignore_errors=True)
            self._cgroups = CgroupRun.open(name)
            undo.callback(self._cgroups.close)
            for path in self._cgroups.paths:
                self._janitor.watch("cgroup", path)
            self._undo = undo.pop_all()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- starting -----------------------------------------------------------------------------------------------------

    def start_root(self, spec: Spec, body: Body, listener: Listener) -> Running:
        """Fork the outermost sandbox out of the calling process; `body` runs inside as its main process."""
        running, given = self._prepare(spec, listener, None, scope=True)
        own = [self._selector.fileno() if hasattr(self._selector, "fileno") else -1, self._janitor.fd]
        own += [running.control.fileno(), running.wire.fileno()]
        self._launchers.append(launch(self._layout, running.order, given, body, [fd for fd in own if fd >= 0]))
        _close_inner(given)
        return running

    def start(
        self, parent: Running, spec: Spec, listener: Listener, *, scope: bool = False, held: bool = False, **extra: object
    ) -> Running:
        """Order `parent` to fork a sandbox below itself; `extra` goes into the order's frame.

        held: it is made ready, and its main process forked only after `release`.
        """
        running, given = self._prepare(spec, listener, parent, scope=scope)
        running.held = held
        parent.send(running.order.to_frame() | extra, given.all())
        _close_inner(given)
        return running

    def _prepare(self, spec: Spec, listener: Listener, parent: Running | None, *, scope: bool) -> tuple[Running, Descriptors]:
        self._count += 1
        name = f"s{self._count}"
        cgroup = self._cgroups.create(name, spec.limits)
        count_pids = "pids" in cgroup.unenforced and self._layout.identity is Identity.USER
        given, control, talk = prepare(self._owner, cgroup.open_tasks())
        if self._layout.scratch_path:
            os.mkdir(os.path.join(self._layout.scratch_path, name), 0o755)
        order = Order(name, spec, scope, count_pids)
        # The files are shared, not copied: what the sandbox wrote is there when it is dead.
        running = Running(
            order, listener, parent, control, talk, given.stdout, given.stderr, given.stacks, given.shown, cgroup
        )
        self._running[name] = running
        self._selector.register(control, selectors.EVENT_READ, (self._on_control, running))
        self._selector.register(talk, selectors.EVENT_READ, (self._on_wire, running))
        return running, given

    @property
    def _owner(self) -> tuple[int, int] | None:
        if self._layout.identity is not Identity.MAPPED:
            return None
        return HOST_BASE + self._layout.uid, HOST_BASE + self._layout.gid

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run_while(self, condition: Callable[[], bool]) -> None:
        """Serve every sandbox until `condition` is false."""
        while condition():
            self.step()

    def step(self, timeout: float | None = None) -> None:
        """Wait for the next event or due time, and serve it."""
        due = self._next_due()
        if due is not None:
            wait = max(0.0, due - time.monotonic())
            timeout = wait if timeout is None else min(timeout, wait)
        for key, _ in self._selector.select(timeout):
            handler, running = key.data
            if not running.ended:
                handler(running)
        self._check_times()

    def _next_due(self) -> float | None:
        due = [
            moment
            for running in self._running.values()
            if not running.hold
            for moment in (running.deadline, running.next_look, running.kill_at)
            if moment is not None
        ]
        return min(due, default=None)

    def _check_times(self) -> None:
        now = time.monotonic()
        for running in tuple(self._running.values()):
            if running.hold or running.abandoned:
                continue
            if running.kill_at is not None and now >= running.kill_at:
                running.kill(Ending.TIMED_OUT)
            elif running.kill_at is None and running.deadline is not None and now >= running.deadline:
                running.killed = Ending.TIMED_OUT
                running.ask_for_stacks()
                running.kill_at = now + STACKS_TIME
            if running.next_look is not None and now >= running.next_look:
                self._look(running, now)

    def _look(self, running: Running, now: float) -> None:
        """What no event tells: the size of the output, and CPU time."""
        limits = running.order.spec.limits
        running.next_look = now + LOOK
        if limits.output is not None and running.output() > limits.output:
            running.kill(Ending.TOO_MUCH_OUTPUT)
        if limits.cpu_time is not None:
            used = running.cgroup.cpu_seconds()
            if used is not None and used >= limits.cpu_time:
                running.kill(Ending.CPU_TIME)

    def _on_control(self, running: Running) -> None:
        try:
            frames, pid, descriptors, gone = running.words_of_init()
        except WireError as error:
            self._lies(running, error)
            return
        for frame in frames:
            if frame["op"] == "hello" and pid is not None and running.pid is None:
                self._hello(running, pid)
            elif frame["op"] == "ready" and descriptors and running.layer is None:
                running.layer = descriptors.pop()
            elif frame["op"] == "exit":
                running.exit = frame
            elif frame["op"] == "failed":
                running.problem = SetupError(str(frame.get("step")), str(frame.get("object", "")), int(frame.get("errno") or 0))
        for fd in descriptors:
            os.close(fd)
        if gone:
            self._selector.unregister(running.control)
            if running.pidfd is None:
                self._finish(running)

    def _hello(self, running: Running, pid: int) -> None:
        running.pid = pid
        try:
            running.pidfd = os.pidfd_open(pid)
            self._selector.register(running.pidfd, selectors.EVENT_READ, (self._finish, running))
            running.cgroup.admit(pid)
        except (OSError, SetupError) as error:
            running.problem = error if isinstance(error, SandboxError) else SetupError("pidfd_open", str(pid), error.errno or 0)
            running.kill(None)
            return
        if running.abandoned:  # killed before it could be
            running.kill(None)
        if not running.held:
            self._go(running)

    def release(self, running: Running) -> None:
        """Let a sandbox that was held run; its clock starts now."""
        running.held, held = False, running.held
        if held and running.pid is not None and not running.abandoned:
            self._go(running)

    def _go(self, running: Running) -> None:
        limits = running.order.spec.limits
        running.started = now = time.monotonic()
        if running.deadline is None and limits.timeout is not None:
            running.deadline = now + limits.timeout
        if limits.output is not None or limits.cpu_time is not None:
            running.next_look = now + LOOK
        with contextlib.suppress(OSError):  # it died while it waited, which its pidfd will tell
            running.control.send(b"g")

    def _on_wire(self, running: Running) -> None:
        try:
            for frame in running.frames():
                self._frame(running, frame)
        except WireError as error:
            self._lies(running, error)
        if _is_at_end(running):
            self._selector.unregister(running.wire)

    def _frame(self, running: Running, frame: Frame) -> None:
        if frame["op"] == "refused":
            child = self._running.get(str(frame.get("name")))
            if child is not None and child.parent is running:
                child.problem = SetupError(str(frame.get("step")), str(frame.get("object", "")), int(frame.get("errno") or 0))
                self._finish(child)
        elif frame["op"] == "done":
            running.snapshot = running.cgroup.snapshot()
            running.next_look = None
            running.send({"op": "bye"})
            running.listener.on_frame(running, frame)
        else:
            running.listener.on_frame(running, frame)

    def _lies(self, running: Running, error: WireError) -> None:
        running.problem = error
        running.kill(None)
        with contextlib.suppress(KeyError):
            self._selector.unregister(running.wire)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _finish(self, running: Running) -> None:
        """pid 1 is dead, and so is everything of its namespace: read what it used, and remove what was made for it."""
        with contextlib.suppress(WireError):
            for frame in running.frames():
                self._frame(running, frame)
        if running.exit is None and running.control.fileno() in self._selector.get_map():
            self._on_control(running)  # its last words may still be unread
            if running.ended:
                return
        running.ended = True
        if running.pid is None and running.problem is None and running.parent is not None and running.parent.ended:
            running.problem = SandboxError(f"never started: the sandbox around it had ended ({running.parent.problem or 'killed'})")
        del self._running[running.name]
        for fd in (running.control, running.wire, running.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(fd)  # type: ignore[arg-type]
        try:
            outcome = self._outcome(running)
            running.listener.on_end(running, outcome)
        finally:
            running.cgroup.remove()
            self._remove_scratch(running)
            running.close()
            if running.parent is not None and not running.parent.ended:
                running.parent.send({"op": "reap"})
            for child in [child for child in self._running.values() if child.parent is running and child.pid is None]:
                self._finish(child)  # it was never made, and nobody is left to make it

    def _remove_scratch(self, running: Running) -> None:
        if self._layout.scratch_path:
            shutil.rmtree(os.path.join(self._layout.scratch_path, running.name), onerror=_warn_of)

    def _outcome(self, running: Running) -> Outcome:
        words = running.exit or {}
        counted = running.cgroup.read()
        fill = self._fill(running)
        status = words.get("status")
        usage = _usage(running, counted, fill, words)
        limits = running.order.spec.limits
        facts = Facts(
            limits=limits,
            usage=usage,
            status=os.waitstatus_to_exitcode(status) if isinstance(status, int) else None,
            killed=running.killed,
            processes_refused=counted.pids_max_events or 0,
            layer_full=fill.share if fill and not self._layout.scratch_path else 0.0,
            errno=running.errno,
            output=running.output(),
            victim=oom_victim(running.cgroup.log_name, running.started) if usage.oom_kills else None,
            failed=running.failed or bool(status),
            reported=running.reported,
        )
        ending, sentence = judge(facts)
        stdout, stderr, stacks = running.read_output()
        changes, cut = self.changes(running)
        return Outcome(
            ending,
            facts.status,
            usage,
            str(running.problem) if running.problem else sentence,
            stdout,
            stderr,
            stacks,
            tuple(Leak(int(pid), str(line)) for pid, line in words.get("leaks", ())),
            changes,
            cut,
        )

    def _fill(self, running: Running) -> upper.Fill | None:
        if running.layer is None:
            return None
        return upper.fill(running.layer, len(self._layout.plan.trees))

    def changes(self, running: Running) -> tuple[tuple[Change, ...], bool]:
        """What a sandbox wrote so far, and whether that is cut."""
        fill = self._fill(running)
        if running.layer is None or (fill is not None and not self._layout.scratch_path and fill.inodes == 0):
            return (), False
        return upper.changes(running.layer, self._layout.plan.trees)

    def usage(self, running: Running) -> Usage:
        """What a sandbox used so far."""
        running.snapshot = running.cgroup.snapshot()
        return _usage(running, running.cgroup.read(), self._fill(running), {})

    def refuse(self, spec: Spec) -> None:
        """Raise UnavailableError for a limit of `spec` that was asked for and that this machine cannot enforce."""
        if self._known is None:
            self._known = host.capabilities()
        host.refuse(spec, self._known)

    def copy_out(self, running: Running, below: str, target: str) -> int:
        """Copy what a sandbox that is ending wrote below `below` to the machine's directory `target`."""
        if running.layer is None:
            return 0
        return upper.copy_out(running.layer, self._layout.plan.trees, below, target)

    def kill_innermost(self, keep: Sequence[Running]) -> None:
        """Kill every sandbox but those in `keep`."""
        for running in tuple(self._running.values()):
            if running not in keep:
                running.kill(None)

    def kill_all(self) -> None:
        """Kill every sandbox, the innermost included, and wait until all are gone."""
        for running in tuple(self._running.values()):
            running.abandoned = True
            running.kill(None)
        limit = time.monotonic() + GONE_TIME
        while self._running and time.monotonic() < limit:
            self.step(limit - time.monotonic())

    def close(self) -> None:
        """Kill what still runs and remove everything that the run made."""
        try:
            self.kill_all()
            for pid in self._launchers:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            self._selector.close()
        finally:
            self._undo.close()


def _close_inner(given: Descriptors) -> None:
    """Close what only the sandbox needs; its output files stay the controller's too, to be read when it is dead."""
    for fd in (given.control, given.wire, *given.tasks):
        os.close(fd)


def _is_at_end(running: Running) -> bool:
    """Whether main has closed its end; what it left behind may still hold it open."""
    try:
        return running.wire.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _warn_of(_: object, path: str, error: object) -> None:
    warnings.warn(TeardownWarning(f"could not remove {path}: {error}; remove it by hand"), stacklevel=2)


def _usage(running: Running, counted: CgroupUsage, fill: upper.Fill | None, words: Frame) -> Usage:
    missing = dict(counted.missing)
    snapshot = running.snapshot or MemorySnapshot(None, None, "its main process was gone before it could be read")
    cpu, blocks, network = counted.cpu, words.get("blocks"), words.get("network")
    if cpu is None and isinstance(words.get("cpu"), float):
        cpu = float(words["cpu"])  # of all that init has reaped: all but what leaked
        missing.pop("cpu", None)
    read, written = counted.bytes_read, counted.bytes_written
    if read is None and isinstance(blocks, list):
        read, written = int(blocks[0]) * 512, int(blocks[1]) * 512
        missing.pop("bytes_read", None)
        missing.pop("bytes_written", None)
    if running.order.spec.network.value == "host" or not isinstance(network, list):
        network = [None, None]
        missing |= dict.fromkeys(("network_received", "network_sent"), "it had no network of its own, or died before it was read")
    if snapshot.missing:
        missing |= dict.fromkeys(("memory_anon", "memory_file"), snapshot.missing)
    if fill is None:
        missing |= dict.fromkeys(("overlay_bytes", "overlay_inodes"), "it ended before its layer was there")
    return Usage(
        wall=time.monotonic() - running.started,
        cpu=cpu,
        memory_peak=counted.memory_peak,
        memory_anon=snapshot.anon,
        memory_file=snapshot.file,
        oom_kills=counted.oom_kills,
        pids_peak=counted.pids_peak,
        bytes_read=read,
        bytes_written=written,
        overlay_bytes=fill.bytes if fill else None,
        overlay_inodes=fill.inodes if fill else None,
        network_received=network[0],
        network_sent=network[1],
        throttled=counted.throttled,
        missing=missing,
    )
