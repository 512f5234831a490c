"""Units whose sandboxes are made before it is their turn: held until then, or, with several jobs, let run already.

A unit is made ready only if the tree need not change for it, so that it is what it would have been if made in time. What has run
before its turn is reported when that comes, and did not happen where the run stops before. Knows nothing of reports.

    made -> held -> [let run] -> taken
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence

from pytest_sandbox.plugin.controller.admission import Admission
from pytest_sandbox.plugin.controller.telling import Telling
from pytest_sandbox.plugin.controller.tree import Tree
from pytest_sandbox.plugin.planning.scopes import Unit
from pytest_sandbox.sandbox.outside.supervisor import Supervisor

#: How many sandboxes are held ready: to make one takes longer than a short test.
HELD = 2
#: How far ahead of the one whose turn it is one may run: what it has to report waits in memory.
FARTHEST = 256


class Ahead:
    """Those that were made and not yet taken. jobs: how many may run at once, with the one whose turn it is.

    counts_failures: whether the run stops at a number of them, of which the items of a shared sandbox must know all before.
    """

    def __init__(
        self,
        make: Callable[[Unit], Telling | None],
        tree: Tree,
        supervisor: Supervisor,
        admission: Admission,
        *,
        jobs: int,
        counts_failures: bool,
    ) -> None:
        self._make, self._tree, self._supervisor, self._admission = make, tree, supervisor, admission
        self._jobs, self._counts_failures = jobs, counts_failures
        self._made: dict[Unit, Telling] = {}
        self._ready: deque[Unit] = deque()
        self._queue: list[tuple[int, int, Unit]] = []
        self._count = self._busy = 0

    @property
    def reach(self) -> int:
        """How many of the units that follow are to be known."""
        return HELD if self._jobs == 1 else FARTHEST

    def take(self, unit: Unit, items: tuple[int, ...]) -> Telling | None:
        """The one whose turn it is; None where there is none that could be used."""
        told = self._made.pop(unit, None)
        if told is None:
            return None
        if told.items != items or (told.over and not told.is_let_run):
            told.kill()
            return None
        return told

    def fill(self, now: Telling, following: Sequence[Unit]) -> None:
        """Let run what may run beside the one whose turn it is, and make ready what may run next."""
        self._look_ahead(following)
        while True:
            self._let_run(now)
            if sum(not (told.is_let_run or told.over) for told in self._made.values()) >= HELD:
                break
            unit = self._next_unit()
            told = None if unit is None else self._make(unit)
            if unit is None or told is None:
                break
            self._made[unit] = told
        self._busy = len(self.running(now))

    def has_room(self, now: Telling) -> bool:
        """Whether more might run than when `fill` last looked."""
        return self._jobs > 1 and len(self.running(now)) < self._busy

    def running(self, now: Telling) -> list[Telling]:
        """Those that run, with the one whose turn it is."""
        return [told for told in (now, *self._made.values()) if told.is_busy]

    def let_go(self) -> None:
        """The tree is to change, or has: what is held is dropped, and what runs is waited for, unless it died with its scope."""
        self.forget()
        for unit, told in tuple(self._made.items()):
            if not told.is_let_run:
                told.kill()
                del self._made[unit]
        self._supervisor.run_while(lambda: any(not told.over for told in self._made.values()))
        self._made = {unit: told for unit, told in self._made.items() if told.unmade is None}

    def drop(self) -> None:
        """They were made for nothing."""
        self.forget()
        for told in self._made.values():
            told.kill()
        self._made.clear()

    def wait_until_ready(self) -> None:
        """Serve all until each waits to be let run, or never will."""
        self._supervisor.run_while(lambda: any(not told.is_ready for told in self._made.values()))

    def make_room(self, unit: Unit) -> None:
        """Wait until a unit whose turn it is, and that does not run yet, may run beside those that do, and fits the memory."""

        def has_to_wait() -> bool:
            return self._is_crowded(unit, [told.unit for told in self._made.values() if told.is_busy])

        early = self._made.get(unit)
        if self._jobs > 1 and (early is None or not early.is_let_run):
            # As many as may run do where one had run before its turn, and this has not.
            self._supervisor.run_while(has_to_wait)

    def _look_ahead(self, following: Sequence[Unit]) -> None:
        """Find those that may be made as the tree stands; each is asked for once."""
        while self._ready and (not following or self._ready[0] is not following[0]):
            self._ready.popleft()  # its turn has come
        for unit in following[len(self._ready) :]:
            if (self._counts_failures and len(unit.items) > 1) or not self._tree.is_ready_for(unit):
                break
            self._ready.append(unit)
            # With several jobs the long ones first, as they were in an earlier run.
            self._count += 1
            heapq.heappush(self._queue, (-self._admission.length(unit), self._count, unit))

    def _next_unit(self) -> Unit | None:
        """The next of them that is not made, and whose turn has not come."""
        while self._queue:
            unit = self._queue[0][2]
            if unit in self._made or unit not in self._ready:
                heapq.heappop(self._queue)
                continue
            return unit
        return None

    def forget(self) -> None:
        """The tree may have changed, and so who can be made as it stands."""
        self._ready.clear()
        self._queue.clear()

    def _let_run(self, now: Telling) -> None:
        if self._jobs == 1:
            return  # each when its turn has come: under pytest-xdist nobody knows before what comes after it
        for told in self._made.values():
            if told.is_let_run or told.over:  # it has run, or died as it waited
                continue
            if self._is_crowded(told.unit, [other.unit for other in self.running(now)]):
                return
            told.let_run()

    def _is_crowded(self, unit: Unit, beside: Sequence[Unit]) -> bool:
        """Whether a unit has to wait until one of those that run is over."""
        return len(beside) >= self._jobs or (bool(beside) and (self._tree.meet or not self._admission.fits(unit, beside)))
