"""The kind of host that this is, from evidence: files and variables that engines, CI services and distributions leave.

Only texts depend on it: what a sandbox can do is tried, never inferred (`probes`). Pure but for `here`; imports nothing of ours.

    file or variable                                   says
    /run/.containerenv                                 Podman; rootless=1 in it, that its engine is an ordinary user's
    /.dockerenv, with /etc/hosts mounted               Docker; a machine made of an image has but the file
    KUBERNETES_SERVICE_HOST, a service account's file  Kubernetes, whichever engine it has
    /run/systemd/container, $container                 lxc, systemd-nspawn, ...: systemd's Container Interface
    GITHUB_ACTIONS, GITLAB_CI, JENKINS_URL, CI         the CI service
    /etc/os-release, /usr/lib/os-release               the distribution: os-release(5)
    /run/systemd/system                                systemd is pid 1: sd_booted(3)
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import os
from collections.abc import Callable, Mapping


class Engine(enum.Enum):
    """Who made the container; the value is what messages call it."""

    DOCKER = "Docker container"
    PODMAN = "Podman container"
    KUBERNETES = "Kubernetes pod"
    LXC = "LXC container"
    NSPAWN = "systemd-nspawn container"
    OTHER = "container"


class Service(enum.Enum):
    """The CI service that started pytest."""

    GITHUB = "GitHub Actions"
    GITLAB = "GitLab CI"
    JENKINS = "Jenkins"
    OTHER = "CI"


@dataclasses.dataclass(frozen=True, slots=True)
class HostKind:
    """What is known of the host.

    engine, service: None where there is none. rootless: the engine is an ordinary user's. self_hosted: GitHub's runner is not a
    machine of GitHub's. distribution: ID and ID_LIKE. system: its name for people. systemd: it is pid 1. user_manager: this
    user has one.
    """

    engine: Engine | None = None
    rootless: bool = False
    service: Service | None = None
    self_hosted: bool = False
    distribution: frozenset[str] = frozenset()
    system: str = ""
    systemd: bool = False
    user_manager: bool = False
    uid: int = 0
    kernel: str = ""

    def __str__(self) -> str:
        """As the doctor's first line has it."""
        where = f"{'rootless ' if self.rootless else ''}{self.engine.value}" if self.engine else self.system or "Linux"
        if self.engine and self.system:
            where += f" ({self.system} image)"
        if self.service:
            runner = ", on a runner of your own" if self.self_hosted else ""
            where += f", in {self.service.value}{runner}"
        boot = "" if self.engine else f"; {'systemd' if self.systemd else 'no systemd'}"
        return f"{where}; {self.kernel}{boot}; uid {self.uid}"


@functools.cache
def here() -> HostKind:
    """Of the machine, and the user, that this process has."""
    return find(read_file, os.environ, os.geteuid(), f"{os.uname().sysname} {os.uname().release}")


def read_file(path: str) -> str | None:
    """A small file's text; "" where it may not be read, None where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            return file.read()
    except PermissionError:
        return ""
    except IsADirectoryError:
        return ""
    except OSError:
        return None


def find(read: Callable[[str], str | None], environ: Mapping[str, str], uid: int, kernel: str) -> HostKind:
    """The kind of a host on which files are as `read` says: a text, "" for what is there, or None."""
    podman = read("/run/.containerenv")
    release = _assignments(read("/etc/os-release") or read("/usr/lib/os-release") or "")
    service = _service(environ)
    return HostKind(
        engine=_engine(read, environ),
        rootless=_assignments(podman or "").get("rootless") == "1",
        service=service,
        self_hosted=service is Service.GITHUB and environ.get("RUNNER_ENVIRONMENT") == "self-hosted",
        distribution=frozenset((release.get("ID", ""), *release.get("ID_LIKE", "").split())) - {""},
        system=_system(release),
        systemd=read("/run/systemd/system") is not None,
        user_manager=uid != 0 and read(f"/run/user/{uid}/systemd") is not None,
        uid=uid,
        kernel=kernel,
    )


_DOCKER_MOUNTS = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_ENGINES = {
    "docker": Engine.DOCKER, "podman": Engine.PODMAN, "oci": Engine.OTHER, "lxc": Engine.LXC, "lxc-libvirt": Engine.LXC,
    "systemd-nspawn": Engine.NSPAWN, "kube": Engine.KUBERNETES,
}  # fmt: skip


def _engine(read: Callable[[str], str | None], environ: Mapping[str, str]) -> Engine | None:
    if "KUBERNETES_SERVICE_HOST" in environ or read("/var/run/secrets/kubernetes.io/serviceaccount") is not None:
        return Engine.KUBERNETES
    if read("/run/.containerenv") is not None:
        return Engine.PODMAN
    if read("/.dockerenv") is not None and any(f" {file} " in (read("/proc/self/mountinfo") or "") for file in _DOCKER_MOUNTS):
        return Engine.DOCKER
    said = (read("/run/systemd/container") or environ.get("container", "")).strip()
    return _ENGINES.get(said, Engine.OTHER) if said else None


def _service(environ: Mapping[str, str]) -> Service | None:
    if environ.get("GITHUB_ACTIONS") == "true":
        return Service.GITHUB
    if environ.get("GITLAB_CI") == "true":
        return Service.GITLAB
    if "JENKINS_URL" in environ:
        return Service.JENKINS
    return Service.OTHER if environ.get("CI", "").lower() in ("1", "true", "yes") else None


def _assignments(text: str) -> dict[str, str]:
    """Lines of NAME=value, as in os-release(5); quotes are taken off."""
    lines = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip().strip("\"'") for name, sign, value in lines if sign}


def _system(release: Mapping[str, str]) -> str:
    """Such as "Debian 12", "Ubuntu 24.04", "Rocky Linux 9.4"."""
    name = release.get("NAME", "").removesuffix(" GNU/Linux")
    return f"{name} {release.get('VERSION_ID', '')}".strip()


os.register_at_fork(after_in_child=here.cache_clear)
