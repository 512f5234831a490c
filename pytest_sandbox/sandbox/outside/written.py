"""The files that a sandbox writes to, which are there when it is dead: shared with it, not copied. Imports `ends`."""

from __future__ import annotations

import dataclasses
import os

from pytest_sandbox.sandbox.inside.child import Descriptors
from pytest_sandbox.sandbox.outside import ends

#: How much of its stacks is read, in bytes.
_MOST_STACKS = 1 << 20
#: As much as a line of what is said of the first steps, in bytes.
_LINE = 1000


@dataclasses.dataclass(slots=True)
class Written:
    """Descriptors of what one wrote: output, stacks, and what it wrote past pytest's capture.

    limit: of its output, in bytes; no more than that is read of it.
    """

    stdout: int
    stderr: int
    stacks: int
    shown: int
    limit: int | None

    @classmethod
    def of(cls, given: Descriptors, limit: int | None) -> Written:
        """By the descriptors that main is given."""
        return cls(given.stdout, given.stderr, given.stacks, given.shown, limit)

    def size(self) -> int:
        """Bytes that its own stdout and stderr hold now."""
        return sum(os.fstat(fd).st_size for fd in (self.stdout, self.stderr, self.shown))

    def stacks_size(self) -> int:
        """How much of stacks it has printed so far, in bytes."""
        return os.fstat(self.stacks).st_size

    def read_shown(self, start: int = 0) -> bytes:
        """What it wrote past its capture, from a position on."""
        return ends.read(self.shown, self.limit, start)

    def first_words(self) -> bytes:
        """The beginning of its stderr, a line at least."""
        return ends.read(self.stderr, _LINE)

    def read_output(self) -> tuple[bytes, bytes, bool]:
        """What stands in stdout and stderr, and whether that is not all: more than anybody reads, or is to be held in memory."""
        out, err = (ends.read(fd, self.limit) for fd in (self.stdout, self.stderr))
        return out, err, len(out) + len(err) < sum(os.fstat(fd).st_size for fd in (self.stdout, self.stderr))

    def read_stacks(self) -> str:
        """The stacks that it has printed so far: where it crashed, or was asked for them, or asked itself."""
        return ends.read(self.stacks, _MOST_STACKS).decode("utf-8", "replace")

    def descriptors(self) -> set[int]:
        """All of them."""
        return {self.stdout, self.stderr, self.stacks, self.shown}

    def close(self) -> None:
        """Close them."""
        for fd in self.descriptors():
            os.close(fd)
