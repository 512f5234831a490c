"""The inside of a sandbox: from the clone to the last word of its pid 1. Imports no plugin.

    parent (a scope, or the launcher)
    +- init     pid 1 of the new namespaces: makes the root, waits for the controller's "go", forks main, reaps, and when
       |        main has ended says how, who is left over and what was used; its end is the end of all that is left
       +- main  pid 2: gives up privileges, takes its own stdout and stderr, and runs the body

Two sockets a sandbox: `control` belongs to init, which the sandboxed code can neither trace nor signal; `wire` to main.
Five descriptors arrive with the controller's order to spawn, in the order of `Descriptors`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from pytest_sandbox._linux import proc, syscalls
from pytest_sandbox._linux.flags import Attr, Clone
from pytest_sandbox._linux.sockdiag import serves_network
from pytest_sandbox.model.spec import Keep, Limits, Network, Spec
from pytest_sandbox.primitives import mounts, network, overlay, process
from pytest_sandbox.primitives.cgroups import enter
from pytest_sandbox.primitives.namespaces import Identity, write_maps
from pytest_sandbox.sandbox import layout as layouts
from pytest_sandbox.sandbox.layout import Layout
from pytest_sandbox.sandbox.wire import Channel, Frame, encode

#: How long init waits for processes that are just ending before it calls them leaked, in seconds.
LEAK_GRACE = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptors:
    """What a sandbox is given: two sockets, files, and the way into its cgroups.

    stdout, stderr: what it writes. shown: what it writes past whoever captures its output. stacks: Python's, when it dies.
    """

    control: int
    wire: int
    stdout: int
    stderr: int
    stacks: int
    shown: int
    tasks: tuple[int, ...] = ()

    def all(self) -> tuple[int, ...]:
        """Every descriptor, in the order in which they travel."""
        return self.control, self.wire, self.stdout, self.stderr, self.stacks, self.shown, *self.tasks

    @classmethod
    def of(cls, descriptors: Sequence[int]) -> Descriptors:
        """Those that travelled in the order of `all`."""
        control, wire, stdout, stderr, stacks, shown, *tasks = descriptors
        return cls(control, wire, stdout, stderr, stacks, shown, tuple(tasks))


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """The controller's order to make one sandbox, as it travels.

    scope: whether other sandboxes will be made below it. count_pids: RLIMIT_NPROC, where no cgroup counts processes.
    """

    name: str
    spec: Spec
    scope: bool = False
    count_pids: bool = False

    def to_frame(self) -> Frame:
        """The fields of a frame."""
        spec = dataclasses.asdict(self.spec) | {"network": self.spec.network.value, "keep": self.spec.keep.value}
        spec["asked"] = sorted(self.spec.asked)
        return {"op": "spawn", "name": self.name, "spec": spec, "scope": self.scope, "count_pids": self.count_pids}

    @classmethod
    def from_frame(cls, frame: Frame) -> Order:
        """The order of a frame that `to_frame` made."""
        data = frame["spec"]
        spec = Spec(
            Limits(**data["limits"]),
            Network(data["network"]),
            tuple(data["writable"]),
            tuple(data["hide"]),
            data["scratch"],
            Keep(data["keep"]),
            frozenset(data["asked"]),
        )
        return cls(frame["name"], spec, frame["scope"], frame["count_pids"])


@dataclasses.dataclass(slots=True)
class Inside:
    """What main's body finds: its order, the layout for sandboxes below it, its channel and files."""

    order: Order
    layout: Layout
    channel: Channel
    descriptors: Descriptors
    shares_network: bool
    children: set[int] = dataclasses.field(default_factory=set)

    def spawn(self, frame: Frame, descriptors: Sequence[int], body: Body) -> None:
        """Make a sandbox as ordered by a "spawn" frame; what goes wrong is told to the controller, and not raised."""
        order, given = Order.from_frame(frame), Descriptors.of(descriptors)
        try:
            own = self.descriptors
            inherited = (own.wire, own.stdout, own.stderr, own.stacks, own.shown)
            self.children.add(spawn(self.layout, order, given, body, inherited=inherited))
        except OSError as error:
            self.channel.send({"op": "refused", "name": order.name, **describe(error)})
        finally:
            for fd in given.all():
                os.close(fd)

    def reap(self) -> None:
        """Reap the sandboxes that have ended, and nobody else: fixtures wait for processes of their own."""
        for pid in tuple(self.children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self.children.discard(pid)


Body = Callable[[Inside], int]


def describe(error: BaseException) -> Frame:
    """What went wrong, as fields of a frame."""
    if isinstance(error, OSError):
        return {"errno": error.errno or 0, "step": str(error.filename or error), "object": ""}
    return {"errno": 0, "step": "".join(traceback.format_exception_only(error)).strip(), "object": ""}


# -- the parent's side ------------------------------------------------------------------------------------------------


def spawn(
    layout: Layout,
    order: Order,
    given: Descriptors,
    body: Body,
    *,
    inherited: Sequence[int] = (),
    mapped: Callable[[int], None] = lambda _: None,
) -> int:
    """Clone init of a new sandbox; returns its pid (of a helper that ends at once where the caller has threads).

    inherited: descriptors of the caller that the sandbox shall not have. mapped: called with the pid when the new user
    namespace has its ids, before init goes on. OSError: the kernel refused a namespace or the ids.
    """
    shares = shares_network(layout, order.spec.network)
    sockets = proc.unix_listeners() if shares and layout.depth else ()
    operations = layouts.root_operations(layout, order.spec, order.name, scope=order.scope, shares_network=shares)
    operations += [mounts.bind(path, layout.root + path) for path in sockets if path.startswith("/") and os.path.exists(path)]
    flags = _namespaces(layout, shares=shares)
    released, release = os.pipe()

    def init() -> NoReturn:
        for fd in (release, *inherited):
            os.close(fd)
        _init(layout, order, given, body, operations, released, shares=shares)

    def go(pid: int) -> None:
        write_maps(pid, layout.identity, layout.depth, layout.uid, layout.gid)
        mapped(pid)
        os.write(release, b"x")

    try:
        if proc.threads() > 1:
            return _spawn_from_threads(flags, init, given, go)
        pid = syscalls.clone3(flags)
        if pid == 0:
            _never_return(init, given)
        go(pid)
        return pid
    finally:
        os.close(released)
        os.close(release)


def _namespaces(layout: Layout, *, shares: bool) -> Clone:
    flags = Clone.NEWUSER | Clone.NEWNS | Clone.NEWPID | Clone.NEWIPC | Clone.NEWUTS | Clone.NEWNET
    if shares:
        flags &= ~Clone.NEWNET
    if layout.depth == 0 and layout.identity is not Identity.USER:
        flags &= ~Clone.NEWNS  # after the launcher has id-mapped the trees, which takes the new user namespace
    return flags


def _spawn_from_threads(
    flags: Clone, init: Callable[[], NoReturn], given: Descriptors, go: Callable[[int], None]
) -> int:
    """As `spawn`, from a process with threads: fork(3) first, which takes malloc's locks, then unshare(2)."""
    unshared, tell = os.pipe()
    helper = fork()
    if helper == 0:

        def helper_main() -> NoReturn:
            os.close(unshared)
            syscalls.unshare(flags)
            process.set_dumpable(True)  # or the parent may not write our uid_map
            os.write(tell, b"x")
            os.close(tell)
            if fork() == 0:
                init()
            os._exit(0)

        _never_return(helper_main, given)
    os.close(tell)
    try:
        if os.read(unshared, 1):
            go(helper)
    finally:
        os.close(unshared)
    return helper


def fork() -> int:
    """os.fork(), also from a process with threads."""
    import warnings

    with warnings.catch_warnings():
        # From Python 3.12 on, os.fork() in a process with threads warns; the child here runs only what is written here.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def shares_network(layout: Layout, wanted: Network) -> bool:
    """Whether a sandbox made now stays in its parent's network namespace."""
    if wanted is Network.AUTO:
        return layout.depth > 0 and serves_network()
    if wanted is Network.SHARED:
        return layout.depth > 0
    return wanted is Network.HOST


def _never_return(run: Callable[[], NoReturn], given: Descriptors) -> NoReturn:
    try:
        run()
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(given.control, encode({"op": "failed", **describe(error)}))
    finally:
        os._exit(1)


# -- init -------------------------------------------------------------------------------------------------------------


def _init(
    layout: Layout,
    order: Order,
    given: Descriptors,
    body: Body,
    operations: list[mounts.Operation],
    released: int,
    *,
    shares: bool,
) -> NoReturn:
    process.reset_signals()
    if not os.read(released, 1):  # the parent could not map our ids, or is gone
        os._exit(1)
    os.close(released)
    enter(given.tasks)
    given = dataclasses.replace(given, tasks=())
    if layout.depth == 0:
        _become(layout)
        process.die_with_launcher()
    control = socket.socket(fileno=given.control)
    control.sendall(encode({"op": "hello"}))
    umask = os.umask(0)
    mounts.make_private()
    if layout.depth == 0:
        _make_store(layout)
    mounts.apply(operations)
    layer = os.open(layout.layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    socket.send_fds(control, [encode({"op": "ready"})], [layer])
    os.close(layer)
    mounts.enter(layout.root)
    os.umask(umask)
    if not shares and order.spec.network is not Network.NONE:
        network.raise_loopback()
    if layout.depth == 0:
        _copy_files(layout)
        process.renew_descriptors({0, 1, 2, *given.all(), *layout.keep_descriptors})
    with contextlib.suppress(OSError):
        os.chdir(layout.cwd)
    if not control.recv(1):  # "go": we are in our cgroup
        os._exit(1)
    syscalls.unshare(Clone.NEWCGROUP)
    main = os.fork()
    if main == 0:
        control.close()
        _main(layout, order, given, body, shares=shares)
    for fd in given.all()[1:]:
        os.close(fd)
    _supervise(layout, main, control)


def _become(layout: Layout) -> None:
    """Take the ids of who started the run, as they are called in the new user namespace."""
    if layout.identity is Identity.USER:
        return
    os.setgroups(layout.groups)
    os.setresgid(layout.gid, layout.gid, layout.gid)
    os.setresuid(layout.uid, layout.uid, layout.uid)
    process.set_dumpable(True)
    syscalls.unshare(Clone.NEWNS)


def _make_store(layout: Layout) -> None:
    clones = _clone_for_user(layout) if layout.identity is Identity.USER else {}
    source = layout.place.removesuffix("/in")
    mounts.tmpfs(layout.place).apply()
    mounts.apply(layouts.store_operations(layout))
    layouts.build_devices(f"{layout.store}/dev")
    if layout.identity is not Identity.USER:
        for name in ("base", "rw", "scratch"):
            mounts.bind(f"{source}/{name}", f"{layout.store}/{name}", recursive=True).apply()
        return
    os.mkdir(f"{layout.store}/base/0")
    overlay.build_skeleton(layout.plan, f"{layout.store}/base/0")
    for target, tree in clones.items():
        make_target(layout.store + target, tree)
        syscalls.move_mount(tree, layout.store + target)
        os.close(tree)


def make_target(path: str, tree: int) -> None:
    """Make at `path` what the tree behind a descriptor can be mounted on: a directory or a file."""
    if os.path.isdir(f"/proc/self/fd/{tree}"):
        os.makedirs(path, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _clone_for_user(layout: Layout) -> dict[str, int]:
    """Detached clones, taken before the store covers a directory; recursive, since a user's mounts are locked together."""
    clones = {}
    for index, tree in enumerate(layout.plan.trees):
        if tree.path != "/":
            clones[f"/base/{index}"] = syscalls.open_tree(tree.path, recursive=True)
            syscalls.mount_setattr(clones[f"/base/{index}"], Attr.RDONLY, recursive=True)
    for index, path in enumerate(layout.writable):
        clones[f"/rw/{index}"] = syscalls.open_tree(path, recursive=True)
    if layout.scratch_path:
        clones["/scratch"] = syscalls.open_tree(layout.scratch_path, recursive=True)
    return clones


def _copy_files(layout: Layout) -> None:
    """Files that the machine has mounted one by one (Docker's /etc/hosts) become plain files of the first layer."""
    for path, content in layout.files:
        with contextlib.suppress(OSError), open(path, "wb") as file:
            file.write(content)


def _supervise(layout: Layout, main: int, control: socket.socket) -> NoReturn:
    wake, alarm = socket.socketpair()
    alarm.setblocking(False)
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
    process.drop_privileges((), layout.last_capability)
    process.set_dumpable(False)
    status: int | None = None
    while status is None:
        ended = process.reap() or []
        status = next((code for pid, code in ended if pid == main), None)
        if status is None:
            _wait(main, control, wake)
    leaks = _left_over(wake)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    control.setblocking(True)
    control.sendall(
        encode({
            "op": "exit",
            "status": status,
            "leaks": leaks,
            "cpu": used.ru_utime + used.ru_stime,
            "blocks": [used.ru_inblock, used.ru_oublock],
            "network": proc.network_bytes(),
        })
    )
    os._exit(0)


def _wait(main: int, control: socket.socket, wake: socket.socket, timeout: float | None = None) -> None:
    """Until a child ends or the controller says something: "s" asks for main's stacks, silence for ever is its death."""
    ready, _, _ = select.select([control, wake], [], [], timeout)
    if wake in ready:
        with contextlib.suppress(BlockingIOError):
            wake.recv(4096)
    if control in ready:
        order = control.recv(1)
        if not order:
            os._exit(1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(main, process.STACKS_SIGNAL)


def _left_over(wake: socket.socket) -> list[tuple[int, str]]:
    """Pid and command line of all that main left behind; what is just ending has a moment to do so."""
    if process.reap() is None:
        return []
    with contextlib.suppress(BlockingIOError):
        wake.recv(4096)
    select.select([wake], [], [], LEAK_GRACE)
    if process.reap() is None:
        return []
    return [(pid, line[:500]) for pid, line in proc.processes() if pid != 1][:100]


# -- main -------------------------------------------------------------------------------------------------------------


def _main(layout: Layout, order: Order, given: Descriptors, body: Body, *, shares: bool) -> NoReturn:
    code = 1
    try:
        os.setsid()  # its own session: kill(0, ...) and the terminal's signals end at the sandbox's border
        _give_up(layout, order)
        inside = Inside(order, layout.below(), Channel(socket.socket(fileno=given.wire)), given, shares)
        code = body(inside)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        with contextlib.suppress(Exception):
            os.write(given.stderr, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _give_up(layout: Layout, order: Order) -> None:
    limits = order.spec.limits
    rlimits = [(resource.RLIMIT_CORE, 0)]
    if limits.files is not None:
        rlimits.append((resource.RLIMIT_NOFILE, limits.files))
    if order.count_pids and limits.pids is not None:
        # Counted per user namespace since Linux 5.14, so this is the sandbox's own processes (init included).
        rlimits.append((resource.RLIMIT_NPROC, limits.pids))
    process.set_limits(rlimits)
    keep = () if layout.identity is Identity.USER else process.ROOT_CAPABILITIES
    process.drop_privileges(keep, layout.last_capability)
    process.set_dumpable(True)
