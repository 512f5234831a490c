"""Draws what a test costs, by suite and variant, as an SVG file. Imports the standard library and results.py.

No library draws it: bars on a logarithmic scale are all that it takes, and whoever measures needs nothing installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from results import Results, SuiteResult

#: Colours that can be told apart by those who see few, too (Okabe and Ito), in the order of the legend.
COLOURS = {
    "sandbox": "#0072b2", "jobs": "#56b4e9", "forked": "#e69f00", "isolate": "#d55e00", "bwrap": "#cc79a7", "limit": "#999999",
}  # fmt: skip
LEFT, WIDTH, BAR, GAP, TOP = 250, 460, 13, 20, 34
#: Milliseconds at both ends of the scale.
LEAST, MOST = 0.1, 10_000.0


def svg(results: Results) -> str:
    """The plot of all suites that have figures; ValueError where none has."""
    rows, at = [], TOP
    for suite in results.suites.values():
        bars = list(_bars(suite, at + 18))
        if bars:
            rows += [_text(8, at + 11, suite.title, weight="bold"), *bars]
            at += 18 + BAR * (len(bars) // 3) + GAP
    if not rows:
        raise ValueError("there are no figures to draw: no suite was measured with a sandbox or a peer")
    width, height = LEFT + WIDTH + 90, at + 30
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            _text(8, 18, "Cost of a test above plain pytest, in milliseconds (logarithmic scale)", weight="bold", size=13),
            *_scale(at),
            *rows,
            "</svg>",
            "",
        ]
    )


def _bars(suite: SuiteResult, at: float) -> Iterator[str]:
    """Three elements for each variant that was measured: its name, its bar, its figure."""
    for name, colour in COLOURS.items():
        cost, runs = suite.cost(name), suite.measured(name)
        if cost is None or runs is None:
            continue
        end = _x(cost)
        yield _text(LEFT - 6, at + BAR - 3, runs.title, anchor="end")
        yield f'<rect x="{LEFT}" y="{at}" width="{end - LEFT:.1f}" height="{BAR - 2}" fill="{colour}"/>'
        yield _text(end + 4, at + BAR - 3, f"{cost:.2f}" if cost < 100 else f"{cost:.0f}")
        at += BAR


def _scale(bottom: float) -> Iterator[str]:
    for power in range(round(math.log10(LEAST)), round(math.log10(MOST)) + 1):
        x = _x(10.0**power)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="#dddddd"/>'
        yield _text(x, bottom + 14, f"{10.0**power:g}", anchor="middle")


def _x(milliseconds: float) -> float:
    share = math.log(min(max(milliseconds, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + WIDTH * share


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", size: int = 11) -> str:
    shape = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {shape}>{escape(text)}</text>'
