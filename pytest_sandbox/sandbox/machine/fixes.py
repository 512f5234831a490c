"""What would change it: one fix for a cause on a kind of host. Pure; imports `hostkind`.

A fix is what to type, or the lines of a configuration, for this kind of host and no other; several stand side by side only where
there is no evidence. All of them are in docs/host-setup.md, word for word, which tests/sandbox/test_hostkind.py checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.primitives.cgroups.layout import BASE_PREFIX
from pytest_sandbox.sandbox.machine.hostkind import Engine, HostKind, Service

_SECURITY = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
_UNMASK = "--security-opt unmask=ALL"
_ADMIN = "--cap-add SYS_ADMIN "
_POD = (
    "in the pod's spec: hostUsers: false; in its container's securityContext: procMount: Unmasked, seccompProfile: {type: "
    "Unconfined}, appArmorProfile: {type: Unconfined}"
)
_POD_ADMIN = ", capabilities: {add: [SYS_ADMIN]}"
_POD_PRIVILEGED = "in the container's securityContext: privileged: true"
_ANY = (
    f"in a container: docker run {_ADMIN}{_SECURITY} IMAGE, podman run {_ADMIN}{_UNMASK} IMAGE, or the "
    "securityContext of docs/host-setup"
)
_ANY_PRIVILEGED = (
    "in a container: docker run --privileged --cgroupns=private IMAGE, podman run --cgroupns=private "
    f"{_ADMIN}{_UNMASK} IMAGE, or in Kubernetes privileged: true"
)

_SCOPE = "systemd-run --scope -p Delegate=yes pytest --sandbox"
_USER_SCOPE = "systemd-run --user --scope -p Delegate=yes pytest --sandbox"
_SUDO_SCOPE = (
    'with systemd 252 or newer: sudo -E env PATH="$PATH" systemd-run --scope -p Delegate=yes -p User=$(id -u) --uid=$(id -u) '
    "pytest --sandbox"
)
_HAND_OVER_V1 = (
    "as root: (cd {directory} && mkdir -p tests && {fill}chown -R {uid} tests && echo SHELL_PID > tests/cgroup.procs); then "
    "pytest --sandbox from that shell (SHELL_PID: what echo $$ prints there)"
)
# Of version 2: a cgroup that passes controllers on has no processes in it, but for the real root.
_EMPTY = "xargs -n1 < cgroup.procs > others/cgroup.procs"
_DIVIDE = "sed 's/[a-z][a-z]*/+&/g' cgroup.controllers > cgroup.subtree_control"
# A new one for each run: what a killed one has left divides its cgroup still, which then takes no process.
_BE_ALONE = f"sh -c 'own=$(mktemp -d {{directory}}/{BASE_PREFIX}XXXXXX) && echo $$ > $own/cgroup.procs && exec pytest --sandbox'"
_HAND_OVER = (
    f"as root: (cd {{directory}} && mkdir -p {{made}} && {{pass_on}} && cd tests && {_DIVIDE} && chown -R {{uid}} . && "
    "echo SHELL_PID > shell/cgroup.procs); then, from that shell (SHELL_PID: what echo $$ prints there), "
)
_BY_SYSTEMD = ("cpu", "cpuset", "io", "memory", "pids")
_FOR_ALL_USERS = (
    f"in /etc/systemd/system/user@.service.d/delegate.conf: [Service] Delegate={' '.join(_BY_SYSTEMD)}; then sudo systemctl "
    "daemon-reload, and log in anew"
)


def fix(cause: Cause, kind: HostKind, detail: str = "") -> str:
    """What to do about `cause` on a host of this kind; detail: what `Cause` says that comes with it."""
    found = _FIXES[cause]
    return found if isinstance(found, str) else found(kind, detail)


# -- containers ---------------------------------------------------------------------------------------------------------


def _unconfine(kind: HostKind, _: str = "") -> str:
    """All that it takes to make namespaces, and a proc of their own, in a container: whoever lacks one lacks the next."""
    root = kind.uid == 0
    if kind.engine is Engine.KUBERNETES:
        return _privileged(kind) if kind.service is Service.GITLAB else _POD + (_POD_ADMIN if root else "")
    if kind.engine is Engine.PODMAN:
        return _carried(kind, "podman", (_ADMIN if root else "") + _UNMASK)
    if kind.engine is Engine.DOCKER:
        return _carried(kind, "docker", (_ADMIN if root else "") + _SECURITY)
    return _ANY if kind.engine is Engine.OTHER else _privileged(kind)


def _privileged(kind: HostKind, _: str = "") -> str:  # noqa: PLR0911  a table, of patterns
    """Cgroups that may be written, for which most engines have no smaller word."""
    match kind.engine:
        case Engine.KUBERNETES if kind.service is Service.GITLAB:
            return "in the runner's config.toml, [runners.kubernetes]: privileged = true"
        case Engine.KUBERNETES:
            return _POD_PRIVILEGED
        case Engine.PODMAN if kind.rootless:
            return f"systemd-run --user --scope -p Delegate=yes podman run --cgroupns=private {_ADMIN}{_UNMASK} IMAGE"
        case Engine.PODMAN:
            return _carried(kind, "podman", f"--cgroupns=private {_ADMIN}{_UNMASK}")
        case Engine.DOCKER:
            return _carried(kind, "docker", "--privileged --cgroupns=private")
        case Engine.LXC:
            return "on the container's host: lxc config set NAME security.nesting true && lxc restart NAME"
        case Engine.NSPAWN:
            return "on the container's host: SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes systemd-nspawn -D DIRECTORY"
        case _:
            return _ANY_PRIVILEGED


def _carried(kind: HostKind, program: str, flags: str) -> str:
    """Where these flags of docker run or podman run belong."""
    match kind.service:
        case Service.GITHUB:
            return f"in the workflow, at the job's container: options: {flags}"
        case Service.GITLAB:  # systempaths is a word of the client's, which the runner is not: docker/cli, parseSystemPaths
            return "in the runner's config.toml, [runners.docker]: privileged = true"
        case Service.JENKINS:
            return f"in the Jenkinsfile, agent {{ docker {{ image 'IMAGE'; args '{flags}' }} }}"
        case _:
            return f"{program} run {flags} IMAGE"


def _outside(kind: HostKind, _: str) -> str:
    """A process in a container that has come there in another way than its others."""
    program = {Engine.DOCKER: "docker exec", Engine.PODMAN: "podman exec", Engine.KUBERNETES: "kubectl exec"}.get(
        kind.engine or Engine.OTHER
    )
    if program:
        return f"start pytest with the container, or in it by {program}, not by nsenter: in its cgroup namespace"
    # Not over the old mount: a file system is not mounted twice on one directory (EBUSY).
    mount = "umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    return f"as root: unshare --cgroup --mount sh -c '{mount} && exec pytest --sandbox'"


def _foreign(kind: HostKind, detail: str) -> str:
    """A volume of the host's cgroup file system, as people are told to take who do not want `--privileged`."""
    if kind.engine in (Engine.DOCKER, Engine.PODMAN):
        return f"without a volume for /sys/fs/cgroup: {_privileged(kind)}"
    return _outside(kind, detail)


# -- namespaces ---------------------------------------------------------------------------------------------------------


def _on_host(kind: HostKind) -> str:
    """What an engine's container shares with its host."""
    return "on the container's host: " if kind.engine else ""


def _sysctl(kind: HostKind, setting: str) -> str:
    return f"{_on_host(kind)}{'sudo ' if kind.engine or kind.uid else ''}sysctl -w {setting}"


def _apparmor(kind: HostKind, _: str) -> str:
    if kind.engine is None and kind.service is Service.GITHUB:
        return "a step before pytest: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    return _sysctl(kind, "kernel.apparmor_restrict_unprivileged_userns=0")


def _userns_clone(kind: HostKind, _: str) -> str:
    return _sysctl(kind, "kernel.unprivileged_userns_clone=1")


def _count(kind: HostKind, name: str) -> str:
    return _sysctl(kind, f"{name}=10000")


def _admin(kind: HostKind, _: str) -> str:
    if kind.engine:
        return _unconfine(kind)
    return "start pytest as an ordinary user, or as a root that has CAP_SYS_ADMIN"


def _masked(kind: HostKind, _: str) -> str:
    if kind.engine:
        return _unconfine(kind)
    return f"umount what hides parts of /proc and /sys (findmnt -R /proc; findmnt -R /sys); {_ANY}"


def _refused(kind: HostKind, _: str) -> str:
    """Where nothing tells who it was."""
    if kind.engine:
        return _unconfine(kind)
    return (
        "one of: sysctl -w kernel.unprivileged_userns_clone=1 (Debian); sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 "
        f"(Ubuntu 23.10 and newer); {_ANY}"
    )


def _profile(kind: HostKind, _: str) -> str:
    return _unconfine(kind) if kind.engine else "aa-exec -p unconfined pytest --sandbox (package apparmor)"


def _seccomp(kind: HostKind, _: str) -> str:
    if kind.engine:
        return _unconfine(kind)
    return (
        f"start pytest without its seccomp filter: in a systemd unit RestrictNamespaces=no and SystemCallFilter= (empty); {_ANY}"
    )


def _stacked(kind: HostKind, path: str) -> str:
    if path == "/":
        return "keep the storage of the engine that made this container on a volume of the container around it: " + {
            Engine.PODMAN: "podman run -v storage:/var/lib/containers IMAGE",
            Engine.KUBERNETES: "an emptyDir mounted at /var/lib/containerd",
        }.get(kind.engine or Engine.OTHER, "docker run -v storage:/var/lib/docker IMAGE")
    return f"put {path} on a volume or a tmpfs; for temporary files, TMPDIR=/dev/shm pytest --sandbox"


# -- cgroups ------------------------------------------------------------------------------------------------------------


def _scope(kind: HostKind, _: str = "") -> str:
    """A cgroup of its own for pytest, by whoever can give one."""
    if kind.uid == 0:
        return _SCOPE
    return _USER_SCOPE if kind.user_manager else _SUDO_SCOPE


def _delegate(kind: HostKind, detail: str = "") -> str:
    """A cgroup that belongs to somebody else."""
    if kind.systemd:
        return _scope(kind)
    if kind.engine:
        if kind.uid == 0:
            return _privileged(kind)
        return "as the container's root (user 0): " + _privileged(_as_root(kind))
    return _hand_over(kind, detail, "others tests/shell", f"{{ {_EMPTY}; {_DIVIDE}; }}")


def _delegate_root(kind: HostKind, detail: str) -> str:
    return _delegate(kind) if kind.systemd or kind.engine else _hand_over(kind, detail, "tests/shell", _DIVIDE)


def _hand_over(kind: HostKind, directory: str, made: str, pass_on: str) -> str:
    """A cgroup with controllers, and in there one for the user's shell and one for each pytest that is started from it."""
    given = _HAND_OVER.format(directory=directory, uid=kind.uid, made=made, pass_on=pass_on)
    return given + _BE_ALONE.format(directory=f"{directory}/tests")


def _as_root(kind: HostKind) -> HostKind:
    return dataclasses.replace(kind, uid=0)


def _delegate_v1(kind: HostKind, directory: str, fill: str = "") -> str:
    """systemd hands over nothing of version 1."""
    return _delegate(kind) if kind.engine else _HAND_OVER_V1.format(directory=directory, uid=kind.uid, fill=fill)


def _delegate_cpuset(kind: HostKind, directory: str) -> str:
    """A new one is empty, and takes no process: cpuset(7)."""
    return _delegate_v1(kind, directory, "for file in cpus mems; do cat cpuset.$file > tests/cpuset.$file; done && ")


def _alone(kind: HostKind, directory: str) -> str:
    """A cgroup without other processes, for whom this one belongs to."""
    if kind.systemd:
        return _scope(kind)
    emptied = f"(cd {directory} && mkdir -p others && {_EMPTY}; {_DIVIDE})"
    return f"{emptied}; {_BE_ALONE.format(directory=directory)}"


def _passed_on(kind: HostKind, detail: str) -> str:
    """detail: +CONTROLLER | tee FILE ..."""
    if kind.systemd and detail[1:].partition(" ")[0] in _BY_SYSTEMD:
        return _FOR_ALL_USERS if kind.user_manager and "/user.slice/" in detail else _scope(kind)
    return f"as root: echo {detail}"


def _bounded(kind: HostKind, _: str) -> str:
    return f"{_scope(kind)}, with the limit as another -p"


def _jeepney(kind: HostKind, _: str) -> str:
    return f"pip install 'pytest-sandbox[systemd]', or {_scope(kind)}"


def _read_only(kind: HostKind, mount: str) -> str:
    place = mount or "/sys/fs/cgroup"
    return _privileged(kind) if kind.engine else f"as root: mount -o remount,bind,rw {place}; {_ANY_PRIVILEGED}"


def _unmounted(kind: HostKind, name: str) -> str:
    if kind.engine:
        return _privileged(kind)
    if not name:
        return f"as root: mount -t cgroup2 cgroup2 /sys/fs/cgroup; {_ANY_PRIVILEGED}"
    place = f"/sys/fs/cgroup/{name}"
    mount = "mount -t cgroup2 cgroup2" if name == "unified" else f"mount -t cgroup -o {name} cgroup"
    return (
        f"as root: mountpoint -q /sys/fs/cgroup || mount -t tmpfs cgroup /sys/fs/cgroup; mkdir -p {place} && {mount} {place}; "
        f"{_ANY_PRIVILEGED}"
    )


def _controller(kind: HostKind, name: str) -> str:
    if kind.rootless and name in _BY_SYSTEMD:
        return "on the container's host, " + _FOR_ALL_USERS
    if kind.engine:
        return "on the container's host, pass the controller on in the cgroup.subtree_control of the container's parents"
    return "a kernel that has this controller, and no cgroup_disable= of it on the kernel's command line"


def _version(kind: HostKind, _: str) -> str:
    if "rhel" in kind.distribution and not kind.engine:
        return "sudo grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1, then boot; or a kernel that has it"
    setting = "systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
    return f"{_on_host(kind)}cgroup version 2 ({setting}), or a kernel that has it"


_FIXES: dict[Cause, str | Callable[[HostKind, str], str]] = {
    Cause.OLD_KERNEL: "Linux 5.12 or newer, such as of Debian 12, Ubuntu 22.04 or RHEL 9",
    Cause.NOT_BUILT: (
        "install pytest-sandbox anew on this machine (pip install --force-reinstall --no-binary pytest-sandbox pytest-sandbox)"
    ),
    Cause.SMALL_FILES: "before pytest: ulimit -f unlimited",
    Cause.FEW_FILES: lambda _, detail: f"before pytest: ulimit -n {detail}",
    Cause.DEAF: (
        "in a conftest.py: import signal; signal.signal(signal.SIGCHLD, signal.SIG_DFL), or start pytest by "
        "env --default-signal=CHLD"
    ),
    Cause.NO_PROC: "where pytest runs: mount -t proc proc /proc (in a new pid namespace: unshare --pid --fork --mount-proc)",
    Cause.SEE_ABOVE: "see the lines above, and docs/host-setup",
    Cause.COUNT: _count,
    Cause.USERNS_CLONE: _userns_clone,
    Cause.APPARMOR: _apparmor,
    Cause.PROFILE: _profile,
    Cause.SECCOMP: _seccomp,
    Cause.NO_ADMIN: _admin,
    Cause.MASKED: _masked,
    Cause.CHROOT: "start pytest outside of the chroot, or in a container of its directory: podman run --rootfs DIRECTORY",
    Cause.REFUSED: _refused,
    Cause.LOCKED: "start pytest outside of this user namespace, or with the user mapped to himself: unshare -Um -c",
    Cause.STACKED: _stacked,
    Cause.NO_ATTRIBUTES: lambda _, found: (
        f"TMPDIR or --sandbox-scratch on ext4, xfs or btrfs (found: {found}), or a newer kernel"
    ),
    Cause.NO_MEMFD: lambda kind, _: f"{_on_host(kind)}sudo sysctl vm.memfd_noexec=1 (a program may then ask for it)",
    Cause.NO_FILTER: lambda kind, _: f"{_on_host(kind)}sudo modprobe sch_tbf (a kernel with CONFIG_NET_SCH_TBF)",
    Cause.READ_ONLY: _read_only,
    Cause.NOT_DELEGATED: _delegate,
    Cause.NOT_DELEGATED_ROOT: _delegate_root,
    Cause.NOT_DELEGATED_V1: _delegate_v1,
    Cause.NOT_DELEGATED_CPUSET: _delegate_cpuset,
    Cause.SHARED: _alone,
    Cause.SHARED_ABOVE: lambda _, directory: f"as root: (cd {directory} && mkdir -p others && {_EMPTY}; {_DIVIDE})",
    Cause.NOT_PASSED_ON: _passed_on,
    Cause.OUTSIDE: _outside,
    Cause.FOREIGN: _foreign,
    Cause.UNMOUNTED: _unmounted,
    Cause.NO_CONTROLLER: _controller,
    Cause.VERSION_1: _version,
    Cause.NO_FILE: "Linux 5.12 or newer, with the controllers of Debian 12, Ubuntu 22.04 or RHEL 9",
    Cause.NO_DISK: (
        "leave the limit out, since no disk is read or written here; where /sys is missing, as root: mount -t sysfs sysfs /sys"
    ),
    Cause.NO_HUGE_PAGES: (
        "leave hugetlb out, since no program gets huge pages here; where /sys is missing, as root: mount -t sysfs sysfs /sys"
    ),
    Cause.NO_SWAP: "boot with swapaccount=1, or a kernel with CONFIG_SWAP and CONFIG_MEMCG",
    Cause.NO_SCOPE: _scope,
    Cause.BOUNDED: _bounded,
    Cause.NO_JEEPNEY: _jeepney,
    Cause.MOST_CGROUPS: lambda kind, directory: (
        f"{_on_host(kind)}as root, in {directory or '/sys/fs/cgroup'} and in those above it: "
        "echo max | tee cgroup.max.descendants cgroup.max.depth"
    ),
    Cause.NO_ROOM: lambda kind, _: (
        f"{_on_host(kind)}as root: echo 3 > /proc/sys/vm/drop_caches, which frees cgroups that are gone but for what they have "
        "cached; or boot anew"
    ),
    Cause.CGROUP: "to run without it: pytest --sandbox --sandbox-degrade",
}
