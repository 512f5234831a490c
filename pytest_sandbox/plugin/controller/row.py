"""The units that have begun and are not reported, in order: each is reported when its outcome is known and all before it is."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

import pytest

from pytest_sandbox.plugin.builtin.interruption import is_stopping
from pytest_sandbox.plugin.builtin.terminal import STATUS
from pytest_sandbox.plugin.controller.telling import Telling
from pytest_sandbox.primitives.interrupts import deferred


class Row:
    """The first of `units` is the one whose turn it is to be reported, the last the one whose turn it is to run."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self.units: deque[Telling] = deque()

    @property
    def is_stopping(self) -> bool:
        """Whether the run is to end."""
        return is_stopping(self._session)

    def news(self) -> None:
        """Some unit has said something: report what can be, in order."""
        STATUS.take_off()
        with self.reporting():
            self._report()

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Within: reports are fired, with Ctrl-C held back. Where a hook raises, what has run since did not happen."""
        with deferred():
            try:
                yield
            except BaseException:
                self._drop_after(None)
                raise

    def _report(self) -> None:
        while self.units:
            told = self.units[0]
            told.report_finished()
            if self.is_stopping:
                if not told.over and told.position < len(told.items):
                    told.kill()
                return
            told.showing.its_turn()
            told.announce()
            if len(self.units) == 1 or not told.over:
                return
            told.showing.report_all_but_last()
            if self.is_stopping:  # its teardown takes along what scopes have to say at theirs, see `take_last`
                self._drop_after(told)
                return
            self.units.popleft()
            told.showing.report_last()
            if self.is_stopping:
                self._drop_after(None)

    def _drop_after(self, last: Telling | None) -> None:
        """What has run since did not happen."""
        for later in self.units:
            if later is not last:
                later.kill()
        self.units.clear()
        if last is not None:
            self.units.append(last)

    def take_last(self) -> Telling | None:
        """All have run: report them, but for the last teardown, to which scopes may add that close now. None: there are none."""
        STATUS.take_off()
        with self.reporting():
            self._report()
            if not self.units:
                return None
            while len(self.units) > 1:  # only where a stop was asked for: what ran after that did not happen
                self.units.pop()
            told = self.units.popleft()
            told.showing.its_turn()
            told.showing.report_all_but_last()
        return told
