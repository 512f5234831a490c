"""Plain values over the wire: what JSON has, and tuples, sets, bytes and infinity besides. Pure; imports nothing of the package.

No pickle: a value from a sandbox must not be able to run anything where it arrives.
"""

from __future__ import annotations

import base64
import math
from typing import Any

_TAG = "$"


def pack(value: object) -> Any:  # noqa: ANN401  # what JSON takes
    """A form that JSON keeps; TypeError names a value that is not plain data."""
    if type(value) is float and not math.isfinite(value):
        return {_TAG: "float", "of": repr(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [pack(part) for part in value]
    if type(value) is dict:
        return {_TAG: "dict", "of": [[pack(key), pack(part)] for key, part in value.items()]}
    if type(value) in (tuple, set, frozenset):
        return {_TAG: type(value).__name__, "of": [pack(part) for part in value]}  # type: ignore[attr-defined]
    if type(value) is bytes:
        return {_TAG: "bytes", "of": base64.b64encode(value).decode("ascii")}
    raise TypeError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot leave a sandbox: only None, bool, int, float, str, "
        "bytes, and lists, tuples, sets and dicts of those can. Fix: return such a value, or write a file"
    )


_MAKERS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def unpack(form: object) -> Any:  # noqa: ANN401  # what was packed
    """The value of a form that `pack` made; ValueError for any other."""
    if isinstance(form, list):
        return [unpack(part) for part in form]
    if not isinstance(form, dict):
        return form
    kind, content = form.get(_TAG), form.get("of")
    try:
        if kind == "dict":
            return {unpack(key): unpack(part) for key, part in content}  # type: ignore[union-attr]
        if kind == "float":
            return float(str(content))
        if kind == "bytes":
            return base64.b64decode(str(content), validate=True)
        return _MAKERS[str(kind)](unpack(part) for part in content)  # type: ignore[union-attr]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"not a packed value: {str(kind)[:50]!r}: {type(error).__name__}") from None
