"""The controller's event loop over many running sandboxes: starts, limits, kills, reads usage, cleans up.

    order -> start -> hello (init's pid) -> cgroup, go -> frames of main ... -> exit -> pid 1 dead -> Outcome

It runs on the machine, outside of every sandbox, and believes of one only what the kernel confirms. Imports everything of
`sandbox/`; knows nothing of pytest.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType

from pytest_sandbox.model.errors import SandboxError, SetupError, TeardownWarning, UnavailableError, WireError
from pytest_sandbox.model.outcome import Change, Usage
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.primitives import process
from pytest_sandbox.primitives.cgroups import CgroupRun
from pytest_sandbox.primitives.namespaces import HOST_BASE, Identity
from pytest_sandbox.sandbox import clock, host, upper
from pytest_sandbox.sandbox.accounts import changes_of, fill_of, outcome_of, usage_of
from pytest_sandbox.sandbox.child import Body, Descriptors, Order
from pytest_sandbox.sandbox.janitor import Janitor
from pytest_sandbox.sandbox.launcher import launch
from pytest_sandbox.sandbox.layout import Layout, scratch_of
from pytest_sandbox.sandbox.outbox import Outbox
from pytest_sandbox.sandbox.removal import remove_tree
from pytest_sandbox.sandbox.running import Listener, Running, prepare
from pytest_sandbox.sandbox.wire import Frame
from pytest_sandbox.sandbox.words import LastWords, refusal

#: How long a killed sandbox or a launcher may take to be gone before the run gives up waiting, in seconds.
GONE_TIME = 10.0
#: How much one sandbox may say before the others have their turn, in pieces of 64 KiB.
_TURN = 16


class Supervisor:
    """All sandboxes of a run. A context manager; on exit nothing of the run is left."""

    def __init__(self, name: str, layout: Layout) -> None:
        self._layout = layout
        self._name = name
        self._running: dict[str, Running] = {}
        self._count = 0
        self._launchers: list[int] = []
        with contextlib.ExitStack() as undo:
            for fd in _fill_standard_descriptors():
                undo.callback(os.close, fd)
            self._selector = selectors.DefaultSelector()
            undo.callback(self._selector.close)
            self._janitor = Janitor()
            undo.callback(self._janitor.close)
            if layout.scratch_path:
                self._janitor.watch("directory", layout.scratch_path)
                _make_scratch(layout.scratch_path)
                undo.callback(_remove, layout.scratch_path)
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
        running, given = self._prepare(spec, listener, None, scope=scope)
        self._reap_launchers()
        running.launcher = launch(self._layout, running.order, given, body, self._own_descriptors(given))
        self._launchers.append(running.launcher)
        _close_inner(given)
        return running

    def _own_descriptors(self, given: Descriptors) -> list[int]:
        """What belongs to the controller alone: nobody inside may hold it open, or see another sandbox's."""
        own = {self._selector.fileno() if isinstance(self._selector, selectors.EpollSelector) else -1, self._janitor.fd}
        for running in self._running.values():
            own |= running.descriptors()
        return sorted(own - {-1, *given.all()})

    def _reap_launchers(self) -> None:
        for pid in tuple(self._launchers):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._launchers.remove(pid)

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
        cgroup = self._cgroups.create(name, spec.limits, leaf=self._layout.identity is Identity.SAME)
        count_pids = "pids" in cgroup.unenforced and self._layout.identity is Identity.USER
        given, control, talk = prepare(self._owner, cgroup.open_tasks())
        if (own := scratch_of(self._layout, name, scope=scope)) is not None:
            os.mkdir(own, 0o755)
        order = Order(name, spec, scope, count_pids)
        # The files are shared, not copied: what the sandbox wrote is there when it is dead.
        running = Running(
            order, listener, parent, control, talk, given.stdout, given.stderr, given.stacks, given.shown, cgroup, Outbox(talk)
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
        due = clock.next_due(self._running.values())
        if due is not None:
            wait = max(0.0, due - time.monotonic())
            timeout = wait if timeout is None else min(timeout, wait)
        self._listen_for_room()
        for key, _ in self._selector.select(timeout):
            handler, running = key.data
            if not running.ended:
                handler(running)
        now = time.monotonic()
        for running in tuple(self._running.values()):
            clock.check(running, now)

    def _listen_for_room(self) -> None:
        """Be woken too when a sandbox for which frames wait can take more of them."""
        for running in self._running.values():
            key = self._selector.get_map().get(running.wire)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if running.outbox.waiting else 0)
            if key is not None and key.events != events:
                self._selector.modify(running.wire, events, key.data)

    def _on_control(self, running: Running) -> bool:
        """Hear what init says; whether there may be more."""
        descriptors: list[int] = []
        try:
            frames, pid, descriptors, gone = running.words_of_init()
            for frame in frames:
                self._word(running, frame, pid, descriptors)
        except WireError as error:
            self._lies(running, error)
            return False
        finally:
            for fd in descriptors:
                os.close(fd)
        if gone:
            self._selector.unregister(running.control)
            if running.pidfd is None:
                self._finish(running)
        return bool(frames) and not gone

    def _word(self, running: Running, frame: Frame, pid: int | None, descriptors: list[int]) -> None:
        if frame["op"] == "hello" and pid is not None and running.pid is None:
            self._hello(running, pid)
        elif frame["op"] == "ready" and descriptors and running.layer is None:
            running.layer = descriptors.pop()
            running.own_inodes = upper.used_inodes(running.layer)
        elif frame["op"] == "exit":
            running.last_words = LastWords.from_frame(frame)
        elif frame["op"] == "failed":
            running.problem = refusal(frame)
        elif frame["op"] == "forked" and running.pid is not None:
            process.spare_init(running.pid)

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
        clock.start(running)
        with contextlib.suppress(OSError):  # it died while it waited, which its pidfd will tell
            running.control.send(b"g")

    def _on_wire(self, running: Running) -> None:
        running.outbox.flush()
        try:
            for frame in running.frames(_TURN):
                self._frame(running, frame)
        except WireError as error:
            self._lies(running, error)
        if not running.ended and _is_at_end(running):
            with contextlib.suppress(KeyError):
                self._selector.unregister(running.wire)

    def _frame(self, running: Running, frame: Frame) -> None:
        if frame["op"] == "refused":
            child = self._running.get(str(frame.get("name")))
            if child is None or child.parent is not running or child.pid is not None:
                raise WireError("it refuses what was not asked of it")
            child.problem = refusal(frame)
            self._finish(child)
            return
        if frame["op"] == "done":
            running.snapshot = running.cgroup.snapshot()
            running.send({"op": "bye"})
        elif frame["op"] == "raised":
            running.failed, running.errno = True, refusal(frame).errno
        running.listener.on_frame(running, frame)

    def _lies(self, running: Running, error: WireError) -> None:
        running.problem = running.problem or error
        running.kill(None)
        with contextlib.suppress(KeyError):
            self._selector.unregister(running.wire)
        if running.pidfd is None and not running.ended:  # whoever was to make it lies in its stead
            self._finish(running)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _finish(self, running: Running) -> None:
        """pid 1 is dead, and so is everything of its namespace: read what it used, and remove what was made for it."""
        with contextlib.suppress(WireError):
            for frame in running.frames():
                self._frame(running, frame)
        while running.last_words is None and running.control in self._selector.get_map() and self._on_control(running):
            continue  # its last words may still be unread
        if running.ended:
            return
        running.ended = True
        if running.pid is None and running.problem is None and running.parent is not None and running.parent.ended:
            why = running.parent.problem or "killed"
            running.problem = SandboxError(f"never started: the sandbox around it had ended ({why})")
        del self._running[running.name]
        for fd in (running.control, running.wire, running.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(fd)  # type: ignore[arg-type]
        try:
            outcome = outcome_of(running, self._layout, self._layers_below(running))
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
        if (own := scratch_of(self._layout, running.name, scope=running.order.scope)) is not None:
            _remove(own)

    def changes(self, running: Running) -> tuple[tuple[Change, ...], bool]:
        """What a sandbox wrote so far, and whether that is cut."""
        return changes_of(running, self._layout, self._layers_below(running))

    def _layers_below(self, running: Running) -> tuple[int, ...]:
        """The layers of the sandboxes around it, nearest first."""
        found, outer = list[int](), running.parent
        while outer is not None:
            if outer.layer is not None:
                found.append(outer.layer)
            outer = outer.parent
        return tuple(found)

    def usage(self, running: Running) -> Usage:
        """What a sandbox used so far."""
        running.snapshot = running.cgroup.snapshot()
        return usage_of(running, running.cgroup.read(), fill_of(running, self._layout))

    def refuse(self, spec: Spec) -> None:
        """Raise UnavailableError for a limit of `spec` that was asked for and that this machine cannot enforce."""
        host.refuse(spec, host.capabilities())

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
            if running.pidfd is None and running.launcher is not None:
                os.kill(running.launcher, signal.SIGKILL)  # not reaped yet, so the pid is still its own
        limit = time.monotonic() + GONE_TIME
        while self._running and (left := limit - time.monotonic()) > 0:
            self.step(left)

    def close(self) -> None:
        """Kill what still runs and remove everything that the run made; waits for nothing longer than GONE_TIME."""
        try:
            self.kill_all()
            for pid in self._launchers:
                process.wait_or_kill(pid, GONE_TIME)
            for running in tuple(self._running.values()):
                warnings.warn(TeardownWarning(f"{running.name}, pid {running.pid}, cannot be killed"), stacklevel=2)
                running.close()
        finally:
            self._undo.close()


def _fill_standard_descriptors() -> list[int]:
    """Put /dev/null where the caller has no stdin, stdout or stderr: no other descriptor may get such a number."""
    filled = []
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        filled.append(fd)
    os.close(fd)
    return filled


def _make_scratch(path: str) -> None:
    """Make the run's own directory below `scratch`, and try whether layers can lie there."""
    fix = "name a directory that you may write, on a file system with room and user attributes (ext4, xfs, btrfs)"
    try:
        os.mkdir(path, 0o700)
        probe = os.path.join(path, "probe")
        with open(probe, "xb") as file:
            file.write(bytes(1 << 16))
        os.setxattr(probe, "user.overlay.probe", b"1")
        os.unlink(probe)
    except OSError as error:
        remove_tree(path)
        raise UnavailableError("scratch", f"{os.path.dirname(path)}: {error.strerror}", fix) from error


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


def _remove(path: str) -> None:
    problem = remove_tree(path)
    if problem:
        warnings.warn(TeardownWarning(f"could not remove {problem}; remove it by hand"), stacklevel=2)
