"""Several tests at once (`--sandbox-jobs`): what is reported is what one after the other would have reported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugin.jobs.conftest import meeting, run

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

SUITE = """
import pytest, sys, time, warnings, unittest
@pytest.fixture(scope="session")
def session(): print("session up"); yield [1]; print("session down")
@pytest.fixture(scope="module", params=["x", "y"])
def module(request, session): print("module up", request.param); yield request.param; print("module down", request.param)
@pytest.fixture
def broken(): print("broken"); raise ValueError("broken")
@pytest.fixture
def sour(): yield; raise ValueError("sour")
@pytest.mark.parametrize("number", range(8))
def test_numbers(session, number, tmp_path):
    print("out", number); print("err", number, file=sys.stderr); time.sleep(0.02 * (8 - number))
    (tmp_path / "file").write_text(str(number))
    assert number not in (2, 5)
def test_module(module): assert module == "x"
def test_broken(broken): pass
def test_sour(sour): print("in sour")
@pytest.mark.skip(reason="by mark")
def test_skipped(): pass
@pytest.mark.xfail
def test_expected(): assert 0
def test_warns(): warnings.warn("a warning")
def test_subtests(subtests):
    for number in range(3):
        with subtests.test(number=number): assert number != 1
def test_dies():
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
@pytest.mark.sandbox(group="together")
@pytest.mark.parametrize("number", range(3))
def test_together(number): assert number != 1
@pytest.mark.sandbox(enabled=False)
def test_outside(): print("outside")
class Test(unittest.TestCase):
    def test_one(self): self.fail("one")
    def test_two(self): pass
def test_last(session): session.append(2); assert session == [1, 2]
"""


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-v",),
        ("-x",),
        ("--maxfail=3",),
        ("-rA", "--durations=0", "-vv", "--tb=short"),
        ("--setup-show",),
        ("-o", "log_cli=true"),
        ("--junitxml=junit.xml",),
        ("-s",),
    ],
    ids=lambda args: " ".join(args) or "none",
)
def test_it_says_what_one_after_the_other_says(pytester: pytest.Pytester, compare: Compare, args: tuple[str, ...]) -> None:
    """In the same order and the same words: reports, output, what stops the run."""
    pytester.makepyfile(SUITE)
    one = compare.one("--sandbox", "--sandbox-keep=never", *args)
    several = compare.one("--sandbox", "--sandbox-keep=never", "--sandbox-jobs=3", *args)
    assert several.outcomes() == one.outcomes()
    assert _lines(several, args) == _lines(one, args)
    assert several.status == one.status


def _lines(found: Any, args: tuple[str, ...]) -> list[str]:
    """What was printed, without how long it took; of files, what is named by the run."""
    lines = [re.sub(r"pid \d+|pytest-\d+|\bs\d+\b|Process \d+", "N", line) for line in found.screen()]
    if any("durations" in one for one in args):
        lines = [line for line in lines if "N.NNs" not in line]
    return [line for line in lines if not line.startswith(("wall", "sandbox:"))]


def test_failed_ones_that_ran_before_their_turn(pytester: pytest.Pytester, place: Any) -> None:
    """With -x they did not happen: neither reports nor figures of them, though they have run."""
    pytester.makepyfile(f"""{meeting(place)}
def test_1(): meet("1", 3)
def test_2(): meet("2", 3); assert False
def test_3(): meet("3", 3)
def test_4(): assert False
""")
    result = run(pytester, place, "--sandbox-jobs=3", "-x", "--sandbox-usage", "-v")
    result.assert_outcomes(passed=1, failed=1)
    assert "test_3" not in result.stdout.str()
    assert "test_4" not in result.stdout.str()


def test_generators(pytester: pytest.Pytester) -> None:
    """Each test has the state that its scope has left: the same in every run, and for every number of jobs above one."""
    pytester.makepyfile("""
        import pytest, random
        @pytest.fixture(scope="session")
        def seeded(): random.seed(7); return random.random()
        @pytest.mark.parametrize("number", range(6))
        def test_it(seeded, number, record_property): record_property("drawn", random.random())
    """)
    drawn = set()
    for jobs in (2, 3):
        pytester.runpytest_subprocess("--sandbox", f"--sandbox-jobs={jobs}", "--junitxml=junit.xml", "-o", "junit_family=xunit1")
        drawn |= set(re.findall(r'name="drawn" value="([^"]*)"', (pytester.path / "junit.xml").read_text()))
    assert len(drawn) == 1


def test_tmp_path(pytester: pytest.Pytester) -> None:
    """Its number is that of the order of collection, whoever came first."""
    pytester.makepyfile("""
        import pytest, time
        @pytest.mark.parametrize("number", range(6))
        def test_it(tmp_path, number): time.sleep(0.1 * (number % 2)); assert tmp_path.name == f"test_it_{number}_0"
    """)
    pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=3").assert_outcomes(passed=6)


def test_a_stop_takes_scopes_along(pytester: pytest.Pytester) -> None:
    """What wider fixtures say at their teardown, when failures stop the run, stands in the last test's; and their usage."""
    pytester.makepyfile("""
        import pytest, time
        @pytest.fixture(scope="session", autouse=True)
        def session(): yield; print("session down"); raise ValueError("of the session")
        @pytest.mark.parametrize("n", range(12))
        def test_it(n): time.sleep(0.5 if n == 0 else 0); assert n not in (1, 2)
    """)
    for jobs in (1, 4):
        result = pytester.runpytest_subprocess("--sandbox", f"--sandbox-jobs={jobs}", "--maxfail=2", "--sandbox-usage", "-v")
        result.assert_outcomes(passed=1, failed=2, errors=1)
        result.stdout.fnmatch_lines(["*session down*", "*ValueError: of the session*", "*[[]scope[]]*"])
        assert "test_it[3]" not in result.stdout.str()


def test_what_did_not_happen_is_not_told(pytester: pytest.Pytester) -> None:
    """Neither in the usage table, nor by warnings, nor by what is kept, nor by raw output."""
    pytester.makepyfile("""
        import os, pytest, subprocess, time
        @pytest.mark.parametrize("n", range(12))
        def test_it(n):
            os.write(1, f"raw {n}".encode())
            time.sleep(0.5 if n == 0 else 0)
            subprocess.Popen(["sleep", "600"])
            assert n not in (1, 2)
    """)
    args = ("--sandbox", "--maxfail=2", "--sandbox-usage", "-v", "--sandbox-keep=always", "--capture=sys")
    texts = []
    for jobs in (1, 4):
        result = pytester.runpytest_subprocess(*args, f"--sandbox-jobs={jobs}")
        result.assert_outcomes(passed=1, failed=2, warnings=1)
        assert not any(f"test_it[{n}]" in result.stdout.str() for n in range(3, 12))
        texts.append(re.findall(r"test_it\[\d\] raw \d+", result.stdout.str()))
    assert texts[0] == texts[1] == [f"test_it[{n}] raw {n}" for n in range(3)]


def test_ctrl_c(pytester: pytest.Pytester, place: Any) -> None:
    """The one whose turn it is is interrupted, and tears down; those beside it did not happen; scopes tear down."""
    pytester.makepyfile(f"""{meeting(place)}
import os, signal
@pytest.fixture(scope="session")
def session(): yield; print("session down"); (PLACE / "session").touch()
def test_1(session): meet("1", 3); time.sleep(60)
def test_2(session): meet("2", 3); time.sleep(60)
def test_3(session): meet("3", 3)
""")
    pytester.makeconftest(f"""
        import os, pathlib, signal, threading, time
        def pytest_runtestloop(session):
            def later():
                while len(list(pathlib.Path({str(place)!r}).iterdir())) < 3: time.sleep(0.01)
                time.sleep(0.2)
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=later, daemon=True).start()
    """)
    result = run(pytester, place, "--sandbox-jobs=3")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*KeyboardInterrupt*"])
    assert (place / "session").exists()
    assert "test_2" not in result.stdout.str()


def test_a_scope_that_dies(pytester: pytest.Pytester, place: Any) -> None:
    """With it all that stand on it: the one whose turn it is has failed, and those beside it run again, on a new one."""
    pytester.makepyfile(f"""{meeting(place)}
import os, signal
@pytest.fixture(scope="session")
def session():
    main = os.getpid()
    if os.fork() == 0:
        while len(list(PLACE.iterdir())) < 3: time.sleep(0.01)
        (PLACE / "killed").exists() or ((PLACE / "killed").touch(), os.kill(main, signal.SIGKILL))
        os._exit(0)
@pytest.mark.parametrize("number", range(6))
def test_it(session, number):
    (PLACE / str(number)).touch()
    time.sleep(0 if (PLACE / "killed").exists() else 60)
""")
    result = run(pytester, place, "--sandbox-jobs=3", "-v")
    assert (place / "killed").exists()
    result.assert_outcomes(failed=1, passed=5)
    result.stdout.fnmatch_lines(["*test_it[[]0] FAILED*", "*test_it[[]1] PASSED*", "*that ended the sandbox of the session*"])


ITS_OWN = """
    until = time.monotonic() + 1.5
    while time.monotonic() < until: sandbox_factory().run(["sleep", "0.05"])
"""


@pytest.mark.parametrize(
    ("met", "waiting"),
    [
        pytest.param(3, "raise OSError(errno.ENOENT, 'of its own')", id="ENOENT"),
        pytest.param(3, "raise OSError(errno.ENOSPC, 'of its own')", id="ENOSPC"),
        pytest.param(2, f"{ITS_OWN}    raise OSError(errno.ENOENT, 'of its own')", id="its own sandboxes"),
    ],
)
def test_who_waits_for_the_controller(pytester: pytest.Pytester, place: Any, met: int, waiting: str) -> None:
    """While that is busy with another test's report, longer than the test has its time for: it has not timed out."""
    pytester.makeconftest(f"""
        import pathlib, time
        def pytest_runtest_logreport(report):
            if report.when == "call" and "quick" in report.nodeid:
                pathlib.Path({str(place)!r}, "busy").touch()
                time.sleep(4)
    """)
    failing = (
        f'@pytest.mark.sandbox(timeout="3s")\ndef test_failing(sandbox_factory):\n    meet("failing", {met})\n    {waiting}\n'
    )
    pytester.makepyfile(f"import errno, time\n{meeting(place)}\ndef test_quick(): meet('quick', 2); time.sleep(0.5)\n{failing}")
    result = run(pytester, place, "--sandbox-jobs=2")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E  *Error: * of its own"])
    result.stdout.no_fnmatch_line("*timed out*")
