"""Plugins other than pytest's own, a module each; and how to find one without importing it. Imports `builtin` and below."""

from __future__ import annotations

import sys
from typing import Any

import pytest


def loaded(config: pytest.Config, name: str) -> Any:  # noqa: ANN401  # has no types
    """The module of that name, if it is a plugin of this run, under whatever name there; None if not."""
    module = sys.modules.get(name)
    return module if module is not None and config.pluginmanager.is_registered(module) else None
