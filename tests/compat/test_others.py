"""Plugins that need nothing of ours: a small suite of each has the same outcomes, files and words with and without --sandbox."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat
    from tests.conftest import Run

_TIME = re.compile(r"\d+(\.\d+)? ?(m?s|seconds)\b|in \d+:\d+|took .*|0x[0-9a-f]+")


@dataclasses.dataclass(frozen=True)
class Case:
    """A plugin's modules, what must be installed, a suite, options, and which lines must be the same (a pattern)."""

    plugins: list[str]
    needed: list[str]
    suite: str
    options: Sequence[str] = ()
    same: str = "$^"
    conftest: str = ""


ASYNCIO = """
    import asyncio, pytest, pytest_asyncio
    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def server():
        async def answer(reader, writer):
            writer.write(b"hello " + await reader.readline()); await writer.drain(); writer.close()
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()
        server.close()
    @pytest_asyncio.fixture
    async def value():
        await asyncio.sleep(0); yield 3
    async def test_value(value): assert value == 3
    async def test_fails(value): assert value == 4
    @pytest.mark.asyncio(loop_scope="module")
    async def test_server(server):
        reader, writer = await asyncio.open_connection(*server)
        writer.write(b"world\\n"); assert await reader.read() == b"hello world\\n"
    @pytest.mark.asyncio(loop_scope="module")
    async def test_server_again(server):
        reader, writer = await asyncio.open_connection(*server)
        writer.write(b"you\\n"); assert await reader.read() == b"hello you\\n"
    @pytest.mark.parametrize("x", [1, 2])
    async def test_parametrized(x): assert x == 1
"""
FAKE_FILES = """
    import os, pytest
    def test_one(fs): fs.create_file("/x/y"); assert os.path.exists("/x/y"); assert not os.path.exists("/etc/passwd")
    def test_after(): assert os.path.exists("/etc/passwd")
    def test_of_a_module(fs_module): fs_module.create_file("/m"); assert os.path.exists("/m")
    def test_of_a_module_again(fs_module): assert not os.path.exists("/etc/passwd"); open("/new", "w").write("a")
    def test_fails(fs_module): assert os.path.exists("/nowhere")
    class TestOfAClass:
        @pytest.mark.parametrize("n", range(3))
        def test_many(self, fs_class, n):
            with open("/file", "w") as file: file.write("a" * n)
            assert os.path.getsize("/file") == n
"""
CHECK = """
    import pytest, pytest_check as check
    @pytest.fixture(scope="module")
    def soft(): check.equal(1, 2, "in set-up"); yield; check.equal(3, 4, "in teardown")
    @pytest.fixture(scope="class")
    def softly(): yield; check.equal(5, 6, "of the class")
    def test_many(): check.equal(1, 2); check.is_true(False); check.equal(1, 1)
    def test_first(soft): pass
    def test_second(soft): pass
    class TestIt:
        def test_1(self, softly): check.less(2, 1)
        def test_2(self, softly): pass
    def test_last(soft): pass
"""
ANYIO = """
    import anyio, pytest
    pytestmark = pytest.mark.anyio
    @pytest.fixture(scope="module", params=["asyncio", "trio"])
    def anyio_backend(request): return request.param
    @pytest.fixture(scope="module")
    async def stream(anyio_backend):
        send, receive = anyio.create_memory_object_stream(5)
        async with send, receive: yield send, receive
    async def test_sends(stream):
        await stream[0].send(1); assert await stream[1].receive() == 1
    async def test_fails(stream): assert 0
    async def test_sleeps(): await anyio.sleep(0.01)
"""
HYPOTHESIS = """
    import pytest
    from hypothesis import HealthCheck, given, settings, strategies as st, example, target, event, note
    # On a busy machine any example may be late, and any strategy too slow.
    settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")
    @settings(derandomize=True, max_examples=20)
    @given(st.integers())
    def test_passes(x): event(f"odd {x % 2}")
    @settings(derandomize=True)
    @given(st.integers(0, 1000))
    def test_fails(x): note("noted"); assert x < 500
    @settings(derandomize=True)
    @example(3)
    @given(st.lists(st.text()))
    def test_example(x): assert x != 3
    @settings(derandomize=True)
    @given(x=st.data())
    def test_data(x): assert x.draw(st.integers()) != 0
    @settings(deadline=1, derandomize=True, max_examples=5)
    @given(st.just(1))
    def test_deadline(x):
        import time; time.sleep(0.1)
    @pytest.fixture
    def own(): return 1
    @settings(derandomize=True)
    @given(st.integers())
    def test_health(own, x): pass
"""
MOCK = """
    import os, pytest
    def test_patch(mocker):
        mocker.patch("os.getcwd", return_value="/here"); assert os.getcwd() == "/here"
    def test_undone(): assert os.getcwd() != "/here"
    def test_fails(mocker):
        call = mocker.Mock(); call(1); call.assert_called_once_with(2)
    @pytest.fixture(scope="module")
    def wide(module_mocker): return module_mocker.patch("os.getpid", return_value=-7)
    def test_wide(wide): assert os.getpid() == -7
    def test_wide_too(wide): assert os.getpid() == -7 and wide.call_count >= 1
"""
PLAIN = """
    import pytest
    def test_good(): print("of good")
    def test_bad(): print("of bad"); assert 0, "bad"
    @pytest.fixture
    def broken(): raise ValueError("broken")
    def test_error(broken): pass
    @pytest.mark.skip(reason="why not")
    def test_skip(): pass
    @pytest.mark.xfail
    def test_xfail(): assert 0
    @pytest.mark.parametrize("x", [1, 2, 3])
    def test_three(x): assert x != 2
"""
SUBTESTS = """
    import pytest, unittest
    def test_fails(subtests):
        for n in range(4):
            with subtests.test("message", n=n): print("in", n); assert n % 2, n
    def test_only_a_subtest_fails(subtests):
        with subtests.test("alone"): assert 0
    def test_skips(subtests):
        with subtests.test("skipped"): pytest.skip("not now")
    def test_passes(subtests):
        with subtests.test("fine"): pass
    def test_after(subtests):
        with subtests.test("caught"): assert 0
        assert 1 == 2
    class Case(unittest.TestCase):
        def test_it(self):
            for n in range(3):
                with self.subTest("of unittest", n=n): self.assertNotEqual(n, 1)
"""
RANDOMLY = """
    import random, pytest
    try: from numpy import random as numpy
    except ImportError: numpy = random
    def draw(name): print("drawn", name, random.random(), numpy.random())
    def drawing(scope):
        @pytest.fixture(scope=scope, name=scope)
        def wider(): draw(f"{scope} up"); yield; draw(f"{scope} down")
        return wider
    session, module, function = map(drawing, ["session", "module", "function"])
    late, later = pytest.fixture(scope="session")(lambda: draw("late")), pytest.fixture(scope="module")(lambda: draw("later"))
    @pytest.fixture(scope="module", params=[1, 2])
    def numbered(request): draw(request.param); yield; draw(-request.param)
    @pytest.mark.parametrize("x", range(6))
    def test(x): draw(x)
    @pytest.mark.parametrize("x", range(3))
    def test_wider(session, module, function, x): draw(x)
    def test_late(late, later, function): draw("of late")
    def test_late_again(late, later, function): draw("again")
    def test_numbered(numbered, function): draw(numbered)
    class TestClass:
        @pytest.fixture(scope="class", autouse=True)
        def klass(self, session): draw("class up"); yield; draw("class down")
        def test_1(self, function): draw(1)
        def test_2(self): draw(2)
"""
RANDOMLY_AGAIN = """
    import random, pytest
    def draw(name): print("\\ndrawn", name, random.random())
    @pytest.fixture(scope="session")
    def session(): draw("session")
    @pytest.fixture
    def function(): draw("up"); yield; draw("down")
    def test_fails(session, function, request): draw("test"); assert request.node.execution_count == 3
    def test_next(session, function): draw("next")
"""
HTTPSERVER = """
    import json, urllib.request
    def test_serves(httpserver):
        httpserver.expect_request("/a").respond_with_data("text")
        assert urllib.request.urlopen(httpserver.url_for("/a")).read() == b"text"
    def test_serves_json(httpserver):
        httpserver.expect_request("/b").respond_with_json([1])
        assert json.load(urllib.request.urlopen(httpserver.url_for("/b"))) == [1]
    def test_nobody_asked(httpserver):
        httpserver.expect_request("/c").respond_with_data("text")
        httpserver.check_assertions()
    def test_unexpected(httpserver):
        try: urllib.request.urlopen(httpserver.url_for("/d"))
        except OSError: pass
        httpserver.check_assertions()
"""
_OUTCOMES = r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS|E   )"
_ASYNCIO = ["-o", "asyncio_mode=auto"]
_DEBUG = ["-o", "asyncio_debug=true", "-o", "asyncio_default_test_loop_scope=module"]
_HYPOTHESIS = ["_hypothesis_pytestplugin"]
_SEEDED = HYPOTHESIS.replace("derandomize=True", "database=None")
_RERUN = ["pytest_randomly", "pytest_rerunfailures"]
_IN_ORDER = ["-rP", "--randomly-dont-reorganize", "--randomly-seed=3"]
_STATISTICS = r"passing, |Stopped"
# But unittest's among the progress: plain pytest captures those as if the test had printed them.
_SUBTESTS = r"^test_it.py::test_.*SUB|SUB(FAIL|SKIP) (test_it|\[)|^E   |^FAILED|^_.*\["
CASES = {
    "asyncio": Case(["pytest_asyncio.plugin"], ["pytest_asyncio"], ASYNCIO, _ASYNCIO, _OUTCOMES),
    "asyncio in debug mode": Case(["pytest_asyncio.plugin"], ["pytest_asyncio"], ASYNCIO, [*_ASYNCIO, *_DEBUG], _OUTCOMES),
    "anyio": Case(["anyio.pytest_plugin"], ["anyio", "trio"], ANYIO, (), _OUTCOMES),
    "hypothesis": Case(_HYPOTHESIS, ["hypothesis"], HYPOTHESIS, (), r"Falsifying|^E   |x=|Draw|^noted|FAILED"),
    "hypothesis's statistics": Case(_HYPOTHESIS, ["hypothesis"], HYPOTHESIS, ["--hypothesis-show-statistics"], _STATISTICS),
    "hypothesis by seed": Case(_HYPOTHESIS, ["hypothesis"], _SEEDED, ["--hypothesis-seed=5"], r"Falsifying|^E   |x=|FAILED"),
    "pyfakefs": Case(["pyfakefs.pytest_plugin"], ["pyfakefs"], FAKE_FILES, (), _OUTCOMES),
    "check": Case(["pytest_check.plugin"], ["pytest_check"], CHECK, (), _OUTCOMES),
    "mock": Case(["pytest_mock"], ["pytest_mock"], MOCK, (), _OUTCOMES),
    "randomly": Case(["pytest_randomly"], ["pytest_randomly"], RANDOMLY, ["-rP", "--randomly-seed=11"], "^drawn|random seed"),
    "randomly in another order": Case(["pytest_randomly"], ["pytest_randomly"], RANDOMLY, ["-rP", "--randomly-seed=5"], "^drawn"),
    "randomly in order": Case(["pytest_randomly"], ["pytest_randomly"], RANDOMLY, _IN_ORDER, "^drawn"),
    "randomly with reruns": Case(_RERUN, _RERUN, RANDOMLY_AGAIN, [*_IN_ORDER, "-s", "--reruns=3"], "^drawn"),
    "sugar": Case(["pytest_sugar"], ["pytest_sugar"], PLAIN, ["--force-sugar"], r"✓|\u2a2f|█|―|^Results|^  +(\d|- )"),
    "instafail": Case(["pytest_instafail"], ["pytest_instafail"], PLAIN, ["--instafail"], r"^E   |^___|test_it.py"),
    "subtests": Case(["pytest_subtests.plugin"], ["pytest_subtests"], SUBTESTS, ["-v"], _SUBTESTS),
    "httpserver": Case(["pytest_httpserver.pytest_plugin"], ["pytest_httpserver"], HTTPSERVER, ["-Wignore"], "FAILED"),
}


def _case(name: str) -> Any:
    """One that is skipped where this pytest does by itself what the plugin was for."""
    marks = pytest.mark.skipif(name == "subtests" and hasattr(pytest, "Subtests"), reason="pytest has had subtests since 9.0")
    return pytest.param(name, marks=marks)


@pytest.fixture(params=map(_case, sorted(CASES)))
def case(request: pytest.FixtureRequest) -> Case:
    """Each of them."""
    return CASES[request.param]


#: Tests that look at what a plugin writes.
WRITERS = {
    "test_html": Case(["pytest_metadata.plugin", "pytest_html.plugin", "pytest_html.fixtures"], ["pytest_html"], PLAIN),
    "test_reportlog": Case(["pytest_reportlog.plugin"], ["pytest_reportlog"], PLAIN),
    "test_hypothesis_replays_what_failed": Case(_HYPOTHESIS, ["hypothesis"], ""),
    "test_hypothesis_reproduces": Case(_HYPOTHESIS, ["hypothesis"], ""),
}


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Case:
    """What the test is of."""
    found: Case = WRITERS.get(request.node.name) or request.getfixturevalue("case")
    return found


@pytest.fixture
def plugins(subject: Case) -> list[str]:
    """See conftest."""
    return subject.plugins


@pytest.fixture
def needed(subject: Case) -> list[str]:
    """See conftest."""
    return subject.needed


def lines(run: Run, pattern: str) -> list[str]:
    """Those that match, without times."""
    found = [_TIME.sub("TIME", line) for line in run.result.stdout.lines if re.search(pattern, line)]
    return [line for line in found if "wall TIME" not in line]


def left(run: Run) -> list[str]:
    """The files that there are then; Hypothesis's notes of other sources say what is imported."""
    return sorted(name for name in run.files if "/constants/" not in name and "unicode_data" not in name)


def test_same(compat: Compat, case: Case) -> None:
    """The same outcomes, exit status and files, and the same words."""
    compat.pytester.makepyfile(test_it=case.suite)
    plain, boxed = compat.both("-rA", *case.options)
    assert plain.outcomes()
    assert left(boxed) == left(plain)
    assert lines(boxed, case.same) == lines(plain, case.same)
    assert lines(plain, case.same) or case.same == "$^"


def test_html(compat: Compat) -> None:
    """The page has the same results, with what a test has added to it."""
    compat.pytester.makeconftest("""
        import pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item):
            from pytest_html import extras
            report = yield
            report.extras = [*getattr(report, "extras", []), extras.text("an extra of " + item.name)]
            return report
    """)
    compat.pytester.makepyfile(test_it=PLAIN)
    plain, boxed = compat.both("--html=report.html", "--self-contained-html", same=False)
    assert boxed.outcomes() == plain.outcomes()
    pages = []
    for run in (plain, boxed):
        found = re.search(r'data-jsonblob="([^"]*)"', run.read("report.html"))
        assert found
        pages.append(json.loads(html.unescape(found[1])))
    results = [
        {
            name: [(one["result"], [extra["content"] for extra in one["extras"]]) for one in found]
            for name, found in page["tests"].items()
        }
        for page in pages
    ]
    assert results[1] == results[0]
    assert base64.b64encode(b"an extra of test_good").decode() in str(results[0])


def test_reportlog(compat: Compat) -> None:
    """A line for each report, in the same order."""
    compat.pytester.makepyfile(test_it=PLAIN)
    plain, boxed = compat.both("--report-log=log.json")
    said = [[json.loads(line) for line in run.read("log.json").splitlines()] for run in (plain, boxed)]
    known = ("$report_type", "nodeid", "when", "outcome", "exitstatus", "keywords")
    first, second = ([{key: one.get(key) for key in known} for one in lines] for lines in said)
    assert second == first
    assert len(first) > 20


FAILS_IN_THE_DATABASE = """
    import os
    from hypothesis import HealthCheck, Phase, given, settings, strategies as st
    PHASES = [Phase.reuse] if os.path.exists("reuse") else list(Phase)
    @settings(phases=PHASES, report_multiple_bugs=False, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.integers(), max_size=5))
    def test_it(x): assert sum(x) < 1000
"""


def test_hypothesis_replays_what_failed(compat: Compat) -> None:
    """What one sandbox has written to the database is there for the next run, which does nothing but replay it."""
    compat.pytester.makepyfile(test_it=FAILS_IN_THE_DATABASE)
    first = compat.one()
    assert first.status == pytest.ExitCode.TESTS_FAILED
    assert any(".hypothesis/examples" in name for name in first.files)
    (compat.pytester.path / "reuse").touch()
    again = [compat.one(), compat.one(sandbox=False)]
    assert [run.status for run in again] == [pytest.ExitCode.TESTS_FAILED] * 2
    assert [run.line("x=[") for run in again] == [first.line("x=[")] * 2
    shutil.rmtree(compat.pytester.path / ".hypothesis")
    assert compat.one().status == pytest.ExitCode.OK


def test_hypothesis_reproduces(compat: Compat) -> None:
    """@reproduce_failure, with what a sandboxed run has printed: the same failure in either, and its error where it is gone."""
    unhurried = "deadline=None, suppress_health_check=[HealthCheck.too_slow]"
    body = f"    @settings({unhurried})\n    @given(st.integers())\n    def test_it(x): assert x < {{most}}\n"
    head = "    from hypothesis import HealthCheck, given, reproduce_failure, settings, strategies as st\n"
    printing = head + "    settings.register_profile('printing', print_blob=True, derandomize=True, database=None)\n"
    printing += "    settings.load_profile('printing')\n"
    compat.pytester.makepyfile(test_it=printing + body.format(most=500))
    blob = re.search(r"@reproduce_failure\(.*\)", compat.one().text)
    assert blob
    compat.pytester.makepyfile(test_it=f"{head}    {blob[0]}\n{body.format(most=500)}")
    plain, boxed = compat.both("-rA")
    assert "assert 500 < 500" in boxed.text
    assert lines(boxed, _OUTCOMES) == lines(plain, _OUTCOMES)
    compat.pytester.makepyfile(test_it=f"{head}    {blob[0]}\n{body.format(most=501)}")
    plain, boxed = compat.both("-rA")
    assert "DidNotReproduce" in boxed.text
    assert lines(boxed, _OUTCOMES) == lines(plain, _OUTCOMES)


@pytest.mark.parametrize(("plugins", "needed"), [(["pytest_check.plugin"], ["pytest_check"])])
def test_who_tells_of_a_wider_fixture(compat: Compat) -> None:
    """The test that it was set up for, also where the sandboxes of those after it are ready before its own."""
    compat.pytester.makepyfile(
        test_it="""
        import pathlib, pytest, pytest_check as check
        MANY = [str(path) for path in pathlib.Path("/usr/bin").iterdir() if path.is_file() and not path.is_symlink()][:300]
        @pytest.fixture(scope="module")
        def soft(): check.equal(1, 2, "in set-up")
        def test_before(): pass
        @pytest.mark.sandbox(hide=MANY)
        def test_first(soft): pass
        @pytest.mark.parametrize("n", range(4))
        def test_later(soft, n): pass
        """
    )
    run = compat.one()
    assert [one for one in run.outcomes() if one[2] == "failed"] == [("test_it.py::test_first", "setup", "failed")], run.text
