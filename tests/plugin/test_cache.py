"""pytest's cache and Hypothesis's examples: what comes home of what tests write there, and what is said of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

pytestmark = pytest.mark.needs("xattr")


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "a worker's"])
def test_what_is_lost_is_said_at_the_end(pytester: pytest.Pytester, compare: Compare, workers: tuple[str, ...]) -> None:
    """Not as a warning, which filters make an error: of the controller's, where nobody catches it."""
    if workers:
        pytest.importorskip("xdist")
    pytester.makepyfile("import os\ndef test_1(pytestconfig): os.makedirs(str(pytestconfig.cache._cachedir) + '/d' * 70)")
    run = compare.one("-W", "error", *workers)
    assert run.status == 0
    lost = "1 of what tests wrote is lost, of which the first is *.pytest_cache/d/d/*/d/d: it lies too deep"
    run.result.stdout.fnmatch_lines(["*= sandbox files lost =*", lost])
    assert run.text.count("too deep") == 1
