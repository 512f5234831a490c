"""Who owns which teardown: pytest's SetupState and live fixtures over forks. Imports `planning`.

A child inherits the set-up fixtures of all enclosing scopes and tears down only what it sets up itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from _pytest.compat import NOTSET
from _pytest.fixtures import FixtureDef, SubRequest, TopRequest
from _pytest.nodes import Node
from _pytest.outcomes import TEST_OUTCOME
from _pytest.runner import SetupState

from pytest_sandbox.plugin.builtin.tracebacks import unseen
from pytest_sandbox.plugin.planning.scopes import Need

#: Fixtures whose failure pytest does not cache, and this process does.
_CACHED_HERE: pytest.StashKey[list[FixtureDef[Any]]] = pytest.StashKey()


class Ledger:
    """A plugin that knows every live fixture of the process, and hence what a fork inherits."""

    def __init__(self) -> None:
        self._live: set[FixtureDef[Any]] = set()
        self._of_others: list[object] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: FixtureDef[Any]) -> None:
        """Note a fixture that begins to live, also if its set-up fails: pytest caches the failure.

        No wrapper, which would be a line in the traceback of a fixture's error.
        """
        self._live.add(fixturedef)

    def pytest_fixture_post_finalizer(self, fixturedef: FixtureDef[Any]) -> None:
        """Note its end."""
        self._live.discard(fixturedef)

    def caches(self, error: BaseException) -> bool:
        """Whether pytest raises it again for each test that needs the fixture: it caches what a set-up raises."""
        cached = (one.cached_result for one in self._live)
        return any(result is not None and result[2] is not None and result[2][0] is error for result in cached)

    def standing(self) -> tuple[FixtureDef[Any], ...]:
        """Those that are set up."""
        return tuple(one for one in self._live if one.cached_result is not None and one.cached_result[2] is None)

    def forget(self, session: pytest.Session) -> None:
        """Forget every fixture that is set up: those of the controller's own items (enabled=False) are no sandbox's."""
        self.disown(session)
        _state(session).stack.clear()
        for definition in self._live:
            definition.cached_result = None
        self._live.clear()

    def disown(self, session: pytest.Session) -> None:
        """Run no finalizer that was inherited: the values stay, their owner tears them down.

        They are kept all the same: with the last reference to a fixture's generator Python closes it, which runs its `finally`
        and leaves its `with`.
        """
        state = _state(session)
        for node, (finalizers, problem) in tuple(state.stack.items()):
            self._of_others.append(finalizers)
            state.stack[node] = ([], problem)
        for definition in self._live:
            self._of_others.append(definition._finalizers.copy())
            definition._finalizers.clear()


def _state(session: pytest.Session) -> SetupState:
    return session._setupstate


def enter(session: pytest.Session, node: Node) -> None:
    """Set up the collectors down to `node`; a failure is kept by pytest for every item below, as it does itself."""
    state: Any = _state(session)
    try:
        state.setup(node)  # walks listchain(), which every node has
    except TEST_OUTCOME:
        pass
    except BaseException as error:  # noqa: BLE001  # SystemExit, Ctrl-C: the items are to say so, and not this process
        failed = next(reversed(state.stack))
        state.stack[failed] = (state.stack[failed][0], (error, error.__traceback__))


@unseen
def leave(session: pytest.Session) -> None:
    """Tear down everything that this process has set up."""
    __tracebackhide__ = True
    for definition in session.stash.get(_CACHED_HERE, ()):
        definition.cached_result = None  # as pytest has it: with --setup-show, nothing of it is torn down
    _state(session).teardown_exact(None)


@contextmanager
def keeping(session: pytest.Session, following: pytest.Item | None, kept: pytest.Item | None) -> Iterator[None]:
    """Within: where pytest keeps what `following` needs, it keeps what `kept` needs, which is the next one in this process.

    following: what hooks are told comes next, in whichever process. None: nothing.
    """
    state = _state(session)
    state.teardown_exact = partial(_teardown_exact, state.teardown_exact, following, kept)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del state.teardown_exact


@unseen
def _teardown_exact(
    exact: Callable[[pytest.Item | None], None],
    following: pytest.Item | None,
    kept: pytest.Item | None,
    nextitem: pytest.Item | None,
) -> None:
    __tracebackhide__ = True
    exact(kept if nextitem is following else nextitem)


@unseen
def set_up(item: pytest.Item, need: Need) -> BaseException | None:
    """Set up a fixture of a higher scope here, for an item; the error that it has, if it has one.

    An exception of its own, which pytest caches, pytest.exit()'s too, is raised again and reported in each child that needs it.
    So are SystemExit and KeyboardInterrupt, which pytest does not cache: the fixture has run, and is not to be run once more for
    the same test.
    """
    __tracebackhide__ = True
    request = _request(item)
    if request is None:
        return None
    stack = _state(item.session).stack
    # From pytest 9.2 on, an item must be on the stack to ask for fixtures.
    stack[item] = ([], None)
    try:
        _execute(request, need)
    except BaseException as error:  # noqa: BLE001  # it is raised again where the test's turn has come
        if not isinstance(error, Exception) and need.definition.cached_result is None:
            need.definition.cached_result = (None, need.parameter, (error, error.__traceback__))
            item.session.stash.setdefault(_CACHED_HERE, []).append(need.definition)
        return error
    else:
        return None
    finally:
        del stack[item]
        _forget(item)


class Once:
    """Errors that one test has and no other, for pytest caches none of them: of the end of a fixture's old value, or of a hook.

    Until that test's sandbox is forked they stand in the place of what the fixture is to all others.
    """

    def __init__(self) -> None:
        self._kept: dict[int, list[tuple[FixtureDef[Any], Any]]] = {}

    def raise_in(self, unit: int, need: Need, error: BaseException) -> None:
        """Have it raised where this unit, by index, asks for the fixture."""
        self._kept.setdefault(unit, []).append((need.definition, need.definition.cached_result))
        need.definition.cached_result = (None, need.parameter, (error, error.__traceback__))

    def lacks(self, need: Need) -> bool:
        """Whether there is such an error of a fixture which is then to be set up for others."""
        return any(one is need.definition and before is None for kept in self._kept.values() for one, before in kept)

    def forget_others(self, unit: int) -> None:
        """Be a process of this unit."""
        for other in reversed([one for one in self._kept if one != unit]):  # what was put on last goes first
            self.is_over(other)

    def is_over(self, unit: int) -> None:
        """The unit has its own sandbox."""
        for definition, before in reversed(self._kept.pop(unit, [])):
            definition.cached_result = before


def _request(item: pytest.Item) -> TopRequest | None:
    if not hasattr(item, "_request"):
        return None
    if not item._request:
        item._initrequest()  # type: ignore[attr-defined]
    return item._request  # type: ignore[no-any-return]


def _forget(item: pytest.Item) -> None:
    """Give the item a fresh request: its child shall look every fixture up again."""
    item._initrequest()  # type: ignore[attr-defined]


@unseen
def _execute(request: TopRequest, need: Need) -> None:
    __tracebackhide__ = True
    if need.depth == 0:
        request._get_active_fixturedef(need.name)
        return
    subrequest = SubRequest(request, need.definition._scope, NOTSET, 0, need.definition, _ispytest=True)
    need.definition.execute(subrequest)
