"""Other plugins of the run, found without importing one. Imports pytest only."""

from __future__ import annotations

import sys
from typing import Any

import pytest


def loaded(config: pytest.Config, name: str) -> Any:  # noqa: ANN401  # has no types
    """The module of that name, if it is a plugin of this run, under whatever name there; None if not."""
    module = sys.modules.get(name)
    return module if module is not None and config.pluginmanager.is_registered(module) else None


#: Packages whose items are parts of a document, each of which goes on with what those before it have defined.
_OF_DOCUMENTS = ("sybil",)


def document(item: pytest.Item) -> str | None:
    """The document that an item is a part of, which needs all of it before: an example of sybil's."""
    if type(item).__module__.partition(".")[0] in _OF_DOCUMENTS and item.parent is not None:
        return f"the document {item.parent.nodeid}"
    return None


class SoftFailures:
    """What pytest-check has noted in this process, and makes a report of only when a report is made."""

    @staticmethod
    def _log() -> Any:  # noqa: ANN401  # has no types
        return sys.modules.get("pytest_check.check_log")

    @classmethod
    def any(cls) -> bool:
        """Whether there are some."""
        return bool(getattr(cls._log(), "any_failures", bool)())

    @classmethod
    def forget(cls) -> None:
        """They are somebody else's to tell."""
        getattr(cls._log(), "clear_failures", bool)()


def keep_off() -> None:
    """Have plugins that replace functions wherever a module has imported them leave our modules alone: pyfakefs.

    Its file system of a wider scope would else be the one that sandboxes are made in.
    """
    module = sys.modules.get("pyfakefs.fake_filesystem_unittest")
    skipped = getattr(getattr(module, "Patcher", None), "SKIPMODULES", None)
    if isinstance(skipped, set):
        skipped.update(module for name, module in tuple(sys.modules.items()) if name.partition(".")[0] == "pytest_sandbox")
