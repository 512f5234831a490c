"""Quantities as people write them, to numbers and back. Imports nothing of the package but `errors`.

One vocabulary for the command line, the ini file and the marker: sizes are binary ("64M" is 64 * 2**20 bytes),
durations have a unit or are seconds. `None`, "none" and "unlimited" lift a limit: every parser then returns None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from pytest_sandbox.model.errors import SpecError

LIFTED = ("none", "unlimited")
_LIFT = 'or "none" for no limit'
SIZE_FORMS = f'bytes, or a number with k, M, G or T in powers of 1024: "4096", "100k", "64M", "1.5G"; {_LIFT}'
SECONDS_FORMS = f'seconds, or a number with us, ms, s, m or h: "0.5", "500ms", "2s", "1.5m"; {_LIFT}'
COUNT_FORMS = f'a whole number: "512"; {_LIFT}'
FRACTION_FORMS = f'a decimal number: "0.5", "2"; {_LIFT}'
CPUS_FORMS = f'numbers and ranges of CPUs: "0", "0-3,8"; {_LIFT}'

# What the kernel's interfaces take: loff_t and cgroup counters are signed 64 bit.
LARGEST = 2**63 - 1
MOST_CPUS = 8192  # of any kernel: CONFIG_NR_CPUS
# [0-9], as \d also matches the digits of other scripts; at most 30 of them, as int() has a limit of its own (4300).
_NUMBER = r"([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})"
# Not compiled here: that takes 1 ms, and most runs of pytest parse nothing. re keeps what it has compiled.
_SIZE = _NUMBER + r"\s*(?:([kmgt])(?:i?b)?|b)?"
_SECONDS = _NUMBER + r"\s*(us|ms|s|m|h)?"
_FLAGS = re.IGNORECASE | re.ASCII
_STEP = 1024
_SIZE_UNITS = ("", "k", "M", "G", "T")
# How many of each make a second, or how many seconds each has: 1e-6 is no exact float, 1e6 is.
_PER_SECOND = {"us": 1e6, "ms": 1e3}
_SECONDS_IN = {"s": 1.0, "m": 60.0, "h": 3600.0}
# Below how many seconds, times what, with which unit; the bounds are where three digits would round up to the next.
# A reader compares 90s with 120s faster than with 2m: minutes begin at ten, hours at two.
_SECONDS_SHOWN = ((5e-10, 0.0, "s"), (0.0009995, 1e6, "us"), (0.9995, 1e3, "ms"), (599.5, 1.0, "s"), (7170.0, 1 / 60, "m"))
_LONGEST_SHOWN = 60


def parse_size(value: object, *, least: int = 0) -> int | None:
    """Bytes in a size such as "64M", "1.5G", "100k" or 123; None where the limit is lifted.

    A trailing "B" or "iB" changes nothing. A fraction of a byte is rounded down, but "1.5" alone is refused.
    Raises SpecError for anything else, and for less than `least` bytes.
    """
    text = _text(value, "a size", SIZE_FORMS)
    if text is None:
        return None
    match = re.fullmatch(_SIZE, text, _FLAGS)
    unit = (match[2] or "").lower() if match else ""
    if match is None or (not unit and "." in match[1]):
        raise _no(value, "a size", SIZE_FORMS)
    factor = 1024 ** ("kmgt".index(unit) + 1) if unit else 1
    # Whole numbers never pass through a float, which has 53 bits.
    size = int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor
    if size < least:
        raise SpecError(f"{_shown(value)} is {size} bytes, less than makes sense: write at least {format_size(least)}; {_LIFT}")
    return _bounded(size, value)


def parse_seconds(value: object) -> float | None:
    """Seconds in a duration such as "2s", "500ms", "1.5m", "0.5" or 0.5; None where the limit is lifted.

    Raises SpecError for anything else, and for no time at all.
    """
    text = _text(value, "a duration", SECONDS_FORMS)
    if text is None:
        return None
    match = re.fullmatch(_SECONDS, text, _FLAGS)
    if match is None:
        raise _no(value, "a duration", SECONDS_FORMS)
    number, unit = float(match[1]), (match[2] or "s").lower()
    seconds = number / _PER_SECOND[unit] if unit in _PER_SECOND else number * _SECONDS_IN[unit]
    return _positive(seconds, value, SECONDS_FORMS)


def parse_count(value: object, *, least: int = 1, because: str = "") -> int | None:
    """The whole number in "512" or 512; None where the limit is lifted.

    Raises SpecError for anything else, and for less than `least`, with the reason for that.
    """
    text = _text(value, "a count", COUNT_FORMS)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,30}", text):
        raise _no(value, "a count", COUNT_FORMS)
    if int(text) < least:
        raise SpecError(f"{_shown(value)} is too few: write at least {least}{because and f', {because}'}; {_LIFT}")
    return _bounded(int(text), value)


def parse_fraction(value: object) -> float | None:
    """The decimal number in "0.5", "2" or 0.5, as a number of CPUs; None where the limit is lifted.

    Raises SpecError for anything else, and for 0.
    """
    text = _text(value, "a number", FRACTION_FORMS)
    if text is None:
        return None
    match = re.fullmatch(_NUMBER, text)
    if match is None:
        raise _no(value, "a number", FRACTION_FORMS)
    return _positive(float(match[1]), value, FRACTION_FORMS)


def parse_cpus(value: object) -> str | None:
    """A list of CPUs such as "0-3,8" or 2, in order and without overlaps; None where the limit is lifted.

    Raises SpecError for anything else. The form is that of cpuset(7).
    """
    text = _text(value, "a list of CPUs", CPUS_FORMS)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?( *, *[0-9]{1,5}(-[0-9]{1,5})?)*", text):
        raise _no(value, "a list of CPUs", CPUS_FORMS)
    cpus = cpus_in(text)
    if not cpus or max(cpus) >= MOST_CPUS:
        raise _no(value, "a list of CPUs", CPUS_FORMS)
    return format_cpus(cpus)


def cpus_in(text: str) -> frozenset[int]:
    """The numbers of the CPUs in a list such as "0-3,8"."""
    ranges = [part.partition("-") for part in text.split(",") if part.strip()]
    return frozenset(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


def format_cpus(cpus: Iterable[int]) -> str:
    """A list of CPUs as the kernel writes it: {0, 1, 2, 8} is "0-2,8"."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in ranges)


def format_size(size: int) -> str:
    """A size in bytes as text to three digits: 67108864 is "64M", 1536 is "1.5k". `parse_size` reads it back."""
    value, unit = float(size), 0
    # By what would be shown: 1023.7 is no "1024" but "1" of the next unit.
    while abs(round(value)) >= _STEP and unit < len(_SIZE_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return _three_digits(value) + _SIZE_UNITS[unit]


def format_seconds(seconds: float) -> str:
    """A duration in seconds as text to three digits: "250ms", "2s", "90s", "15m". `parse_seconds` reads it back."""
    for below, unit, name in _SECONDS_SHOWN:
        if abs(seconds) < below:
            return _three_digits(seconds * unit) + name
    return _three_digits(seconds / 3600) + "h"


def _three_digits(value: float) -> str:
    """Not %g, which writes 1020 as 1.02e+03."""
    whole = len(str(abs(round(value))))
    text = f"{value:.{max(0, 3 - whole)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(value: object, noun: str, forms: str) -> str | None:
    """What is to be parsed, as stripped text; None where the limit is lifted."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _no(value, noun, forms)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _no(value, noun, forms)
        # Never in exponent notation, which the parsers do not know; 64.0 is as whole as 64.
        value = f"{value:.12f}".rstrip("0").rstrip(".")
    text = str(value).strip()
    return None if text.lower() in LIFTED else text


def _bounded(number: int, value: object) -> int:
    if number > LARGEST:
        raise SpecError(f'{_shown(value)} is more than the kernel can count: write "none" for no limit')
    return number


def _positive(number: float, value: object, forms: str) -> float:
    if number <= 0:
        raise SpecError(f"{_shown(value)} would leave nothing to run with: write {forms}")
    return number


def _no(value: object, noun: str, forms: str) -> SpecError:
    return SpecError(f"{_shown(value)} is not {noun}: write {forms}")


def _shown(value: object) -> str:
    """The value, cut so that one line of error stays one line."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
