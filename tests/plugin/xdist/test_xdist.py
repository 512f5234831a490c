"""pytest-xdist: each worker is a controller with its own tree of sandboxes, wherever it runs."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.plugin.conftest import INSIDE
from tests.plugin.xdist.conftest import run

if TYPE_CHECKING:
    from tests.conftest import Run
    from tests.plugin.conftest import Compare

pytest.importorskip("execnet")
pytest.importorskip("xdist")

MODES = ("load", "loadscope", "loadfile", "loadgroup", "worksteal", "each", "no")
#: Something of everything that a report can say.
SUITE = {
    "test_a": """
        import pytest
        @pytest.fixture(scope="session", params=["x", "y"])
        def world(request): return request.param
        @pytest.fixture(scope="module")
        def number(): return 1
        @pytest.mark.parametrize("n", range(3))
        def test_numbers(number, n): assert n < 2
        def test_world(world, number): assert world == "x"
        @pytest.mark.xdist_group("one")
        def test_skipped(): pytest.skip("for a reason")
        @pytest.mark.xdist_group("one")
        @pytest.mark.xfail
        def test_expected(): assert 0
        @pytest.mark.xfail(strict=True)
        def test_unexpected(): pass
        @pytest.fixture
        def broken(): raise ValueError
        def test_broken(broken): pass
        @pytest.fixture
        def breaks():
            yield
            raise ValueError
        def test_breaks(breaks): pass
        """,
    "test_b": """
        import pytest, unittest, warnings
        class TestClass:
            @pytest.fixture(scope="class", autouse=True)
            def state(self): return []
            def test_1(self, state): state.append(1)
            def test_2(self, tmp_path): (tmp_path / "a").write_text("b")
        class TestUnit(unittest.TestCase):
            def test_1(self): pass
            def test_2(self): self.fail("here")
        def test_warns(): warnings.warn("look out")
        def test_prints(record_property):
            print("hello")
            record_property("a", "b")
            assert 0
        @pytest.mark.sandbox(enabled=False)
        def test_outside_1(): pass
        @pytest.mark.sandbox(enabled=False)
        def test_outside_2(tmp_path): assert 0
        def test_last(): pass
        """,
}


def outcomes(found: Run) -> list[tuple[str, str, str]]:
    """What became of each test, in an order that does not depend on who was quicker."""
    return sorted(found.outcomes())


# -- the same outcomes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_modes(pytester: pytest.Pytester, compare: Compare, mode: str) -> None:
    """Each way to distribute tests has the outcomes that it has without sandboxes, the same warnings and the same end."""
    pytester.makepyfile(**SUITE)
    arguments = ("--tx", "2*popen") if mode == "each" else ("-n2",) if mode != "no" else ()
    plain, boxed = (run(compare, *arguments, f"--dist={mode}", sandbox=sandbox) for sandbox in (False, True))
    assert outcomes(boxed) == outcomes(plain)
    assert len(outcomes(boxed)) > 50
    assert boxed.status == plain.status == 1
    # How often those of a class are heard depends on how many workers get tests of it.
    assert {entry[1] for entry in boxed.record["warnings"]} == {entry[1] for entry in plain.record["warnings"]}
    assert "INTERNALERROR" not in boxed.text
    counts = [found.result.parseoutcomes() | {"warnings": 0} for found in (plain, boxed)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("options", [("-n0",), ("--tx", "2*popen")])
def test_no_workers(pytester: pytest.Pytester, compare: Compare, options: tuple[str, ...]) -> None:
    """Where there are none, it is the run that it is without pytest-xdist."""
    pytester.makepyfile(f"import os\ndef test_1(): assert 'PYTEST_XDIST_WORKER' not in os.environ and {INSIDE}\n")
    run(compare, *options).result.assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["-x", "--maxfail=2"])
def test_stop(pytester: pytest.Pytester, compare: Compare, option: str) -> None:
    """-x and --maxfail end the run, in the middle of a shared sandbox too, and scopes are torn down."""
    pytester.makepyfile(
        """
        import os, pytest
        pytestmark = pytest.mark.sandbox(scope="module")
        @pytest.fixture(scope="session", autouse=True)
        def world():
            yield
            with open(os.environ["NOTES"], "a") as file: file.write("closed\\n")
        @pytest.mark.parametrize("n", range(20))
        def test_fails(n): assert 0
        """
    )
    notes = pytester.path / "notes"
    notes.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTES", str(notes))
        found = run(compare, "-n1", option, f"--sandbox-writable={notes}")
    assert found.result.parseoutcomes()["failed"] == {"-x": 1, "--maxfail=2": 2}[option]
    assert "stopping after" in found.text
    assert notes.read_text() == "closed\n"


def test_last_failed(pytester: pytest.Pytester, compare: Compare) -> None:
    """--lf runs what failed under workers before."""
    pytester.makepyfile("def test_1(): assert 0\ndef test_2(): pass\ndef test_3(): assert 0\n")
    run(compare, "-n2")
    again = run(compare, "-n2", "--lf", "--durations=3", "--junitxml=junit.xml", "-o", "junit_family=xunit1")
    again.result.assert_outcomes(failed=2)
    assert "slowest" in again.text
    assert 'name="sandbox_ending"' in (pytester.path / "junit.xml").read_text()


def test_teardown_errors_of_scopes(pytester: pytest.Pytester, compare: Compare) -> None:
    """What a module's and the session's fixtures raise when they are torn down is reported once, where plain pytest does."""
    module = """
        import pytest
        @pytest.fixture(scope="module")
        def module():
            yield
            raise ValueError("of the module")
        def test_1(module): pass
        def test_2(module): pass
        """
    pytester.makepyfile(test_a=module, test_b=module)
    plain, boxed = (run(compare, "-n2", "--dist=loadfile", sandbox=sandbox) for sandbox in (False, True))
    assert outcomes(boxed) == outcomes(plain)
    assert boxed.result.parseoutcomes() == {"passed": 4, "errors": 2}


# -- scopes ------------------------------------------------------------------------------------------------------------


NOTING = """
    import os, pytest, time
    def note(text):
        with open(os.environ["NOTES"], "a") as file: file.write(f"{os.environ['PYTEST_XDIST_WORKER']} {text}\\n")
    @pytest.fixture(scope="session")
    def world(worker_id, testrun_uid, tmp_path_factory):
        assert worker_id == os.environ["PYTEST_XDIST_WORKER"] and testrun_uid == os.environ["PYTEST_XDIST_TESTRUNUID"]
        assert tmp_path_factory.getbasetemp().name == f"popen-{worker_id}"
        note("session")
        (tmp_path_factory.mktemp("world", numbered=False) / "data").write_text(worker_id)
        yield tmp_path_factory.getbasetemp() / "world" / "data"
        note("closed")
    @pytest.fixture(scope="session")
    def late(): note("late")
    """


def test_session_fixtures(pytester: pytest.Pytester, compare: Compare, notes: Path) -> None:
    """They are set up and torn down once a worker, as xdist promises; what tests write into what they made is each one's own."""
    pytester.makeconftest(textwrap.dedent(NOTING))
    pytester.makepyfile(
        """
        import pytest, time
        @pytest.fixture(scope="module")
        def module(world): return world.read_text()
        @pytest.mark.parametrize("n", range(12))
        def test_n(module, n, world, worker_id, request):
            if n % 3: request.getfixturevalue("world")
            assert world.read_text() == module == worker_id
            world.write_text("mine")
            time.sleep(0.05)
        def test_late(module, late): pass
        """
    )
    found = run(compare, "-n2", f"--sandbox-writable={notes}")
    found.result.assert_outcomes(passed=13)
    lines = notes.read_text().split("\n")[:-1]
    for worker in ("gw0", "gw1"):
        assert [line for line in lines if line in (f"{worker} session", f"{worker} closed")] == [
            f"{worker} session",
            f"{worker} closed",
        ]
    assert all(lines.count(f"{worker} late") <= 1 for worker in ("gw0", "gw1"))


@pytest.mark.parametrize("mode", ["loadfile", "loadscope"])
def test_shared_sandbox(pytester: pytest.Pytester, compare: Compare, mode: str) -> None:
    """Tests that share one, and are kept together, do so: what one leaves in memory the next finds, one at a time."""
    pytester.makepyfile(
        **{
            f"test_{name}": """
            import os, pytest
            pytestmark = pytest.mark.sandbox(scope="module")
            seen = []
            @pytest.mark.parametrize("n", range(5))
            def test_n(n):
                assert seen == list(range(n))
                seen.append(n)
            def test_crash(): os._exit(0)
            def test_fresh(): assert seen == []; seen.append(0)
            def test_again(): assert seen == [0]
            """
            for name in "ab"
        }
    )
    found = run(compare, "-n2", f"--dist={mode}")
    found.result.assert_outcomes(passed=14, failed=2)
    assert [report["nodeid"].count("test_crash") for report in found.reports if report["outcome"] == "failed"] == [1, 1]


def test_shared_sandbox_that_is_torn_apart(pytester: pytest.Pytester, compare: Compare) -> None:
    """Where tests that share one come to a worker in pieces, each piece has one of its own, with its own fixtures."""
    pytester.makepyfile(
        """
        import pytest
        seen = []
        @pytest.fixture(scope="module")
        def number(): return []
        def make(n):
            @pytest.mark.sandbox(group="even") if n % 2 == 0 else lambda function: function
            def test(number):
                assert len(number) == len(seen)
                seen.append(n); number.append(n)
            return test
        for n in range(10): globals()[f"test_{n}"] = make(n)
        """.replace(
            '@pytest.mark.sandbox(group="even") if n % 2 == 0 else lambda function: function',
            "@(pytest.mark.sandbox(group='even') if n % 2 == 0 else (lambda function: function))",
        )
    )
    run(compare, "-n2").result.assert_outcomes(passed=10)


def test_a_long_wait_for_the_next_item(pytester: pytest.Pytester, compare: Compare) -> None:
    """A sandbox that waits for its next test, or is held ready for it, has all the time there is: timeouts are of tests."""
    pytester.makepyfile(
        test_a="""
        import pytest, time
        @pytest.mark.sandbox(group="slow", timeout="5s")
        @pytest.mark.parametrize("n", range(2))
        def test_shared(n): time.sleep(0.4)
        """,
        test_b="""
        import pytest, time
        @pytest.mark.sandbox(timeout="5s")
        def test_short(): pass
        @pytest.mark.sandbox(timeout="60s")
        def test_long(): time.sleep(8)
        """,
    )
    run(compare, "-n2", "--dist=worksteal").result.assert_outcomes(passed=4)
    run(compare, "-n2", "--dist=loadfile").result.assert_outcomes(passed=4)


def test_recipe_for_once_over_all_workers(pytester: pytest.Pytester, compare: Compare, notes: Path) -> None:
    """xdist's recipe (a lock and a file beside the workers' directories) works for each worker; in a writable one for all."""
    (pytester.path / "shared").mkdir()
    pytester.makeconftest(
        textwrap.dedent(NOTING)
        + textwrap.dedent(
            """
            import fcntl
            from pathlib import Path
            @pytest.fixture(scope="session")
            def data(tmp_path_factory, worker_id, request):
                top = tmp_path_factory.getbasetemp().parent if not SHARED else request.config.rootpath / "shared"
                with open(top / "lock", "w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not (top / "data").exists():
                        note("made")
                        (top / "data").write_text(worker_id)
                    return (top / "data").read_text()
            """
        ).replace("SHARED", '"SHARED" in os.environ')
    )
    pytester.makepyfile(
        """
        import os, pytest, time
        @pytest.mark.parametrize("n", range(8))
        def test_n(data, n, worker_id):
            time.sleep(0.1)
            assert data in (("gw0", "gw1") if "SHARED" in os.environ else (worker_id,))
        """
    )
    run(compare, "-n2", f"--sandbox-writable={notes}").result.assert_outcomes(passed=8)
    assert sorted(notes.read_text().split("\n")[:-1]) == ["gw0 made", "gw1 made"]
    notes.write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARED", "1")
        run(compare, "-n2", f"--sandbox-writable={notes}", "--sandbox-writable=shared").result.assert_outcomes(passed=8)
    assert len(notes.read_text().split("\n")[:-1]) == 1


# -- what the user reads -----------------------------------------------------------------------------------------------


def test_summary(pytester: pytest.Pytester, compare: Compare) -> None:
    """The controller has one table of all workers' tests, their scopes, and says where files are kept."""
    pytester.makepyfile(
        """
        import pytest, subprocess, time
        @pytest.mark.parametrize("n", range(4))
        def test_n(n): time.sleep(0.05)
        def test_writes(tmp_path): (tmp_path / "mine").write_text("text"); assert 0
        def test_leaks(): subprocess.Popen(["sleep", "100"])
        """
    )
    found = run(compare, "-n2", "--sandbox-usage", "--sandbox-hide=/etc/hostname")
    assert found.text.count("sandbox: network auto") == 1
    table = found.text.partition("sandbox usage")[2].partition("sandbox files kept")[0].splitlines()
    assert sum(": test_n[" in line or "::test_n[" in line for line in table) == 4
    assert {line.split("[scope ")[1][:3] for line in table if "[scope gw" in line} == {"gw0", "gw1"}
    kept = found.text.partition("sandbox files kept")[2]
    path = next(line.split()[0] for line in kept.splitlines() if line.endswith("::test_writes"))
    assert list(Path(path).rglob("mine"))
    assert "1 leaked" in found.text
    assert "left 1 process(es) running" in found.text


def test_hidden_path_that_is_not_there(pytester: pytest.Pytester, compare: Compare) -> None:
    """What a worker has to say reaches the user."""
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox(hide='/no/such')\ndef test_1(): pass\n")
    assert "nothing to hide: /no/such does not exist here" in run(compare, "-n1").text
