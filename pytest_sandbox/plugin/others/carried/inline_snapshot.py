"""inline-snapshot: the changes that a test asks for in sources and external files, from the test to the report that makes them.

Read from its version 0.36. The state is `_global_state.state().snapshots`: an object for each place in the sources where
`snapshot()`, `external()`, `external_file()` or `snapshot_arg()` was called, which knows what it was compared with. At the
run's end each says which changes it asks for (`_changes()`), and --inline-snapshot says which of these are made.

The values cannot travel. So a sandbox asks the objects itself, and sends what they answer: kinds of changes, nodes of the source
by their number, code. The controller puts objects in the place of those that give the same answer; `inline_merge` makes one
of the answers of several tests. What a test that was killed would have used is unknown: nothing is trimmed then.

What a change may be: `inline_checks`.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_sandbox.model.texts import printable

from .base import Fields, field, probe, refuse, rows
from .inline_checks import CHANGES, KINDS, Checks, NotMadeError, content_of
from .inline_merge import Change, merge

_NAME = "inline-snapshot"
_SWITCH = "inline_snapshot"
_PROBLEMS = 1000


def find(config: pytest.Config, _items: Sequence[pytest.Item]) -> InlineSnapshots | None:
    """The carrier, where snapshots are looked at. UsageError for what cannot be carried."""
    option = str(getattr(config.option, "inline_snapshot", None) or "").split(",")
    if "disable" in option:
        return None
    if "fix-assert" in option:
        refuse(f"{_NAME}: --inline-snapshot=fix-assert changes assertions as they run, in a sandbox. Fix: leave it out")
    plugin = config.pluginmanager.getplugin("inline-snapshot-plugin")
    lib = SimpleNamespace(
        globals=sys.modules.get("inline_snapshot._global_state"),
        change=sys.modules.get("inline_snapshot._change"),
        location=sys.modules.get("inline_snapshot._external._external_location"),
        external=sys.modules.get("inline_snapshot._external._external"),
        types=sys.modules.get("inline_snapshot._types"),
        source=sys.modules.get("inline_snapshot._source_file"),
        executing=sys.modules.get("executing"),
    )
    probe(
        _NAME,
        _SWITCH,
        (plugin, "plugin", ("test_failed", "trim_explicitly_requested")),
        (lib.globals, "package", ("state",)),
        (lib.change, "package", tuple(CHANGES)),
        (lib.location, "package", ("ExternalLocation", "FileLocation")),
        (lib.external, "package", ("External",)),
        (lib.types, "package", ("SnapshotRefBase",)),
        (lib.source, "package", ("SourceFile",)),
        (lib.executing, "package", ("Source",)),
    )
    state = lib.globals.state()
    names = ("snapshots", "active", "all_problems", "all_storages", "all_formats", "new_tmp_path")
    probe(_NAME, _SWITCH, (state, "state", names))
    return InlineSnapshots(config, plugin, lib) if state.active else None


class InlineSnapshots:
    """See `base.Carrier`."""

    name = _NAME

    def __init__(self, config: pytest.Config, plugin: Any, lib: Any) -> None:  # noqa: ANN401  # foreign
        self._plugin, self._lib = plugin, lib
        self._described: dict[int, tuple[object, Fields]] = {}
        self._sent: set[str] = set()
        self._numbers: dict[int, dict[int, int]] = {}
        self._checks = Checks(os.path.realpath(config.rootpath), lib)
        self._told: dict[tuple[Any, ...], tuple[Fields, list[list[Change]]]] = {}

    @property
    def _state(self) -> Any:  # noqa: ANN401  # a State
        return self._lib.globals.state()

    # -- in a sandbox -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """See `base.Carrier`. What the process around it has said is known to be said."""

    def news(self, item: pytest.Item) -> Fields | None:  # noqa: ARG002  # each snapshot knows its place
        """See `base.Carrier`."""
        uses = [use for snapshot in list(self._state.snapshots.values()) if (use := self._describe(snapshot)) is not None]
        new = [use for use in uses if self._is_new(use)]
        problems = [text for text in sorted(map(str, self._state.all_problems)) if self._is_new(text)]
        return {"uses": new, "problems": problems[:_PROBLEMS]} if new or problems else None

    def _is_new(self, said: object) -> bool:
        text = json.dumps(said, sort_keys=True)
        known = text in self._sent
        self._sent.add(text)
        return not known

    def _describe(self, snapshot: Any) -> Fields | None:  # noqa: ANN401  # a SnapshotRefBase
        """One place in a source, and the changes that its uses so far ask for; None if it was not used."""
        kind = type(snapshot).__name__
        value = getattr(snapshot, "_value", None)
        operation = type(value).__name__
        if kind not in KINDS or operation == "UndecidedValue":
            return None
        token = getattr(value, "_new_value", None)
        known = self._described.get(id(snapshot))
        if known is not None and operation == "EqValue" and known[0] is token:
            return known[1]  # decided by the first comparison, and to ask again may draw another name for an external file
        use: Fields = {"kind": kind, "operation": operation} | self._place(snapshot)
        try:
            use["changes"] = [self._change(change) for change in snapshot._changes()]
        except Exception as error:  # noqa: BLE001  # of values' own __repr__ and __eq__
            self._state.all_problems.add(f"{use['file']}:{use['line']}: the changes of {kind} cannot be told: {error!r}")
            return None
        self._described[id(snapshot)] = (token, use)
        return use

    def _place(self, snapshot: Any) -> Fields:  # noqa: ANN401  # a SnapshotRefBase
        if type(snapshot).__name__ == "ExternalFile":
            return {"file": str(snapshot._filename), "line": 0, "node": None, "source": ""}
        context = snapshot._context
        frame, node = context._frame, context.expr.node
        place = {"file": frame.f_code.co_filename, "line": frame.f_lineno, "node": None, "source": ""}
        if node is None or context.source is None or context.source.tree is None:
            return place
        digest = hashlib.sha256(context.source.text.encode("utf-8", "surrogatepass")).hexdigest()
        return place | {"line": getattr(node, "lineno", 0), "node": self._number(context.source, node), "source": digest}

    def _number(self, source: Any, node: Any) -> int | None:  # noqa: ANN401  # an executing.Source, an ast.AST
        """The position of a node in its tree, as `ast.walk` goes."""
        if id(source) not in self._numbers:
            self._numbers[id(source)] = {id(each): number for number, each in enumerate(ast.walk(source.tree))}
        return self._numbers[id(source)].get(id(node))

    def _change(self, change: Any) -> Change:  # noqa: ANN401  # a ChangeBase
        kind = type(change).__name__
        found: Change = {"kind": kind, "flag": change.flag}
        if kind not in CHANGES:
            raise TypeError(f"{kind} is not known")
        if "node" in CHANGES[kind]:
            found["node"] = None if change.node is None else self._number(change.file._source, change.node)
        if kind == "ExternalChange":
            found["content"] = base64.b64encode(Path(change.new_file).read_bytes()).decode()
            found["format"] = change.format.suffix
            return found | {"old": _location(change.old_location), "new": _location(change.new_location)}
        return found | {name: getattr(change, name) for name in CHANGES[kind] - {"node"}}

    # -- in the controller --------------------------------------------------------------------------------------------

    def read(self, item: pytest.Item, fields: Fields) -> Callable[[], None]:
        """See `base.Carrier`."""
        uses = [(use, self._checks.check(item, use)) for use in rows(fields, "uses")]
        problems = [_lines(text) for text in field(fields, "problems", list)[:_PROBLEMS] if isinstance(text, str)]

        def remember() -> None:
            self._state.all_problems.update(problems)
            for use, problem in uses:
                if problem is None:
                    self._tell(use)
                elif problem:
                    self._state.all_problems.add(problem)

        return remember

    def _tell(self, use: Fields) -> None:
        # Where the call was not found in the source, lines tell places apart.
        key = (use["kind"], use["file"], use["node"], use["line"] if use["node"] is None else None)
        self._told.setdefault(key, (use, []))[1].append(use["changes"])

    # -- at the end ---------------------------------------------------------------------------------------------------

    def end(self, unheard: Sequence[pytest.Item]) -> None:
        """See `base.Carrier`. From here on inline-snapshot's own end of the run does the rest."""
        if unheard:
            self._plugin.test_failed = True
            self._plugin.trim_explicitly_requested = False
        own = self._state.snapshots
        for key, snapshot in list(own.items()):  # of modules, and of tests without a sandbox
            use = self._describe(snapshot)
            if use is not None and (use["kind"], use["file"], use["node"]) in {known[:3] for known in self._told}:
                self._tell(use)
                del own[key]
        for key, (use, lists) in self._told.items():
            place = f"{printable(use['file'])}:{use['line']}"
            try:
                changes, lossy = merge(use["operation"], lists)
                self._checks.check_again(use, changes)
                stand_in = self._stand_in(use, changes)
            except NotMadeError as error:
                self._state.all_problems.add(f"{place}: --sandbox: {error}")
                continue
            except Exception as error:  # noqa: BLE001  # of what was told by tests, whatever else is wrong with it
                self._state.all_problems.add(f"{place}: --sandbox: it cannot be changed: {error!r}")
                continue
            own["sandbox", key] = stand_in
            if lossy:
                self._state.all_problems.add(
                    f"{place}: tests in different sandboxes ask for different values of this snapshot: that of the first is taken"
                )

    def _stand_in(self, use: Fields, changes: list[Change]) -> Any:  # noqa: ANN401  # a SnapshotRefBase
        """What gives the same answer as the snapshot in the sandbox."""
        base: Any = self._lib.external.External if use["kind"] == "External" else self._lib.types.SnapshotRefBase
        answer = [self._made(use, change) for change in changes]

        class StandIn(base):  # type: ignore[misc]  # foreign
            def __init__(self) -> None:
                """Nothing is compared with it."""

            def _changes(self) -> Any:  # noqa: ANN401  # an iterator
                return iter(answer)

            def __repr__(self) -> str:
                return str(use["kind"])

        made = StandIn()
        if use["kind"] != "ExternalFile":
            frame = SimpleNamespace(f_code=SimpleNamespace(co_filename=use["file"]), f_lineno=use["line"])
            made._context = SimpleNamespace(file=SimpleNamespace(filename=use["file"]), _frame=frame)
        return made

    def _made(self, use: Fields, change: Change) -> Any:  # noqa: ANN401  # a ChangeBase
        kind, flag = change["kind"], change["flag"]
        cls = getattr(self._lib.change, kind)
        if kind == "CategoryChange":
            return cls(flag)
        if kind == "ExternalChange":
            return self._made_external(use, cls, change)
        source = self._checks.source_of(use["file"])
        given: Fields = {"flag": flag, "file": self._lib.source.SourceFile(source.source)}
        if "node" in change:
            given["node"] = source.node(change["node"])
        names = ("arg_pos", "arg_name", "position", "module", "name")
        given |= {name: change[name] for name in names if name in change}
        if "new_code" in change:
            given["new_code"] = [tuple(pair) for pair in change["new_code"]] if kind == "DictInsert" else change["new_code"]
        return cls(**given)

    def _made_external(self, use: Fields, cls: Any, change: Change) -> Any:  # noqa: ANN401  # an ExternalChange
        if use["kind"] == "ExternalFile":
            old = new = self._lib.location.FileLocation(Path(use["file"]))
        else:
            old, new = (self._made_location(change[name], use["file"]) for name in ("old", "new"))
        content: Path = self._state.new_tmp_path(new.suffix)
        content.write_bytes(content_of(change))
        return cls(change["flag"], content, old, new, self._checks.format_of(change))

    def _made_location(self, place: Fields, path: str) -> Any:  # noqa: ANN401  # an ExternalLocation
        location = self._lib.location.ExternalLocation
        return location(place["storage"], place["stem"], place["suffix"], Path(path), place.get("qualname"), None)


def _location(location: Any) -> Fields | None:  # noqa: ANN401  # a Location
    if type(location).__name__ != "ExternalLocation":
        return None
    names = ("storage", "stem", "suffix", "qualname")
    return {name: getattr(location, name) for name in names} | {"filename": str(location.filename)}


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
