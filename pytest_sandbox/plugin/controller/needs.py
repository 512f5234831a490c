"""What units need of the scopes above them as things are: nothing that comes after what failed, or that each sets up itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import pytest
from _pytest.nodes import Node

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.plugin.builtin import marks
from pytest_sandbox.plugin.controller.scope import Scope, Unrunnable
from pytest_sandbox.plugin.planning.scopes import Need, Unit


class Needs:
    """Those of a run. scopes: the open ones, outermost first.

    in_order: units come in the order of `units`. Otherwise which of them come, and when, is not known.
    """

    def __init__(self, session: pytest.Session, units: Sequence[Unit], scopes: Sequence[Scope], *, in_order: bool) -> None:
        self._session, self._units, self._scopes, self._in_order = session, units, scopes, in_order
        self._index = {id(unit): index for index, unit in enumerate(units)}
        self._needed: dict[int, tuple[Need, ...]] = {}
        self._broken: dict[int, Unrunnable] = {}
        self._unshared: set[int] = set()
        self._skipped: dict[int, bool] = {}

    def index(self, unit: Unit) -> int:
        """Which of the units it is."""
        return self._index[id(unit)]

    def at(self, unit: int, need: int) -> Need:
        """One of a unit's, both by index. Raises WireError where there is none: a sandbox has named it."""
        if not (0 <= unit < len(self._units) and 0 <= need < len(self._units[unit].above)):
            raise WireError(f"there is no need {need} of unit {unit}")
        return self._units[unit].above[need]

    def is_broken(self, need: Need) -> bool:
        """Whether a scope has died of it."""
        return id(need.definition) in self._broken

    def why_broken(self, unit: Unit) -> Unrunnable | None:
        """Why a unit cannot be run, where a scope has died of a fixture that it needs."""
        return next((self._broken[id(need.definition)] for need in self.of(unit) if self.is_broken(need)), None)

    def prepare(self, scope: Scope, units: Iterable[tuple[Unit, int]]) -> list[tuple[int, int, list[int]]]:
        """What a scope must set up before a sandbox is forked from it, noted as had from now on: see `inside.scope._prepare`.

        units: each with the first item of it that is to run. Of those that share a sandbox each has set up what it is the first
        to ask for.
        For the first unit all that it needs. For later ones (that will use a scope to be opened now) what they need
        besides: after the fork the scope must stay as it is, since an overlay's lower layer must not change.
        """
        wanted, added, seen = [], dict[int, Need](), set[tuple[int, ...]]()
        for position, (unit, item) in enumerate(units):
            needs = self.within_reach(unit)
            first = position == 0
            if first and any(need.node is scope.node and scope.differs(need) for _, need in needs):
                # Another parameter: whatever stands on it goes with it. What does not is found in place when it is asked for.
                scope.has.clear()
            due = [(index, need) for index, need in needs if self._is_due(scope, need) and _suits(need, added)]
            # The same again where something else is needed before: that may fail, or this may after what an earlier unit needs.
            kind = tuple(id(need.definition) for _, need in needs)
            if due and kind not in seen:
                seen.add(kind)
                its = self._by_item(unit, item, [index for index, _ in due])
                wanted += [(self._index[id(unit)], asker, indexes) for asker, indexes in its]
                added.update((id(need.definition), need) for _, need in due)
        scope.has.update((key, need.parameter) for key, need in added.items())
        return wanted

    def _by_item(self, unit: Unit, item: int, indexes: Sequence[int]) -> list[tuple[int, list[int]]]:
        """These needs of a unit by who is the first to ask for them, from this item on: no mark skips him."""
        found = dict[int, list[int]]()
        for index in indexes:
            asker = next((one for one in unit.asked[index] if one >= item and not self._is_skipped(one)), item)
            found.setdefault(asker, []).append(index)
        return sorted(found.items())

    def _is_skipped(self, index: int) -> bool:
        if index not in self._skipped:
            self._skipped[index] = _is_skipped(self._session.items[index])
        return self._skipped[index]

    def _is_due(self, scope: Scope, need: Need) -> bool:
        key = id(need.definition)
        known = key in scope.has or self.is_broken(need) or key in self._unshared
        return need.node is scope.node and not known

    def lacks(self, scope: Scope, need: Need) -> bool:
        """Whether a scope would have to change for it."""
        return id(need.definition) not in self._unshared and scope.lacks(need)

    def later(self, unit: Unit, node: Node) -> Iterator[tuple[Unit, int]]:
        """Units that lie below the same node and may come after this one, for as long as they lie one after the other."""
        here = self._index[id(unit)]
        before = () if self._in_order else reversed(self._units[:here])
        for direction in (self._units[here + 1 :], before):
            for later in direction:
                if node not in self.ancestors(later.items[0]):
                    break
                yield later, later.items[0]

    def first_to_run(self, unit: Unit, node: Node, item: int) -> tuple[int, int]:
        """Of the items below a node, from this one of a unit on, the first that no mark skips, with its unit, by indexes.

        If all are skipped, this one.
        """
        own = ((unit, index) for index in unit.items if index >= item)
        below = chain(own, ((later, index) for later, _ in self.later(unit, node) for index in later.items))
        found, first = next(((its, index) for its, index in below if not self._is_skipped(index)), (unit, item))
        return self.index(found), first

    def ancestors(self, item: int) -> list[Node]:
        """The collectors of an item, by index, and itself."""
        return list(self._session.items[item].listchain())

    def of(self, unit: Unit) -> tuple[Need, ...]:
        """What is to be set up for a unit in its scopes: nothing where marks say that none of its items will run."""
        known = self._needed.get(id(unit))
        if known is None:
            skipped = all(map(self._is_skipped, unit.items))
            known = self._needed[id(unit)] = () if skipped else unit.above
        return known

    def within_reach(self, unit: Unit) -> list[tuple[int, Need]]:
        """What is to be set up for a unit as things are, with indexes: for none of its items anything after what has failed."""
        needs = list(enumerate(self.of(unit)))
        scopes = {scope.node: scope for scope in self._scopes if scope.failed}
        if not scopes:
            return needs
        found, done = list[tuple[int, Need]](), set[int]()
        for index, need in needs:
            askers = [item for item in unit.asked[index] if item not in done]
            if need.node in scopes and scopes[need.node].has_failed(need):
                done.update(askers)
            elif askers:
                found.append((index, need))
        return found

    def unshare(self, name: str, node: Node, setting_up: str) -> Need | None:
        """Leave a fixture of this name at a node, or else the one being set up, to each sandbox that needs it; which one that is.

        So is what depends on it.
        """
        needs = {id(need.definition): need for need in self._all()}
        if (name, node) not in {(need.name, need.node) for need in needs.values()}:
            name = setting_up  # one that is asked for at run time is known to nobody
        names = {name}
        while added := {need.name for need in needs.values() if names.intersection(need.definition.argnames)} - names:
            names |= added
        self._unshared |= {key for key, need in needs.items() if need.name in names}
        return next((need for need in needs.values() if (need.name, need.node) == (name, node)), None)

    def give_up(self, name: str, node: Node, problem: Unrunnable) -> None:
        """Nobody has a fixture of this name at a node set up again: a scope has died of it."""
        guilty = {id(need.definition) for need in self._all() if (need.name, need.node) == (name, node)} - self._unshared
        self._broken |= dict.fromkeys(guilty, problem)

    def _all(self) -> Iterator[Need]:
        return (need for unit in self._units for need in self.of(unit))


def _suits(need: Need, added: Mapping[int, Need]) -> bool:
    """Whether nobody has the same fixture set up with another parameter."""
    other = added.get(id(need.definition))
    return other is None or need.has(other.parameter)


def _is_skipped(item: pytest.Item) -> bool:
    """Whether marks say that it will not run."""
    if marks.skips(item):
        return True
    expected = None if item.config.getoption("runxfail", False) else marks.expected_failure(item)
    return expected is not None and not expected.run
