"""What coverage.py measures in a sandbox, as frames for the controller, whose own coverage then saves and reports it.

A `Recorder` stands in every sandbox in the place of coverage's data (an SQLite file of the machine's). What was measured before a
fork is dropped there: the process that it was forked from has said it, or will. coverage is imported by whoever measures:
where it is not loaded nothing here does anything. Imports pytest.
"""

from __future__ import annotations

import array
import base64
import contextlib
import itertools
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from os import getpid
from typing import Any

import pytest

from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.wire.frames import Frame

#: How often coverage is asked again for its data, of which a thread of the test changes what it is going through.
_TRIES = 5


class Recorder:
    """What a running Coverage records; one object a run, which every fork inherits.

    owner: the process whose lines these are. Before there is one nothing is recorded; in a fork of a test's own, coverage
    writes a data file as it does in every fork.
    """

    def __init__(self, coverage: Any) -> None:  # noqa: ANN401  # a coverage.Coverage, which may not be installed
        self._coverage = coverage
        self._disk: Any = coverage._collector.covdata
        self._forks = "fork" in (getattr(coverage.config, "patch", None) or ())
        self._hidden: tuple[list[Any], dict[str, str]] | None = None
        self._owner = -1
        self._outside = False
        self._context: str | None = None
        self._kept: dict[str, dict[str, set[Any]]] = {}
        self._tracers: dict[str, str] = {}

    # -- forks --------------------------------------------------------------------------------------------------------

    def shelter(self) -> None:
        """From here on a sandbox may be forked: no process of it shall touch the machine's data file.

        Nor shall coverage begin anew there, as it does in each fork with `patch = fork`.
        """
        collector = self._coverage._collector
        if collector.covdata is self._disk:
            self._owner, self._context = -1, self._disk._current_context
            collector.covdata = self._coverage._data = self
            self._outside = True
        if self._forks:
            self._hide()

    def leave_shelter(self) -> None:
        """After a fork, where it was forked."""
        self._show()
        if self._outside:
            self._coverage._collector.covdata = self._coverage._data = self._disk
            self._outside = False

    def _hide(self) -> None:
        instances = type(self._coverage)._instances
        started = {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith("COVERAGE_PROCESS_")}
        self._hidden = list(instances), started
        instances.clear()

    def _show(self) -> None:
        if self._hidden is not None:
            type(self._coverage)._instances[:] = self._hidden[0]
            os.environ.update(self._hidden[1])
            self._hidden = None

    def begin(self) -> None:
        """Be the calling process's, which was just forked into its sandbox."""
        self._show()
        self._owner, self._outside = getpid(), False
        for collector in type(self._coverage._collector)._collectors:
            collector.pid = self._owner  # a test may start a Coverage of its own, which pauses this one and no stranger's
        self._disk._pid = -1  # whoever comes to write it is a fork, even if pids repeat in a namespace
        self._flush()
        self._kept.clear()

    # -- what coverage calls ------------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # the data's own
        return getattr(self._disk, name)

    @property
    def _writes(self) -> bool:
        """Whether this is a fork that a test made."""
        return self._owner not in (-1, getpid())

    def set_context(self, context: str | None) -> str | None:
        """As CoverageData's: returns the one before."""
        before, self._context = self._context, context
        return before

    def add_lines(self, lines: Mapping[str, Collection[Any]]) -> None:
        """Keep the lines of files."""
        if self._writes:
            self._disk.set_context(self._context)
            self._disk.add_lines(lines)
        elif self._owner > 0:
            self._keep(lines)

    def add_arcs(self, arcs: Mapping[str, Collection[Any]]) -> None:
        """Keep the arcs of files: pairs of lines."""
        if self._writes:
            self._disk.set_context(self._context)
            self._disk.add_arcs(arcs)
        elif self._owner > 0:
            self._keep(arcs)

    def _keep(self, found: Mapping[str, Collection[Any]]) -> None:
        files = self._kept.setdefault(self._context or "", {})
        for name, numbers in found.items():
            files.setdefault(name, set()).update(numbers)

    def add_file_tracers(self, tracers: Mapping[str, str]) -> None:
        """Keep which of coverage's plugins measured a file."""
        if self._writes:
            self._disk.add_file_tracers(tracers)
        else:
            self._tracers.update(tracers)

    def touch_files(self, names: Collection[str], plugin: str | None = None) -> None:
        """Files that could have run: the controller's coverage finds them."""
        if self._writes:
            self._disk.touch_files(names, plugin)

    def write(self) -> None:
        """The controller's coverage does that."""
        if self._writes:
            self._disk.write()

    # -- what is said -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                self._coverage._collector.flush_data()
                return
            except RuntimeError:  # noqa: PERF203  # before coverage 7.15: "Set changed size during iteration"
                if not left:
                    raise

    def send(self, inside: Inside) -> None:
        """Say what was measured since the last time."""
        if getpid() != self._owner:
            return
        self._flush()
        if any(self._kept.values()):
            inside.channel.send(to_frame(self._kept, self._tracers, arcs=self._coverage._collector.branch))
            self._kept.clear()


def to_frame(kept: Mapping[str, Mapping[str, Collection[Any]]], tracers: Mapping[str, str], *, arcs: bool) -> Frame:
    """Lines, or arcs, by context and file, as a frame: 32-bit integers in base64, which costs a fraction of JSON's."""
    data = [
        [context, [[name, _pack(numbers, arcs=arcs)] for name, numbers in files.items() if numbers]]
        for context, files in kept.items()
    ]
    measured = {name for files in kept.values() for name in files}
    return {"op": "coverage", "arcs": arcs, "data": data, "tracers": {name: tracers[name] for name in measured & tracers.keys()}}


def _pack(numbers: Collection[Any], *, arcs: bool) -> str:
    whole = array.array("i", itertools.chain.from_iterable(numbers) if arcs else numbers)
    return base64.b64encode(whole.tobytes()).decode()


RECORDER: pytest.StashKey[Recorder] = pytest.StashKey()


def running() -> Any:  # noqa: ANN401  # as above
    """The coverage.Coverage that measures now, or None."""
    found = getattr(sys.modules.get("coverage"), "Coverage", None)
    return None if found is None else found.current()


def begin(config: pytest.Config) -> None:
    """At the beginning of each sandbox's main process."""
    recorder = config.stash.get(RECORDER, None)
    if recorder is not None:
        recorder.begin()


def send(config: pytest.Config, inside: Inside) -> None:
    """Before a sandbox says that it is done with an item, or with fixtures."""
    recorder = config.stash.get(RECORDER, None)
    if recorder is not None:
        recorder.send(inside)


@contextlib.contextmanager
def sheltered(config: pytest.Config) -> Iterator[None]:
    """Around each fork into a sandbox whose process does not come back from it."""
    shelter(config)
    try:
        yield
    finally:
        leave_shelter(config)


def shelter(config: pytest.Config) -> None:
    """Before each fork into a sandbox; in the new process it stays so until `begin`."""
    if (recorder := config.stash.get(RECORDER, None)) is not None:
        recorder.shelter()


def leave_shelter(config: pytest.Config) -> None:
    """After a fork, in the process that it was forked from."""
    if (recorder := config.stash.get(RECORDER, None)) is not None:
        recorder.leave_shelter()


def name_phase(config: pytest.Config, item: pytest.Item, when: str) -> None:
    """Give pytest-cov's context to what a scope does for an item, as plain pytest would in that phase of the item."""
    contexts: Any = config.pluginmanager.getplugin("_cov_contexts")
    if contexts is not None:
        contexts.switch_context(item, when)
