"""Runs in a guest of engines.py's, as root: starts the engines and gives each case its container; prints a line of JSON for each.

    engines_guest.py IMAGE.tar ENGINE,...

A case is what a user would type between `run` and the image. Imports only the standard library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

#: The ordinary user of the guest (init.sh), and where layers can lie: a disk.
USER = "tester"
DISK = Path("/var/tmp")
IMAGE = "localhost/sandbox"
PROJECT = "/project"
#: What runs in the containers of a case, as their main process: a shell around it would be one process too many in its cgroup.
COMMANDS = {
    "doctor": ("python3", "-m", "pytest", "--sandbox-doctor"),
    "examples": ("python3", "-m", "pytest", "--sandbox", "examples"),
    "limits": ("python3", "scripts/enforcement.py", "--limits", "memory,pids,cpus"),
}
_SECONDS = 600

_SECCOMP = "--security-opt seccomp=unconfined"
_APPARMOR = "--security-opt apparmor=unconfined"
_PATHS = "--security-opt systempaths=unconfined"
_ADMIN = "--cap-add SYS_ADMIN"
_UNMASK = "--security-opt unmask=ALL"
#: With a group: without one, a user that the image does not know has root's, and what is of any other he cannot change.
_USER = "--user 1000:1000"
_CGROUP = "-v /sys/fs/cgroup:/sys/fs/cgroup:rw"
_WRITABLE = "--security-opt writable-cgroups=true"
_OWN_IDS = "--uidmap 0:100000:65536 --gidmap 0:100000:65536"
_DOCKER = f"{_SECCOMP} {_APPARMOR} {_PATHS}"

#: By engine, what is tried.
CASES: dict[str, Sequence[str]] = {
    "docker": (
        "",
        _DOCKER,
        f"{_DOCKER} {_ADMIN}",
        f"{_SECCOMP} {_PATHS} {_ADMIN}",
        f"{_APPARMOR} {_PATHS} {_ADMIN}",
        f"{_SECCOMP} {_APPARMOR} {_ADMIN}",
        f"--runtime crun {_DOCKER} {_ADMIN}",
        f"{_DOCKER} {_ADMIN} {_CGROUP}",
        f"{_DOCKER} {_ADMIN} --cgroupns=host {_CGROUP}",
        f"{_DOCKER} {_ADMIN} {_WRITABLE}",
        "--privileged",
        _USER,
        f"{_USER} {_DOCKER}",
        f"--user 1000 {_DOCKER}",
        f"{_USER} {_SECCOMP} {_PATHS}",
        f"{_USER} {_APPARMOR} {_PATHS}",
        f"{_USER} {_DOCKER} {_CGROUP}",
        f"{_USER} {_DOCKER} {_WRITABLE}",
        f"{_USER} --privileged",
    ),
    "docker, rootless": (
        "",
        _DOCKER,
        f"{_DOCKER} {_ADMIN}",
        f"{_SECCOMP} {_PATHS} {_ADMIN}",
        f"{_DOCKER} {_ADMIN} {_CGROUP}",
        f"{_DOCKER} {_ADMIN} {_WRITABLE}",
        "--privileged",
        f"{_USER} {_DOCKER}",
    ),
    "podman": (
        "",
        _ADMIN,
        _UNMASK,
        f"{_SECCOMP} {_UNMASK}",
        f"{_ADMIN} --security-opt unmask=/proc/*",
        f"{_ADMIN} {_UNMASK}",
        f"--runtime runc {_ADMIN} {_UNMASK}",
        "--privileged",
        _USER,
        f"{_USER} {_UNMASK}",
        f"--runtime runc {_USER} {_UNMASK}",
        f"{_USER} --privileged",
        f"{_OWN_IDS} {_UNMASK}",
        f"{_OWN_IDS} {_ADMIN} {_UNMASK}",
        f"{_OWN_IDS} {_SECCOMP} {_ADMIN} {_UNMASK}",
        f"{_OWN_IDS} {_USER} {_UNMASK}",
    ),
    "podman, rootless": (
        "",
        _ADMIN,
        _UNMASK,
        f"{_ADMIN} {_UNMASK}",
        f"--runtime runc {_ADMIN} {_UNMASK}",
        "--privileged",
        _USER,
        f"{_USER} {_UNMASK}",
        f"--runtime runc {_USER} {_UNMASK}",
        f"{_USER} --privileged",
        f"--userns keep-id {_UNMASK}",
        "--userns keep-id --privileged",
    ),
    # As Kubernetes says it; seccompProfile and appArmorProfile are Unconfined in all.
    "runc, as Kubernetes": (
        "",
        "procMount: Unmasked",
        "capabilities: SYS_ADMIN",
        "procMount: Unmasked, capabilities: SYS_ADMIN",
        "procMount: Unmasked, runAsUser: 1000",
        "hostUsers: false",
        "hostUsers: false, procMount: Unmasked",
        "hostUsers: false, procMount: Unmasked, capabilities: SYS_ADMIN",
        "hostUsers: false, procMount: Unmasked, capabilities: SYS_ADMIN, cgroup_writable",
        "hostUsers: false, procMount: Unmasked, runAsUser: 1000",
    ),
}


@dataclasses.dataclass(frozen=True)
class Cli:
    """An engine with docker's command line. user: whose it is in the guest; program: with what is to stand before `run`."""

    program: Sequence[str]
    user: str | None = None

    def load(self, image: Path) -> None:
        """Make the image of its tar."""
        self._check(self._run([*self.program, "import", str(image), IMAGE]))

    def run(self, case: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """A container; what it printed."""
        words = ["run", "--rm", "--network", "none", "--workdir", PROJECT, *shlex.split(case)]
        return self._run([*self.program, *words, IMAGE, *command])

    def _run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        # With a session of the user's own, as `systemctl --user` and delegated cgroups take.
        argv = ["su", "-", self.user, "-c", shlex.join(argv)] if self.user else argv
        return _output(argv)

    @staticmethod
    def _check(result: subprocess.CompletedProcess[str]) -> None:
        if result.returncode:
            raise RuntimeError(f"{shlex.join(map(str, result.args))}: {result.stderr}")


class Runc:
    """What a container runtime interface hands to runc: its configuration, by the names of a Pod's specification.

    The root is an overlay. Without hostUsers, ids from 100000 on are root's and so forth; the image's files are of these then.
    """

    def load(self, image: Path) -> None:
        """Unpack the image twice, once for the host's users."""
        for name, first in (("host", 0), ("own", 100000)):
            tree = DISK / "runc" / name
            tree.mkdir(parents=True)
            subprocess.run(["tar", "x", "-C", tree, "-f", image], check=True)
            for path, owner in ((tree, first), (tree / PROJECT[1:], first + 1000)) if first else ():
                subprocess.run(["chown", "-R", f"{owner}:{owner}", path], check=True)

    def run(self, case: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """A container; what it printed."""
        own_users = "hostUsers: false" in case
        bundle = DISK / "runc" / f"bundle-{time.monotonic_ns()}"
        for name in ("rootfs", "upper", "work"):
            (bundle / name).mkdir(parents=True)
        if own_users:
            os.chown(bundle / "upper", 100000, 100000)
        lower = DISK / "runc" / ("own" if own_users else "host")
        layers = f"lowerdir={lower},upperdir={bundle}/upper,workdir={bundle}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "rootfs", bundle / "rootfs"], check=True)
        subprocess.run(["runc", "spec"], cwd=bundle, check=True)
        config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
        self._configure(config, case, own_users=own_users)
        config["process"] |= {"terminal": False, "args": [*command], "cwd": PROJECT}
        (bundle / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            return _output(["runc", "run", "--bundle", str(bundle), bundle.name])
        finally:
            subprocess.run(["umount", bundle / "rootfs"], check=True)

    @staticmethod
    def _configure(config: dict[str, Any], case: str, *, own_users: bool) -> None:
        """Docker's capabilities, which are those of containerd too, and what the case says."""
        names = ["CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"]
        names += ["NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE", *(["SYS_ADMIN"] if "SYS_ADMIN" in case else [])]
        all_of_them = [f"CAP_{name}" for name in names]
        user = 1000 if "runAsUser" in case else 0
        sets = dict.fromkeys(("bounding", *(() if user else ("effective", "permitted"))), all_of_them)
        config["process"] |= {"capabilities": sets, "user": {"uid": user, "gid": user}, "noNewPrivileges": False, "rlimits": []}
        config["root"]["readonly"] = False
        linux = config["linux"]
        linux["namespaces"] = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")]
        if own_users:
            linux["namespaces"] += [{"type": "user"}]
            one = {"containerID": 0, "hostID": 100000, "size": 65536}
            linux |= {"uidMappings": [one], "gidMappings": [one]}
        if "Unmasked" in case:
            linux |= {"maskedPaths": [], "readonlyPaths": []}
        if "cgroup_writable" in case:
            for mount in config["mounts"]:
                if mount["destination"] == "/sys/fs/cgroup":
                    mount["options"].remove("ro")


def _output(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(argv, 124, "", f"ended after {error.timeout} s")


@contextlib.contextmanager
def engine(name: str) -> Iterator[Cli | Runc]:
    """The engine of this name, running if it is one that runs."""
    if name == "docker":
        with _daemon(["dockerd", *_DOCKERD, f"--data-root={DISK}/docker"], Path("/run/docker.sock")):
            yield Cli(["docker"])
    elif name == "docker, rootless":
        uid = os.stat(f"/home/{USER}").st_uid
        data = _home_on_disk("docker")
        script = "/usr/share/docker.io/contrib/dockerd-rootless.sh"
        argv = [script, *_DOCKERD, f"--data-root={data}", "--exec-opt", "native.cgroupdriver=systemd"]
        socket = Path(f"/run/user/{uid}/docker.sock")
        starter = shlex.join(
            ["env", f"PATH={os.environ['PATH']}", "systemd-run", "--user", "--scope", "-p", "Delegate=yes", *argv]
        )
        with _daemon(["su", "-", USER, "-c", starter], socket):
            yield Cli(["docker", "--host", f"unix://{socket}"], USER)
    elif name == "podman":
        yield Cli(["podman"])
    elif name == "podman, rootless":
        _home_on_disk("podman")
        yield Cli(["podman"], USER)
    else:
        yield Runc()


_DOCKERD = ("--iptables=false", "--ip6tables=false", "--bridge=none", "--add-runtime=crun=/usr/bin/crun")


def _home_on_disk(name: str) -> Path:
    path = DISK / f"{name}-{USER}"
    path.mkdir()
    shutil.chown(path, USER, USER)
    return path


@contextlib.contextmanager
def _daemon(argv: Sequence[str], socket: Path) -> Iterator[None]:
    """A program that serves a socket, for as long as the context."""
    log = Path("/tmp/daemon.log")
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    try:
        until = time.monotonic() + _SECONDS
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{shlex.join(argv)} does not serve:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def _prepare() -> None:
    """What a distribution's start would have done for engines."""
    for name, where in (("securityfs", "/sys/kernel/security"), ("bpf", "/sys/fs/bpf")):
        subprocess.run(["mount", "-t", name, name, where], check=False, capture_output=True)
    subprocess.run(["modprobe", "-a", "tun", "fuse"], check=False, capture_output=True)
    for path in ("/dev/net/tun", "/dev/fuse"):  # as udev's rules have it
        if os.path.exists(path):
            os.chmod(path, 0o666)
    Path("/etc/containers/storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "/run/containers/storage"\ngraphroot = "{DISK}/podman"\n'
        f'rootless_storage_path = "{DISK}/podman-$USER"\n',
        encoding="utf-8",
    )


def _tried(name: str, image: Path, cases: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each case's container said; a case None where the engine does not run."""
    try:
        with engine(name) as one:
            one.load(image)
            for case in cases:
                said = {what: _said(one.run(case, COMMANDS[what])) for what in ("doctor", "examples")}
                limits = _said(one.run(case, COMMANDS["limits"])) if said["doctor"][0] == 0 else (1, "", "")
                yield {"case": case, **said, "limits": limits}
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        yield {"case": None, "problem": str(error)}


def _said(result: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return result.returncode, result.stdout, result.stderr


def main() -> int:
    """Try every case of the engines named; 0."""
    image, names = Path(sys.argv[1]), sys.argv[2].split(";")
    only = sys.argv[3:]
    _prepare()
    for name in names:
        for said in _tried(name, image, only or CASES[name]):
            print(json.dumps({"engine": name, **said}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
