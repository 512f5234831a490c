"""Which items share what: the chain of scope sandboxes that an item needs, and the units that run in one sandbox each.

Reads pytest's collection (nodes, fixture closures), runs nothing. The rules are those of `_pytest.fixtures.SubRequest`:
a fixture lives at the node of its scope; a parametrized argument may override its scope.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from _pytest.fixtures import FixtureDef, get_scope_node, get_scope_package
from _pytest.nodes import Node
from _pytest.scope import Scope as FixtureScope

from pytest_sandbox.model.spec import Spec
from pytest_sandbox.plugin.planning.resolve import Plan, Scope

_XUNIT = re.compile(r"\b(setup_module|setUpModule|teardown_module|tearDownModule)\b")
#: Of an item: fixtures that it may come to ask for, by name, the dearest first; see `others.asked`.
LATER: pytest.StashKey[dict[str, Sequence[FixtureDef[Any]]]] = pytest.StashKey()
_HAS_SETUP: pytest.StashKey[bool] = pytest.StashKey()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Need:
    """A fixture above function scope that an item needs: where it lives, and with which parameter (None: it has none).

    depth: how many definitions of the same name lie closer to the item (an override that asks for what it overrides).
    """

    name: str
    node: Node
    definition: FixtureDef[Any]
    depth: int
    parameter: object

    def has(self, parameter: object) -> bool:
        """Whether the parameter is this one, as `FixtureDef.execute` asks."""
        try:
            return bool(self.parameter == parameter)
        except Exception:  # noqa: BLE001  # of numpy's arrays, or of whatever else a parameter is
            return self.parameter is parameter


def needs(item: pytest.Item) -> tuple[Need, ...]:
    """The item's fixtures above function scope, in the order in which pytest sets them up."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return ()
    later = item.stash.get(LATER, {})
    return tuple(_needs(item, (*item.fixturenames, *later), {**later, **info.name2fixturedefs}))  # type: ignore[attr-defined]


def _needs(item: pytest.Item, names: Iterable[str], known: _Known) -> Iterator[Need]:
    callspec: Any = getattr(item, "callspec", None)
    for name in names:
        definitions = known.get(name) or ()
        for depth, definition in enumerate(reversed(definitions)):
            overridden = depth == 0 and callspec is not None and name in callspec.params
            scope = callspec._arg2scope[name] if overridden else definition._scope
            node = _node(item, scope, definition, known)
            if node is not None and node is not item:
                yield Need(name, node, definition, depth, callspec.params[name] if overridden else None)
            if name not in definition.argnames:  # does not ask for what it overrides
                break


_Known = dict[str, Sequence[FixtureDef[Any]]]


def _node(item: pytest.Item, scope: FixtureScope, definition: FixtureDef[Any], known: _Known) -> Node | None:
    if scope is FixtureScope.Function:
        return None
    if scope is FixtureScope.Package:
        return _package(item, definition, known)
    return get_scope_node(item, scope)


def _package(item: pytest.Item, definition: FixtureDef[Any], known: _Known) -> Node | None:
    """Where a fixture of a package lives: the session, if it is defined elsewhere; but not longer than one that it asks for."""
    node = get_scope_package(item, definition)
    if node is not item.session:
        return node
    asked, seen = [definition], {definition}
    for one in asked:  # which grows meanwhile
        more = {known[name][-1] for name in one.argnames if known.get(name)} - seen
        asked += [other for other in more if other._scope is FixtureScope.Package]
        seen |= more
    return max((get_scope_package(item, one) for one in asked), key=lambda found: 0 if found is None else len(found.listchain()))


def has_setup(node: Node) -> bool:
    """Whether a collector has a setup or teardown of its own, to be run once: a package's `setup_module`, a plugin's node."""
    if _HAS_SETUP not in node.stash:
        node.stash[_HAS_SETUP] = _has_setup(node)
    return node.stash[_HAS_SETUP]


def _has_setup(node: Node) -> bool:
    if isinstance(node, pytest.Package):
        try:
            text = (node.path / "__init__.py").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return bool(_XUNIT.search(text))
    own = type(node).setup, type(node).teardown
    return not all(function.__module__.startswith("_pytest.") for function in own)


def nodes(items: Iterable[pytest.Item], needed: Iterable[Sequence[Need]]) -> frozenset[Node]:
    """The nodes that get a sandbox of their own, since something is set up there for one of the items at least."""
    found = {need.node for needs_ in needed for need in needs_}
    for collector in {node for item in items for node in item.listchain()[:-1]}:
        if isinstance(collector, pytest.Session) or has_setup(collector):
            found.add(collector)
    return frozenset(found)


def chain(item: pytest.Item, own: frozenset[Node]) -> tuple[Node, ...]:
    """The sandboxes above an item, outermost first: also those of nodes where only its neighbours have fixtures.

    What is set up there is then up for this item too, as in plain pytest, and it is forked from the same process.
    """
    return tuple(node for node in item.listchain()[:-1] if node in own)


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """Items that run one after the other in one sandbox, forked from the last of `chain`.

    items: indexes into the session's items. above: those of their needs that live in `chain`, not in the sandbox itself.
    asked: for each of these, whose they are, of the items.
    """

    items: tuple[int, ...]
    chain: tuple[Node, ...]
    above: tuple[Need, ...]
    asked: tuple[tuple[int, ...], ...]
    spec: Spec
    can_spawn: bool = False


_SCOPE_NODES: dict[Scope, type[Node]] = {
    Scope.CLASS: pytest.Class,
    Scope.MODULE: pytest.Module,
    Scope.PACKAGE: pytest.Directory,  # a directory without __init__.py is as good
    Scope.SESSION: pytest.Session,
}


def _shared(item: pytest.Item, plan: Plan) -> object:
    """What all items of one sandbox have in common; None for an item that has its own."""
    if plan.group is not None:
        return ("group", plan.group, plan.spec)
    node = _limit(item, plan)
    return None if node is None else ("scope", node, plan.spec)


def _limit(item: pytest.Item, plan: Plan) -> Node | None:
    """The node at and below which fixtures are set up in the shared sandbox itself."""
    if plan.group is not None or plan.scope is Scope.TEST:
        return None
    return item.getparent(_SCOPE_NODES[plan.scope])


def units(items: Sequence[pytest.Item], plans: Sequence[Plan]) -> list[Unit | int]:
    """The run, in order: units, and indexes of items that are not sandboxed. A group runs where its first item is."""
    order: list[list[int]] = []
    shared: dict[object, list[int]] = {}
    for index, (item, plan) in enumerate(zip(items, plans, strict=True)):
        key = _shared(item, plan) if plan.enabled else None
        members = shared.get(key) if key is not None else None
        if members is None:
            order.append(members := [])
            if key is not None:
                shared[key] = members
        members.append(index)
    sandboxed = [index for index, plan in enumerate(plans) if plan.enabled]
    needed = {index: needs(items[index]) for index in sandboxed}
    own = nodes([items[index] for index in sandboxed], needed.values())
    chains = {index: chain(items[index], own) for index in sandboxed}
    return [_unit(items, plans, members, needed, chains) if plans[members[0]].enabled else members[0] for members in order]


def _unit(
    items: Sequence[pytest.Item],
    plans: Sequence[Plan],
    members: Sequence[int],
    needed: Mapping[int, tuple[Need, ...]],
    chains: Mapping[int, tuple[Node, ...]],
) -> Unit:
    first, plan = items[members[0]], plans[members[0]]
    common = chains[members[0]]
    for index in members[1:]:
        other = set(chains[index])
        common = tuple(node for node in common if node in other)
    limit = _limit(first, plan)
    if limit is not None and not isinstance(limit, pytest.Session):
        inside = set(first.listchain()[first.listchain().index(limit) :])
        common = tuple(node for node in common if node not in inside)
    elif isinstance(limit, pytest.Session):
        common = common[:1]
    above, asked = dict[int, Need](), dict[int, list[int]]()
    for index in members:
        for need in needed[index]:
            # Where two members want different parameters of one fixture, the sandbox itself goes through them.
            if need.node in common and not _varies(need, members, needed) and not isinstance(limit, pytest.Session):
                above[id(need.definition)] = need
                asked.setdefault(id(need.definition), []).append(index)
    spawns = any("sandbox_factory" in getattr(items[index], "fixturenames", ()) for index in members)
    return Unit(tuple(members), common, tuple(above.values()), tuple(map(tuple, asked.values())), plan.spec, spawns)


def _varies(need: Need, members: Sequence[int], needed: Mapping[int, tuple[Need, ...]]) -> bool:
    if need.parameter is None or len(members) == 1:
        return False
    same = (other for index in members for other in needed[index] if other.definition is need.definition)
    return not all(other.has(need.parameter) for other in same)
