"""`random` and NumPy's global generator are at each test, and at each fixture, as in a plain run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat
    from tests.conftest import Run

PYTHON = "import random; draw = lambda: (random.random(), random.gauss(0, 1)); random.seed(7)"
NUMPY = "import numpy; draw = lambda: (numpy.random.random(), numpy.random.normal()); numpy.random.seed(7)"
SUITE = """
    import os, pytest, {module} as generators
    from helper import draw
    def say(name): print("drawn", name, draw())
    @pytest.fixture(scope="session")
    def session():
        say("session"); yield; say("session's end")
    @pytest.fixture(scope="module")
    def module(session):
        say("module"); yield; say("module's end")
    @pytest.fixture
    def own():
        say("own"); yield; say("own end")
    def test_1(module, own): say("1")
    def test_draws_nothing(): pass
    def test_2(module): say("2")
    def test_3(module, own): say("3"); assert 0
    @pytest.mark.sandbox(enabled=False)
    def test_here(): say("here")
    @pytest.mark.sandbox(group="x")
    def test_group_1(): say("group 1")
    @pytest.mark.sandbox(group="x")
    def test_group_2(): say("group 2")
    @pytest.mark.skip
    def test_skip(): say("skip")
    def test_seeds(): {seed}; say("seeded")
    def test_4(): say("4")
    def test_5(): say("5")
"""


@pytest.fixture
def needed(request: pytest.FixtureRequest) -> list[str]:
    """See conftest."""
    return ["numpy"] if "numpy" in request.node.name else []


def drawn(run: Run) -> list[str]:
    """What was drawn, each once, sorted: output of fixtures stands with the first test or the last."""
    return sorted({line for line in run.result.stdout.lines if line.startswith("drawn")})


@pytest.mark.parametrize("module", ["random", "numpy"])
def test_as_in_a_plain_run(compat: Compat, module: str) -> None:
    """Drawn from in fixtures of each scope, in tests that pass, fail, share a sandbox, or run in none."""
    seed = {"random": "generators.seed(3)", "numpy": "generators.random.seed(3)"}[module]
    compat.pytester.makepyfile(helper={"random": PYTHON, "numpy": NUMPY}[module], test_it=SUITE.format(module=module, seed=seed))
    compat.pytester.makeconftest("import helper")
    plain, boxed = compat.both("-rA", "--capture=fd")
    assert len(drawn(plain)) == 17
    assert drawn(boxed) == drawn(plain)


def test_under_xdist(compat: Compat) -> None:
    """A worker hands them on as one process does."""
    compat.pytester.makepyfile(helper=PYTHON, test_it=SUITE.format(module="random", seed="generators.seed(3)"))
    compat.pytester.makeconftest("import helper")
    plain, boxed = compat.both("-rA", "-p", "xdist.plugin", "-Wignore", "-n1", same=False)
    assert len(drawn(plain)) == 17
    assert drawn(boxed) == drawn(plain)


def test_after_a_kill(compat: Compat) -> None:
    """What a killed test drew is not known: the next one goes on where it began."""
    compat.pytester.makepyfile(
        helper=PYTHON,
        test_it="""
        import os, random
        from helper import draw
        def test_1(): draw()
        def test_2(): print("drawn", draw(), flush=True); os._exit(1)
        def test_3(): print("drawn", draw())
        """,
    )
    run = compat.one("-rA")
    assert len([line for line in run.result.stdout.lines if line.startswith("drawn")]) == 2
    assert len(drawn(run)) == 1


@pytest.mark.parametrize(
    "state",
    [
        {"python": []}, {"python": ["", 1, None]}, {"python": ["AAAA", 1, None]}, {"python": ["$" * 3328, 1, None]},
        {"python": ["words", 625, None]}, {"python": ["words", -1, None]}, {"python": ["words", 1, "x"]}, {"numpy": 1},
        {"numpy": ["words", "1", 0, 0.0]}, {"numpy": ["words", 1, 0, "1"]},
    ],
    ids=lambda state: str(state)[:40],
)  # fmt: skip
def test_lies(compat: Compat, state: dict[str, object]) -> None:
    """What is no state of a generator fails who says so, and reaches nobody else."""
    words = "A" * 3328  # 624 words of four bytes
    text = repr(state).replace("'words'", repr(words))
    compat.pytester.makepyfile(
        helper=PYTHON,
        test_it=f"""
        import json, random
        from helper import draw
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        def test_lies(request):
            before = draw()
            request.config.stash[INSIDE].channel.send({{"op": "generators", **{text}}})
        def test_good(): assert draw()
        """,
    )
    run = compat.one()
    assert run.result.parseoutcomes() == {"passed": 1, "failed": 1}, run.text
