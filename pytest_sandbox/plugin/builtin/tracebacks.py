"""What pytest shows of a traceback that leads through this plugin. Imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def unseen(function: _Function) -> _Function:
    """Have it be generated code for pytest: where that leaves nothing of a traceback, it shows the whole, and not only this."""
    function.__code__ = function.__code__.replace(co_filename="<pytest-sandbox>")
    return function
