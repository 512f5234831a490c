"""What the sandboxes of a run used in all, by kind: properties of junit's suite. Imports `report`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from pytest_sandbox.model.outcome import Made, Usage
from pytest_sandbox.plugin.builtin import junit
from pytest_sandbox.plugin.reporting.report import properties_of_many

#: Of tests, of wider fixtures, and what tests have made by `sandbox_factory`.
_Kind = Literal["sandboxes", "scopes", "made"]


class Totals:
    """Figures of all that has ended so far; none where nobody reads them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_read = bool(getattr(config.option, "xmlpath", None))  # a worker of pytest-xdist has its controller's options
        self._found: dict[_Kind, Made] = {}

    def add(self, kind: _Kind, more: Made) -> None:
        """Some more."""
        if not self._is_read:
            return
        before = self._found.get(kind)
        self._found[kind] = more if before is None else before.and_then(more)

    def to_plain(self) -> dict[str, object]:
        """The same as plain data, for the controller of pytest-xdist."""
        plain = {kind: dataclasses.asdict(dataclasses.replace(found.usage, missing={})) for kind, found in self._found.items()}
        return {kind: [self._found[kind].count, usage] for kind, usage in plain.items()}

    def add_worker(self, plain: Mapping[_Kind, Any]) -> None:
        """Those of a worker too."""
        for kind, (count, usage) in plain.items():
            self.add(kind, Made(count, Usage(**usage)))

    def note(self) -> None:
        """Put them into junit's suite. To be called once, when all have ended and before that is written."""
        for kind, found in self._found.items():
            junit.add_to_suite(self._config, properties_of_many(kind, found))
