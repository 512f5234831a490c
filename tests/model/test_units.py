"""Sizes, durations, counts and numbers as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_sandbox.model.errors import SpecError
from pytest_sandbox.model.units import (
    format_seconds,
    format_size,
    parse_count,
    parse_cpus,
    parse_fraction,
    parse_seconds,
    parse_size,
)

Parser = Callable[[object], object]
PARSERS: list[Parser] = [parse_size, parse_seconds, parse_count, parse_fraction]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        (" 123 ", 123),
        ("100k", 102400),
        ("100K", 102400),
        ("64M", 64 << 20),
        ("64 MiB", 64 << 20),
        ("64mb", 64 << 20),
        ("10B", 10),
        ("1.5G", 3 << 29),
        (".5k", 512),
        ("2T", 2 << 40),
        ("0.0001k", 0),
        (123, 123),
        (64.0, 64),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_sizes_are_binary(text: object, size: int) -> None:
    """A size is a number of bytes, or of kibi-, mebi-, gibi- or tebibytes, however the unit is written."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2.0),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("0.5", 0.5),
        (2, 2.0),
        (0.25, 0.25),
        (1e-7, 1e-7),
    ],
)
def test_durations_are_seconds_or_have_a_unit(text: object, seconds: float) -> None:
    """A duration without a unit is seconds."""
    assert parse_seconds(text) == seconds


def test_counts_and_numbers() -> None:
    """A count is whole, a number of CPUs may have a fraction; both may be numbers already."""
    assert [parse_count("512"), parse_count(7), parse_count(7.0)] == [512, 7, 7]
    assert [parse_fraction("0.5"), parse_fraction("2"), parse_fraction(1.5)] == [0.5, 2.0, 1.5]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("value", [None, "none", "None", "unlimited", " UNLIMITED "])
def test_a_limit_can_be_lifted(parse: Parser, value: object) -> None:
    """None, "none" and "unlimited" are no limit, for every quantity."""
    assert parse(value) is None


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "x", "-1", "+1", "1e3", "64Q", "M", "1..5", "1,5", "٣", "1\n2", "inf", "nan", "0x10", "9" * 5000),
        *(float("nan"), float("inf"), -1, True, b"1", ["64M"], {}),
    ],
)
def test_what_is_no_quantity_is_refused(parse: Parser, value: object) -> None:
    """The error names the value, shortened where it is long, and the forms that are taken."""
    with pytest.raises(SpecError) as caught:
        parse(value)
    text = str(caught.value)
    assert repr(value)[:20] in text
    assert "write" in text
    assert '"none" for no limit' in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        *((parse_size, "1.5"), (parse_size, "1ib"), (parse_size, "8388608T")),
        *((parse_count, "1.5"), (parse_count, "5k"), (parse_count, "0"), (parse_count, str(2**63))),
        *((parse_seconds, "0"), (parse_seconds, "1 s m")),
        *((parse_fraction, "0.0"), (parse_fraction, "50%")),
    ],
)
def test_quantities_that_mean_nothing_are_refused(parse: Parser, value: str) -> None:
    """Half a byte, no time at all, and more than the kernel can count."""
    with pytest.raises(SpecError, match=r"write"):
        parse(value)


def test_a_size_below_the_least_that_makes_sense_is_refused() -> None:
    """A forgotten unit ("64" for "64M") is told what it means, and what is enough."""
    with pytest.raises(SpecError, match=r"'64' is 64 bytes, less than makes sense: write at least 1M"):
        parse_size("64", least=1 << 20)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1000, "1000"),
        (1024, "1k"),
        (1536, "1.5k"),
        (64 << 20, "64M"),
        (10**9, "954M"),
        ((1 << 20) - 1, "1M"),
        (2 << 40, "2T"),
    ],
)
def test_sizes_are_shown_to_three_digits(size: int, text: str) -> None:
    """In the largest unit of which there is at least one."""
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.00025, "250us"),
        (0.0123, "12.3ms"),
        (0.9996, "1s"),
        (1.5, "1.5s"),
        (90, "90s"),
        (599.9, "10m"),
        (9000, "2.5h"),
    ],
)
def test_durations_are_shown_to_three_digits(seconds: float, text: str) -> None:
    """In the unit in which people would say it."""
    assert format_seconds(seconds) == text


def test_what_is_shown_can_be_typed() -> None:
    """A size or duration reads back as itself, but for what three digits cannot show."""
    for exponent in range(-20, 200):
        number = 1.3 ** (exponent / 2)
        assert parse_seconds(format_seconds(number)) == pytest.approx(number, rel=0.006)
        if number >= 1:
            assert parse_size(format_size(int(number))) == pytest.approx(int(number), rel=0.006)


@pytest.mark.parametrize(
    ("text", "parsed"), [("0", "0"), (3, "3"), ("0-3,8", "0-3,8"), ("8, 2,1,0-1", "0-2,8"), ("none", None), (None, None)]
)
def test_cpus(text: object, parsed: str | None) -> None:
    """In order, and without overlaps."""
    assert parse_cpus(text) == parsed


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,1", "99999", "8192", "1.5", True, 1.5, [0]])
def test_no_cpus(text: object) -> None:
    """What is no list of CPUs."""
    with pytest.raises(SpecError, match="is not a list of CPUs"):
        parse_cpus(text)
