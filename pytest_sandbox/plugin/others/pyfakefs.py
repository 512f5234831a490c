"""pyfakefs: whose file system must not be ours. Imports nothing."""

from __future__ import annotations

import sys


def keep_off() -> None:
    """Have plugins that replace functions wherever a module has imported them leave our modules alone: pyfakefs.

    Its file system of a wider scope would else be the one that sandboxes are made in.
    """
    module = sys.modules.get("pyfakefs.fake_filesystem_unittest")
    skipped = getattr(getattr(module, "Patcher", None), "SKIPMODULES", None)
    if isinstance(skipped, set):
        skipped.update(module for name, module in tuple(sys.modules.items()) if name.partition(".")[0] == "pytest_sandbox")
