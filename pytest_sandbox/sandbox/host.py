"""What this machine can do: `Capability`s, found by trying in a throw-away child, and the `Layout` that follows from them.

The one home of reasons and fixes: header, doctor, refusals and the skips of the test-suite read this list.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pytest_sandbox._linux import native, proc, syscalls
from pytest_sandbox._linux.flags import Attr, Clone, Mount
from pytest_sandbox.model.errors import UnavailableError
from pytest_sandbox.model.spec import LIMIT_NAMES, OF_TMPFS, Network, Spec
from pytest_sandbox.primitives import cgroups, mounts, network, overlay, process
from pytest_sandbox.primitives.namespaces import Identity, write_maps
from pytest_sandbox.primitives.process import fork
from pytest_sandbox.sandbox import fixes
from pytest_sandbox.sandbox.janitor import Janitor
from pytest_sandbox.sandbox.layout import Layout
from pytest_sandbox.sandbox.scratch import path_of


@dataclasses.dataclass(frozen=True, slots=True)
class Capability:
    """Something a sandbox needs of the machine: whether it is there, how or why not, and what would change that."""

    name: str
    available: bool
    reason: str = ""
    fix: str = ""


def try_in_child(attempt: Callable[[], None]) -> OSError | None:
    """Run `attempt` in a forked child; the OSError that it raised there."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            attempt()
            os.write(writing, b"0")
        except OSError as error:
            os.write(writing, f"{error.errno} {error.filename or error.strerror}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    number, _, what = answer.partition(" ")
    return OSError(int(number or 0), os.strerror(int(number or 0)), what) if number != "0" else None


@functools.cache
def find_identity() -> Identity:
    """Who a test can be here: see `Identity`."""
    if os.geteuid() != 0:
        return Identity.USER
    return Identity.MAPPED if try_in_child(lambda: id_map("/")) is None else Identity.SAME


def id_map(path: str) -> None:
    """Clone the mount at `path` and id-map the clone, which says EINVAL where its file system cannot (overlay: Docker)."""
    syscalls.unshare(Clone.NEWNS)
    tree = syscalls.open_tree(path)
    ready, tell = os.pipe()
    end, hold = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            os.close(hold)
            syscalls.unshare(Clone.NEWUSER)
            os.write(tell, b"x")
            os.read(end, 1)
        finally:
            os._exit(0)
    os.close(tell)
    try:
        if not os.read(ready, 1):
            raise OSError(1, os.strerror(1), "unshare CLONE_NEWUSER")
        write_maps(holder, Identity.MAPPED, 0, 0, 0)
        userns = os.open(f"/proc/{holder}/ns/user", os.O_RDONLY)
        syscalls.mount_setattr(tree, Attr.IDMAP, userns)
    finally:
        os.close(hold)
        os.waitpid(holder, 0)


def make_layout(identity: Identity, name: str = "", specs: Iterable[Spec] = ()) -> Layout:
    """The layout of the run `name`, whose sandboxes are to be as `specs` say. No directory is made yet."""
    specs = tuple(specs)
    scratches = dict.fromkeys(spec.scratch for spec in specs if spec.scratch is not None)
    entries = proc.visible(proc.mounts())
    plan = overlay.plan_for_user(entries, _places()) if identity is Identity.USER else overlay.plan_for_root(entries)
    return Layout(
        identity=identity,
        uid=os.getuid(),
        gid=os.getgid(),
        groups=tuple(os.getgroups()),
        plan=plan,
        masked=mounts.existing(mounts.MASKED),
        read_only=mounts.existing(mounts.READ_ONLY),
        writable=tuple(dict.fromkeys(path for spec in specs for path in spec.writable)),
        place=_place() + ("" if identity is Identity.USER else "/in"),
        last_capability=process.last_capability(),
        cwd=_cwd(),
        scratches=tuple((path, path_of(os.path.realpath(path), name)) for path in scratches),
        files=tuple((path, _content(path)) for path in plan.files),
    )


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody has removed it
        return "/"


def _places() -> list[str]:
    """Where tests will surely write: here, at home, and among temporary files."""
    return [_cwd(), os.path.expanduser("~"), tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", "/run")]


def _place() -> str:
    """A directory to be covered, in a mount namespace of our own, by the place where the store is built."""
    return next(os.path.realpath(path) for path in ("/tmp", tempfile.gettempdir(), "/mnt", "/run") if os.path.isdir(path))


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(overlay.COPY_LIMIT)
    except OSError:
        return b""


_NAMESPACES = {
    "user": Clone.NEWUSER, "mount": Clone.NEWNS, "pid": Clone.NEWPID, "net": Clone.NEWNET, "ipc": Clone.NEWIPC,
    "uts": Clone.NEWUTS, "cgroup": Clone.NEWCGROUP,
}  # fmt: skip
#: Limits that need nothing but the namespaces and a clock.
_ALWAYS = {
    "timeout": "the controller's clock", "output": "the controller looks at the output's size",
    "files": "RLIMIT_NOFILE", "disk": "size of the layer's tmpfs", "inodes": "nr_inodes of the layer's tmpfs",
}  # fmt: skip


class Capabilities(Mapping[str, Capability]):
    """Everything that `require` may name, by name; each is tried when it is first asked for, and then known.

    A namespace costs a fork of its own to try (2 ms; all of them, and the identity, 15 to 30), and most runs ask for none:
    the first sandbox tries them all at once.
    """

    def __init__(self) -> None:
        self._known: dict[str, Capability] = {}

    def __getitem__(self, name: str) -> Capability:
        if name not in self._known:
            if name not in self:
                raise KeyError(name)
            self._known[name] = self._try(name)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in _names()

    def __iter__(self) -> Iterator[str]:
        return iter(_names())

    def __len__(self) -> int:
        return len(_names())

    def _try(self, name: str) -> Capability:
        alone = _ALONE.get(name)
        if alone is not None:
            return alone()
        if name in _NAMESPACES:
            return _namespace(name)
        if name in _ALWAYS:
            return Capability(name, True, _ALWAYS[name])
        self._known |= _from_cgroups(rare=name in cgroups.RARE)  # one look at the cgroups answers for all of a kind
        return self._known[name]


def _names() -> tuple[str, ...]:
    if sys.platform != "linux":
        return ("platform",)
    return (
        "platform",
        "native",
        *_NAMESPACES,
        "proc",
        "sysfs",
        "identity",
        "xattr",
        *_ALWAYS,
        "bandwidth",
        *cgroups.USUAL,
        *cgroups.RARE,
    )


@functools.cache
def capabilities() -> Capabilities:
    """What this machine can do; the same object for as long as this process lives."""
    return Capabilities()


_PLATFORM_FIX = (
    "Linux 5.12 or newer, such as of Debian 12, Ubuntu 22.04 or RHEL 9; in a container with such a kernel: docker run "
    "--security-opt seccomp=unconfined"
)


def _platform() -> Capability:
    if sys.platform != "linux":
        return Capability("platform", False, f"{sys.platform} has no namespaces", "run the tests on Linux, or with --no-sandbox")
    release = f"Linux {os.uname().release}"
    try:
        syscalls.mount_setattr(-1, Attr.RDONLY)  # the newest call without which there is no sandbox
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return Capability("platform", False, f"{release} has no mount_setattr(2), for read-only views", _PLATFORM_FIX)
    return Capability("platform", True, release)


def _native() -> Capability:
    problem = native.problem()
    if problem is None:
        return Capability("native", True, "pid 1's program, and the fork into namespaces")
    fix = "install pytest-sandbox anew on this machine (pip install --force-reinstall --no-binary pytest-sandbox pytest-sandbox)"
    return Capability("native", False, problem, fix)


def _namespace(name: str) -> Capability:
    """As a sandbox makes it: in a user namespace of its own, but for root's first of mounts, in which the trees are cloned."""
    outside = name == "mount" and os.geteuid() == 0
    flags = _NAMESPACES[name] | (Clone(0) if outside else Clone.NEWUSER)
    error = try_in_child(lambda: syscalls.unshare(flags))
    if error is None:
        return Capability(name, True, "unshare(2)")
    return Capability(name, False, str(error), fixes.for_namespace(error, outside=outside))


def _file_system(name: str) -> Capability:
    """A proc or sysfs of one's own, which takes a pid and a network namespace, and that the outer ones show all of theirs."""

    def attempt() -> None:
        syscalls.unshare(Clone.NEWUSER | Clone.NEWNS | Clone.NEWPID | Clone.NEWNET)
        mounts.make_private()
        pid = os.fork()  # into the pid namespace
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
    return Capability(name, False, str(error), fixes.for_file_system())


_WHO = {
    Identity.MAPPED: "ids on an unused host range over an id-mapped tree",
    Identity.SAME: "the root file system cannot be id-mapped: root is the host's root, held by capabilities and masks",
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
        where = f"TMPDIR or --sandbox-scratch on ext4, xfs or btrfs (found: {find_scratch()})"
        return Capability("xattr", False, reason, f"{where}, or a newer kernel")
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
    return Capability("bandwidth", False, str(error), "modprobe sch_tbf (a kernel with CONFIG_NET_SCH_TBF)")


_ALONE: dict[str, Callable[[], Capability]] = {
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
        if max(around, key=lambda entry: len(entry.point)).fstype not in _DISKS:
            continue
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=path) as file:
            os.setxattr(file.fileno(), "user.overlay.probe", b"1")
            return path
    return None


def settled(spec: Spec, known: Mapping[str, Capability]) -> Spec:
    """`spec` as it is to be on this machine: where a tmpfs has no user attributes, layers lie on a disk.

    Not so where a scratch, or none, was asked for, nor where a limit was that only a tmpfs enforces.
    """
    if spec.scratch is not None or spec.asked.intersection((*OF_TMPFS, "scratch")) or known["xattr"].available:
        return spec
    return dataclasses.replace(spec, scratch=find_scratch())


def _from_cgroups(*, rare: bool) -> dict[str, Capability]:
    found = {}
    cgroups.settle()  # the janitor belongs where this process will be
    with contextlib.closing(Janitor()) as janitor:
        for one in cgroups.capabilities(announce=janitor.watch_cgroups, rare=rare).values():
            reason = one.hierarchy if one.available else one.reason
            found[one.name] = Capability(one.name, one.available, reason, one.fix)
    if not rare and not found["pids"].available and os.geteuid() != 0 and _kernel() >= (5, 14):
        found["pids"] = Capability("pids", True, "RLIMIT_NPROC, counted in the sandbox's user namespace")
    return found


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)


def unenforced(spec: Spec, known: Mapping[str, Capability]) -> list[Capability]:
    """The limits of `spec` that nothing on this machine enforces."""
    missing = []
    for name in LIMIT_NAMES:
        capability = known.get(name) if getattr(spec.limits, name) is not None else None
        if capability is not None and not capability.available:
            missing.append(capability)
    for name in OF_TMPFS if spec.scratch is not None else ():
        if getattr(spec.limits, name) is not None:
            missing.append(Capability(name, False, "scratch replaces the tmpfs whose size is the limit", "leave scratch out"))
    if spec.network is Network.HOST and spec.limits.bandwidth is not None:
        missing.append(Capability("bandwidth", False, "network=host is no network of its own", "leave one of them out"))
    return missing


def refuse(spec: Spec, known: Mapping[str, Capability]) -> None:
    """Raise UnavailableError for the first limit that was asked for on purpose and cannot be enforced."""
    for capability in unenforced(spec, known):
        if capability.name in spec.asked:
            raise UnavailableError(f"the limit {capability.name}", capability.reason, capability.fix)


def refuse_missing(required: Sequence[str], known: Mapping[str, Capability]) -> None:
    """Raise UnavailableError for the first of the named capabilities ("all" is every one) that is not there."""
    for name in sorted(known) if "all" in required else required:
        capability = known.get(name)
        if capability is None:
            raise UnavailableError(name, "there is no capability of that name", f"name one of {', '.join(known)}")
        if not capability.available:
            raise UnavailableError(name, capability.reason, capability.fix)


os.register_at_fork(after_in_child=capabilities.cache_clear)
os.register_at_fork(after_in_child=find_identity.cache_clear)
os.register_at_fork(after_in_child=find_scratch.cache_clear)
