"""Other plugins of the run, found without importing one. Imports pytest only."""

from __future__ import annotations

import sys
from typing import Any

import pytest


def loaded(config: pytest.Config, name: str) -> Any:  # noqa: ANN401  # has no types
    """The module of that name, if it is a plugin of this run, under whatever name there; None if not."""
    module = sys.modules.get(name)
    return module if module is not None and config.pluginmanager.is_registered(module) else None


def keep_off() -> None:
    """Have plugins that replace functions wherever a module has imported them leave our modules alone: pyfakefs.

    Its file system of a wider scope would else be the one that sandboxes are made in.
    """
    module = sys.modules.get("pyfakefs.fake_filesystem_unittest")
    skipped = getattr(getattr(module, "Patcher", None), "SKIPMODULES", None)
    if isinstance(skipped, set):
        skipped.update(module for name, module in tuple(sys.modules.items()) if name.partition(".")[0] == "pytest_sandbox")
