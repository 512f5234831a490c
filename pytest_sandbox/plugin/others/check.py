"""pytest-check: failures that do not end a test. Imports nothing."""

from __future__ import annotations

import sys
from typing import Any


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
