"""Nine plugins at once, found by their entry points, as where somebody has installed them: the same as without --sandbox."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat
    from tests.conftest import Run

NEEDED = [
    *("pytest_cov", "xdist", "pytest_timeout", "pytest_rerunfailures", "pytest_randomly", "pytest_asyncio"),
    *("_hypothesis_pytestplugin", "pytest_html", "pytest_mock"),
]
MEASURED = """
    def choose(n):
        if n % 2:
            return "odd"
        return "even"
    def module(): return 1
    def late(): return 2
    def never(): return 3
"""
SUITE = """
    import asyncio, random, time
    import pytest, pytest_asyncio
    from hypothesis import HealthCheck, given, settings, strategies as st
    import measured
    # On a busy machine any example may be late, and any strategy too slow.
    slow = [HealthCheck.too_slow]
    unhurried = settings(derandomize=True, database=None, deadline=None, max_examples=20, suppress_health_check=slow)
    @pytest.fixture(scope="module")
    def wide(): yield measured.module(); measured.late()
    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def server():
        async def answer(reader, writer):
            writer.write(b"hello " + await reader.readline()); await writer.drain(); writer.close()
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()
        server.close()
    @pytest.mark.asyncio(loop_scope="module")
    async def test_server(server):
        reader, writer = await asyncio.open_connection(*server)
        writer.write(b"world\\n"); assert await reader.read() == b"hello world\\n"; print("drawn", random.random())
    @pytest.mark.asyncio
    async def test_fails_later(): await asyncio.sleep(0); assert measured.choose(3) == "even"
    @unhurried
    @given(st.integers())
    def test_given(n): assert measured.choose(n) in ("odd", "even")
    @unhurried
    @given(st.integers(0, 1000))
    def test_falsified(n): assert n < 500
    def test_mock(mocker, wide): mocker.patch("measured.choose", return_value=3); assert measured.choose(1) == 3
    def test_unmocked(wide): assert measured.choose(2) == "even"; print("drawn", random.random())
    @pytest.mark.flaky(reruns=2)
    def test_flaky(request, wide): assert request.node.execution_count == 2; print("drawn", random.random())
    @pytest.mark.flaky(reruns=1)
    def test_hopeless(mocker): assert mocker.Mock()() == 1
    @pytest.mark.timeout(1)
    def test_sleeps(): time.sleep(600)
    @pytest.mark.parametrize("n", range(4))
    def test_many(n): print("drawn", random.random(), measured.choose(n))
    class TestClass:
        def test_1(self): print("drawn", random.random())
        def test_2(self): print("drawn", random.random()); assert 0
    @pytest.mark.skip
    def test_skip(): pass
"""
OPTIONS = [
    *("-rA", "--randomly-seed=7", "--dist=loadfile", "--html=report.html", "--self-contained-html"),
    *("--cov=measured", "--cov-branch", "--cov-context=test", "--cov-report=json", "--cov-report=term-missing"),
]


@pytest.fixture
def plugins() -> list[str]:
    """None by name."""
    return []


def results(run: Run) -> dict[str, list[str]]:
    """The page's results, test by test."""
    found = re.search(r'data-jsonblob="([^"]*)"', run.read("report.html"))
    assert found
    return {name: [one["result"] for one in ran] for name, ran in json.loads(html.unescape(found[1]))["tests"].items()}


def covered(run: Run) -> dict[str, Any]:
    """Lines, branches and contexts."""
    names = ("executed_lines", "missing_lines", "executed_branches", "missing_branches", "summary")
    files = json.loads(run.read("coverage.json"))["files"]
    plain = {file: {name: found[name] for name in names} for file, found in files.items()}
    contexts = {file: {line: sorted(names) for line, names in found["contexts"].items()} for file, found in files.items()}
    return {"figures": plain, "contexts": contexts}


#: What each of them prints; of Hypothesis the smallest example, and pytest-asyncio and -mock are known by their tests.
NAMES = ("Using --randomly-seed=7", "n=500,", "Timeout (>1.0s)", "4 rerun", "Coverage JSON written", "Generated html report")


def lines(run: Run) -> list[str]:
    """What is said of failures, and how many there were."""
    found = [line for line in run.result.stdout.lines if re.search(r"^(E  |FAILED|ERROR|RERUN|measured.py|=.* passed)", line)]
    return sorted(re.sub(r"in [\d.]+s.*|0x\w+|id='\d+'|=+", "", line) for line in found)


def drawn(run: Run) -> list[str]:
    """What tests have drawn, in no order."""
    return sorted(line for line in run.result.stdout.lines if line.startswith("drawn"))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_together(compat: Compat, workers: str) -> None:
    """The same outcomes, figures of coverage, page, numbers drawn, and words."""
    compat.by_entry_points([*NEEDED, "pytest_metadata"])
    compat.pytester.makepyfile(measured=MEASURED, test_one=SUITE, test_other=SUITE)
    (compat.pytester.path / ".coveragerc").write_text("[json]\nshow_contexts = true\n")
    plain, boxed = compat.both("-n", workers, *OPTIONS, same=False)
    assert boxed.status == plain.status == pytest.ExitCode.TESTS_FAILED
    # Two workers' tests are told of as they end.
    outcomes = [run.outcomes() if workers == "0" else sorted(run.outcomes()) for run in (plain, boxed)]
    assert outcomes[1] == outcomes[0]
    assert results(boxed) == results(plain)
    assert covered(boxed) == covered(plain)
    assert drawn(boxed) == drawn(plain)
    assert lines(boxed) == lines(plain)
    assert [name for name in NAMES if name not in boxed.text] == []
    assert ("created: 2/2 workers" in boxed.text) == (workers == "2")
