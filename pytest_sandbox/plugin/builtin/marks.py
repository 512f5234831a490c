"""What marks say of an item, asked beside the item's own set-up. Imports pytest only.

A mark's condition is foreign code: it may warn, raise, or leave. The item will say so itself, when it evaluates it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import pytest
from _pytest.skipping import Skip, Xfail, evaluate_skip_marks, evaluate_xfail_marks

Found = TypeVar("Found", Skip, Xfail)


def skips(item: pytest.Item) -> bool:
    """Whether it is skipped."""
    return _quietly(evaluate_skip_marks, item) is not None


def expected_failure(item: pytest.Item) -> Xfail | None:
    """How it is expected to fail, if it is."""
    return _quietly(evaluate_xfail_marks, item)


def _quietly(evaluate: Callable[[pytest.Item], Found | None], item: pytest.Item) -> Found | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return evaluate(item)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  # SystemExit, too
            return None
