"""The kind of host by its evidence; one fix for a cause and a kind, all of which stand in docs/host-setup.md."""

from __future__ import annotations

import errno
import itertools
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from pytest_sandbox.model.capability import Cause
from pytest_sandbox.sandbox.machine import causes, fixes, hostkind
from pytest_sandbox.sandbox.machine.hostkind import Engine, HostKind, Service

PAGE = Path(__file__).parents[2] / "docs" / "host-setup.md"
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'
UBUNTU = 'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n'
ROCKY = 'NAME="Rocky Linux"\nVERSION_ID="9.4"\nID="rocky"\nID_LIKE="rhel centos fedora"\n'
DOCKER = {"/.dockerenv": "", "/proc/self/mountinfo": "9 8 254:1 /c/hosts /etc/hosts rw - ext4 /dev/vda rw\n"}
PODMAN = {"/run/.containerenv": 'engine="podman-4.3.1"\nrootless=1\n'}
GITHUB = {"GITHUB_ACTIONS": "true", "RUNNER_ENVIRONMENT": "github-hosted", "CI": "true"}


def find(files: Mapping[str, str], environ: Mapping[str, str] = MappingProxyType({}), uid: int = 0) -> HostKind:
    """The kind of a host with these files and variables."""
    return hostkind.find(files.get, environ, uid, "Linux 6.8.0")


@pytest.mark.parametrize(
    ("files", "environ", "first"),
    [
        ({"/etc/os-release": DEBIAN}, {}, "Debian 12; Linux 6.8.0; no systemd; uid 0"),
        ({"/usr/lib/os-release": ROCKY, "/run/systemd/system": ""}, {}, "Rocky Linux 9.4; Linux 6.8.0; systemd; uid 0"),
        ({}, {}, "Linux; Linux 6.8.0; no systemd; uid 0"),
        (
            {**DOCKER, "/etc/os-release": DEBIAN},
            GITHUB,
            "Docker container (Debian 12 image), in GitHub Actions; Linux 6.8.0; uid 0",
        ),
        ({"/.dockerenv": "", "/etc/os-release": DEBIAN}, {}, "Debian 12; Linux 6.8.0; no systemd; uid 0"),
        (PODMAN, {}, "rootless Podman container; Linux 6.8.0; uid 0"),
        ({"/run/.containerenv": ""}, {"GITLAB_CI": "true"}, "Podman container, in GitLab CI; Linux 6.8.0; uid 0"),
        (DOCKER, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes pod; Linux 6.8.0; uid 0"),
        ({"/var/run/secrets/kubernetes.io/serviceaccount": ""}, {}, "Kubernetes pod; Linux 6.8.0; uid 0"),
        ({"/run/systemd/container": "lxc\n"}, {}, "LXC container; Linux 6.8.0; uid 0"),
        ({"/run/systemd/container": "systemd-nspawn"}, {}, "systemd-nspawn container; Linux 6.8.0; uid 0"),
        ({}, {"container": "bespoke"}, "container; Linux 6.8.0; uid 0"),
        (
            {"/etc/os-release": UBUNTU, "/run/systemd/system": ""},
            {**GITHUB, "RUNNER_ENVIRONMENT": "self-hosted"},
            "Ubuntu 24.04, in GitHub Actions, on a runner of your own; Linux 6.8.0; systemd; uid 0",
        ),
        ({}, {"JENKINS_URL": "http://ci/", "CI": "true"}, "Linux, in Jenkins; Linux 6.8.0; no systemd; uid 0"),
        ({}, {"CI": "true"}, "Linux, in CI; Linux 6.8.0; no systemd; uid 0"),
        ({}, {"CI": "false"}, "Linux; Linux 6.8.0; no systemd; uid 0"),
    ],
)
def test_the_kind_by_its_evidence(files: dict[str, str], environ: dict[str, str], first: str) -> None:
    """As the doctor's first line says it. A machine made of an image has /.dockerenv too, and no mounts on /etc."""
    assert str(find(files, environ)) == first


def test_details() -> None:
    """What fixes ask for beside engine and service."""
    rocky = find({"/etc/os-release": ROCKY, "/run/systemd/system": "", "/run/user/1000/systemd": ""}, uid=1000)
    assert rocky.distribution == {"rocky", "rhel", "centos", "fedora"}
    assert (rocky.systemd, rocky.user_manager, rocky.uid) == (True, True, 1000)
    assert find(PODMAN).rootless
    assert not find({"/run/.containerenv": "rootless=0\n"}).rootless


def test_this_host() -> None:
    """It is found without an error, and says who runs the tests."""
    assert str(hostkind.here()).endswith(f"uid {os.geteuid()}")
    assert hostkind.read_file("/no/such/file") is None
    assert hostkind.read_file("/") == ""


ON_DOCKER, ON_PODMAN = HostKind(Engine.DOCKER), HostKind(Engine.PODMAN)
SYSTEMD = HostKind(systemd=True, uid=1000)


@pytest.mark.parametrize(
    ("cause", "kind", "fix"),
    [
        (Cause.APPARMOR, HostKind(uid=1000), "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        (
            Cause.APPARMOR,
            HostKind(service=Service.GITHUB, uid=1000),
            "a step before pytest: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (Cause.APPARMOR, ON_DOCKER, "on the container's host: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        (Cause.USERNS_CLONE, HostKind(), "sysctl -w kernel.unprivileged_userns_clone=1"),
        (Cause.MASKED, ON_PODMAN, "podman run --cap-add SYS_ADMIN --security-opt unmask=ALL IMAGE"),
        (Cause.MASKED, HostKind(Engine.PODMAN, uid=7), "podman run --security-opt unmask=ALL IMAGE"),
        (
            Cause.SECCOMP,
            HostKind(Engine.DOCKER, service=Service.GITLAB),
            "in the runner's config.toml, [runners.docker]: privileged",
        ),
        (
            Cause.SECCOMP,
            HostKind(Engine.DOCKER, service=Service.GITHUB),
            "in the workflow, at the job's container: options: --cap-add",
        ),
        (Cause.SECCOMP, HostKind(Engine.DOCKER, service=Service.JENKINS), "in the Jenkinsfile, agent { docker {"),
        (Cause.SECCOMP, HostKind(Engine.KUBERNETES), "in the pod's spec: hostUsers: false; in its container's securityContext:"),
        (Cause.READ_ONLY, ON_DOCKER, "docker run --privileged --cgroupns=private IMAGE"),
        (Cause.READ_ONLY, HostKind(Engine.KUBERNETES), "in the container's securityContext: privileged: true"),
        (Cause.READ_ONLY, ON_PODMAN, "podman run --cgroupns=private --cap-add SYS_ADMIN --security-opt unmask=ALL IMAGE"),
        (
            Cause.NOT_DELEGATED,
            HostKind(systemd=True, uid=7, user_manager=True),
            "systemd-run --user --scope -p Delegate=yes pytest",
        ),
        (Cause.NOT_DELEGATED, SYSTEMD, "with systemd 252 or newer: sudo -E env"),
        (Cause.NOT_DELEGATED, HostKind(Engine.DOCKER, uid=7), "as the container's root (user 0): docker run --privileged"),
        (Cause.SHARED, ON_DOCKER, "(cd /sys/fs/cgroup && mkdir -p others &&"),
        (Cause.SHARED, HostKind(systemd=True), "systemd-run --scope -p Delegate=yes pytest --sandbox"),
        (Cause.OUTSIDE, ON_PODMAN, "start pytest with the container, or in it by podman exec, not by nsenter"),
        (Cause.OUTSIDE, HostKind(), "as root: unshare --cgroup --mount"),
        (
            Cause.FOREIGN,
            ON_DOCKER,
            "without a volume for /sys/fs/cgroup: docker run --privileged --cgroupns=private",
        ),
        (Cause.FOREIGN, HostKind(), "as root: unshare --cgroup --mount"),
        (Cause.PROFILE, ON_DOCKER, "docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined"),
        (Cause.PROFILE, HostKind(), "aa-exec -p unconfined pytest --sandbox"),
        (Cause.NO_FILE, HostKind(), "Linux 5.12 or newer"),
        (Cause.NO_DISK, HostKind(), "leave the limit out"),
        (Cause.NO_HUGE_PAGES, HostKind(), "leave hugetlb out"),
        (Cause.MOST_CGROUPS, ON_DOCKER, "on the container's host: as root, in /sys/fs/cgroup and in those above it: echo max"),
        (Cause.NO_ROOM, HostKind(), "as root: echo 3 > /proc/sys/vm/drop_caches"),
        (Cause.CGROUP, HostKind(), "to run without it: pytest --sandbox --sandbox-degrade"),
        (Cause.VERSION_1, HostKind(distribution=frozenset({"rhel"})), "sudo grubby --update-kernel=ALL"),
    ],
)
def test_the_fix_is_for_this_kind_of_host(cause: Cause, kind: HostKind, fix: str) -> None:
    """One, and of no other engine."""
    found = fixes.fix(cause, kind, "/sys/fs/cgroup")
    assert found.startswith(fix)
    others = {Engine.DOCKER: "podman run", Engine.PODMAN: "docker run"}
    assert kind.engine is None or others.get(kind.engine, "docker run") not in found


@pytest.mark.parametrize(
    ("kind", "name", "directory", "fix"),
    [
        (HostKind(systemd=True, uid=7, user_manager=True), "cpu", "/user.slice", "in /etc/systemd/system/user@.service.d/"),
        (HostKind(systemd=True, uid=7, user_manager=True), "cpu", "/system.slice", "systemd-run --user --scope -p Delegate=yes"),
        (HostKind(systemd=True, uid=7), "cpu", "/user.slice", "with systemd 252 or newer: sudo -E env"),
        (HostKind(systemd=True, uid=7, user_manager=True), "hugetlb", "/user.slice", "as root: echo +hugetlb | tee /user.slice/"),
        (HostKind(uid=7), "cpu", "/parent", "as root: echo +cpu | tee /parent/x/cgroup.subtree_control"),
    ],
)
def test_who_passes_a_controller_on(kind: HostKind, name: str, directory: str, fix: str) -> None:
    """systemd does what it knows, for users' own managers where one of them is around this cgroup; by hand all else."""
    assert fixes.fix(Cause.NOT_PASSED_ON, kind, f"+{name} | tee {directory}/x/cgroup.subtree_control").startswith(fix)


SECCOMP = {"/proc/self/status": "Name:\tpytest\nSeccomp:\t2\n"}
MOUNTS = "23 31 0:21 / /proc rw - proc proc rw\n50 23 0:40 / {} rw - tmpfs tmpfs rw\n"
PROFILE = {"/proc/self/attr/apparmor/current": "docker-default (enforce)\n"}
APPARMOR = {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}


@pytest.mark.parametrize(
    ("number", "evidence", "cause", "said"),
    [
        (
            errno.ENOSPC,
            {"/proc/sys/user/max_net_namespaces": "0\n"},
            Cause.COUNT,
            "ENOSPC of unshare(2): user.max_net_namespaces is 0",
        ),
        (errno.ENOSPC, {}, Cause.COUNT, "ENOSPC of unshare(2): user.max_user_namespaces is reached"),
        (
            errno.EPERM,
            {"/proc/sys/kernel/unprivileged_userns_clone": "0\n"},
            Cause.USERNS_CLONE,
            "unprivileged_userns_clone is 0",
        ),
        (errno.EACCES, APPARMOR, Cause.APPARMOR, "EACCES of unshare(2): AppArmor's restriction"),
        (errno.EACCES, {**APPARMOR, **SECCOMP}, Cause.APPARMOR, "AppArmor's restriction of unprivileged user namespaces"),
        (errno.EPERM, {**APPARMOR, **SECCOMP}, Cause.SECCOMP, "EPERM of unshare(2): forbidden by a seccomp filter"),
        (
            errno.EPERM,
            {"/proc/self/mountinfo": MOUNTS.format("/usr")},
            Cause.CHROOT,
            "EPERM of unshare(2): no user namespace is made",
        ),
        (errno.EPERM, {}, Cause.REFUSED, "nothing says by whom"),
        (
            errno.EACCES,
            {**PROFILE, **SECCOMP},
            Cause.PROFILE,
            "EACCES of unshare(2): forbidden by AppArmor's profile docker-default",
        ),
        (errno.EPERM, {**PROFILE, **SECCOMP}, Cause.SECCOMP, "EPERM of unshare(2): forbidden by a seccomp filter"),
    ],
)
def test_the_rule_behind_a_namespace(number: int, evidence: dict[str, str], cause: Cause, said: str) -> None:
    """By what machines say that are not at hand; the reason names errno, call and rule."""
    error = OSError(number, os.strerror(number), "unshare <Clone.NEWUSER: 1>")
    refusal = causes.of_namespace(error, read=evidence.get)
    assert refusal.cause is cause
    assert said in refusal.reason(error)
    assert causes.of_namespace(error, outside=True, read=evidence.get).cause in (Cause.NO_ADMIN, Cause.COUNT)


def test_the_rule_behind_a_file_system() -> None:
    """What is covered is named. What every machine has mounted below /sys hides nothing; then it is a rule for users."""
    error = OSError(errno.EPERM, "", "mount proc")
    refused = OSError(errno.EPERM, "", "unshare <Clone.NEWUSER: 1>")
    assert causes.of_file_system(refused, "proc", SECCOMP.get).cause is Cause.SECCOMP
    masked = causes.of_file_system(error, "proc", {"/proc/self/mountinfo": MOUNTS.format("/proc/kcore")}.get)
    assert masked.cause is Cause.MASKED
    assert masked.reason(error).startswith("EPERM of mount(2): the kernel mounts a new proc only where another is seen whole")
    assert masked.reason(error).endswith("(mount_too_revealing), and /proc/kcore is covered")
    usual = {**APPARMOR, "/proc/self/mountinfo": MOUNTS.format("/sys/fs/cgroup")}
    assert causes.of_file_system(error, "sysfs", usual.get).cause is Cause.APPARMOR
    assert causes.of_file_system(error, "sysfs", lambda _: None).cause is Cause.MASKED
    assert causes.of_file_system(OSError(errno.ENOSPC, ""), "proc", lambda _: None).cause is Cause.COUNT


#: As the page has them.
DETAILS = {
    Cause.COUNT: ["user.max_net_namespaces"], Cause.STACKED: ["/", "DIRECTORY"], Cause.NO_ATTRIBUTES: ["DIRECTORY"],
    Cause.NOT_DELEGATED: ["DIRECTORY"], Cause.NOT_DELEGATED_ROOT: ["DIRECTORY"], Cause.NOT_DELEGATED_V1: ["DIRECTORY"],
    Cause.NOT_DELEGATED_CPUSET: ["DIRECTORY"], Cause.SHARED: ["DIRECTORY"], Cause.SHARED_ABOVE: ["DIRECTORY"],
    Cause.NOT_PASSED_ON: ["+CONTROLLER | tee DIRECTORY/cgroup.subtree_control"],
    Cause.UNMOUNTED: ["", "unified", "CONTROLLER"], Cause.NO_CONTROLLER: ["CONTROLLER", "memory"],
    Cause.MOST_CGROUPS: ["DIRECTORY"],
}  # fmt: skip


def kinds() -> Iterator[HostKind]:
    """Every one that fixes tell apart; 1000 stands for a user."""
    yes = (False, True)
    rhel = (frozenset[str](), frozenset({"rhel"}))
    for engine, service, root, systemd, last, distribution in itertools.product(
        (None, *Engine), (None, *Service), yes, yes, yes, rhel
    ):
        yield HostKind(
            engine=engine,
            rootless=last and engine is Engine.PODMAN,
            service=service,
            distribution=distribution,
            systemd=systemd,
            user_manager=last and not root,
            uid=0 if root else 1000,
        )


def test_every_fix_stands_in_the_page() -> None:
    """Word for word: whoever searches the documentation for what the doctor printed finds it."""
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    printed = {fixes.fix(cause, kind, detail) for cause in Cause for kind in kinds() for detail in DETAILS.get(cause, [""])}
    missing = sorted(fix for fix in printed if " ".join(fix.split()) not in page)
    assert missing == []


def blocks(language: str) -> list[str]:
    """The page's fenced blocks in a language."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.finditer(rf"^ *```{language}\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(match[1]) for match in found]


def test_toml_of_the_page_parses() -> None:
    """A file to be copied must be one."""
    tomllib = pytest.importorskip("tomllib", reason="the standard library parses TOML from Python 3.11 on")
    found = [tomllib.loads(text) for text in blocks("toml")]
    assert found
    assert all(runner["executor"] == "docker" for one in found for runner in one["runners"])


def test_yaml_of_the_page_has_no_tab_and_closes_its_quotes() -> None:
    """What can be said without a parser, which the standard library does not have."""
    found = blocks("yaml")
    assert len(found) >= 4
    for line in "".join(found).splitlines():
        assert "\t" not in line
        assert (len(line) - len(line.lstrip())) % 2 == 0, line
        assert line.count('"') % 2 == 0, line
