"""The ways to run a suite that are compared, and the environments that they run in.

A peer gets the newest pytest that it passes a test under, which is found by trying. Imports the standard library and
workplace.py.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import workplace
from workplace import CHECKOUT

#: Newest first; 9.2 is where pytest-forked 1.7.5 and pytest-isolate 0.0.17 began to fail every test.
PYTESTS = ("pytest", "pytest<9.2", "pytest<9.1", "pytest<9")
PEERS = ("forked", "isolate")
#: How many at once, of sandboxes and of pytest-xdist's workers.
JOBS = 2
#: pytest-xdist stays, unasked for, since psutil's tests need its mark; it does nothing then.
_NONE = ("-p", "no:sandbox", "-p", "no:forked", "-p", "no:isolate")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to run tests.

    pytest: the version that it runs with, "" for what is no pytest. options: pytest's. base: the variant that is plain pytest of
    the same version, which may be this one.
    """

    name: str
    title: str
    pytest: str
    options: tuple[str, ...] = ()
    base: str | None = None


class Environments:
    """Virtual environments: one for each version of pytest that somebody needs, and each set of a suite's requirements."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._python = workplace.choose_interpreter([workplace.Identity("the caller")])
        self._made: dict[tuple[str, tuple[str, ...]], Path] = {}
        self.newest, self.of_peers = self._try_pytests()

    def python(self, pytest: str, requirements: tuple[str, ...] = ()) -> Path:
        """The interpreter of an environment with this pytest, and what a suite needs."""
        key = (pytest, requirements)
        if key not in self._made:
            own = (str(CHECKOUT), "pytest-xdist") if pytest == self.newest else ()
            peers = (f"pytest-{name}" for name, version in self.of_peers.items() if version == pytest)
            folder = self._place / f"venv-{len(self._made)}"
            self._made[key] = workplace.make_venv(self._python, folder, *requirements, *own, *peers, f"pytest=={pytest}")
        return self._made[key]

    def versions(self) -> list[str]:
        """What is in the environments that were made."""
        return sorted({installed(python) for python in self._made.values()})

    def _try_pytests(self) -> tuple[str, dict[str, str]]:
        """The newest pytest, and for each peer the newest that it works with; a peer that works with none is left out."""
        inside = workplace.make_venv(self._python, self._place / "trial", *(f"pytest-{name}" for name in PEERS))
        one = self._place / "one"
        one.mkdir()
        (one / "pytest.ini").write_text("[pytest]\n")
        (one / "test_it.py").write_text("def test_one(): pass\n")
        newest, found = "", {}
        for requirement in PYTESTS:
            workplace.pip_install(inside, "--upgrade", requirement)
            version = version_of(inside, "pytest")
            newest = newest or version
            for name in PEERS:
                argv = [str(inside), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--{name}", str(one)]
                if name not in found and subprocess.run(argv, cwd=one, check=False, capture_output=True).returncode == 0:
                    found[name] = version
            if len(found) == len(PEERS):
                break
        return newest, found


def version_of(python: Path, name: str) -> str:
    """The version of what is installed beside this interpreter."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def installed(python: Path) -> str:
    """What of the compared is in an environment, with versions."""
    names = ["pytest", "pytest-sandbox", "pytest-xdist", *(f"pytest-{name}" for name in PEERS)]
    code = (
        "import importlib.metadata as m, sys\n"
        f"found = {{d.name: d.version for d in m.distributions() if d.name in {names!r}}}\n"
        "print('Python', sys.version.split()[0], *(f'{n} {v}' for n, v in sorted(found.items())))"
    )
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def variants(environments: Environments, extra: Iterable[str]) -> tuple[dict[str, Variant], dict[str, str]]:
    """All variants by name, and why others are missing. extra: options for the runs with sandboxes."""
    newest = environments.newest
    boxed = ("-p", "no:forked", "-p", "no:isolate", "--sandbox")
    found = [
        Variant("plain", "plain pytest", newest, _NONE, "plain"),
        Variant("off", "pytest-sandbox, not asked for", newest, _NONE[2:], "plain"),
        Variant("sandbox", "--sandbox", newest, (*boxed, *extra), "plain"),
        Variant("jobs", f"--sandbox --sandbox-jobs={JOBS}", newest, (*boxed, f"--sandbox-jobs={JOBS}", *extra), "plain"),
        Variant("xdist", f"pytest-xdist -n {JOBS}, no isolation", newest, (*_NONE, "-n", str(JOBS)), "plain"),
    ]
    missing = {}
    for name in PEERS:
        version = environments.of_peers.get(name)
        if version is None:
            missing[name] = f"pytest-{name} passes no test under any of {', '.join(PYTESTS)}"
            continue
        base = "plain" if version == newest else f"plain-{version}"
        if base not in {variant.name for variant in found}:
            found.append(Variant(base, f"plain pytest {version}", version, _NONE, base))
        others = [word for other in PEERS if other != name for word in ("-p", f"no:{other}")]
        found.append(Variant(name, f"pytest-{name} --{name}", version, ("-p", "no:sandbox", *others, f"--{name}"), base))
    if shutil.which("bwrap"):
        found.append(Variant("bwrap", "bubblewrap, an interpreter a test", newest, _NONE, "plain"))
    else:
        missing["bwrap"] = "there is no bwrap. Fix: apt-get install bubblewrap"
    if shutil.which("cc"):
        found.append(Variant("limit", "the same system calls from C", ""))
    else:
        missing["limit"] = "there is no C compiler named cc. Fix: apt-get install gcc libc6-dev"
    return {variant.name: variant for variant in found}, missing


def chosen(everything: dict[str, Variant], names: Iterable[str]) -> dict[str, Variant]:
    """Those named, and those that their costs are counted from; in the order of all."""
    wanted = {name for name in names if name in everything}
    wanted |= {base for name in wanted if (base := everything[name].base)}
    return {name: variant for name, variant in everything.items() if name in wanted}
