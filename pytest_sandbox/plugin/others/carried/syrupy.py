"""syrupy: which snapshots a test has used and which it would write, from the test to the report, the files and the removals.

Read from its versions 4.9, 5.1 and 7.0. The state is `config._syrupy`, a `session.SnapshotSession`: the assertions that the
fixture made, with what each comparison found, and a queue of snapshots to write. At the end it writes the queue, and what it has
discovered on disk and no assertion has used is "unused": the run fails, or with --snapshot-update it is removed.

Of an assertion its extension (by name) and its comparisons travel; of a snapshot to write also its index and data. Where that
goes is not taken from a sandbox, but asked of the extension here. What a test that was killed, or never ran, would have used is
unknown: it counts as skipped, of which syrupy keeps all snapshots.

Under pytest-xdist a worker, from version 6.0 on, sends `workeroutput["syrupy_report"]` home, where `_worker_reports` are merged,
and what is unused is removed. Of each test's status under "selected" the first counts that is not false (NOT_RUN). So a worker
leaves that of the tests that it was not given, and whether nobody has run a test is seen where the reports come together.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.skipping import xfailed_key

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.texts import printable
from pytest_sandbox.plugin.builtin.terminal import show

from .base import Fields, field, probe, rows

_NAME = "syrupy"
_SESSION = ("_assertions", "_selected_items", "_queued_snapshot_writes", "queue_snapshot_write")
_EXTENSION = ("get_location", "get_snapshot_name", "discover_snapshots")
#: Where a worker of pytest-xdist says which links were added, in what it sends home.
_ADDED = "sandbox_syrupy_links"


def find(config: pytest.Config, items: Sequence[pytest.Item]) -> Snapshots:
    """The carrier. UsageError where this version cannot be read."""
    session: Any = config._syrupy  # type: ignore[attr-defined]  # the plugin's
    modules = {
        name: sys.modules.get(f"syrupy.{name}") for name in ("assertion", "session", "location", "extensions.base", "data")
    }
    probe(
        _NAME,
        "syrupy",
        (session, "session", _SESSION),
        (modules["assertion"], "package", ("SnapshotAssertion", "AssertionResult")),
        (modules["session"], "package", ("ItemStatus",)),
        (modules["location"], "package", ("PyTestLocation",)),
        (modules["extensions.base"], "package", ("AbstractSyrupyExtension",)),
        (modules["data"], "package", ("SnapshotCollections",)),
    )
    probe(_NAME, "syrupy", (modules["extensions.base"].AbstractSyrupyExtension, "extension", _EXTENSION))  # type: ignore[union-attr]
    probe(_NAME, "syrupy", (modules["session"].ItemStatus, "status", ("SKIPPED", "NOT_RUN")))  # type: ignore[union-attr]
    return Snapshots(config, session, items, modules)


class Snapshots:
    """See `base.Carrier`."""

    name = _NAME

    def __init__(self, config: pytest.Config, session: Any, items: Sequence[pytest.Item], modules: dict[str, Any]) -> None:  # noqa: ANN401
        self._config, self._session, self._modules = config, session, modules
        self._extension = modules["extensions.base"].AbstractSyrupyExtension
        self._importable = frozenset(sys.modules)  # here, and so in the controller
        self._queue = session.queue_snapshot_write
        self._items = {item.nodeid: item for item in items}
        self._known: list[int] = []
        self._writes: list[Fields] = []
        name = str(getattr(config.option, "snapshot_dirname", "__snapshots__"))
        self._directories = list(dict.fromkeys(item.path.parent / name for item in items))
        self._links = _links(self._directories)

    # -- in a sandbox -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """See `base.Carrier`."""
        self._known = [len(assertion.executions) for assertion in self._session._assertions]
        self._writes = []
        self._session.queue_snapshot_write = self._note

    def _note(self, extension: Any, test_location: Any, data: Any, index: Any) -> None:  # noqa: ANN401  # as syrupy's own
        """What `queue_snapshot_write` is in a sandbox. What it raises becomes syrupy's explanation of a failed comparison."""
        kind = type(extension)
        name = self._name_of(kind)
        if name is None:
            raise RuntimeError(
                f"--sandbox: {kind.__module__}.{kind.__qualname__} cannot write the snapshot, since it cannot be found by this "
                "name outside of the test's sandbox. Fix: define it at the top of a module that pytest imports when it collects, "
                "or give the test @pytest.mark.sandbox(enabled=False)"
            )
        if not isinstance(data, (str, bytes)):
            raise TypeError(f"--sandbox: a snapshot of {type(data).__name__} cannot be brought out: only str and bytes can")
        self._place(kind, test_location, index)
        self._queue(extension=extension, test_location=test_location, data=data, index=index)
        coded = {"text": data} if isinstance(data, str) else {"base64": base64.b64encode(data).decode()}
        self._writes.append({"extension": name, "nodeid": test_location.item.nodeid, "index": index, **coded})

    def news(self, item: pytest.Item) -> Fields | None:
        """See `base.Carrier`."""
        assertions = self._session._assertions
        known = self._known + [-1] * (len(assertions) - len(self._known))
        self._known = [len(assertion.executions) for assertion in assertions]
        new = [
            self._fields(item, assertion, max(0, before))
            for assertion, before, now in zip(assertions, known, self._known, strict=True)
            if before != now
        ]
        writes, self._writes = self._writes, []
        return {"assertions": new, "writes": writes} if new or writes else None

    def _fields(self, item: pytest.Item, assertion: Any, begin: int) -> Fields:  # noqa: ANN401  # a SnapshotAssertion
        xfailed = item.stash.get(xfailed_key, None)
        results = [
            {
                "location": result.snapshot_location,
                "name": result.snapshot_name,
                "created": bool(result.created),
                "updated": bool(result.updated),
                "success": bool(result.success),
            }
            for result in list(assertion.executions.values())[begin:]
        ]
        extension = self._name_of(type(assertion.extension))
        return {"extension": extension, "results": results, "xfails": bool(xfailed and xfailed.run)}

    def _name_of(self, kind: type) -> str | None:
        """The name by which the controller finds an extension, or None if it cannot."""
        module = kind.__module__
        if module not in self._importable and not module.startswith("syrupy."):
            return None
        name = f"{module}:{kind.__qualname__}"
        return name if self._find(name) is kind else None

    # -- in both ------------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> type | None:
        """The extension of a name; nothing but syrupy's own is imported for it."""
        module, _, path = name.partition(":")
        if module.startswith("syrupy.extensions.") and module not in sys.modules and module.replace(".", "").isidentifier():
            try:
                importlib.import_module(module)
            except ImportError:
                return None
        found: Any = sys.modules.get(module)
        for part in path.split("."):
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
        usable = isinstance(found, type) and issubclass(found, self._extension) and not inspect.isabstract(found)
        return found if usable else None

    def _place(self, kind: Any, test_location: Any, index: object) -> str:  # noqa: ANN401  # an extension, a PyTestLocation
        """Where the extension puts a snapshot. ValueError if that is not among the project's files, or by a strange name."""
        if isinstance(index, str) and not index.isprintable():
            raise ValueError(f"--sandbox: {index!r} is no name for a snapshot: it has characters that cannot be printed")
        where: str = os.path.normpath(kind.get_location(test_location=test_location, index=index))
        tops = [str(Path(test_location.filepath).parent), str(self._config.rootpath)]
        top = next((top for top in tops if where.startswith(top + os.sep)), None)
        if top is None:
            raise ValueError(f"--sandbox: {where} lies neither below {tops[0]} nor below {tops[1]}: no snapshot is written there")
        path = Path(where)
        for part in (path, *path.parents):
            if str(part) == top:
                break
            if part.is_symlink() and part not in self._links:
                raise ValueError(f"--sandbox: {part} is a symbolic link: no snapshot is written through it")
        return where

    # -- in the controller --------------------------------------------------------------------------------------------

    def read(self, item: pytest.Item, fields: Fields) -> Callable[[], None]:
        """See `base.Carrier`."""
        asserted = [self._asserted(item, row) for row in rows(fields, "assertions")]
        writes = [self._write(item, row) for row in rows(fields, "writes")]

        def remember() -> None:
            # In this order, as what is discovered is what there was before.
            for step in (*asserted, *writes):
                step()

        return remember

    def _location(self, item: pytest.Item) -> Any:  # noqa: ANN401  # a PyTestLocation
        try:
            return self._modules["location"].PyTestLocation(item)
        except Exception as error:
            raise WireError(f"{item.nodeid} has no snapshots: {error!r}") from error

    def _asserted(self, item: pytest.Item, row: Fields) -> Callable[[], None]:
        name = field(row, "extension", str, type(None))
        kind: Any = self._nowhere() if name is None else self._find(name)
        if kind is None:
            raise WireError(f"{printable(name)} is no extension of syrupy's")
        reason = SimpleNamespace(stash={xfailed_key: SimpleNamespace(run=field(row, "xfails", bool))})
        results = [self._result(reason, result) for result in rows(row, "results")]
        location = self._location(item)
        assertion = self._modules["assertion"].SnapshotAssertion

        def step() -> None:
            option = self._config.option
            made = assertion(  # which tells the session of itself
                session=self._session, extension_class=kind, test_location=location, update_snapshots=option.update_snapshots
            )
            made._execution_results.update(enumerate(results))
            made._executions = len(results)

        return step

    def _result(self, item: Any, row: Fields) -> Any:  # noqa: ANN401  # an AssertionResult, with what stands for an item
        kind = self._modules["assertion"].AssertionResult
        given = {
            "snapshot_location": printable(field(row, "location", str)),
            "snapshot_name": printable(field(row, "name", str)),
            "created": field(row, "created", bool),
            "updated": field(row, "updated", bool),
            "success": field(row, "success", bool),
            "test_location": SimpleNamespace(item=item),
        }
        return kind(**{each.name: given.get(each.name) for each in dataclasses.fields(kind)})

    def _nowhere(self) -> type:
        """An extension that stands for one which cannot be found here: it has discovered nothing, and removes nothing."""
        nothing = self._modules["data"].SnapshotCollections

        class Nowhere:
            discovery_dirname = dirname = staticmethod(lambda **_: "")
            discover_snapshots = staticmethod(lambda **_: nothing())

        return Nowhere

    def _write(self, item: pytest.Item, row: Fields) -> Callable[[], None]:
        kind: Any = self._find(field(row, "extension", str))
        owner = self._items.get(field(row, "nodeid", str))
        if kind is None or owner is None or owner.path != item.path:
            raise WireError("a snapshot has no extension, or is another file's")
        index, location, data = field(row, "index", str, int), self._location(owner), _data(row)
        expected: Any = (str, bytes)
        if hasattr(kind, "get_supported_dataclass"):
            expected = kind.get_supported_dataclass()
        elif hasattr(kind, "serializer_class"):  # amber, which is text
            expected = str
        try:
            self._place(kind, location, index)
        except Exception as error:  # an extension's own code too
            raise WireError(f"a snapshot has no place: {error}") from error
        if not isinstance(data, expected):
            raise WireError(f"a snapshot is {type(data).__name__}, not what its extension writes")

        def step() -> None:
            self._place(kind, location, index)
            self._queue(extension=kind(), test_location=location, data=data, index=index)

        return step

    def end(self, unheard: Sequence[pytest.Item]) -> None:
        """See `base.Carrier`."""
        status, selected = self._modules["session"].ItemStatus, self._session._selected_items
        is_worker = hasattr(self._config, "workerinput")
        for item in unheard:
            now = selected.get(item.nodeid)
            if now is not None and not (is_worker and now is status.NOT_RUN):
                selected[item.nodeid] = status.SKIPPED
        added = sorted(map(str, _links(self._directories) - self._links))
        if added:
            self._session._queued_snapshot_writes.clear()
            _keep_all(self._config, added)
            if is_worker:
                self._config.workeroutput[_ADDED] = added  # type: ignore[attr-defined]  # pytest-xdist's


def merge(config: pytest.Config, outputs: Sequence[Mapping[str, Any]]) -> None:
    """Where pytest-xdist steers from, before syrupy merges the reports of the workers: what each could not know of the others."""
    reports = getattr(config._syrupy, "_worker_reports", ())  # type: ignore[attr-defined]  # before 6.0 nothing is merged
    ran = {nodeid for report in reports for nodeid, status in report["selected"].items() if status}
    for report in reports:
        report["selected"] |= dict.fromkeys(report["selected"].keys() - ran, "skipped")
    if added := sorted({name for output in outputs for name in output.get(_ADDED, ())}):
        _keep_all(config, added)


def _keep_all(config: pytest.Config, links: Sequence[str]) -> None:
    """Have nothing written and removed: a test that may write there has added links, and what lies behind is not syrupy's."""
    config.option.no_cleanup = True
    config.option.update_snapshots = False
    show(config, f"\nsyrupy: new symbolic links: {', '.join(links)}: no snapshot is written or removed\n")


def _data(row: Fields) -> str | bytes:
    """A snapshot's data, that can be written. Raises WireError."""
    try:
        if "base64" in row:
            return base64.b64decode(field(row, "base64", str), validate=True)
        text: str = field(row, "text", str)
        text.encode()
    except (binascii.Error, UnicodeError) as error:
        raise WireError(f"a snapshot cannot be written: {error}") from error
    return text


def _links(directories: Sequence[Path]) -> set[Path]:
    """The symbolic links that these directories are, or have in them."""
    found = {path for path in directories if path.is_symlink()}
    for top in directories:
        for base, folders, files in os.walk(top):
            found |= {path for name in (*folders, *files) if (path := Path(base, name)).is_symlink()}
    return found
