"""inline-snapshot: the changes that a test asks for in sources and external files, from the test to the report that makes them.

Read from its version 0.36. The state is `_global_state.state().snapshots`: an object for each place in the sources where
`snapshot()`, `external()`, `external_file()` or `snapshot_arg()` was called, which knows what it was compared with. At the
run's end each says which changes it asks for (`_changes()`), and --inline-snapshot says which of these are made.

The values cannot travel. So a sandbox asks the objects itself, and sends what they answer: kinds of changes, nodes of the source
by their number, code. The controller puts objects in the place of those that give the same answer; `inline_merge` makes one
of the answers of several tests. What a test that was killed would have used is unknown: nothing is trimmed then.

A change is made only to the arguments of a call, of this test's own file or of a name that comes from inline_snapshot, in the
project; and new code is an expression. An external file is written only where its storage puts it, an `external_file()` only
below the directory of the test's file, with a suffix that inline-snapshot knows.
"""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_sandbox.model.errors import WireError

from .base import Fields, field, printable, probe, refuse, rows
from .inline_merge import Change, merge

_NAME = "inline-snapshot"
_SWITCH = "inline_snapshot"
_KINDS = ("SnapshotReference", "SnapshotArgReference", "External", "ExternalFile")
_FLAGS = ("create", "fix", "trim", "update")
#: The kinds of changes, and what is sent of each beside its kind and flag.
_CHANGES = {
    "Replace": {"node", "new_code"},
    "CallArg": {"node", "arg_pos", "arg_name", "new_code"},
    "Delete": {"node"},
    "ListInsert": {"node", "position", "new_code"},
    "DictInsert": {"node", "position", "new_code"},
    "RequiredImport": {"module", "name"},
    "CategoryChange": set(),
    "ExternalChange": {"content", "format", "old", "new"},
}
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_QUALNAME = re.compile(r"[\w<>]+(\.[\w<>]+)*")
_SUFFIX = re.compile(r"(\.\w+)+")
_STEMS = {"uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "hash": re.compile(r"[0-9a-f]+\*?")}
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
        (lib.change, "package", tuple(_CHANGES)),
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
        self._root = os.path.realpath(config.rootpath)
        self._plugin, self._lib = plugin, lib
        self._described: dict[int, tuple[object, Fields]] = {}
        self._sent: set[str] = set()
        self._numbers: dict[int, dict[int, int]] = {}
        self._sources: dict[str, _Source] = {}
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
        if kind not in _KINDS or operation == "UndecidedValue":
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
        if kind not in _CHANGES:
            raise TypeError(f"{kind} is not known")
        if "node" in _CHANGES[kind]:
            found["node"] = None if change.node is None else self._number(change.file._source, change.node)
        if kind == "ExternalChange":
            found["content"] = base64.b64encode(Path(change.new_file).read_bytes()).decode()
            found["format"] = change.format.suffix
            return found | {"old": _location(change.old_location), "new": _location(change.new_location)}
        return found | {name: getattr(change, name) for name in _CHANGES[kind] - {"node"}}

    # -- in the controller --------------------------------------------------------------------------------------------

    def read(self, item: pytest.Item, fields: Fields) -> Callable[[], None]:
        """See `base.Carrier`."""
        uses = [(use, self._check(item, use)) for use in rows(fields, "uses")]
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

    def _check(self, item: pytest.Item, use: Fields) -> str | None:
        """Raise WireError for what no sandbox of ours says. Returns why a change that makes sense is not made, None if it is.

        "" for what asks for no change, and stands in no source of this project.
        """
        kind, path, line = field(use, "kind", str), field(use, "file", str), field(use, "line", int)
        node, digest = field(use, "node", int, type(None)), field(use, "source", str)
        field(use, "operation", str)
        changes = rows(use, "changes")
        if kind not in _KINDS:
            raise WireError(f"{printable(kind)} is no kind of snapshot")
        for change in changes:
            known = _CHANGES.get(field(change, "kind", str))
            if known is None or change.keys() != {"kind", "flag"} | known or field(change, "flag", str) not in _FLAGS:
                raise WireError("a change is none")
        try:
            if kind == "ExternalFile":
                use["top"] = str(Path(item.path).parent)
                self._check_file(use, path, changes)
            else:
                source = self._source(item, path)
                if node is not None or any(change.get("kind") != "CategoryChange" for change in changes):
                    self._check_call(item, use, source, digest)
        except _NotMadeError as error:
            if not changes:
                return ""
            return f"{printable(path)}:{line}: --sandbox: {error}. Fix: @pytest.mark.sandbox(enabled=False), or --no-sandbox"
        except (SyntaxError, ValueError, RecursionError, MemoryError, binascii.Error) as error:
            raise WireError(f"a change of an inline snapshot is none: {error!r}") from error
        return None

    def _source(self, item: pytest.Item, path: str) -> _Source:
        """The source of a path. _NotMadeError for what is none of the project's."""
        if path not in self._sources:
            real = os.path.realpath(path)
            parts = os.path.relpath(real, self._root).split(os.sep)
            foreign = any(part.startswith(".") or part == "site-packages" for part in parts) and path != str(item.path)
            if foreign or not path.endswith(".py") or not os.path.isfile(real):
                raise _NotMadeError("it is no source of this project")
            self._sources[path] = _Source(self._lib.executing.Source.for_filename(path), real)
        return self._sources[path]

    def _check_call(self, item: pytest.Item, use: Fields, source: _Source, digest: str) -> None:
        if source.digest != digest:
            raise _NotMadeError("the test has seen another source than there is")
        if None in (use["node"], *(change.get("node", 0) for change in use["changes"])):
            raise _NotMadeError("its place in the source is not known")
        kind, changes, call = use["kind"], use["changes"], source.node(use["node"])
        if not isinstance(call, ast.Call):
            raise WireError("a snapshot is no call")
        if changes and source.path != str(item.path) and (kind == "SnapshotArgReference" or not source.is_ours(call)):
            raise _NotMadeError("it stands in another file than the test, and is no call of a name imported from inline_snapshot")
        for change in changes:
            self._check_change(source, use["node"], change)

    def _check_change(self, source: _Source, call: int | None, change: Change) -> None:
        kind = change["kind"]
        if kind == "CategoryChange":
            return
        if kind == "RequiredImport":
            names = [field(change, "module", str), field(change, "name", str, type(None)) or "x"]
            if not all(map(_DOTTED.fullmatch, names)):
                raise WireError("an import is none")
            return
        if kind == "ExternalChange":
            self._check_external(source, change)
            return
        if not source.is_within(change["node"], call):
            raise WireError("a change is not one of the snapshot's call")
        self._check_code(source, change)

    @staticmethod
    def _check_code(source: _Source, change: Change) -> None:
        kind = change["kind"]
        expected = {"CallArg": (ast.Call,), "ListInsert": (ast.List, ast.Tuple), "DictInsert": (ast.Dict,)}.get(kind, (ast.AST,))
        if not isinstance(source.node(change["node"]), expected):
            raise WireError(f"a {kind} is none of such a node")
        if kind in ("ListInsert", "DictInsert") and field(change, "position", int) < 0:
            raise WireError("a position is none")
        if kind == "CallArg":
            position, name = field(change, "arg_pos", int, type(None)), field(change, "arg_name", str, type(None))
            if (position is None and name is None) or (position or 0) < 0 or (name is not None and not name.isidentifier()):
                raise WireError("an argument is none")
        for code in _codes(change):
            ast.parse(code.strip(), mode="eval")

    def _check_external(self, source: _Source, change: Change) -> None:
        _bytes(change)
        if not isinstance(change.get("old"), dict) or not isinstance(change.get("new"), dict):
            raise WireError("an external file has no place")
        new, old = change["new"], change["old"]
        stem = _STEMS.get(field(new, "storage", str))
        if stem is None or new["storage"] not in self._state.all_storages or not stem.fullmatch(field(new, "stem", str)):
            raise WireError("an external file has no name")
        if not _SUFFIX.fullmatch(field(new, "suffix", str)) or not _QUALNAME.fullmatch(field(new, "qualname", str)):
            raise WireError("an external file has no name")
        if new.get("filename") != source.path:
            raise WireError("an external file is another source's")
        if old.get("stem") and (
            old.get("storage") not in self._state.all_storages or not re.fullmatch(r"[\w-]+\*?", old["stem"])
        ):
            raise WireError("an external file had no name")
        if not re.fullmatch(r"(\.\w+)*", field(old, "suffix", str)) or not isinstance(old.get("storage"), str):
            raise WireError("an external file had no name")
        self._format(change)
        self._refuse_links_to(source.path, new)

    def _refuse_links_to(self, path: str, new: Fields) -> None:
        source = Path(path)
        if new["storage"] == "uuid":
            qualname = "__module__" if new["qualname"] == "<module>" else new["qualname"]
            directory = source.parent / "__inline_snapshot__" / source.stem / qualname
            _refuse_links(directory / f"{new['stem']}{new['suffix']}", source.parent)
        else:
            _refuse_links(Path(self._state.all_storages[new["storage"]].directory, "any"), Path(self._root))

    def _check_file(self, use: Fields, path: str, changes: list[Change]) -> None:
        top, target = Path(use["top"]), Path(os.path.normpath(path))
        for change in changes:
            if change.get("kind") != "ExternalChange":
                raise WireError("an external file is changed by an external change")
            _bytes(change)
            self._format(change)
            if not target.is_relative_to(top) or target.suffix not in self._state.all_formats:
                raise _NotMadeError(f"external_file() is written only below {top}, with a suffix of inline-snapshot's")
            if any(part.startswith(".") for part in target.relative_to(top).parts):
                raise _NotMadeError("external_file() is not written where a name begins with a dot")
            _refuse_links(target, top)

    def _format(self, change: Change) -> Any:  # noqa: ANN401  # a Format
        found = self._state.all_formats.get(field(change, "format", str))
        if found is None:
            raise _NotMadeError("the format of its external file is known in the sandbox only")
        return found

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
                self._check_again(use, changes)
                stand_in = self._stand_in(use, changes)
            except _NotMadeError as error:
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

    def _check_again(self, use: Fields, changes: list[Change]) -> None:
        """Whether every path still leads where it did: where a test may really write, one may have put a link."""
        if use["kind"] != "ExternalFile" and os.path.realpath(use["file"]) != self._sources[use["file"]].real:
            raise _NotMadeError("it is another file now")
        for change in changes:
            if change["kind"] == "ExternalChange" and use["kind"] == "ExternalFile":
                _refuse_links(Path(use["file"]), Path(use["top"]))
            elif change["kind"] == "ExternalChange":
                self._refuse_links_to(use["file"], change["new"])

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
        source = self._sources[use["file"]]
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
        content.write_bytes(_bytes(change))
        return cls(change["flag"], content, old, new, self._format(change))

    def _made_location(self, place: Fields, path: str) -> Any:  # noqa: ANN401  # an ExternalLocation
        location = self._lib.location.ExternalLocation
        return location(place["storage"], place["stem"], place["suffix"], Path(path), place.get("qualname"), None)


class _NotMadeError(Exception):
    """A change that makes sense, but is not made from a sandbox; the text says why."""


class _Source:
    """A source as executing has read it, and its nodes by number."""

    def __init__(self, source: Any, real: str) -> None:  # noqa: ANN401  # an executing.Source
        if source.tree is None:
            raise _NotMadeError("it cannot be parsed")
        self.source = source
        self.path, self.real = str(source.filename), real
        self.digest = hashlib.sha256(source.text.encode("utf-8", "surrogatepass")).hexdigest()
        self._nodes = list(ast.walk(source.tree))
        self._names = {
            alias.asname or alias.name
            for node in self._nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "inline_snapshot"
            for alias in node.names
        }
        self._modules = {
            alias.asname or alias.name
            for node in self._nodes
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name == "inline_snapshot"
        }

    def node(self, number: object) -> ast.AST:
        """Raises WireError for a number that no node has."""
        if not isinstance(number, int) or not 0 <= number < len(self._nodes):
            raise WireError(f"a source has no node {printable(str(number)[:20])}")
        return self._nodes[number]

    def is_ours(self, call: ast.Call) -> bool:
        """Whether what is called is a name from inline_snapshot."""
        function = call.func
        if isinstance(function, ast.Name):
            return function.id in self._names
        return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in self._modules

    def is_within(self, number: object, call: int | None) -> bool:
        """Whether a node is a call, or in it."""
        node: Any = self.node(number)
        top = self.node(call)
        while node is not None and node is not top:
            node = getattr(node, "parent", None)  # which executing has set
        return node is top


def _location(location: Any) -> Fields | None:  # noqa: ANN401  # a Location
    if type(location).__name__ != "ExternalLocation":
        return None
    names = ("storage", "stem", "suffix", "qualname")
    return {name: getattr(location, name) for name in names} | {"filename": str(location.filename)}


def _refuse_links(path: Path, top: Path) -> None:
    for part in (path, *path.parents):
        if part in (top, Path("/")):
            break
        if part.is_symlink():
            raise _NotMadeError(f"{part} is a symbolic link")


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _codes(change: Change) -> list[str]:
    """The expressions that a change puts into a source. Raises WireError."""
    code = change.get("new_code")
    kind = change["kind"]
    if kind == "Delete":
        return []
    codes: Any = [code]
    if kind == "ListInsert":
        codes = code
    elif kind == "DictInsert" and isinstance(code, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in code):
        codes = [part for pair in code for part in pair]
    if not isinstance(codes, list) or not all(isinstance(part, str) for part in codes):
        raise WireError("new code is no text")
    return codes


def _bytes(change: Change) -> bytes:
    return base64.b64decode(field(change, "content", str), validate=True)
