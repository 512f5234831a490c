"""What sandboxes say that coverage.py measured in them, checked and added to the data of the controller's own.

Data files, which subprocesses of tests write, are taken out of their sandbox's layer and read in a sandbox: in the controller
SQLite opens no file that a test could have made. Imports pytest, and coverage where that is loaded.
"""

from __future__ import annotations

import array
import base64
import contextlib
import dataclasses
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pytest_sandbox.model.errors import SandboxError, WireError
from pytest_sandbox.model.outcome import Outcome
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.plugin.builtin.warning import hint
from pytest_sandbox.plugin.others.coverage import measuring
from pytest_sandbox.plugin.others.coverage.measuring import RECORDER, Recorder, to_frame
from pytest_sandbox.plugin.warned import CoverageWarning
from pytest_sandbox.sandbox.inside.bodies import take_output
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.outside.running import Running
from pytest_sandbox.sandbox.outside.supervisor import Supervisor
from pytest_sandbox.sandbox.wire.frames import Frame

#: The most numbers (4 bytes each; an arc is two) that a sandbox may say for one item, and the most that are held in memory.
_MOST, _MOST_HELD = 1 << 22, 1 << 20
#: coverage's C tracer packs a line into 28 bits.
_HIGHEST = 1 << 28
#: What a name may be in characters, and what it counts for in numbers.
_LONGEST_NAME, _NAME = 4096, 16
#: What of data files is taken out of one sandbox, in files and bytes.
_MOST_FILES, _MOST_BYTES = 1000, 256 << 20
#: How long one of them may take to be read, in seconds: SQLite runs what stands in its schema.
_READ_TIME = 30.0

#: What is used of coverage, most of it private: checked before the first test.
_USED = {
    "": ("_collector", "_data", "_inorout", "_plugins", "_instances", "_file_mapper", "config"),
    "_collector": ("covdata", "flush_data", "branch", "_collectors"),
    "_collector.covdata": (
        *("add_lines", "add_arcs", "add_file_tracers", "set_context", "touch_files", "write", "base_filename"),
        *("_current_context", "_pid"),
    ),
    "_inorout": ("check_include_omit_etc", "source_pkgs", "source_pkgs_unmatched", "omit_match", "_find_executable_files"),
}


_MEASURED: pytest.StashKey[Measured] = pytest.StashKey()


def measured_of(config: pytest.Config) -> Measured | None:
    """What this run measures, or None."""
    return config.stash.get(_MEASURED, None)


def measure(config: pytest.Config) -> None:
    """Have sandboxes measured, if the run is. Raises UsageError where it could not be carried out of them."""
    coverage = measuring.running()
    if coverage is None:
        return
    missing = next(_missing(coverage), None)
    if missing is not None:
        module, plugin = sys.modules["coverage"], sys.modules.get("pytest_cov")
        who = f"coverage {getattr(module, '__version__', '?')}"
        who += f" (by pytest-cov {getattr(plugin, '__version__', '?')})" if plugin is not None else ""
        raise pytest.UsageError(
            f"--sandbox: {who}: what it measures in sandboxes cannot be carried out of them, since in this version {missing}. "
            "Fix: install coverage>=6.2, or measure without --sandbox, or run without coverage (--no-cov)"
        )
    config.stash[RECORDER] = Recorder(coverage)
    config.stash[_MEASURED] = Measured(config, coverage)


def _missing(coverage: Any) -> Iterator[str]:  # noqa: ANN401  # a coverage.Coverage, which may not be installed
    for path, names in _USED.items():
        found = coverage
        for part in path.split(".") if path else ():
            found = getattr(found, part, None)
        for name in names:
            if not hasattr(found, name):
                yield f"{type(found).__name__} has no {name!r}"
    if coverage._data is not coverage._collector.covdata:
        yield "its data is not its collector's"


class Account:
    """What one sandbox has said: the bound is a test's, as its timeout is."""

    def __init__(self, kept: Measured | None) -> None:
        self._kept = kept
        self._said = 0

    def hear(self, frame: Frame) -> None:
        """Keep what a frame says. Raises WireError for what is nothing that coverage could have measured here."""
        if self._kept is None:
            raise WireError("it measures, and nobody asked it to")
        self._said += self._kept.hear(frame)
        if self._said > _MOST:
            raise WireError(f"it says {self._said} numbers of coverage's")

    def restart(self) -> None:
        """The next test begins."""
        self._said = 0


class Measured:
    """The run's. Lines wait here, as numbers by context and file, until the end, when what only the end can tell is known."""

    def __init__(self, config: pytest.Config, coverage: Any) -> None:  # noqa: ANN401  # as above
        self._config = config
        self._coverage = coverage
        self._data: Any = coverage._collector.covdata
        self._arcs = bool(coverage._collector.branch)
        self._prefix = os.path.abspath(self._data.base_filename()) + "."
        self._held: dict[str, dict[str, set[int]]] = {}
        self._count = 0
        self._tracers: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._place: str | None = None
        self._files: list[str] = []
        self._left_out = 0

    # -- what sandboxes say -------------------------------------------------------------------------------------------

    def hear(self, frame: Frame) -> int:
        """Keep it; returns how many numbers that were. WireError."""
        if frame.get("arcs") is not self._arcs:
            raise WireError("it measures lines and not branches, or branches and not lines, unlike this run")
        count = 0
        try:
            for context, files in frame["data"]:
                kept = self._held.setdefault(_name(context), {})
                for name, packed in files:
                    numbers = _unpack(packed, arcs=self._arcs)
                    found = kept.setdefault(_name(name), set())
                    before = len(found)
                    found.update(array.array("q", numbers.tobytes()) if self._arcs else numbers)  # a number an arc
                    self._count += len(found) - before + _NAME
                    count += len(numbers) + _NAME
            plugins = {plugin._coverage_plugin_name for plugin in self._coverage._plugins}
            for name, plugin in frame["tracers"].items():
                if plugin not in plugins:
                    raise WireError(f"coverage has no plugin {plugin!r} here")
                self._tracers[_name(name)] = plugin
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError(f"a frame is nothing that coverage measured: {error!r}") from error
        if self._count > _MOST_HELD:
            try:
                self._add()
            except sys.modules["coverage"].CoverageException as error:
                raise WireError(f"coverage does not take what a sandbox has measured: {error}") from error
        return count

    def _add(self) -> None:
        """Add what waits to coverage's data, but what is of no file that it would measure here."""
        before = self._data._current_context
        add = self._data.add_arcs if self._arcs else self._data.add_lines
        try:
            for context, files in self._held.items():
                self._data.set_context(context or None)
                add({name: _lines(found, size, arcs=self._arcs) for name, found in files.items() if (size := self._size(name))})
        finally:
            self._data.set_context(before)
        self._data.add_file_tracers({name: plugin for name, plugin in self._tracers.items() if self._size(name)})
        self._held.clear()
        self._tracers.clear()
        self._count = 0

    def _size(self, name: str) -> int | None:
        """The size of a file of the machine's that this run measures, which bounds its lines; None for any other."""
        size = self._sizes.get(name)
        if size is None:
            size = self._look_at(name)
            if size is not None:
                self._sizes[name] = size
        return size

    def _look_at(self, name: str) -> int | None:
        path = _path(name)
        try:
            status = os.lstat(path)
        except OSError:  # a test made it, and it is gone with its sandbox
            return None
        # coverage names files by their real paths; any other may seem to lie where it does not.
        plain = stat.S_ISREG(status.st_mode) and os.path.realpath(path) == path
        return status.st_size + 1 if plain and self._is_wanted(path) else None

    def _is_wanted(self, path: str) -> bool:
        rules = self._coverage._inorout
        if rules.check_include_omit_etc(path, None) is None:
            return True
        # Whether a file is a package's it knows by the frame that runs.
        omitted = rules.omit_match is not None and rules.omit_match.match(path)
        return not omitted and any(_package_of(path, name) for name in rules.source_pkgs)

    def _touch(self) -> None:
        """Have the files of packages known that are named as sources and that only sandboxes have imported."""
        rules = self._coverage._inorout
        paths = [_path(name) for name in self._sizes]
        for package in tuple(rules.source_pkgs_unmatched):
            top = next((top for path in paths if (top := _package_of(path, package)) is not None), None)
            if top is None or package in sys.modules:
                continue
            rules.source_pkgs_unmatched.remove(package)
            for path, plugin in rules._find_executable_files(top):
                self._data.touch_files([self._coverage._file_mapper(path)], plugin)

    # -- data files of subprocesses -----------------------------------------------------------------------------------

    def take_files(self, supervisor: Supervisor, running: Running) -> None:
        """Take the data files out of a sandbox that is ending."""
        found = supervisor.copy_files(running, self._prefix, self._directory, (_MOST_FILES, _MOST_BYTES))
        self._files += found.paths
        self._left_out += found.left_out

    def _directory(self) -> str:
        self._place = self._place or tempfile.mkdtemp(prefix="sandbox-coverage-")
        return self._place

    def finish(self, supervisor: Supervisor, spec: Spec) -> None:
        """Read the data files, and add everything to coverage's data, before it is saved."""
        try:
            limits = dataclasses.replace(spec.limits, timeout=min(_READ_TIME, spec.limits.timeout or _READ_TIME))
            self._read_files(supervisor, dataclasses.replace(spec, hide=(), limits=limits))
            self._add()
            self._touch()
        except sys.modules["coverage"].CoverageException as error:
            self._warn(f"coverage does not take what sandboxes have measured: {error}")
        finally:
            if self._place is not None:
                shutil.rmtree(self._place, ignore_errors=True)
        if self._left_out:
            self._warn(f"{self._left_out} data file(s) of coverage's, which subprocesses of tests wrote, could not be read")

    def _warn(self, text: str) -> None:
        hint(self._config, CoverageWarning(text), (self._prefix.rstrip("."), 0))

    def _read_files(self, supervisor: Supervisor, spec: Spec) -> None:
        while self._files:
            reader = Reader(self.hear, len(self._files))
            try:
                running = supervisor.start_root(spec, _reading(self._files, arcs=self._arcs), reader, scope=False)
                supervisor.run_while(lambda running=running: not running.ended)  # type: ignore[misc]
            except (OSError, SandboxError):
                self._left_out += len(self._files)
                return
            # Where it has died of one the rest is read by another.
            del self._files[: reader.begun]
            self._left_out += reader.begun - reader.done


def _name(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or "\0" in value:
        raise WireError("a name of coverage's is no plain text")
    value.encode()  # UnicodeEncodeError is a ValueError: SQLite could not write it
    return value


def _path(name: str) -> str:
    """The path of a file that coverage names, which is relative to where it began with `relative_files`."""
    return os.path.join(sys.modules["coverage.files"].relative_directory(), name)


def _unpack(packed: str, *, arcs: bool) -> array.array[int]:
    if len(packed) > _MOST * 6:
        raise WireError(f"a file has {len(packed)} bytes of lines")
    numbers = array.array("i", base64.b64decode(packed, validate=True))
    if arcs and len(numbers) % 2:
        raise WireError("half an arc")
    if numbers and not (-_HIGHEST if arcs else 0) <= min(numbers) <= max(numbers) < _HIGHEST:
        raise WireError(f"lines from {min(numbers)} to {max(numbers)}")
    return numbers


def _lines(found: set[int], size: int, *, arcs: bool) -> list[Any]:
    """Those that a file of this size may have. The test's may have been another; and a high line takes coverage much memory."""
    if not arcs:
        return [line for line in found if line <= size]
    flat = array.array("i", array.array("q", found).tobytes())
    return [
        (start, end) for start, end in zip(flat[::2], flat[1::2], strict=True) if -size <= start <= size and -size <= end <= size
    ]


def _package_of(path: str, name: str) -> str | None:
    """The directory of a package, or the file of a module, of this name that a file is of; None where it is not."""
    inner = "/" + name.replace(".", "/")
    if path.endswith(f"{inner}.py"):
        return path
    before, found, _ = path.partition(f"{inner}/")
    return before + inner if found and os.path.isfile(f"{before}{inner}/__init__.py") else None


# -- the sandbox that reads data files --------------------------------------------------------------------------------


class Reader:
    """Hears it. count: how many files it has; begun, done: of those."""

    def __init__(self, hear: Callable[[Frame], int], count: int) -> None:
        self._hear, self._count = hear, count
        self.begun = self.done = 0

    def on_frame(self, running: Running, frame: Frame) -> None:
        """Not trusted either, once it has read a file: WireError for more of them than there are, as each gives it time."""
        if frame["op"] == "coverage":
            self._hear(frame)
        elif frame["op"] == "begun":
            if self.begun == self._count:
                raise WireError(f"it reads more files than the {self._count} that it has")
            self.begun += 1
            running.clock.restart()
        elif frame["op"] == "read":
            if self.done == self.begun:
                raise WireError("it has read a file that it has not begun")
            self.done += 1

    def on_end(self, running: Running, outcome: Outcome) -> None:
        """It has read what it could; at the least it is over with one."""
        del running, outcome
        self.begun = max(self.begun, 1)


def _reading(files: Sequence[str], *, arcs: bool) -> Callable[[Inside], int]:
    def body(inside: Inside) -> int:
        take_output(inside)
        for path in files:
            inside.channel.send({"op": "begun"})
            with contextlib.suppress(Exception):  # no data file, or a damaged one: its process was killed as it wrote
                for frame in _frames_of(path, arcs=arcs):
                    inside.channel.send(frame)
                inside.channel.send({"op": "read"})
        return 0

    return body


def _frames_of(path: str, *, arcs: bool) -> Iterator[Frame]:
    """A frame for each context."""
    data = sys.modules["coverage"].CoverageData(basename=path)
    data.read()
    found = data.arcs if arcs else data.lines
    names = sorted(data.measured_files())
    tracers = {name: plugin for name in names if (plugin := data.file_tracer(name))}
    if names and data.has_arcs() is not arcs:
        raise ValueError(path)
    for context in sorted(data.measured_contexts()):
        data.set_query_context(context)
        yield to_frame({context: {name: found(name) or () for name in names}}, tracers, arcs=arcs)
