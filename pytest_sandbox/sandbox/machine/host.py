"""What this machine can do: `Capability`s, each tried when it is first asked for (`probes`), and the `Layout` that follows.

The one list of them: header, doctor, refusals and the skips of the test-suite read it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import resource
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_sandbox._linux import proc
from pytest_sandbox.model.capability import Capability
from pytest_sandbox.model.errors import SetupError, UnavailableError
from pytest_sandbox.model.spec import LIMIT_NAMES, OF_TMPFS, Network, Spec
from pytest_sandbox.model.units import cpus_in, format_cpus
from pytest_sandbox.primitives import cgroups, mounts, overlay, process
from pytest_sandbox.primitives.namespaces import Identity
from pytest_sandbox.sandbox.cleanup.scratch import path_of
from pytest_sandbox.sandbox.files.layout import Layout
from pytest_sandbox.sandbox.machine import probes


def make_layout(identity: Identity, name: str = "", specs: Iterable[Spec] = ()) -> Layout:
    """The layout of the run `name`, whose sandboxes are to be as `specs` say. No directory is made yet."""
    specs = tuple(specs)
    scratches = dict.fromkeys(spec.scratch for spec in specs if spec.scratch is not None)
    entries = proc.visible(proc.mounts())
    if identity is Identity.USER:
        plan = overlay.plan_for_user(entries, probes.places())
    else:
        plan = overlay.plan_for_root(entries, probes.unmappable() if identity is Identity.MAPPED else ())
    return Layout(
        identity=identity,
        uid=os.getuid(),
        gid=os.getgid(),
        groups=tuple(os.getgroups()),
        plan=plan,
        masked=mounts.existing(mounts.MASKED),
        read_only=mounts.existing(mounts.READ_ONLY),
        writable=tuple(dict.fromkeys(path for spec in specs for path in spec.writable)),
        common=tuple(_common(specs, plan, entries, identity)),
        place=_place() + ("" if identity is Identity.USER else "/in"),
        last_capability=process.last_capability(),
        cwd=probes.cwd(),
        scratches=tuple((path, path_of(os.path.realpath(path), name)) for path in scratches),
        files=tuple((path, _content(path)) for path in plan.files),
        most_files=_greatest(spec.limits.files for spec in specs),
        most_pids=_greatest(spec.limits.pids for spec in specs),
    )


def _greatest(limits: Iterable[int | None]) -> int | None:
    found = tuple(limits)
    return None if None in found else max((limit for limit in found if limit is not None), default=None)


def _common(
    specs: Sequence[Spec], plan: overlay.RootPlan, entries: Sequence[proc.MountEntry], identity: Identity
) -> Iterator[overlay.Tree]:
    for path in dict.fromkeys(path for spec in specs for path in spec.common):
        try:
            tree = overlay.plan_common(path, plan, entries, identity)
        except OSError as error:
            raise SetupError("look at what sandboxes have in common", path, error.errno or 0) from error
        if tree is not None:
            yield tree


def _place() -> str:
    """A directory to be covered, in a mount namespace of our own, by the place where the store is built."""
    return next(os.path.realpath(path) for path in ("/tmp", tempfile.gettempdir(), "/mnt", "/run") if os.path.isdir(path))


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(overlay.COPY_LIMIT)
    except OSError:
        return b""


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
        alone = probes.ALONE.get(name)
        if alone is not None:
            return alone()
        if name in probes.NAMESPACES:
            return probes.of_namespace(name)
        if name in probes.ALWAYS:
            return Capability(name, True, probes.ALWAYS[name])
        self._known |= probes.from_cgroups(rare=name in cgroups.RARE)
        return self._known[name]


def _names() -> tuple[str, ...]:
    return (
        "platform",
        "native",
        *probes.NAMESPACES,
        "proc",
        "sysfs",
        "identity",
        "xattr",
        *probes.ALWAYS,
        "bandwidth",
        *cgroups.USUAL,
        *cgroups.RARE,
    )


@functools.cache
def capabilities() -> Capabilities:
    """What this machine can do; the same object for as long as this process lives."""
    return Capabilities()


def settled(spec: Spec, known: Mapping[str, Capability]) -> Spec:
    """`spec` as it is to be on this machine: where a tmpfs has no user attributes, layers lie on a disk.

    Not so where a scratch, or none, was asked for, nor where a limit was that only a tmpfs enforces. No limit on open files is
    above the hard one that this process has.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if spec.limits.files is not None and resource.RLIM_INFINITY != most < spec.limits.files:
        spec = dataclasses.replace(spec, limits=dataclasses.replace(spec.limits, files=most))
    if spec.scratch is not None or spec.asked.intersection((*OF_TMPFS, "scratch")) or known["xattr"].available:
        return spec
    return dataclasses.replace(spec, scratch=probes.find_scratch())


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
    if lacking := _absent_cpus(spec):
        reason = f"CPU {format_cpus(lacking)} is not there for us, who have {format_cpus(os.sched_getaffinity(0))}"
        missing.append(Capability("cpuset", False, reason, "name CPUs that are there"))
    if spec.network is Network.HOST and spec.limits.bandwidth is not None:
        missing.append(Capability("bandwidth", False, "network=host is no network of its own", "leave one of them out"))
    return missing


def _absent_cpus(spec: Spec) -> frozenset[int]:
    return frozenset() if spec.limits.cpuset is None else cpus_in(spec.limits.cpuset) - os.sched_getaffinity(0)


def degraded(spec: Spec) -> Spec:
    """`spec` for who takes what there is: no limit is asked for, and CPUs that are not there are left out."""
    spec = dataclasses.replace(spec, asked=spec.asked - frozenset(LIMIT_NAMES))
    if spec.limits.cpuset is None:
        return spec
    there = cpus_in(spec.limits.cpuset) - _absent_cpus(spec)
    return dataclasses.replace(spec, limits=dataclasses.replace(spec.limits, cpuset=format_cpus(there) if there else None))


@functools.lru_cache(maxsize=64)
def without(spec: Spec, names: frozenset[str]) -> Spec:
    """`spec` without the limits of these names, which nothing enforces: nobody is told then that they were met."""
    return dataclasses.replace(spec, limits=dataclasses.replace(spec.limits, **dict.fromkeys(names)))


def refuse(spec: Spec, known: Mapping[str, Capability]) -> None:
    """Raise UnavailableError for the limits that were asked for on purpose and cannot be enforced."""
    _refuse([one for one in unenforced(spec, known) if one.name in spec.asked], "the limit ", "the limits ")


def refuse_missing(required: Iterable[str], known: Mapping[str, Capability]) -> None:
    """Raise UnavailableError for those of the named capabilities ("all" is every one) that are not there."""
    names = tuple(required)
    for name in names:
        if name != "all" and name not in known:
            raise UnavailableError(name, "there is no capability of that name", f"name one of {', '.join(known)}")
    _refuse([known[name] for name in (known if "all" in names else names) if not known[name].available])


def _refuse(missing: Iterable[Capability], one_is: str = "", several_are: str = "") -> None:
    """One error for all of them; what has one reason, and one fix, stands in one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in missing:
        alike.setdefault((one.reason, one.fix), []).append(one.name)
    errors = [UnavailableError((several_are if names[1:] else one_is) + ", ".join(names), *why) for why, names in alike.items()]
    if errors:
        raise UnavailableError(errors[0].capability, errors[0].reason, errors[0].fix, errors[1:])


os.register_at_fork(after_in_child=capabilities.cache_clear)
