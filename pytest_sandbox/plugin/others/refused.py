"""What other plugins do, and would do to no effect, or to ours, in a sandboxed run: refused, with the way around. Imports pytest.

What is asked of a plugin that writes files of the project, as its option says, would be thrown away with each sandbox. What
replaces the standard library's functions in pytest's own process (gevent) replaces those that make and watch sandboxes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence

import pytest

from pytest_sandbox.plugin.planning.resolve import Plan

#: Where libraries of green threads note what they have replaced.
_GREEN: dict[str, Callable[[object], object]] = {
    "gevent.monkey": lambda module: getattr(module, "saved", None),
    "eventlet.patcher": lambda module: getattr(module, "already_patched", None),
}


@dataclasses.dataclass(frozen=True)
class _Asked:
    """An option of another plugin: its module, its name in config.option and on the command line, values that ask nothing."""

    module: str
    name: str
    flag: str
    idle: tuple[object, ...] = (None, False)


#: With these, tests write files of the project.
_WRITES = (
    _Asked("pytest_regressions", "force_regen", "--force-regen"),
    _Asked("pytest_regressions", "regen_all", "--regen-all"),
    _Asked("pytest_recording", "record_mode", "--record-mode", (None, "none")),
    _Asked("pytest_mpl", "mpl_generate_path", "--mpl-generate-path"),
    _Asked("pytest_mpl", "mpl_generate_hash_library", "--mpl-generate-hash-library"),
    _Asked("pytest_snapshot", "snapshot_update", "--snapshot-update"),
    _Asked("pytest_examples", "update_examples", "--update-examples"),
)
#: With these, a plugin keeps in the memory of the processes that run tests what it makes its report of.
_KEEPS = (
    _Asked("pytest_codspeed", "codspeed", "--codspeed"),
    _Asked("pytest_bdd", "cucumber_json_path", "--cucumberjson"),
    _Asked("pytest_bdd", "gherkin_terminal_reporter", "--gherkin-terminal-reporter"),
    _Asked("find_dependencies", "find_dependencies", "--find-dependencies"),
    _Asked("pytest_profiling", "profile", "--profile"),
    _Asked("pytest_profiling", "profile_svg", "--profile-svg"),
    _Asked("pytest_memray", "memray", "--memray"),
    _Asked("pytest_line_profiler", "line_profile", "--line-profile", (None, False, [])),
    _Asked("testmon", "testmon", "--testmon"),
    _Asked("testmon", "testmon_noselect", "--testmon-noselect"),
    _Asked("testmon", "testmon_forceselect", "--testmon-forceselect"),
)

#: Arguments by which pytest-steps hands what one item of a test has made to the next, which is in another sandbox.
_STEPS = frozenset({"________step_name_", "test_step"})


def refuse_parted(items: Sequence[pytest.Item], plans: Sequence[Plan]) -> None:
    """Raise UsageError for items that do not share a sandbox, and are nothing without what others have made in memory."""
    if not {"pytest_steps", "nbval"} & sys.modules.keys():
        return
    for item, plan in zip(items, plans, strict=True):
        if not plan.is_alone:
            continue
        if _STEPS & getattr(getattr(item, "callspec", None), "params", {}).keys():
            raise pytest.UsageError(
                f"--sandbox: {item.nodeid}: the steps of pytest-steps hand on what they make in memory, and each would have a "
                "sandbox of its own. Fix: put them into one, with @pytest.mark.sandbox(scope='module') or "
                "--sandbox-scope=module, or use --no-sandbox"
            )
        if type(item).__module__.startswith("nbval."):
            raise pytest.UsageError(
                f"--sandbox: {item.nodeid}: the cells of a notebook share a kernel, and each would have a sandbox of its own. "
                "Fix: --sandbox-scope=session, or --no-sandbox"
            )


def refuse_green() -> None:
    """Raise UsageError where sockets, processes and threads of this process are green."""
    for name, replaced in _GREEN.items():
        module = sys.modules.get(name)
        if module is not None and replaced(module):
            library = name.partition(".")[0]
            raise pytest.UsageError(
                f"--sandbox: {library} has replaced functions of the standard library in pytest's own process, which makes the "
                "sandboxes and watches them. Fix: patch in a session fixture with autouse=True, which runs in the sandboxes, "
                "and not when a conftest is imported, or use --no-sandbox"
            )


def refuse_lost_results(config: pytest.Config, plans: Sequence[Plan]) -> None:
    """Raise UsageError for an option whose results would be gone with the sandboxes that tests run in.

    Files are not, where something may be written through to the machine: who has said so knows of it.
    """
    boxed = [plan for plan in plans if plan.enabled]
    if not boxed:
        return
    if not any(plan.spec.writable for plan in boxed) and (option := _first(config, _WRITES)):
        raise pytest.UsageError(
            f"--sandbox: with {option.flag} tests write files, which would be gone with their sandboxes. Fix: add "
            "--sandbox-writable=DIRECTORY for the directory that they are written to, or use --no-sandbox for this run"
        )
    refuse_kept(config)


def refuse_kept(config: pytest.Config) -> None:
    """Raise UsageError for an option by which a plugin would tell of nothing; before there is a session, at whose end it does."""
    if option := _first(config, _KEEPS):
        raise pytest.UsageError(
            f"--sandbox: {option.flag} tells what {option.module} keeps in memory, which is gone with each sandbox. "
            "Fix: leave it out, or use --no-sandbox for this run"
        )


def _first(config: pytest.Config, options: Iterable[_Asked]) -> _Asked | None:
    """The first that this run was given."""
    for option in options:
        if option.module in sys.modules and getattr(config.option, option.name, None) not in option.idle:
            return option
    return None
