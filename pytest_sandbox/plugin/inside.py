"""pytest's side of a sandbox: what scope sandboxes and test sandboxes do with the items they inherited by the fork.

scope:  "spawn" frames: set up what the new sandbox needs of this scope, then fork it; "close": tear down, and end
unit:   run the items one after the other by the whole pytest_runtest_protocol, each report streamed as it is made
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import IO, Any, NoReturn

import pytest
from _pytest.capture import CaptureManager, FDCapture, FDCaptureBinary, MultiCapture
from _pytest.logging import LoggingPlugin, caplog_records_key
from _pytest.nodes import Node
from _pytest.runner import CallInfo

from pytest_sandbox.plugin import ledger, reports
from pytest_sandbox.plugin.scopes import Need, Unit
from pytest_sandbox.primitives.process import STACKS_SIGNAL
from pytest_sandbox.sandbox.child import Inside
from pytest_sandbox.sandbox.wire import Channel, Frame

INSIDE: pytest.StashKey[Inside] = pytest.StashKey()


class World:
    """What every process of the run shares by fork: the session, the units, who is above whom.

    needs: by item index, those that the controller computed. keeps_terminal: see `descriptors`.
    """

    def __init__(self, session: pytest.Session, units: Sequence[Unit], book: ledger.Ledger, *, keeps_terminal: bool) -> None:
        self.session = session
        self.config = session.config
        self.units = units
        self.book = book
        self.keeps_terminal = keeps_terminal
        self.reporter = Reporter(session.config)


# -- scopes -----------------------------------------------------------------------------------------------------------


def scope_body(world: World, node: Node, inside: Inside) -> int:
    """The main process of a scope's sandbox."""
    _settle_in(world, inside)
    if not world.config.pluginmanager.hasplugin("sandbox-reporter"):
        # Here, in the outermost scope, and not in each child: registering takes a millisecond.
        world.config.pluginmanager.register(world.reporter, "sandbox-reporter")
        world.reporter.listens = True  # from now on: pluggy has just told it every warning of the run so far
        _silence_foreign_hooks(world)
    ledger.enter(world.session, node)
    gc.collect()
    gc.freeze()  # what is here now is garbage in no child; a child's collector need not touch, and so copy, it
    while True:
        frame, descriptors = inside.channel.receive()
        if frame["op"] == "spawn":
            if not _spawn(world, inside, frame, descriptors):
                return _leave(inside)
        elif frame["op"] == "reap":
            inside.reap()
        elif frame["op"] == "close":
            _close(world, inside, frame["item"])
            return _leave(inside)


def _spawn(world: World, inside: Inside, frame: Frame, descriptors: Sequence[int]) -> bool:
    """Set up and fork; False where this process is spoilt, since a thread runs in it that its children would miss."""
    try:
        duration = _prepare(world, inside, frame["prepare"])
    except BaseException as error:  # noqa: BLE001  # what foreign code raises is the controller's to know
        for fd in descriptors:
            os.close(fd)
        if isinstance(error, _ThreadStarted):
            with contextlib.suppress(Exception):  # whoever sets the fixture up again will say what is wrong with it
                ledger.leave(world.session)
            inside.channel.send({"op": "threaded", "name": error.name, "threads": error.threads})
            return False
        _send_interruption(inside.channel, error)
        return True
    inside.channel.send({"op": "prepared", "duration": duration})
    unit = world.units[frame["unit"]]
    if frame["node"] is None:
        items = frame["items"]
        inside.spawn(frame, descriptors, lambda child: unit_body(world, items, child))
    else:
        inside.spawn(frame, descriptors, lambda child: scope_body(world, unit.chain[frame["node"]], child))
    return True


def _prepare(world: World, inside: Inside, wanted: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Set up fixtures: pairs of a unit and of the index of one of its needs; returns how long it took, in seconds."""
    duration = 0.0
    for unit_index, need_indexes in wanted:
        unit = world.units[unit_index]
        needed = [unit.above[index] for index in need_indexes]
        item = world.session.items[unit.items[0]]
        duration += _set_up(world, inside, item, needed)
    return duration


class _ThreadStarted(BaseException):
    """A fixture has started a thread, which no fork inherits."""

    def __init__(self, name: str, threads: Sequence[str]) -> None:
        super().__init__(name)
        self.name, self.threads = name, list(threads)


def _set_up(world: World, inside: Inside, item: pytest.Item, needed: Sequence[Need]) -> float:
    def work() -> None:
        for need in needed:
            # Said before it is done: should this process die of it, the controller knows whose fault it was.
            inside.channel.send({"op": "fixture", "name": need.name})
            threads = threading.enumerate()
            ledger.set_up(item, [need])
            started = [thread.name for thread in threading.enumerate() if thread not in threads]
            result = need.definition.cached_result
            if started and result is not None and result[2] is None:
                raise _ThreadStarted(need.name, started)

    with _caught_warnings(world, item), _captured(world.config, item, "setup"):
        call = CallInfo.from_call(work, "setup", reraise=(BaseException,))
    return call.duration


@contextlib.contextmanager
def _captured(config: pytest.Config, item: pytest.Item, when: str) -> Iterator[None]:
    """Capture output and logging for the item's report, in the order of the sections that plain pytest has."""
    capture: CaptureManager | None = config.pluginmanager.getplugin("capturemanager")
    logging: LoggingPlugin | None = config.pluginmanager.getplugin("logging-plugin")
    with contextlib.ExitStack() as stack:
        if logging is not None:
            logging.log_cli_handler.set_when(when)
            item.stash.setdefault(caplog_records_key, {})
            made: Any = logging._runtest_for(item, when)
            # pytest 8 has a plain generator here.
            stack.enter_context(made if hasattr(made, "__enter__") else contextlib.contextmanager(lambda: made)())
        if capture is not None:
            stack.enter_context(capture.item_capture(when, item))
        yield


@contextlib.contextmanager
def _caught_warnings(world: World, item: pytest.Item) -> Iterator[None]:
    from _pytest.warnings import catch_warnings_for_item

    with catch_warnings_for_item(config=world.config, ihook=item.ihook, when="runtest", item=item):
        yield


def _close(world: World, inside: Inside, index: int) -> None:
    """Tear down what this scope set up; an error goes into the teardown report of its last item."""
    item = world.session.items[index]
    item._report_sections.clear()
    with _caught_warnings(world, item), _captured(world.config, item, "teardown"):
        call = CallInfo.from_call(lambda: ledger.leave(world.session), "teardown")
        gc.collect()
    if call.excinfo is None:  # plugins see one report of a teardown, and the last test's own process makes that
        report = pytest.TestReport.from_item_and_call(item, call)
    else:
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
    inside.channel.send(reports.to_frame(world.config, report) | {"op": "closed"})


# -- units ------------------------------------------------------------------------------------------------------------


def unit_body(world: World, items: Sequence[int], inside: Inside) -> int:
    """The main process of a test sandbox."""
    _settle_in(world, inside)
    session, reporter = world.session, world.reporter
    try:
        for position, index in enumerate(items):
            following = items[position + 1] if position + 1 < len(items) else None
            inside.channel.send({"op": "start", "item": index, "shares_network": inside.shares_network})
            item = session.items[index]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None if following is None else session.items[following])
            reporter.finish(item)
            inside.channel.send({"op": "finish", "item": index})
            if session.shouldstop or session.shouldfail:
                inside.channel.send({"op": "stop", "reason": str(session.shouldstop or session.shouldfail)})
                break
    except BaseException as error:  # noqa: BLE001  # what foreign code raises is the controller's to know
        _send_interruption(inside.channel, error)
    _run_exit_functions()
    return _leave(inside)


def _send_interruption(channel: Channel, error: BaseException) -> None:
    if isinstance(error, pytest.exit.Exception):
        channel.send({"op": "exit", "reason": str(error.msg), "returncode": error.returncode})
    elif isinstance(error, KeyboardInterrupt):
        channel.send({"op": "interrupt"})
    else:
        import traceback

        channel.send({"op": "internal", "traceback": traceback.format_exc()})


class Reporter:
    """The plugin that says everything to the controller that pytest's own reporters would have noted in memory."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.owner = 0
        self.listens = False
        self.known_properties = 0

    @property
    def _channel(self) -> Channel:
        return self._config.stash[INSIDE].channel

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: CallInfo[None]) -> None:
        """Say what an OSError was about, and join what scopes captured for this item with what it captures itself."""
        if os.getpid() != self.owner:
            _end_fork(call)
        reports.merge_sections(item)
        if call.excinfo is not None:
            number = _errno_of(call.excinfo.value)
            if number:
                self._channel.send({"op": "errno", "errno": number})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Stream the report."""
        if report.when == "call":
            gc.collect()  # unraisable exceptions and never-awaited coroutines belong to this test
        self._channel.send(reports.to_frame(self._config, report))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        """Forward the warning."""
        if when == "runtest" and self.listens:
            self._channel.send(reports.warning_to_frame(warning_message, when, nodeid, location))

    def pytest_enter_pdb(self) -> None:
        """Nobody's time runs out in a debugger."""
        self._channel.send({"op": "hold", "value": True})

    def pytest_leave_pdb(self) -> None:
        """It does again."""
        self._channel.send({"op": "hold", "value": False})

    def finish(self, item: pytest.Item) -> None:
        """What junit keeps in memory."""
        from _pytest.junitxml import xml_key

        xml = self._config.stash.get(xml_key, None)
        if xml is None:
            return
        known: dict[Any, Any] = xml.node_reporters  # by the test's id, whose type changes from pytest to pytest
        reporter = known.get((item.nodeid, None)) or known.get((getattr(item, "id", None), None))
        attributes = dict(reporter.attrs) if reporter is not None else {}
        properties = xml.global_properties[self.known_properties :]
        self.known_properties = len(xml.global_properties)
        if attributes or properties:
            self._channel.send({"op": "junit", "attributes": attributes, "properties": properties})


def _end_fork(call: CallInfo[None]) -> NoReturn:
    """A test forked and let its child come back into pytest: the test is the parent's, the child has done its part."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0 if call.excinfo is None else 1)


def _errno_of(error: BaseException) -> int:
    """Of the error or the nearest that led to it; 0 where none of ten is of the system."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            break
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno
        cause = cause.__cause__ or cause.__context__
    return 0


def _run_exit_functions() -> None:
    """The sandbox's own atexit functions; what it inherited was dropped when it began."""
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()


def _leave(inside: Inside) -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    inside.channel.send({"op": "done"})
    with contextlib.suppress(EOFError):
        while inside.channel.receive()[0]["op"] != "bye":
            pass
    return 0


# -- settling in ------------------------------------------------------------------------------------------------------


def _settle_in(world: World, inside: Inside) -> None:
    """Make the process that the fork left here the sandbox's own."""
    atexit._clear()
    world.book.disown(world.session)
    world.config.stash[INSIDE] = inside
    world.reporter.owner = os.getpid()
    _take_descriptors(world, inside)
    faulthandler.enable(file=inside.descriptors.stacks, all_threads=True)
    faulthandler.register(STACKS_SIGNAL, file=inside.descriptors.stacks, all_threads=True, chain=False)
    _silence_reporters(world.config, inside.channel, world.reporter)


_HOOKS = ("pytest_runtest_logstart", "pytest_runtest_logreport", "pytest_runtest_logfinish", "pytest_warning_recorded")


def _silence_foreign_hooks(world: World) -> None:
    """Let these hooks be heard by conftest files and plugins once a report, which is in the controller.

    pytest's own have state that the test's process needs: the count for --maxfail, the live log.
    """
    for name in _HOOKS:
        caller = getattr(world.config.hook, name)
        for implementation in caller.get_hookimpls():
            own = implementation.function.__module__.startswith("_pytest.") or implementation.plugin is world.reporter
            if not own:
                caller._remove_plugin(implementation.plugin)


def captures(config: pytest.Config) -> list[FDCapture | FDCaptureBinary]:
    """pytest's captures of descriptors 0, 1 and 2, where it has them."""
    manager: CaptureManager | None = config.pluginmanager.getplugin("capturemanager")
    whole: MultiCapture[Any] | None = getattr(manager, "_global_capturing", None)
    parts = (whole.in_, whole.out, whole.err) if whole is not None else ()
    return [part for part in parts if isinstance(part, (FDCapture, FDCaptureBinary))]


def keeps_terminal(config: pytest.Config) -> bool:
    """Whether tests get the terminal itself: they are to show it all, or somebody may want to talk to a debugger."""
    option = config.option
    if option.capture == "no" or option.usepdb or option.trace:
        return True
    try:
        return sys.stdin is not None and os.isatty(0)
    except OSError:
        return False


def terminal_descriptors(config: pytest.Config) -> tuple[int, ...]:
    """Where pytest keeps the terminal while it captures."""
    return tuple(capture.targetfd_save for capture in captures(config))


def _take_descriptors(world: World, inside: Inside) -> None:
    """Put the sandbox's own files under pytest's capture and under descriptors 0, 1 and 2.

    Where the terminal is kept (-s, --pdb, a run by hand that may meet a breakpoint) what pytest shows uncaptured goes to it;
    elsewhere to a file that the controller shows afterwards.
    """
    own = {1: inside.descriptors.stdout, 2: inside.descriptors.stderr}
    captured = {capture.targetfd: capture for capture in captures(world.config)}
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        capture = captured.get(fd)
        if capture is not None and fd:
            os.dup2(own[fd], capture.tmpfile.fileno(), inheritable=False)
        if not world.keeps_terminal:
            shown = inside.descriptors.shown if fd else null
            os.dup2(shown, fd)
            if capture is not None:
                os.dup2(shown, capture.targetfd_save, inheritable=False)
        if capture is not None and fd and capture._state == "started":
            os.dup2(own[fd], fd)
    os.close(null)
    _take_fault_handler(world.config, inside.descriptors.stacks)


def _take_fault_handler(config: pytest.Config, stacks: int) -> None:
    from _pytest.faulthandler import fault_handler_stderr_fd_key

    fd = config.stash.get(fault_handler_stderr_fd_key, None)
    if fd is not None:
        os.dup2(stacks, fd, inheritable=False)


class _Forward:
    """A text file whose lines the controller writes to its terminal."""

    encoding = "utf-8"

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def write(self, text: str) -> int:
        self._channel.send({"op": "terminal", "text": text})
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def isatty(self) -> bool:
        return False


class _Stub:
    """Stands where plugins look for the terminal reporter; has no hooks, and so prints nothing by itself."""

    def __init__(self, reporter: object) -> None:
        self._reporter = reporter

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the reporter has
        return getattr(self._reporter, name)


def _silence_reporters(config: pytest.Config, channel: Channel, reporter: Reporter) -> None:
    """Take away what reports by itself: the controller does that, once for every report."""
    manager = config.pluginmanager
    terminal = manager.getplugin("terminalreporter")
    if terminal is not None and not isinstance(terminal, _Stub):
        manager.unregister(terminal)
        manager.register(_Stub(terminal), "terminalreporter")
    if terminal is not None:
        stream: IO[str] = _Forward(channel)  # type: ignore[assignment]
        terminal._tw._file = stream
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is not None:
        reporter.known_properties = len(xml.global_properties)
        if manager.is_registered(xml):
            manager.unregister(xml)
