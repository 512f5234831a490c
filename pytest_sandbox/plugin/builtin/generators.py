"""The state of `random`, and of NumPy's global generator, at each test and fixture: as whoever came before in the run left it.

Python seeds `random` anew in every fork, and what a sandbox draws ends with it. So each process puts back what was there before
the fork (`Generators`), and says at its end what it has changed; the controller hands that on (`Baton`) to who comes next, in a
frame that is sent anyway. Imports `model` and `sandbox`, and NumPy not at all.
"""

from __future__ import annotations

import binascii
import sys
from array import array
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Sequence
from math import isfinite
from operator import itemgetter
from random import getstate, setstate
from typing import Any

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.sandbox.wire.frames import Frame

#: Words of a Mersenne Twister's state: random.getstate(), numpy.random.get_state().
_WORDS = 624
_VERSION = 3


class Generators:
    """Of the calling process. None where a generator is not there, or is none that we know."""

    def __init__(self) -> None:
        self._python: tuple[Any, ...] | None = None
        self._numpy: tuple[Any, ...] | None = None

    def note(self) -> None:
        """Remember how they are now."""
        self._python, self._numpy = getstate(), _numpy_state()

    def restore(self) -> None:
        """After a fork: put `random` back; NumPy's is as it was."""
        if self._python is not None:
            setstate(self._python)

    def restore_all(self) -> None:
        """Make them what they were when they were noted."""
        self.restore()
        numpy = sys.modules.get("numpy")
        if self._numpy is not None and numpy is not None:
            name, words, *rest = self._numpy
            numpy.random.set_state((name, numpy.frombuffer(words, "uint32"), *rest))

    def put(self, state: Frame | None) -> None:
        """Make them what a frame says that the controller has handed on, if it says anything."""
        if not state:
            return
        if "python" in state:
            words, position, gauss = state["python"]
            setstate((_VERSION, (*_unpacked(words), position), gauss))
        numpy = sys.modules.get("numpy")
        if "numpy" in state and numpy is not None:
            words, position, has_gauss, gauss = state["numpy"]
            numpy.random.set_state(("MT19937", numpy.array(_unpacked(words), dtype="uint32"), position, has_gauss, gauss))
        self.note()

    def news(self) -> Frame:
        """What has changed since it was last noted; it is noted now."""
        state: Frame = {}
        before, self._python = self._python, getstate()
        if self._python != before and self._python[0] == _VERSION:
            *words, position = self._python[1]
            state["python"] = [_packed(words), position, self._python[2]]
        earlier, self._numpy = self._numpy, _numpy_state()
        if self._numpy is not None and (earlier is None or self._numpy[1:] != earlier[1:]):
            words, position, has_gauss, gauss = self._numpy[1:]
            state["numpy"] = [b64encode(words).decode(), position, has_gauss, gauss]
        return state


def _numpy_state() -> tuple[Any, ...] | None:
    """numpy.random.get_state(), its words as bytes."""
    numpy = sys.modules.get("numpy.random")
    if numpy is None:
        return None
    name, *rest = numpy.get_state()
    if name != "MT19937":
        return None
    words, position, has_gauss, gauss = rest
    return name, words.tobytes(), int(position), int(has_gauss), float(gauss)


def _packed(words: list[int]) -> str:
    return b64encode(array("I", words)).decode()


def _unpacked(text: str) -> list[int]:
    return array("I", b64decode(text)).tolist()


class Baton:
    """What the controller hands on: the state after the last who changed it. version: how often it was changed.

    With it go the ends of tests that others may depend on (see `dependency`), each once.
    """

    def __init__(self) -> None:
        self.version = 0
        self._state: Frame = {}
        self._ends: list[tuple[int, Sequence[object]]] = []

    def note(self, ends: Sequence[Sequence[object]]) -> None:
        """Hand these on too."""
        if ends:
            self.version += 1
            self._ends += [(self.version, end) for end in ends]

    def take(self, frame: Frame) -> None:
        """Have it changed by a sandbox's frame. Raises WireError for what is no state."""
        new = {}
        if "python" in frame:
            words, position, gauss = _parts(frame["python"], 3)
            new["python"] = [_words(words), _position(position), None if gauss is None else _number(gauss)]
        if "numpy" in frame:
            words, position, has_gauss, gauss = _parts(frame["numpy"], 4)
            new["numpy"] = [_words(words), _position(position), int(bool(has_gauss)), _number(gauss)]
        if new:
            self._state = self._state | new
            self.version += 1

    def since(self, version: int) -> Frame | None:
        """The state for somebody who has that of a version; None where it is the same."""
        if version >= self.version:
            return None
        new = [end for since, end in self._ends[bisect_right(self._ends, version, key=itemgetter(0)) :]]
        return self._state | {"ends": new} if new else self._state


def _parts(value: object, count: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != count:
        raise WireError("a generator's state has other parts")
    return value


def _words(value: object) -> str:
    try:
        size = len(b64decode(str(value), validate=True))
    except (binascii.Error, ValueError):
        size = -1
    if size != 4 * _WORDS:
        raise WireError("a generator's state has not its words")
    return str(value)


def _position(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= _WORDS:
        raise WireError(f"a generator is at {value!r}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, float) or not isfinite(value):
        raise WireError("a generator's number is none")
    return value
