"""pytest-rerunfailures under --sandbox: each attempt at a test is a sandbox of its own.

In a sandbox that plugin decides, as ever, whether its test is run again, since it has the exception. It says so by a report whose
outcome is "rerun"; when it has closed the attempt, and would begin the next, the sandbox ends instead (`attempts`), and the
controller makes another, which is told how many came before (`Reruns`). The delay is the controller's to wait, outside of the
test's time limit. Who was killed decides nothing: the controller asks the plugin then.

Where several tests share a sandbox, they share it with their reruns: the plugin's own loop runs there. Imports
pytest-rerunfailures not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from pytest_sandbox.model.errors import SandboxError, WireError
from pytest_sandbox.plugin.builtin.fields import whole_number
from pytest_sandbox.plugin.builtin.settling import INSIDE
from pytest_sandbox.plugin.others import loaded
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.wire.frames import Channel, Frame

_NAME = "pytest_rerunfailures"


# -- in a sandbox -------------------------------------------------------------------------------------------------------


class _Again(BaseException):
    """Here the next attempt would begin."""


class Attempts:
    """A plugin of the sandboxes'. is_alone: whether this sandbox is one attempt's."""

    def __init__(self, book: object) -> None:
        self.is_alone = False
        self._again = False
        self._book = book  # a worker's is a socket, which would be closed, with a warning, when nobody has it any more

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say that a set-up has passed, whose report the plugin keeps back until it has seen the others."""
        report = yield
        if report.when == "setup" and report.passed:
            item.config.stash[INSIDE].channel.send({"op": "set up"})
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hear whether there is to be another attempt."""
        self._again = self._again or report.outcome == "rerun"  # type: ignore[comparison-overlap]

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        """Leave the plugin's loop."""
        if self._again and self.is_alone:
            raise _Again


def take_over(config: pytest.Config) -> None:
    """In the outermost sandbox: hear what pytest-rerunfailures decides, if that is there."""
    if loaded(config, _NAME) is not None:
        config.pluginmanager.register(Attempts(getattr(config, "failures_db", None)), "sandbox-attempts")


def in_scope(item: pytest.Item) -> None:
    """In a scope that tears down: have the plugin hear an exception in the teardown of an item that another process has run."""
    if loaded(item.config, _NAME) is not None:
        for name in (
            "_test_failed_statuses",
            "_terminal_errors",
            "_test_xfailed",
            "_rerun_condition_excinfos",
            "_rerun_condition_results",
        ):
            setattr(item, name, {})


class _Counts:
    """What pytest-rerunfailures asks of its book of failures (its StatusDB), of which a sandbox has none.

    earlier: how many attempts there were, which it takes for crashes of a worker.
    """

    def __init__(self, channel: Channel, earlier: int) -> None:
        self._channel, self._earlier = channel, earlier

    def get_test_failures(self, _: str) -> int:
        return self._earlier

    def set_test_reruns(self, nodeid: str, reruns: int) -> None:
        """The controller knows."""

    def get_suite_reruns(self) -> int:
        return int(self._channel.ask({"op": "reruns?"}, "reruns")["count"])

    def try_increment_suite_reruns(self, most: int) -> bool:
        return bool(self._channel.ask({"op": "reruns?", "most": most}, "reruns")["granted"])


class _Clock:
    """Stands for the module `time` in that plugin, which only sleeps: between two sandboxes, where the controller does."""

    def sleep(self, duration: float) -> None:
        pass


@contextlib.contextmanager
def attempts(item: pytest.Item, *, alone: bool, earlier: int) -> Iterator[None]:
    """Within: pytest's protocol of the item, `earlier` attempts having been made. alone: this one ends the sandbox."""
    plugin = loaded(item.config, _NAME)
    if plugin is None:
        yield
        return
    channel = item.config.stash[INSIDE].channel
    item.config.failures_db = _Counts(channel, earlier)  # type: ignore[attr-defined]
    if alone:
        item.config.pluginmanager.getplugin("sandbox-attempts").is_alone = True
        plugin.time = _Clock()
    if earlier and hasattr(plugin, "_remove_cached_results_from_failed_fixtures"):
        plugin._remove_cached_results_from_failed_fixtures(item)  # a scope's too: they are set up anew, here
    try:
        yield
    except _Again:
        channel.send({"op": "again"})


# -- in the controller --------------------------------------------------------------------------------------------------


class Reruns:
    """What becomes of one attempt at an item. earlier: how many were made before. alone: its sandbox is for this only.

    again: whether another follows, after `delay` seconds. is_set_up: its set-up has passed, though there may be no report.
    """

    def __init__(self, item: pytest.Item, earlier: int, *, alone: bool) -> None:
        self._item, self._plugin, self._alone = item, loaded(item.config, _NAME), alone
        self.earlier = earlier
        self.again = False
        self.delay = 0.0
        self.is_set_up = False

    @property
    def may_follow(self) -> bool:
        """Whether the end of its sandbox may lead to another attempt."""
        return self._plugin is not None and self.earlier < self._most

    def on_frame(self, running: Running, frame: Frame) -> bool:
        """Hear what a sandbox says of it; False where that is something else. WireError for what it must not say."""
        if self._plugin is None or frame["op"] not in ("again", "reruns?", "set up"):
            return False
        if frame["op"] == "set up":
            self.is_set_up = True
        elif frame["op"] == "reruns?":
            asks = frame.get("most") is not None and self.earlier < self._most
            granted = asks and self._counts.try_increment_suite_reruns(whole_number(frame, "most"))
            running.send({"op": "reruns", "granted": granted, "count": self._counts.get_suite_reruns()})
        elif self.earlier >= self._most or not self._alone:
            raise WireError(f"it is to run {self._most + 1} times at most" if self._alone else "its tests run again in it")
        else:
            self._is_to_run_again()
        return True

    def after_kill(self, reports: list[pytest.TestReport]) -> None:
        """Have the failure of a killed attempt, the last of its reports that is one, be no failure if another follows."""
        failure = next((report for report in reversed(reports) if report.failed), None)
        if failure is None or self._plugin is None or self.earlier >= self._most or not self._wants(failure):
            return
        cap = self._item.config.getoption("max_suite_reruns", None)
        if cap is not None and not self._counts.try_increment_suite_reruns(cap):
            return
        failure.outcome = "rerun"  # type: ignore[assignment]
        for report in reports:
            report.rerun = self.earlier  # type: ignore[attr-defined]
        self._is_to_run_again()

    def _is_to_run_again(self) -> None:
        self.delay = self._plugin.get_reruns_delay(self._item) * self._factor**self.earlier
        self.again = True

    def fired(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Uncount the subtests of an attempt that is followed by another, as the plugin does for reports of its own."""
        if self._plugin is None or report.outcome != "rerun":  # type: ignore[comparison-overlap]
            return
        item.execution_count = self.earlier + 2  # for --fail-on-flaky
        if hasattr(self._plugin, "_remove_failed_subtests_from_report"):
            self._plugin._remove_failed_subtests_from_report(item, report)
            self._plugin._remove_failed_subtest_reports_from_stats(item.config, item.session, report.nodeid)

    @property
    def _counts(self) -> Any:  # noqa: ANN401  # that plugin's own
        return self._item.config.failures_db  # type: ignore[attr-defined]

    @property
    def _most(self) -> int:
        plugin = self._plugin
        if hasattr(plugin, "_is_rerun_path_excluded") and plugin._is_rerun_path_excluded(self._item):
            return 0
        return plugin.get_reruns_count(self._item) or 0

    @property
    def _factor(self) -> float:
        read = getattr(self._plugin, "get_reruns_delay_backoff_factor", None)
        return 1.0 if read is None else read(self._item)

    def _wants(self, failure: pytest.TestReport) -> bool:
        """Whether filters and conditions let it run again; for those, the end of its sandbox is an error of this class."""
        error = pytest.ExceptionInfo.from_exc_info((SandboxError, SandboxError(str(failure.longrepr)), None))  # type: ignore[arg-type]
        excluded = getattr(self._plugin, "_should_hard_fail_on_error", lambda *_: False)(self._item, failure, error)
        return not excluded and bool(self._plugin.get_reruns_condition(self._item, [(failure.when, 0, error)]))
