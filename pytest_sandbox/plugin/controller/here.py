"""Items that are not sandboxed, which run in the controller itself, between sandboxes: with enabled=False."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from pytest_sandbox.plugin.builtin.generators import Baton, Generators
from pytest_sandbox.plugin.builtin.ledger import keeping
from pytest_sandbox.plugin.builtin.terminal import STATUS
from pytest_sandbox.plugin.controller.returning import ending_forks
from pytest_sandbox.plugin.others import dependency
from pytest_sandbox.primitives.pages import unshared


class Here:
    """Such items find what sandboxes before them left that counts for the whole run, and leave theirs to those after them."""

    def __init__(self, session: pytest.Session, generators: Generators, baton: Baton) -> None:
        self._session, self._generators, self._baton = session, generators, baton
        self._version = 0

    def run(self, index: int, following: int | None, kept: int | None, protocol: Callable[..., object]) -> object:
        """Run an item by this protocol. By index: it, the next one, and the one that fixtures are kept for, see `keeping`."""
        STATUS.take_off()
        item, nextitem = self._session.items[index], self._item(following)
        with self._running(nextitem, self._item(kept)):
            done = protocol(item=item, nextitem=nextitem)
        self._baton.note(dependency.ended_here(item.config, index, item))
        return done

    @contextlib.contextmanager
    def _running(self, nextitem: pytest.Item | None, kept: pytest.Item | None) -> Iterator[None]:
        handed = self._baton.since(self._version)
        self._generators.put(handed)
        dependency.enter(self._session, (handed or {}).get("ends", ()))
        try:
            with unshared(), ending_forks(self._session.config), keeping(self._session, nextitem, kept):
                yield
        finally:
            self._baton.take(self._generators.news())
            self._version = self._baton.version

    def _item(self, index: int | None) -> pytest.Item | None:
        return None if index is None else self._session.items[index]
