"""Which rule refused, by what a system call and the machine say. Pure but for `read`; imports `model`, `proc` and `hostkind`.

The rules are the kernel's: ENOSPC of user.max_*_namespaces (namespaces(7)), EPERM and ENOSYS of seccomp filters,
EACCES of AppArmor (a profile's, proc_pid_attr(5); or for all users),
EPERM of mount_too_revealing (fs/namespace.c), EINVAL of FILESYSTEM_MAX_STACK_DEPTH (fs/overlayfs/super.c).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from pytest_sandbox._linux.proc import parse_mountinfo
from pytest_sandbox.model.capability import Cause
from pytest_sandbox.sandbox.machine.hostkind import read_file

Reader = Callable[[str], str | None]
_COUNTS = tuple(f"user.max_{kind}_namespaces" for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"))


class Refusal(NamedTuple):
    """A cause, its rule in words, and the detail of `Cause`."""

    cause: Cause
    rule: str
    detail: str = ""

    def reason(self, error: OSError) -> str:
        """errno, the call, and the rule; no more, so that what one rule refuses can be told in one line."""
        call = str(error.filename or error.strerror).split(" ", 1)[0]
        number = errno.errorcode.get(error.errno or 0, error.errno)
        return f"{number} of {call}{'(2)' if call.isidentifier() else ''}: {self.rule}"


def of_namespace(error: OSError, *, outside: bool = False, read: Reader = read_file) -> Refusal:
    """Where unshare(2) or what follows it was refused. outside: it was for root's mount namespace, without a user namespace."""
    if error.errno == errno.ENOSPC:
        none = [name for name in _COUNTS if (read(f"/proc/sys/{name.replace('.', '/')}") or "").strip() == "0"]
        name = none[0] if none else "user.max_user_namespaces"
        return Refusal(Cause.COUNT, f"{name} is {'0' if none else 'reached'}", name)
    if outside and not _is_admin(read):
        return Refusal(Cause.NO_ADMIN, "a mount namespace takes CAP_SYS_ADMIN, which this root does not have")
    if error.errno == errno.EPERM and _is_chroot(read):
        return Refusal(Cause.CHROOT, "no user namespace is made in a chroot (user_namespaces(7))")
    rule = "user namespaces are forbidden here, and nothing says by whom; one that does not is chroot(2)"
    return _of_user(error, read) or Refusal(Cause.REFUSED, rule)


def of_file_system(error: OSError, name: str, read: Reader = read_file) -> Refusal:
    """Where a new proc or sysfs (its name) was refused."""
    if error.errno == errno.ENOSPC or str(error.filename).startswith("unshare"):
        return of_namespace(error, read=read)
    rule = f"the kernel mounts a new {name} only where another is seen whole (mount_too_revealing)"
    covered = next(filter(_hides, _points(read, {"proc": "/proc/", "sysfs": "/sys/"}[name])), None)
    if error.errno == errno.EPERM and covered:
        return Refusal(Cause.MASKED, f"{rule}, and {covered} is covered")
    return _of_user(error, read) or Refusal(Cause.MASKED, rule)


def of_program(read: Reader = read_file) -> Refusal:
    """Where there may be no program that lies in memory: memfd_create(2), Documentation/admin-guide/sysctl/vm.rst."""
    if (read("/proc/sys/vm/memfd_noexec") or "").strip() == "2":
        return Refusal(Cause.NO_MEMFD, "vm.memfd_noexec is 2: no program may lie in memory, as pid 1's does")
    return of_filter(read) or Refusal(Cause.NO_MEMFD, "no program may lie in memory, as pid 1's does")


def _is_admin(read: Reader) -> bool:
    """Whether CAP_SYS_ADMIN is among the effective capabilities: proc_pid_status(5)."""
    _, _, after = (read("/proc/self/status") or "").partition("\nCapEff:\t")
    return bool(int(after.partition("\n")[0] or "0", 16) & 1 << 21)


def _hides(point: str) -> bool:
    """Whether a mount there is one over something; others are on directories that exist to be mounted on."""
    return not point.startswith(("/proc/sys/fs/", "/sys/fs/", "/sys/kernel/", "/sys/firmware/efi/"))


def _points(read: Reader, below: str) -> list[str]:
    return [entry.point for entry in parse_mountinfo(read("/proc/self/mountinfo") or "") if entry.point.startswith(below)]


def _is_chroot(read: Reader) -> bool:
    """Whether nothing is mounted on the root directory, as far as it can be told: a chroot into a mount looks like any root."""
    points = _points(read, "/")
    return bool(points) and "/" not in points


def of_filter(read: Reader = read_file) -> Refusal | None:
    """A seccomp filter, if there is one."""
    if "\nSeccomp:\t2" not in (read("/proc/self/status") or ""):
        return None
    return Refusal(Cause.SECCOMP, "forbidden by a seccomp filter, as container engines have one (Seccomp: 2)")


def _of_user(error: OSError, read: Reader) -> Refusal | None:
    """Rules for user namespaces. A filter says EPERM at once; AppArmor lets the namespace be made, and then says EACCES."""

    def says(path: str, value: str) -> bool:
        return (read(path) or "").strip() == value

    found = []
    if says("/proc/sys/kernel/unprivileged_userns_clone", "0"):
        found.append(Refusal(Cause.USERNS_CLONE, "kernel.unprivileged_userns_clone is 0: for root only (Debian)"))
    if filtered := of_filter(read):
        found.append(filtered)
    if says("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"):
        rule = "AppArmor's restriction of unprivileged user namespaces (Ubuntu): one may be made, and nothing done in it"
        found.insert(0 if error.errno == errno.EACCES else len(found), Refusal(Cause.APPARMOR, rule))
    profile = (read("/proc/self/attr/apparmor/current") or read("/proc/self/attr/current") or "").strip()
    if error.errno == errno.EACCES and profile.endswith((" (enforce)", " (kill)")):
        found.insert(
            0, Refusal(Cause.PROFILE, f"forbidden by AppArmor's profile {profile.rpartition(' ')[0]}, as engines have one")
        )
    return found[0] if found else None
