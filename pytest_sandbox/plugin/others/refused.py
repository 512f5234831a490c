"""What other plugins do, and would do to no effect, or to ours, in a sandboxed run: refused, with the way around.

What is asked of a plugin that writes files of the project, as its option says, would be thrown away with each sandbox. What
replaces the standard library's functions in pytest's own process (gevent) replaces those that make and watch sandboxes.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pytest_sandbox.plugin.others import loaded
from pytest_sandbox.plugin.planning.resolve import Plan
from pytest_sandbox.primitives.overlay import is_below

#: Where libraries of green threads note what they have replaced.
_GREEN: dict[str, Callable[[object], object]] = {
    "gevent.monkey": lambda module: getattr(module, "saved", None),
    "eventlet.patcher": lambda module: getattr(module, "already_patched", None),
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What another plugin is asked for: its distribution, its module, the option's name in config.option, how to call that.

    idle: values that ask for nothing. fix: how to ask for nothing.
    """

    distribution: str
    module: str
    name: str
    flag: str
    idle: tuple[object, ...] = (None, False)
    fix: str = "leave it out"

    def value(self, config: pytest.Config) -> object:
        """What this run asks for; None for nothing."""
        given = getattr(config.option, self.name, None) if self.module in sys.modules else None
        return None if given in self.idle else given


@dataclasses.dataclass(frozen=True)
class Writing(Asked):
    """With this, tests write files of the project.

    into: where, from the directory of the test's file; None where the option says so. chosen: the fixture by which a project
    does. marker, fixture: what such a test has, one or the other; without either it has some fixture of the plugin's.
    """

    into: str | None = ""
    chosen: str = ""
    marker: str = ""
    fixture: str = ""

    def is_used_by(self, item: pytest.Item) -> bool:
        """Whether this test would write."""
        if self.marker or self.fixture:
            marked = self.marker and item.get_closest_marker(self.marker) is not None
            return bool(marked or self.fixture in getattr(item, "fixturenames", ()))
        return any(one.func.__module__.partition(".")[0] == self.module for found in _fixtures(item).values() for one in found)

    def lost_below(self, config: pytest.Config, item: pytest.Item, writable: Sequence[str]) -> str | None:
        """Where what this test would write is gone with its sandbox; None where it is not."""
        if writable and len(_fixtures(item).get(self.chosen, ())) > 1:  # the project's own beside the plugin's: it knows
            return None
        told = config.invocation_params.dir / str(self.value(config))
        place = os.path.realpath(told if self.into is None else item.path.parent / self.into.format(item.path.stem))
        return None if is_below(place, writable) else place


def _fixtures(item: pytest.Item) -> Mapping[str, Sequence[Any]]:
    """The definitions of each fixture that a test has by its arguments, markers, or as everyone."""
    found: Mapping[str, Sequence[Any]] = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    return found


_Cassettes = functools.partial(Writing, idle=(None, "none"), chosen="vcr_cassette_dir", marker="vcr")
_NO_UPDATE = (None, "auto", "update-none", "record", "review", "review-only", "clear")
#: With these, tests write files of the project.
WRITES = (
    Writing("pytest-regressions", "pytest_regressions", "force_regen", "--force-regen", into="{}", chosen="original_datadir"),
    Writing("pytest-regressions", "pytest_regressions", "regen_all", "--regen-all", into="{}", chosen="original_datadir"),
    _Cassettes("pytest-recording", "pytest_recording", "record_mode", "--record-mode", into="cassettes/{}"),
    _Cassettes("pytest-vcr", "pytest_vcr", "vcr_record", "--vcr-record", into="cassettes", fixture="vcr_cassette"),
    _Cassettes(
        *("pytest-vcr", "pytest_vcr", "deprecated_vcr_record", "--vcr-record-mode"), into="cassettes", fixture="vcr_cassette"
    ),
    Writing("pytest-mpl", "pytest_mpl", "mpl_generate_path", "--mpl-generate-path", into=None, marker="mpl_image_compare"),
    Writing(
        *("pytest-arraydiff", "pytest_arraydiff", "arraydiff_generate_path", "--arraydiff-generate-path"),
        into=None,
        marker="array_compare",
    ),
    Writing("pytest-snapshot", "pytest_snapshot", "snapshot_update", "--snapshot-update", into="snapshots"),
    Writing("pytest-regtest", "pytest_regtest", "regtest_reset", "--regtest-reset", into="_regtest_outputs"),
    Writing("pytest-golden", "pytest_golden", "update_goldens", "--update-goldens"),
    Writing("pytest-insta", "pytest_insta", "insta", "--insta", _NO_UPDATE, into="snapshots"),
)
#: With these, a plugin tells at the run's end what it has kept in the memory of its process, or writes that.
KEEPS = (
    Asked("pytest-codspeed", "pytest_codspeed", "codspeed", "--codspeed"),
    Asked("pytest-bdd", "pytest_bdd", "cucumber_json_path", "--cucumberjson"),
    Asked("pytest-bdd", "pytest_bdd", "gherkin_terminal_reporter", "--gherkin-terminal-reporter"),
    Asked("pytest-find-dependencies", "find_dependencies", "find_dependencies", "--find-dependencies"),
    Asked("pytest-profiling", "pytest_profiling", "profile", "--profile"),
    Asked("pytest-profiling", "pytest_profiling", "profile_svg", "--profile-svg"),
    Asked("pytest-memray", "pytest_memray", "memray", "--memray"),
    Asked("pytest-line-profiler", "pytest_line_profiler", "line_profile", "--line-profile", (None, False, [])),
    Asked("pytest-testmon", "testmon", "testmon", "--testmon"),
    Asked("pytest-testmon", "testmon", "testmon_noselect", "--testmon-noselect"),
    Asked("pytest-testmon", "testmon", "testmon_forceselect", "--testmon-forceselect"),
    Asked("pytest-examples", "pytest_examples", "update_examples", "--update-examples"),
    Asked("pytest-mpl", "pytest_mpl", "mpl_generate_hash_library", "--mpl-generate-hash-library"),
    Asked("pytest-mpl", "pytest_mpl", "mpl_generate_summary", "--mpl-generate-summary"),
    Asked("snapshottest", "snapshottest", "snapshot_update", "--snapshot-update"),
    Asked(
        *("pytest-durations", "pytest_durations", "pytest_durations", "--pytest-durations"),
        idle=(None, 0),
        fix="--pytest-durations=0, or -p no:pytest-durations",
    ),
    Asked("pytest-durations", "pytest_durations", "pytest_durations_json", "--pytest-durations-json"),
    Asked(
        "pytest-monitor", "pytest_monitor", "mtr_none", "without --no-monitor", (None, True), fix="--no-monitor, or -p no:monitor"
    ),
)

#: Modules of plugins that run a test again in its sandbox, where they also note that for the report at the run's end.
_AGAIN = {"flaky.flaky_pytest_plugin": "flaky", "pytest_retry.retry_plugin": "pytest-retry"}

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


def refuse_lost_results(config: pytest.Config, items: Sequence[pytest.Item], plans: Sequence[Plan]) -> None:
    """Raise UsageError for an option by which tests write what would be gone with the sandboxes that they run in."""
    asked = [option for option in WRITES if option.value(config) is not None]
    for item, plan in zip(items, plans, strict=True) if asked else ():
        for option in asked if plan.enabled else ():
            place = option.lost_below(config, item, plan.spec.writable) if option.is_used_by(item) else None
            if place is not None:
                raise pytest.UsageError(
                    f"--sandbox: with {option.flag} of {option.distribution}, tests write files, which would be gone with their "
                    f"sandboxes: {item.nodeid} may not change {place}. Fix: let that through with --sandbox-writable="
                    f"{os.path.relpath(place, config.invocation_params.dir)}, give such tests "
                    "@pytest.mark.sandbox(enabled=False), or use --no-sandbox for this run"
                )


def refuse_kept(config: pytest.Config) -> None:
    """Raise UsageError for an option by which a plugin would tell of nothing; before there is a session, at whose end it does."""
    for option in KEEPS:
        if option.value(config) is not None:
            raise pytest.UsageError(
                f"--sandbox: {option.distribution} ({option.flag}) tells only of what happens in pytest's own process, and tests "
                f"run in sandboxes. Fix: {option.fix}, or use --no-sandbox for this run"
            )


def shortened_reports(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Whose reports at the run's end will lack what these sandboxed tests have noted in memory: by distribution."""
    found = [name for module, name in _AGAIN.items() if loaded(config, module) is not None]
    everyone = getattr(config.option, "force_flaky", None) or getattr(config.option, "retries", None)
    return found if found and (everyone or any(map(_may_run_again, items))) else []


def _may_run_again(item: pytest.Item) -> bool:
    return item.get_closest_marker("flaky") is not None or hasattr(getattr(item, "obj", None), "_flaky_max_runs")
