"""Stacks that faulthandler printed, without what lies below the test. Imports nothing of the package.

Current thread 0x... (most recent call first):
  File "test_a.py", line 3 in crash
  File "test_a.py", line 7 in test_1          <- the last line that is kept
  File ".../_pytest/python.py", line 187 in pytest_pyfunc_call
"""

from __future__ import annotations

import re

_FRAME = re.compile(r'  File "(?P<path>.*)", line \S+ in (?P<name>.*)')
#: Whose frames are not the test's: of pytest, of what starts it, and of this package.
_FOREIGN = re.compile(r"(^|/)(_pytest|pytest|pluggy|pytest_sandbox)/|^<frozen runpy>$|/runpy\.py$|/bin/(pytest|py\.test)$")
#: Where pytest calls a test, a fixture or its teardown.
_CALLS = ("pytest_pyfunc_call", "call_fixture_func", "_teardown_yield_fixture", "runtest")


def cut(text: str) -> str:
    """The text without the frames below the test's or fixture's function, and without the list of extension modules."""
    kept: list[str] = []
    frames: list[str] = []
    for line in text.splitlines():
        if _FRAME.fullmatch(line):
            frames.append(line)
            continue
        kept += _of_test(frames)
        frames = []
        if not line.startswith("Extension modules: "):
            kept.append(line)
    kept += _of_test(frames)
    return "\n".join(kept)


def _of_test(frames: list[str]) -> list[str]:
    """Those above the outermost call of a test or fixture, and of the others all but pytest's at the end; never none of some."""
    end = next((index for index in reversed(range(len(frames))) if _is_call(frames[index])), len(frames))
    while end and _is_foreign(frames[end - 1]):
        end -= 1
    return frames[:end] or frames[:1]


def _is_foreign(frame: str) -> bool:
    found = _FRAME.fullmatch(frame)
    return found is not None and _FOREIGN.search(found["path"]) is not None


def _is_call(frame: str) -> bool:
    found = _FRAME.fullmatch(frame)
    return found is not None and found["name"] in _CALLS and "/_pytest/" in found["path"]
