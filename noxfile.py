"""What a developer and CI run: `nox` for everything, `nox -s NAME` for one."""

from __future__ import annotations

import shutil

import nox

PROJECT = nox.project.load_toml("pyproject.toml")

nox.needs_version = ">=2025.2.9"
#: The versions of Python and pytest that are supported, from the oldest to the newest.
PYTHONS, PYTESTS = ("3.10", "3.11", "3.12", "3.13"), ("8.4", "9.0", "9.1", "9.2")
#: Pythons that are run where they are there: one that has passed moves up, and into the classifiers of pyproject.toml.
UNPROVEN = ("3.14",)

nox.options.sessions = ["lint", "types", "imports", "docs", "tests"]


def install(session: nox.Session, group: str) -> None:
    """Install a dependency group; read here, so that the session's pip may be any."""
    session.install(*nox.project.dependency_groups(PROJECT, group))


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """The suite, in an environment that tests/run.py makes: as whoever calls, and once more as an ordinary user if root."""
    session.run("python3", "tests/run.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def vm(session: nox.Session) -> None:
    """The suite in guests: cgroup v2, none, and v2 by systemd (User-Mode Linux; tests/vm/guest.py says what that takes)."""
    session.run("python3", "tests/vm/suite.py", *(session.posargs or ["--cgroups=v2,none,systemd"]), external=True)


#: What is said of a machine and of its cgroups.
DOCTOR = ["tests/plugin/test_doctor.py", "tests/plugin/test_doctor_cgroups.py"]
#: What differs by kernel.
BY_KERNEL = [
    *("tests/primitives", "tests/_linux"),
    *("tests/sandbox/test_limits.py", "tests/sandbox/test_wire.py", "tests/sandbox/test_outbox.py"),
    "tests/plugin/test_scratch.py",
    *DOCTOR,
]


@nox.session(name="vm-qemu", venv_backend="none")
def vm_qemu(session: nox.Session) -> None:
    """What differs by kernel, on Debian's 6.12 and 6.1, and that 5.10 is refused; tests/vm/qemu.py says what it takes."""
    suite = ("python3", "tests/vm/suite.py", "--disk=512M", "--only=caller")
    session.run(*suite, "--qemu=6.12,6.1", *(session.posargs or BY_KERNEL), external=True)
    session.run(*suite, "--qemu=5.10", "--expect=nothing", *DOCTOR, external=True)


@nox.session(name="vm-engines", venv_backend="none")
def vm_engines(session: nox.Session) -> None:
    """`pytest --sandbox` in containers of Docker, Podman and runc; tests/vm/engines.py says what it takes."""
    session.run("python3", "tests/vm/engines.py", *(session.posargs or ["--qemu=6.12"]), external=True)


@nox.session(venv_backend="none")
@nox.parametrize("python", PYTHONS + UNPROVEN)
@nox.parametrize("pytest", PYTESTS)
def matrix(session: nox.Session, python: str, pytest: str) -> None:
    """Run what depends on Python and pytest with each version of them: hours for all; arguments choose tests."""
    if python in UNPROVEN and shutil.which(f"python{python}") is None:
        session.skip(f"there is no python{python} here, nor does pyproject.toml claim it")
    # The constraints of CI name one version of pytest.
    arguments = session.posargs or ["tests/plugin", "tests/compat", "tests/generated", "tests/model"]
    command = ["python3", "tests/run.py", "--only=caller", f"--python=python{python}", f"--pytest={pytest}", *arguments]
    session.run(*command, external=True, env={"PIP_CONSTRAINT": "", "PIP_BUILD_CONSTRAINT": ""})


@nox.session
def lint(session: nox.Session) -> None:
    """Every rule of the linter that pyproject.toml does not name, and the formatter's opinion."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, for the oldest Python supported."""
    install(session, "types")
    session.install(".")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Layers import only from below."""
    install(session, "imports")
    session.install("-e", ".")
    session.run("lint-imports", "--no-logo", "--no-cache")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation; a warning is an error."""
    install(session, "docs")
    session.install("-e", ".")
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-b", "html", "docs", "docs/_build/html", *session.posargs)
