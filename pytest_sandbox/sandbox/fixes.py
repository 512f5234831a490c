"""What would let a sandbox be made here, from what the kernel refused and what the machine says of itself. Imports nothing.

One fix for the cause that there is evidence of; all of them only where nothing tells. Pure but for `read`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

UNMASK = (
    "show the container all of /proc and /sys: docker run --security-opt systempaths=unconfined; podman run --security-opt "
    "unmask=ALL; in Kubernetes procMount: Unmasked"
)
ADMIN = (
    "give the container's root CAP_SYS_ADMIN: docker run or podman run --cap-add SYS_ADMIN; in Kubernetes capabilities: "
    "{add: [SYS_ADMIN]}. Or run as another user: --user UID"
)
_DEBIAN = "sysctl kernel.unprivileged_userns_clone=1"
_UBUNTU = "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for this Python with the line 'userns,'"
_SECCOMP = (
    "let the container make namespaces: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined; podman "
    "run --cap-add SYS_ADMIN; in Kubernetes seccompProfile: {type: Unconfined}"
)
_COUNTS = tuple(f"user.max_{kind}_namespaces" for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"))


def read_file(path: str) -> str:
    """A small file's text; "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def for_namespace(error: OSError, *, outside: bool = False, read: Callable[[str], str] = read_file) -> str:
    """Where unshare(2) was refused. outside: it was for a mount namespace of root's, without a user namespace."""
    if error.errno == errno.ENOSPC:
        none = [name for name in _COUNTS if read(f"/proc/sys/{name.replace('.', '/')}").strip() == "0"]
        return f"sysctl {none[0] if none else 'user.max_user_namespaces'}=10000"
    if outside:
        return ADMIN
    return _for_user(read) or f"one of: {_DEBIAN} (Debian); {_UBUNTU} (Ubuntu 24.04); {_SECCOMP}"


def for_file_system(read: Callable[[str], str] = read_file) -> str:
    """Where a new proc or sysfs was refused: the kernel allows one only where another is to be seen whole."""
    masked = any(line.split(" ")[4].startswith(("/proc/", "/sys/")) for line in read("/proc/self/mountinfo").splitlines())
    return UNMASK if masked else _for_user(read) or UNMASK


def _for_user(read: Callable[[str], str]) -> str:
    if read("/proc/sys/kernel/unprivileged_userns_clone").strip() == "0":
        return _DEBIAN
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == "1":
        return _UBUNTU
    if "\nSeccomp:\t2" in read("/proc/self/status"):
        return _SECCOMP
    return ""
