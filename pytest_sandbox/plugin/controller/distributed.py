"""A run under pytest-xdist: each worker is a controller with a tree of sandboxes of its own; the run's controller has none.

    Master     pytest as it was started: refuses, makes room for the workers, tells what they have noted
    Worker     one of its workers, here or on another machine
    Refused    a worker that cannot: it says why, which is the whole run's usage error

A worker runs items as it is told to, one by one, of which it knows only the next: see `Walk.one`. Imports what is beside it;
of pytest-xdist nothing but the names of hooks, and `config.workerinput`, `config.workeroutput`, by which they talk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import pytest

from pytest_sandbox.model.capability import Capability
from pytest_sandbox.plugin.builtin import junit
from pytest_sandbox.plugin.builtin.fields import sendable
from pytest_sandbox.plugin.builtin.settling import SEVERAL
from pytest_sandbox.plugin.controller.run import HANDED_OUT, Controller, known
from pytest_sandbox.plugin.controller.walk import Walk
from pytest_sandbox.plugin.others import carried
from pytest_sandbox.plugin.planning import resolve
from pytest_sandbox.plugin.reporting.book import Book
from pytest_sandbox.plugin.reporting.header import header
from pytest_sandbox.sandbox.room import make_room

#: What workers send home.
_NOTED, _REFUSAL = "sandbox_noted", "sandbox_refusal"
#: What they are told of the run, by which they see whether their ini file is the run's.
_ASKED = "sandbox_asked"
#: Asks a worker's machine for the plugin, as its name does not fail there where the ini file alone asks for sandboxes.
_ASK = """
try:
    from importlib.metadata import version
    channel.send(version("pytest-sandbox"))
except Exception as error:
    channel.send("")
"""


def is_worker(config: pytest.Config) -> bool:
    """Whether this is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def is_master(config: pytest.Config) -> bool:
    """Whether this run is spread over workers, which are yet to be started."""
    return config.getoption("dist", "no") != "no" and bool(config.getoption("tx", None))


def has_local_workers(config: pytest.Config) -> bool:
    """Whether a worker will surely be a child of this process, in the same namespaces, by the same interpreter."""
    return any(text.rpartition("*")[2] == "popen" for text in config.getoption("tx"))


def register_master(config: pytest.Config, settings: resolve.Settings) -> None:
    """Make the workers' runs sandboxed. Raises UsageError for what cannot be had on this machine, if workers run here."""
    config.stash[SEVERAL] = True  # no worker has the terminal to itself
    found = known(config, settings) if has_local_workers(config) else None
    config.pluginmanager.register(Master(config, settings, found), "sandbox-controller")


def register_worker(config: pytest.Config, settings: resolve.Settings) -> None:
    """Make this worker's run sandboxed. Raises UsageError for what this machine cannot do, or is not told to do as the run is."""
    asked = config.workerinput.get(_ASKED)  # type: ignore[attr-defined]
    here = _asked(settings)
    wrong = [name for name, value in (asked or here).items() if here.get(name) != value]
    if wrong:
        raise _not_the_same(f"{', '.join(wrong)} of the sandboxes would not be as the run has it")
    config.pluginmanager.register(Worker(config, settings), "sandbox-controller")


def refuse_without(config: pytest.Config) -> None:
    """Raise UsageError for a worker without sandboxes in a run that has them."""
    if _ASKED in getattr(config, "workerinput", {}):
        raise _not_the_same("it would run tests without sandboxes")


def _not_the_same(what: str) -> pytest.UsageError:
    return pytest.UsageError(
        f"--sandbox: a worker does not read the ini file that the run has: {what}. "
        "Fix: copy it there, at the top of what is copied (--rsyncdir), or write options on the command line"
    )


def _asked(settings: resolve.Settings) -> dict[str, object]:
    """What must be the same everywhere, as plain data. Of paths their number, as each machine has its own."""
    spec = settings.base.spec
    said = dataclasses.asdict(spec.limits) | {"network": spec.network.value, "scope": settings.base.scope.value}
    return sendable(said | {"hide": len(spec.hide), "writable": len(spec.writable)})  # type: ignore[no-any-return]


def register_refused(config: pytest.Config, reason: str) -> None:
    """Have the whole run end with this usage error."""
    config.pluginmanager.register(Refused(config, reason), "sandbox-refused")


class Master:
    """The plugin object where pytest-xdist is steered from. known: what this machine can do; None if no worker runs on it."""

    def __init__(self, config: pytest.Config, settings: resolve.Settings, known: Mapping[str, Capability] | None) -> None:
        self._config = config
        self._header = None if known is None else header(settings.base.spec, known)
        self._one = [f"sandbox: one test at a time: {HANDED_OUT}"] if settings.jobs > 1 else []
        self._asked = _asked(settings)
        self._book = Book(config, settings)
        self._outputs: list[dict[str, Any]] = []
        self._undo = contextlib.ExitStack()

    def pytest_report_header(self) -> list[str]:
        """What is enforced, and loudly what is not, on this machine."""
        return [*(["sandbox: on the workers' machines"] if self._header is None else self._header), *self._one]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Make room before there is a worker; see `junit.keep_to_schema`."""
        junit.keep_to_schema(self._config)
        self._undo.enter_context(make_room(f"{os.getpid()}-{secrets.token_hex(4)}"))

    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401  # pytest-xdist's
        """Say what the run is; refuse a machine where tests would run without sandboxes, since nothing there knows of such."""
        node.workerinput[_ASKED] = self._asked
        spec = node.gateway.spec
        if spec.popen and not spec.python and not getattr(spec, "via", None):
            return
        channel = node.gateway.remote_exec(_ASK)
        found = channel.receive()
        channel.waitclose()
        if not found:
            raise pytest.UsageError(
                f"--sandbox: pytest-sandbox is not installed for worker {node.gateway.id} ({spec}). "
                "Fix: pip install pytest-sandbox there, or --no-sandbox"
            )

    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401  # the same
        """A worker has ended: what it has noted, or why it refuses the run."""
        said: dict[str, Any] | None = getattr(node, "workeroutput", None)
        if said is None:  # it was killed
            return
        if _REFUSAL in said:
            raise pytest.UsageError(said[_REFUSAL] if node.gateway.spec.popen else f"{node.gateway.spec}: {said[_REFUSAL]}")
        if _NOTED not in said:
            raise pytest.UsageError(
                f"--sandbox: worker {node.gateway.id} ({node.gateway.spec}) has run its tests without sandboxes: pytest-sandbox "
                "was not loaded. Fix: look for PYTEST_DISABLE_PLUGIN_AUTOLOAD there, and for -p no:sandbox in PYTEST_ADDOPTS"
            )
        self._outputs.append(said)
        self._book.add_worker(said[_NOTED], node.gateway.id, (*(self._header or ()), *self._one))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Every worker has said what it has to: see `carried.merge`."""
        carried.merge(self._config, self._outputs)
        self._book.finish()
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The usage table, and where kept files are."""
        self._book.summary(terminalreporter)

    def pytest_unconfigure(self) -> None:
        """Every worker has gone."""
        self._undo.close()


class Worker(Controller):
    """The plugin object of a worker."""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Have pytest-xdist's loop run each item in a sandbox.

        Within what other plugins do around it: pytest-cov saves there what was measured. It calls the hook for an item. What
        answers is not one of the hook's implementations: other plugins wrap those, or have their own, and all of them belong
        to the sandbox. The session's is made before the first test, and so without a trace of them.
        """
        if not session.items:
            return (yield)
        try:
            with self.walk(session, in_order=False) as walk:
                walk.begin()
                self.config.pluginmanager.register(_Sending(), "sandbox-sending")
                with _standing_in(self.config, _Protocol(session, walk, self.config.hook.pytest_runtest_protocol)):
                    return (yield)
        except pytest.UsageError as error:
            _refuse(self.config, str(error))
            raise

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Send home what was noted."""
        _output(self.config)[_NOTED] = sendable(self.book.to_plain(self.pytest_report_header()))


class _Sending:
    """A plugin of the worker's own process: makes sure that what sandboxes report can be sent."""

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self) -> Generator[None, object, object]:
        """Make it plain."""
        return sendable((yield))


@contextlib.contextmanager
def _standing_in(config: pytest.Config, replacement: object) -> Iterator[None]:
    """Within: `replacement` is what answers where somebody calls the hook `pytest_runtest_protocol`."""
    hooks: Any = config.hook
    own = hooks.pytest_runtest_protocol
    hooks.pytest_runtest_protocol = replacement
    try:
        yield
    finally:
        hooks.pytest_runtest_protocol = own


class _Protocol:
    """Stands where pytest-xdist calls `pytest_runtest_protocol`; `own` is the hook itself."""

    def __init__(self, session: pytest.Session, walk: Walk, own: Any) -> None:  # noqa: ANN401  # pluggy's caller
        self._walk, self._own = walk, own
        self._index = {id(item): index for index, item in enumerate(session.items)}

    def __call__(self, item: pytest.Item, nextitem: pytest.Item | None) -> object:
        index, following = self._index[id(item)], None if nextitem is None else self._index[id(nextitem)]
        if self._walk.one(index, following):
            return True
        # Here, as enabled=False has it. What one after it could share with it, unknown others in between could not.
        kept = None if self._walk.is_sandboxed(following) else following
        return self._walk.here.run(index, following, kept, self._own)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # the caller's own
        return getattr(self._own, name)


class Refused:
    """The plugin object of a worker that cannot run tests in sandboxes; before it begins, nobody would hear it."""

    def __init__(self, config: pytest.Config, reason: str) -> None:
        self._config, self._reason = config, reason

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Say so."""
        _refuse(self._config, self._reason)
        raise pytest.UsageError(self._reason)


def _refuse(config: pytest.Config, reason: str) -> None:
    _output(config)[_REFUSAL] = sendable(reason)


def _output(config: pytest.Config) -> dict[str, Any]:
    output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
    return output
