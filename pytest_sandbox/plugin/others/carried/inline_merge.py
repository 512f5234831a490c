"""What becomes of one inline snapshot that several tests have used, each in a process of its own. Imports nothing of pytest.

inline-snapshot sees all uses of a snapshot in one process, and lets them agree on a change of the source. Here each process has
said which changes its own uses ask for; a list without changes says that the snapshot is right as it is. A change is what
`inline_snapshot` (the module beside) sends: a dict with its kind, its flag (create, fix, trim, update), the node and new code.

    trim      only what all agree on: what one test does not use, another may
    <=, >=    the bound that all uses allow
    in        all elements; [key]: all keys
    ==        the first test's value, as in one process, where the second test fails
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

Change = dict[str, Any]
Changes = list[Change]

#: What of a change says where it is made.
_PLACE = ("kind", "node", "arg_pos", "arg_name", "position", "module", "name")


def merge(operation: str, lists: Sequence[Changes]) -> tuple[Changes, bool]:
    """One list of changes, and whether something that a test asked for is not in it."""
    distinct = list({json.dumps(changes, sort_keys=True): changes for changes in lists}.values())
    if len(distinct) == 1:
        return distinct[0], False
    if any(change["kind"] == "ExternalChange" for changes in distinct for change in changes):
        return distinct[0], len({_without_names(changes) for changes in distinct}) > 1
    if operation in ("MinValue", "MaxValue"):
        return _merge_bounds(operation, distinct)
    if operation == "EqValue":
        return distinct[0], True
    trims = [change for change in distinct[0] if change["flag"] == "trim" and all(change in other for other in distinct)]
    others: dict[str, Change] = {}
    lossy = False
    for change in (change for changes in distinct for change in changes if change["flag"] != "trim"):
        target = json.dumps([change.get(name) for name in _PLACE])
        if target not in others:
            others[target] = dict(change)
        elif not _join(others[target], change):
            lossy = True
    return [*trims, *others.values()], lossy


def _without_names(changes: Changes) -> str:
    """The contents of the external files that changes write; their names are drawn by lot."""
    return json.dumps([change.get("content") for change in changes if change["kind"] == "ExternalChange"])


def _merge_bounds(operation: str, distinct: Sequence[Changes]) -> tuple[Changes, bool]:
    beyond = [changes for changes in distinct if any(change["flag"] in ("fix", "create") for change in changes)]
    if not beyond and any(not any(change["flag"] == "trim" for change in changes) for changes in distinct):
        return [], False  # some use is at the bound
    candidates = beyond or distinct
    try:
        values = [_bound(changes) for changes in candidates]
        best = (min if operation == "MinValue" else max)(values)
        return candidates[values.index(best)], False
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return (candidates[0], True) if beyond else ([], True)


def _bound(changes: Changes) -> Any:  # noqa: ANN401  # a literal
    codes = [change["new_code"] for change in changes if change["kind"] in ("Replace", "CallArg")]
    if len(codes) != 1:
        raise ValueError("no single bound")
    return ast.literal_eval(codes[0])


def _join(known: Change, change: Change) -> bool:
    """Add to a change what another one wants at the same place; False if only one can be had."""
    if known["kind"] == "ListInsert":
        known["new_code"] = list(dict.fromkeys([*known["new_code"], *change["new_code"]]))
        return True
    if known["kind"] == "DictInsert":
        pairs = dict(reversed([*known["new_code"], *change["new_code"]]))
        known["new_code"] = [
            [key, pairs[key]] for key in dict.fromkeys(key for key, _ in [*known["new_code"], *change["new_code"]])
        ]
        return all(pairs[key] == value for key, value in change["new_code"])
    if known == change or known.get("new_code") == change.get("new_code"):
        return True
    # The argument of snapshot(): below it nothing says whether a list is one of elements or one to be compared.
    joined = _join_code(known["new_code"], change["new_code"]) if known["kind"] == "CallArg" else None
    if joined is None:
        return False
    known["new_code"] = joined
    return True


def _join_code(first: str, second: str) -> str | None:
    """One list or dictionary of two that are written out; None for anything else, and where values of a key differ."""
    one, two = ast.parse(first.strip(), mode="eval").body, ast.parse(second.strip(), mode="eval").body
    if isinstance(one, ast.List) and isinstance(two, ast.List):
        return f"[{', '.join(dict.fromkeys(map(ast.unparse, [*one.elts, *two.elts])))}]"
    if not isinstance(one, ast.Dict) or not isinstance(two, ast.Dict) or None in [*one.keys, *two.keys]:
        return None
    found: dict[str, str] = {}
    for key, value in zip([*one.keys, *two.keys], [*one.values, *two.values], strict=True):
        name, code = ast.unparse(key), ast.unparse(value)  # type: ignore[arg-type]  # None was looked for above
        if found.setdefault(name, code) != code:
            return None
    return "{" + ", ".join(f"{key}: {value}" for key, value in found.items()) + "}"
