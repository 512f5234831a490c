"""The monotonic clock, past `time.monotonic`: a conftest may have stopped that, for the whole run (freezegun).

Imports only the standard library.
"""

from __future__ import annotations

from time import CLOCK_MONOTONIC, clock_gettime


def monotonic() -> float:
    """Seconds since some moment, as `time.monotonic` has them; see clock_gettime(2)."""
    return clock_gettime(CLOCK_MONOTONIC)
