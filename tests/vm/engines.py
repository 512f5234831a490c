"""Runs `pytest --sandbox` in containers of several engines, with several flags; prints tables in markdown.

    python tests/vm/engines.py [--kernel FILE | --qemu 6.12] [--debian bookworm,trixie,forky] [--engine docker] [--log DIR]

The engines run in a guest, never on this machine: that has the packages of a Debian unpacked (debian.py), not installed, and
no network. For each Debian there is one guest, with systemd, and one image: its Python, with this checkout's package. Tried
are Docker, as root's and rootless; Podman, as root's and rootless; and runc with what Kubernetes would tell it. The cases are
in engines_guest.py; each is a container three times, for the doctor, the examples, and scripts/enforcement.py.

Takes apt-get, on a Debian of any version, this Python's pip, and what the guest takes (guest.py, `--disk`). The kernel must have
seccomp, or nothing is seen of what forbids most: Debian's User-Mode Linux has none; Debian's 6.12 under QEMU has, and AppArmor
too, and needs an hour for a Debian. Imports only the standard library, scripts/ and what lies beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import debian
import guest
import workplace
from engines_guest import CASES
from machine import GuestError, Machine
from workplace import CHECKOUT

#: In the image, beside a Python: what is run.
_PROJECT = ("examples", "scripts")
#: Of the guest: the engines, what they need to be rootless, and systemd for whose who is an ordinary user.
_PACKAGES = (
    *("apparmor", "conmon", "containerd", "crun", "docker.io", "fuse-overlayfs", "golang-github-containers-common"),
    *("iptables", "netavark", "passt", "podman", "rootlesskit", "runc", "slirp4netns", "uidmap"),
    *("dbus-user-session", "hostname", "iproute2", "kmod", "libpam-systemd", "passwd", "systemd"),
)
#: Packages that some Debians have, and others have within another.
_SOMEWHERE = {"bookworm": ("login", "golang-github-containers-image"), "trixie": ("docker-cli",), "forky": ("docker-cli",)}
_SHOWN = ("docker.io", "podman", "containerd", "runc", "crun")
_PAM = {
    "common-account": "account required pam_permit.so\n",
    "common-auth": "auth required pam_permit.so\n",
    "common-password": "password required pam_permit.so\n",
    "common-session": "session required pam_permit.so\nsession optional pam_systemd.so\n",
    "common-session-noninteractive": "session required pam_permit.so\n",
}


def make_all(suite: str, place: Path) -> dict[str, str]:
    """The guest's root, unless it is there, and the image; the versions of the packages."""
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{suite}-", dir=place.parent) as directory:
            new = Path(directory, "new")
            new.mkdir()
            (new / "versions.json").write_text(json.dumps(make_tree(suite, new)), encoding="utf-8")
            new.rename(place)
    make_image(suite, place)
    return json.loads((place / "versions.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def make_tree(suite: str, place: Path) -> dict[str, str]:
    """The guest's root, at place/tree; the versions of its packages."""
    tree = place / "tree"
    versions = debian.make(suite, [*_PACKAGES, *_SOMEWHERE[suite]], tree, place / "lists")
    for name, text in _PAM.items():
        debian.write(tree, f"etc/pam.d/{name}", text)
    debian.write(tree, "etc/subuid", "")
    debian.write(tree, "etc/subgid", "")
    for name, line in (("passwd", "messagebus:x:100:100::/nonexistent:/usr/sbin/nologin\n"), ("group", "messagebus:x:100:\n")):
        with (tree / "etc" / name).open("a", encoding="utf-8") as file:
            file.write(line)
    return versions


def make_image(suite: str, place: Path) -> Path:
    """A tar of a Python with this package, /project, and little else."""
    tree = place / "image"
    if not tree.exists():
        debian.make(suite, [], tree, place / "lists")
    (python,) = (path.name for path in (tree / "usr/bin").iterdir() if re.fullmatch(r"python3\.\d+", path.name))
    target = tree / "usr/local/lib" / python / "dist-packages"
    with tempfile.TemporaryDirectory() as wheels:
        workplace.pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", wheels, str(CHECKOUT))
        (wheel,) = Path(wheels).glob("*.whl")
        options = ["--target", str(target), "--python-version", python.removeprefix("python"), "--only-binary=:all:", "--upgrade"]
        workplace.pip(sys.executable, "install", *options, str(wheel))
    for name in _PROJECT:
        (tree / "project").mkdir(exist_ok=True)
        subprocess.run(["cp", "-rT", CHECKOUT / name, tree / "project" / name], check=True)
    # Of whoever runs the tests, where that is not root; root may write there all the same.
    subprocess.run(["chown", "-R", "1000:1000", tree / "project"], check=True)
    image = place / "image.tar"
    subprocess.run(["tar", "c", "-C", tree, "-f", image, "."], check=True)
    return image


class Teller:
    """Makes rows of what engines_guest.py says, line by line as it comes."""

    def __init__(self, log: Path | None) -> None:
        self._rest = ""
        self._log = log

    def tell(self, text: str) -> None:
        """Print what is whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    def _line(self, line: str) -> None:
        if not line.startswith("{"):  # of the guest's itself
            print(line, file=sys.stderr)
            return
        print(row(json.loads(line)), flush=True)
        if self._log:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def run(machine: Machine, place: Path, words: Sequence[str], seconds: float, tell: Callable[[str], object]) -> None:
    """Run engines_guest.py with these words behind the image's name."""
    script = Path(__file__).resolve().with_name("engines_guest.py")
    status = guest.run(
        ["/usr/bin/python3", str(script), str(place / "image.tar"), *words],
        machine=machine,
        cgroups="systemd",
        show=[script.parent, place],
        memory="4G",
        disk="4G",
        tree=place / "tree",
        seconds=seconds,
        tell=tell,
    )
    if status:
        print(f"engines.py: the guest's exit status is {status}", file=sys.stderr)


def row(result: dict[str, Any]) -> str:
    """A line of the table."""
    if result["case"] is None:
        return f"| {result['engine']} | does not run: {_last_line(result['problem'])} | | | |"
    flags = f"`{result['case']}`" if result["case"] else "none"
    (_, doctor, problem), (status, examples, _), (_, limits, _) = (result[name] for name in ("doctor", "examples", "limits"))
    if not doctor:
        return f"| {result['engine']} | {flags} | no container: {_last_line(problem)} | | |"
    able = _last_line(doctor).removeprefix("pytest --sandbox ").removesuffix(" run here").replace(" run here:", ":")
    passed = re.search(r"\d+ (?:passed|failed|error)[^=]*?(?= in )", examples)
    held = [line.split()[0] for line in limits.splitlines() if re.match(r"\w+ +yes", line)]
    broken = [line for line in limits.splitlines() if "BROKEN" in line]
    ran = passed[0] if passed else f"exit status {status}"
    return f"| {result['engine']} | {flags} | {able} | {ran} | {', '.join([*held, *broken]) or 'none'} |"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["?"])[-1].replace("|", "/")


def main() -> int:
    """Make what is needed, boot, and print; 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    guest.add_machine_options(parser)
    parser.add_argument("--debian", default=",".join(_SOMEWHERE), help=f"of {', '.join(_SOMEWHERE)}; several with commas")
    parser.add_argument("--engine", action="append", metavar="WORD", help="only those with this in their name; repeatable")
    parser.add_argument("--case", action="append", default=[], metavar="FLAGS", help="in the place of all; repeatable")
    parser.add_argument("--trees", type=Path, metavar="DIR", help="where those of Debian are kept; a temporary one by default")
    parser.add_argument("--log", type=Path, metavar="DIR", help="where to write all that was said")
    parser.add_argument("--seconds", type=float, default=7200, help="for each guest")
    options = parser.parse_args()
    engines = [name for name in CASES if any(word in name for word in options.engine or [""])]
    if options.log:
        options.log.mkdir(parents=True, exist_ok=True)
    with workplace.temporary() as place, guest.machines(options) as (machine, *_):
        for suite in options.debian.split(","):
            home = (options.trees or place).resolve() / suite
            versions = make_all(suite, home)
            print(f"\n{suite}: {', '.join(f'{name} {versions[name]}' for name in _SHOWN)}; {machine.name}\n")
            print("| engine | flags | doctor | examples | limits that held |\n|---|---|---|---|---|", flush=True)
            teller = Teller(options.log / f"{suite}.jsonl" if options.log else None)
            run(machine, home, [";".join(engines), *options.case], options.seconds, teller.tell)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (workplace.WorkplaceError, GuestError) as problem:
        sys.exit(f"engines.py: {problem}")
