"""One probe for each thing that a sandbox needs: it is tried, in a throw-away child. Imports `causes`, `fixes` and below.

What is refused becomes a `Capability` with the rule behind it, and the fix for this kind of host.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import NoReturn

from pytest_sandbox._linux import native, proc, syscalls
from pytest_sandbox._linux.flags import Attr, Clone, Mount
from pytest_sandbox.model.capability import Capability, Cause
from pytest_sandbox.primitives import cgroups, mounts, network, overlay, process
from pytest_sandbox.primitives.forks import fork
from pytest_sandbox.primitives.namespaces import Identity, write_maps
from pytest_sandbox.sandbox.cleanup.janitor import Janitor
from pytest_sandbox.sandbox.machine import causes, fixes
from pytest_sandbox.sandbox.machine.causes import Refusal
from pytest_sandbox.sandbox.machine.hostkind import here

NAMESPACES = {
    "user": Clone.NEWUSER, "mount": Clone.NEWNS, "pid": Clone.NEWPID, "net": Clone.NEWNET, "ipc": Clone.NEWIPC,
    "uts": Clone.NEWUTS, "cgroup": Clone.NEWCGROUP,
}  # fmt: skip
#: Open files that a run needs, and how many are plenty.
_LEAST_FILES, _GOOD_FILES = 128, 1024
#: Init is a program in a file of memory, and frames of output are files too.
_LEAST_SIZE = 1 << 20
#: Limits that need nothing but the namespaces and a clock.
ALWAYS = {
    "timeout": "the controller's clock", "output": "the controller looks at the output's size",
    "files": "RLIMIT_NOFILE", "disk": "size of the layer's tmpfs", "inodes": "nr_inodes of the layer's tmpfs",
}  # fmt: skip


def ask_child(question: Callable[[], bytes], seconds: float | None = None) -> bytes:
    """What a forked child answers; nothing where it dies of the question, or has no answer after so many seconds."""
    reading, writing = os.pipe()

    def put() -> NoReturn:
        try:
            os.write(writing, question())
        finally:
            os._exit(0)

    pid = fork(put)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if seconds is not None:
            process.wait_or_kill(pid, seconds)
            return pipe.read()
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def try_in_child(attempt: Callable[[], None]) -> OSError | None:
    """Run `attempt` in a forked child; the OSError that it raised there. That no process can be made is raised here too."""

    def question() -> bytes:
        try:
            attempt()
        except OSError as error:
            return f"{error.errno or errno.EIO} {error.filename or error.strerror or error}".encode()
        return b"0"

    number, _, what = (ask_child(question) or b"%d the probe, which died" % errno.ECHILD).decode().partition(" ")
    if number == "0":
        return None
    error = OSError(int(number or 0), os.strerror(int(number or 0)), what)
    if error.errno == errno.EAGAIN:  # fork(2); which says nothing of what was tried
        raise error
    return error


def cwd() -> str:
    """The working directory, or "/" where somebody has removed it."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def places() -> list[str]:
    """Where tests will surely write: here, at home, and among temporary files."""
    return [cwd(), os.path.expanduser("~"), tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", "/run"), "/dev/shm"]


@functools.cache
def find_identity() -> Identity:
    """Who a test can be here: see `Identity`.

    Root's ids are mapped where the file systems can be, on which tests will write: a tmpfs since Linux 6.3, an overlay never.
    """
    if os.geteuid() != 0:
        return Identity.USER
    points = _points()
    needed = {max((point for point in points if overlay.is_below(place, [point])), key=len, default="/") for place in places()}
    return Identity.SAME if {"/", *needed} & unmappable() else Identity.MAPPED


def _points() -> list[str]:
    trees = overlay.plan_for_root(proc.visible(proc.mounts())).trees
    return [tree.path for tree in trees if tree.kind is not overlay.TreeKind.EMPTY]


@functools.cache
def unmappable() -> frozenset[str]:
    """The trees whose file systems cannot be id-mapped: for root, who alone has them mapped."""
    points = dict.fromkeys(["/", *_points()])  # a chroot need not be a mount
    answer = ask_child(lambda: b"\0".join(os.fsencode(point) for point in points if try_to_map(point) is not None) or b"\0")
    return frozenset(points if not answer else map(os.fsdecode, filter(None, answer.split(b"\0"))))


def try_to_map(path: str) -> OSError | None:
    """Id-map a clone of the mount at `path`, in a mount namespace of the caller's own from then on; what that failed of.

    EINVAL where its file system cannot (overlay: Docker).
    """
    try:
        syscalls.unshare(Clone.NEWNS)
        tree = syscalls.open_tree(path)
        try:
            with _mapped_namespace() as userns:
                syscalls.mount_setattr(tree, Attr.IDMAP, userns)
        finally:
            os.close(tree)
    except OSError as error:
        return error
    return None


@contextlib.contextmanager
def _mapped_namespace() -> Iterator[int]:
    """A user namespace whose ids are mapped as those of root's sandboxes are. In a child of `fork` only."""
    ready, tell = os.pipe()
    end, hold = os.pipe()
    holder = syscalls.fork()  # whoever forks has taken locks for that, by its handlers, which are given back after `first`
    if holder == 0:
        try:
            os.close(hold)
            syscalls.unshare(Clone.NEWUSER)
            os.write(tell, b"x")
            os.read(end, 1)
        finally:
            os._exit(0)
    os.close(tell)
    os.close(end)
    try:
        if not os.read(ready, 1):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), "unshare CLONE_NEWUSER")
        write_maps(holder, Identity.MAPPED, 0, 0, 0)
        userns = os.open(f"/proc/{holder}/ns/user", os.O_RDONLY)
        try:
            yield userns
        finally:
            os.close(userns)
    finally:
        os.close(ready)
        os.close(hold)
        os.waitpid(holder, 0)


def lacks(name: str, reason: str, cause: Cause, detail: str = "") -> Capability:
    """What is missing, with the fix for this host."""
    return Capability(name, False, reason, fixes.fix(cause, here(), detail))


def _refused(name: str, error: OSError, refusal: Refusal) -> Capability:
    return lacks(name, refusal.reason(error), refusal.cause, refusal.detail)


def _unfit() -> Capability | None:
    """What is wrong with this process, wherever it is."""
    try:
        if (pid := os.readlink("/proc/self")) != str(os.getpid()):
            return lacks("platform", f"/proc is of another pid namespace, where this process is {pid}", Cause.NO_PROC)
    except OSError as error:
        return lacks("platform", f"there is no /proc/self: {error.strerror}", Cause.NO_PROC)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != most < _LEAST_FILES:
        return lacks("platform", f"this process may have {most} open files (ulimit -n)", Cause.FEW_FILES, str(_GOOD_FILES))
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if resource.RLIM_INFINITY != size < _LEAST_SIZE:
        return lacks("platform", f"no file of this process may have more than {size} bytes (ulimit -f)", Cause.SMALL_FILES)
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        return lacks("platform", "this process ignores SIGCHLD, and is told of no child's end", Cause.DEAF)
    return None


def _platform() -> Capability:
    unfit = _unfit()
    if unfit is not None:
        return unfit
    release = f"Linux {os.uname().release}"
    try:
        syscalls.mount_setattr(-1, Attr.RDONLY)  # the newest call without which there is no sandbox
    except OSError as error:
        if error.errno == errno.ENOSYS and kernel(os.uname().release) >= (5, 12):
            reason = (
                f"ENOSYS of mount_setattr(2), which {release} has: a seccomp filter hides it, as of an older container engine"
            )
            return lacks("platform", reason, Cause.SECCOMP)
        if error.errno == errno.ENOSYS:
            return lacks("platform", f"{release} has no mount_setattr(2), for read-only views (ENOSYS)", Cause.OLD_KERNEL)
    return Capability("platform", True, release)


def _native() -> Capability:
    problem = native.problem()
    if problem is not None:
        return lacks("native", problem, Cause.NOT_BUILT)
    try:
        os.close(native.open_program())
    except OSError as error:
        return _refused("native", error, causes.of_program())
    return Capability("native", True, "pid 1's program, and the fork into namespaces")


def of_namespace(name: str) -> Capability:
    """As a sandbox makes it: in a user namespace of its own, but for root's first of mounts, in which the trees are cloned."""
    outside = name == "mount" and os.geteuid() == 0
    flags = NAMESPACES[name] | (Clone(0) if outside else Clone.NEWUSER)
    error = try_in_child(lambda: syscalls.unshare(flags))
    if error is None:
        return Capability(name, True, "unshare(2)")
    return _refused(name, error, causes.of_namespace(error, outside=outside))


def _file_system(name: str) -> Capability:
    """A proc or sysfs of one's own, which takes a pid and a network namespace, and that the outer ones show all of theirs."""

    def attempt() -> None:
        syscalls.unshare(Clone.NEWUSER | Clone.NEWNS | Clone.NEWPID | Clone.NEWNET)
        mounts.make_private()
        pid = syscalls.fork()  # into the pid namespace; why not os.fork(): see `_mapped_namespace`
        if pid == 0:
            try:
                syscalls.mount(name, target, name, Mount.NOSUID | Mount.NODEV | Mount.NOEXEC | Mount.RDONLY)
            except OSError as error:
                os._exit(error.errno or 1)
            os._exit(0)
        number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if number:
            raise OSError(number, os.strerror(number), f"mount {name}")

    target = {"proc": "/proc", "sysfs": "/sys"}[name]
    error = try_in_child(attempt)
    if error is None:
        return Capability(name, True, f"a new one on {target}")
    return _refused(name, error, causes.of_file_system(error, name))


_WHO = {
    Identity.MAPPED: "ids on an unused host range over an id-mapped tree",
    Identity.SAME: "where tests write cannot be id-mapped: root has this root's ids, held by capabilities and masks",
    Identity.USER: "the user is mapped to himself",
}


def _identity() -> Capability:
    identity = find_identity()
    return Capability("identity", True, f"{identity.value}: {_WHO[identity]}")


def _user_attributes() -> Capability:
    """Of a tmpfs, on which layers are; a memfd is on one. An overlay marks with them what a directory made anew replaces."""
    fd = os.memfd_create("xattr", os.MFD_CLOEXEC)
    try:
        os.setxattr(fd, "user.overlay.probe", b"1")
    except OSError:
        reason = "no user attributes on a tmpfs before Linux 6.6: what a test deletes, it cannot make again as a directory (EIO)"
        return lacks("xattr", reason, Cause.NO_ATTRIBUTES, str(find_scratch()))
    finally:
        os.close(fd)
    return Capability("xattr", True, "user attributes on a tmpfs")


def _bandwidth() -> Capability:
    """By a token bucket filter on a loopback device of one's own."""

    def attempt() -> None:
        syscalls.unshare(Clone.NEWUSER | Clone.NEWNET)
        network.route(network.bandwidth(1 << 20))

    error = try_in_child(attempt)
    if error is None:
        return Capability("bandwidth", True, "tbf on the sandbox's loopback device")
    if str(error.filename).startswith("unshare"):
        return _refused("bandwidth", error, causes.of_namespace(error))
    return lacks(
        "bandwidth", f"{errno.errorcode.get(error.errno or 0)}: the kernel has no token bucket filter (tbf)", Cause.NO_FILTER
    )


#: Whatever is tried by a function of its own.
ALONE: dict[str, Callable[[], Capability]] = {
    "platform": _platform, "native": _native, "identity": _identity, "xattr": _user_attributes, "bandwidth": _bandwidth,
    "proc": functools.partial(_file_system, "proc"), "sysfs": functools.partial(_file_system, "sysfs"),
}  # fmt: skip


#: File systems that take user attributes and the upper layer of an overlay, and are no memory.
_DISKS = ("ext4", "xfs", "btrfs")


@functools.cache
def find_scratch() -> str | None:
    """Among temporary files, a directory for layers that is no tmpfs; None where there is none."""
    entries = proc.visible(proc.mounts())
    for path in dict.fromkeys(map(os.path.realpath, (tempfile.gettempdir(), "/var/tmp"))):
        around = [entry for entry in entries if f"{path}/".startswith(f"{entry.point.rstrip('/')}/")]
        fstypes = [entry.fstype for entry in sorted(around, key=lambda entry: len(entry.point))]
        if not fstypes or fstypes[-1] not in _DISKS:  # none: a chroot need not be a mount
            continue
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=path) as file:
            os.setxattr(file.fileno(), "user.overlay.probe", b"1")
            return path
    return None


def from_cgroups(*, rare: bool) -> dict[str, Capability]:
    """All that is usual, or all that is rare: one look at the cgroups answers for all of a kind."""
    found = {}
    cgroups.settle()  # the janitor belongs where this process will be
    with Janitor() as janitor:
        for one in cgroups.capabilities(announce=janitor.watch_cgroups, rare=rare).values():
            if one.problem is None:
                found[one.name] = Capability(one.name, True, one.hierarchy)
            else:
                found[one.name] = lacks(one.name, one.problem.reason, one.problem.cause, one.problem.detail)
    if not rare and not found["pids"].available and os.geteuid() != 0 and kernel(os.uname().release) >= (5, 14):
        found["pids"] = Capability("pids", True, "RLIMIT_NPROC, counted in the sandbox's user namespace")
    return found


def kernel(release: str) -> tuple[int, int]:
    """The first two numbers of a release, of which the second may have something of another kind after it: "5.4-rc7"."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


os.register_at_fork(after_in_child=find_identity.cache_clear)
os.register_at_fork(after_in_child=unmappable.cache_clear)
os.register_at_fork(after_in_child=find_scratch.cache_clear)
