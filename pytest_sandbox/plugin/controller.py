"""The plugin object of a sandboxed run: refuses what cannot be had, and hands the run to the walk. Runs no test code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from pytest_sandbox.model.errors import UnavailableError
from pytest_sandbox.plugin import paths, resolve
from pytest_sandbox.plugin.ledger import Ledger
from pytest_sandbox.plugin.measured import measured
from pytest_sandbox.plugin.report import Book, show
from pytest_sandbox.plugin.through import let_through
from pytest_sandbox.plugin.walk import Walk
from pytest_sandbox.sandbox import host


def register(config: pytest.Config, settings: resolve.Settings) -> None:
    """Make this run sandboxed."""
    if hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None):
        raise pytest.UsageError(
            "--sandbox does not run under pytest-xdist in this version. Fix: leave out -n (or --dist, --tx), or use --no-sandbox"
        )
    known = host.capabilities()
    try:
        host.refuse_missing(("platform", *sorted(settings.require)), known)
        if not settings.degrade:
            host.refuse(settings.base.spec, known)
    except UnavailableError as error:
        raise pytest.UsageError(f"--sandbox: {error}") from error
    config.pluginmanager.register(Controller(config, settings, known), "sandbox-controller")


class Controller:
    """The plugin object of a sandboxed run."""

    def __init__(self, config: pytest.Config, settings: resolve.Settings, known: Mapping[str, host.Capability]) -> None:
        self.config = config
        self._given = settings
        self.settings = dataclasses.replace(settings, base=self._settled(settings.base, known))
        self.known = known
        self.book = Book(config, self.settings)
        self.ledger = Ledger()
        config.pluginmanager.register(self.ledger, "sandbox-ledger")

    def pytest_report_header(self) -> list[str]:
        """What is enforced, and loudly what is not."""
        return self.book.header(self.known)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """The run itself, in the place of pytest's own loop; what cannot be had is refused before anything runs."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            return None  # pytest's own says so
        if not session.items:
            return True
        plans = [self._given.base, *resolve.plans(session.items, self._given)]
        # Items without a marker go on to have one plan.
        changed = {plan: self._settled(plan, self.known) for plan in set(plans)}
        plans = [changed[plan] for plan in plans]
        base, *self.plans = let_through(self.config, session.items, plans)
        self.settings = dataclasses.replace(self.settings, base=base)
        self._refuse(session.items)
        self._tell_absent()
        with Walk(session, self.plans, self.settings, self.book, self.ledger, measured(self.config)) as walk:
            walk.all()
        return True

    @staticmethod
    def _settled(plan: resolve.Plan, known: Mapping[str, host.Capability]) -> resolve.Plan:
        return dataclasses.replace(plan, spec=host.settled(plan.spec, known))

    def _refuse(self, items: Sequence[pytest.Item]) -> None:
        for plan, item in dict(zip(self.plans, items, strict=True)).items():
            if plan.enabled and not self.settings.degrade:
                try:
                    host.refuse(plan.spec, self.known)
                except UnavailableError as error:
                    raise pytest.UsageError(f"{item.nodeid}: {error}") from error

    def _tell_absent(self) -> None:
        """Say what there was not to hide: a typing error, or a path that only other machines have."""
        hidden = dict.fromkeys(path for plan in self.plans if plan.enabled for path in plan.spec.hide)
        for path in paths.absent(hidden):
            show(self.config, f"sandbox: nothing to hide: {path} does not exist here\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The usage table, and where kept files are."""
        self.book.summary(terminalreporter)
