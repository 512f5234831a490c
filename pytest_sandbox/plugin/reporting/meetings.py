"""What is noted of wider fixtures that hold something open by which their tests would meet: a connection, a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Meetings:
    """Of one run, by the words for whose fixtures hold what."""

    def __init__(self) -> None:
        self._held = dict[str, None]()
        self._renewed = dict[str, int]()

    def note(self, what: str) -> None:
        """Tests did not run at once for its sake, though that was asked for."""
        self._held[what] = None

    def renew(self, what: str, times: int = 1) -> None:
        """It is set up anew, since a test was killed, perhaps amid a conversation."""
        self._renewed[what] = self._renewed.get(what, 0) + times

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for the controller of pytest-xdist."""
        return {"held": list(self._held), "renewed": dict(self._renewed)}

    def add_worker(self, plain: Mapping[str, Any]) -> None:
        """Take over what a worker has noted."""
        self._held.update(dict.fromkeys(plain["held"]))
        for what, times in plain["renewed"].items():
            self.renew(what, times)

    def lines(self) -> Iterator[str]:
        """For the end of the run."""
        for what in self._held:
            yield (
                f"sandbox: one test at a time with fixtures of {what}, by which tests would meet. "
                "Fix, to have several at once: open it in a fixture of scope function"
            )
        for what, times in self._renewed.items():
            yield f"sandbox: set up anew {times} time(s), since a test was killed: fixtures of {what}"
