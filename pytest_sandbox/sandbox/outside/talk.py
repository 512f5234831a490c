"""What the controller and the main process of a sandbox say to each other. Imports `ends`, `outbox` and `wire`."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.model.errors import WireError
from pytest_sandbox.sandbox.outside import ends
from pytest_sandbox.sandbox.outside.outbox import Outbox
from pytest_sandbox.sandbox.wire.frames import Decoder, Frame


class Talk:
    """The controller's end of main's socket, and what waits on both sides of it. Nothing that main says is trusted.

    speaker: pid of who has said what was heard last, if he can be named. crowded: the loop waits for room in the socket.
    silent: main, and whoever has inherited from it, has closed its end.
    """

    def __init__(self, wire: Socket) -> None:
        self.wire = wire
        self.outbox = Outbox(wire, closed=True)
        self._decoder = Decoder()
        self.speaker: int | None = None
        self.crowded = False
        self.silent = False

    @property
    def is_due(self) -> bool:
        """Whether there is a frame that was read already, and not heard yet."""
        return self._decoder.is_due

    @property
    def size(self) -> int:
        """Of the frame that was heard last, in bytes."""
        return self._decoder.size

    @property
    def is_unheard(self) -> bool:
        """Whether main has said something that nobody has heard yet."""
        return not self.silent and (self.is_due or ends.unread(self.wire) > 0)

    def frames(self, *, to_the_end: bool = False) -> Iterator[Frame]:
        """What main has said and nobody has heard yet, as far as one reading brings it, or all that it has said by now.

        Who stops in between leaves the rest for the next time.
        """
        has_read, left = False, ends.unread(self.wire) if to_the_end else 0
        while True:
            while (frame := self._decoder.next()) is not None:
                yield frame
            if self.silent or (has_read and left <= 0):
                return
            try:
                data, self.speaker = ends.hear(self.wire)
            except BlockingIOError:
                return
            if not data:
                self.silent = True
                return
            self._decoder.feed(data)
            has_read, left = True, left - len(data)

    def forgive(self) -> None:
        """Let it say as much again as a sandbox may: another test runs in it."""
        self._decoder.forgive()

    def hush(self) -> None:
        """Hear nothing more of what main says, nor of what it has said."""
        self.silent, self._decoder = True, Decoder()

    def joiner(self) -> int | None:
        """The pid of who has spoken, as the kernel vouches for it; None where nobody has. Leaves the words there."""
        return ends.next_speaker(self.wire)

    def take(self, words: bytes) -> None:
        """Read what `joiner` has seen, and nothing after it. Raises WireError where that is not `words`."""
        if (found := self.wire.recv(len(words))) != words:
            raise WireError(f"it has said {found!r} where {words!r} was due")

    def descriptors(self) -> set[int]:
        """Those that the controller has of it."""
        return {self.wire.fileno()} | self.outbox.descriptors()

    def close(self) -> None:
        """Say and hear nothing any more."""
        self.wire.close()
        self.outbox.close()
