"""What a sandbox asks inline-snapshot to change, checked before anything is done with it. Imports `base`.

A change is made only to the arguments of a call, of this test's own file or of a name that comes from inline_snapshot, in the
project; and new code is an expression. An external file is written only where its storage puts it, an `external_file()` only
below the directory of the test's file, with a suffix that inline-snapshot knows.
"""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.model.texts import printable

from .base import Fields, field, rows
from .inline_merge import Change

KINDS = ("SnapshotReference", "SnapshotArgReference", "External", "ExternalFile")
_FLAGS = ("create", "fix", "trim", "update")
#: The kinds of changes, and what is sent of each beside its kind and flag.
CHANGES = {
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


class NotMadeError(Exception):
    """A change that makes sense, but is not made from a sandbox; the text says why."""


class Source:
    """A source as executing has read it, and its nodes by number."""

    def __init__(self, source: Any, real: str) -> None:  # noqa: ANN401  # an executing.Source
        if source.tree is None:
            raise NotMadeError("it cannot be parsed")
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


class Checks:
    """Of what sandboxes say of the snapshots of a project; remembers its sources."""

    def __init__(self, root: str, lib: Any) -> None:  # noqa: ANN401  # foreign
        """root: the project's directory, without links."""
        self._root, self._lib = root, lib
        self._sources: dict[str, Source] = {}

    @property
    def _state(self) -> Any:  # noqa: ANN401  # a State
        return self._lib.globals.state()

    def check(self, item: pytest.Item, use: Fields) -> str | None:
        """Raise WireError for what no sandbox of ours says. Returns why a change that makes sense is not made, None if it is.

        "" for what asks for no change, and stands in no source of this project.
        """
        kind, path, line = field(use, "kind", str), field(use, "file", str), field(use, "line", int)
        node, digest = field(use, "node", int, type(None)), field(use, "source", str)
        field(use, "operation", str)
        changes = rows(use, "changes")
        if kind not in KINDS:
            raise WireError(f"{printable(kind)} is no kind of snapshot")
        for change in changes:
            known = CHANGES.get(field(change, "kind", str))
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
        except NotMadeError as error:
            if not changes:
                return ""
            return f"{printable(path)}:{line}: --sandbox: {error}. Fix: @pytest.mark.sandbox(enabled=False), or --no-sandbox"
        except (SyntaxError, ValueError, RecursionError, MemoryError, binascii.Error) as error:
            raise WireError(f"a change of an inline snapshot is none: {error!r}") from error
        return None

    def _source(self, item: pytest.Item, path: str) -> Source:
        """The source of a path. NotMadeError for what is none of the project's."""
        if path not in self._sources:
            real = os.path.realpath(path)
            parts = os.path.relpath(real, self._root).split(os.sep)
            foreign = any(part.startswith(".") or part == "site-packages" for part in parts) and path != str(item.path)
            if foreign or not path.endswith(".py") or not os.path.isfile(real):
                raise NotMadeError("it is no source of this project")
            self._sources[path] = Source(self._lib.executing.Source.for_filename(path), real)
        return self._sources[path]

    def _check_call(self, item: pytest.Item, use: Fields, source: Source, digest: str) -> None:
        if source.digest != digest:
            raise NotMadeError("the test has seen another source than there is")
        if None in (use["node"], *(change.get("node", 0) for change in use["changes"])):
            raise NotMadeError("its place in the source is not known")
        kind, changes, call = use["kind"], use["changes"], source.node(use["node"])
        if not isinstance(call, ast.Call):
            raise WireError("a snapshot is no call")
        if changes and source.path != str(item.path) and (kind == "SnapshotArgReference" or not source.is_ours(call)):
            raise NotMadeError("it stands in another file than the test, and is no call of a name imported from inline_snapshot")
        for change in changes:
            self._check_change(source, use["node"], change)

    def _check_change(self, source: Source, call: int | None, change: Change) -> None:
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
    def _check_code(source: Source, change: Change) -> None:
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

    def _check_external(self, source: Source, change: Change) -> None:
        content_of(change)
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
        self.format_of(change)
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
            content_of(change)
            self.format_of(change)
            if not target.is_relative_to(top) or target.suffix not in self._state.all_formats:
                raise NotMadeError(f"external_file() is written only below {top}, with a suffix of inline-snapshot's")
            if any(part.startswith(".") for part in target.relative_to(top).parts):
                raise NotMadeError("external_file() is not written where a name begins with a dot")
            _refuse_links(target, top)

    def source_of(self, path: str) -> Source:
        """That of a use that was checked."""
        return self._sources[path]

    def format_of(self, change: Change) -> Any:  # noqa: ANN401  # a Format
        """That of an external change. Raises NotMadeError where only the sandbox knew it."""
        found = self._state.all_formats.get(field(change, "format", str))
        if found is None:
            raise NotMadeError("the format of its external file is known in the sandbox only")
        return found

    def check_again(self, use: Fields, changes: list[Change]) -> None:
        """Whether every path still leads where it did: where a test may really write, one may have put a link."""
        if use["kind"] != "ExternalFile" and os.path.realpath(use["file"]) != self._sources[use["file"]].real:
            raise NotMadeError("it is another file now")
        for change in changes:
            if change["kind"] == "ExternalChange" and use["kind"] == "ExternalFile":
                _refuse_links(Path(use["file"]), Path(use["top"]))
            elif change["kind"] == "ExternalChange":
                self._refuse_links_to(use["file"], change["new"])


def _refuse_links(path: Path, top: Path) -> None:
    for part in (path, *path.parents):
        if part in (top, Path("/")):
            break
        if part.is_symlink():
            raise NotMadeError(f"{part} is a symbolic link")


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


def content_of(change: Change) -> bytes:
    """What an external change writes. Raises binascii.Error, a ValueError."""
    return base64.b64decode(field(change, "content", str), validate=True)
