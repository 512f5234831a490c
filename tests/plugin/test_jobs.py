"""Several tests at once (`--sandbox-jobs`): what is reported is what one after the other would have reported."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_sandbox.model.spec import most

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

#: Tests that meet: each is there, and waits for as many others as it is told, which is possible only at the same time.
MEET = """
import pathlib, pytest, time
PLACE = pathlib.Path({place!r})
def meet(name, count, seconds=60):
    (PLACE / name).touch()
    limit = time.monotonic() + seconds
    while len(list(PLACE.iterdir())) < count:
        assert time.monotonic() < limit, sorted(path.name for path in PLACE.iterdir())
        time.sleep(0.01)
"""


@pytest.fixture
def place(tmp_path: Any) -> Any:
    """A directory of the machine's, in which sandboxes may meet."""
    made = tmp_path / "place"
    made.mkdir()
    return made


def meeting(place: Any) -> str:
    """The source of `meet`."""
    return MEET.format(place=str(place))


def counting(place: Any, tests: int, seconds: str, jobs: int) -> str:
    """The source of so many tests, each of which fails where more than `jobs` run when it has slept."""
    return f"""{meeting(place)}
@pytest.mark.parametrize("number", range({tests}))
def test_it(number):
    mine = PLACE / str(number)
    mine.touch()
    time.sleep({seconds})
    assert len(list(PLACE.iterdir())) <= {jobs}
    mine.unlink()
"""


def run(pytester: pytest.Pytester, place: Any, *args: str) -> pytest.RunResult:
    """A run whose tests may write to the place, on a machine with little memory too: unless told to, they reserve none."""
    return pytester.runpytest_subprocess("--sandbox", f"--sandbox-writable={place}", "--sandbox-memory=none", *args)


@pytest.mark.parametrize("jobs", [2, 5])
def test_they_run_at_once(pytester: pytest.Pytester, place: Any, jobs: int) -> None:
    """As many as were asked for: of one file or several, from one session fixture, which is set up once."""
    source = f"""{meeting(place)}
@pytest.mark.parametrize("number", range({jobs}))
def test_it(made, number): meet(f"{{__name__}}-{{number}}", {jobs})
"""
    pytester.makeconftest("""
        import pytest
        @pytest.fixture(scope="session")
        def made():
            with open("made", "a") as file: file.write("once\\n")
            assert open("made").read() == "once\\n"
    """)
    pytester.makepyfile(test_a=source)
    result = run(pytester, place, f"--sandbox-jobs={jobs}")
    result.assert_outcomes(passed=jobs)
    result.stdout.fnmatch_lines([f"sandbox: up to {jobs} tests at once"])
    for path in place.iterdir():
        path.unlink()
    pytester.makepyfile(**{f"test_{name}": source.replace(f"range({jobs})", "range(1)") for name in "abcdefgh"[:jobs]})
    run(pytester, place, f"--sandbox-jobs={jobs}").assert_outcomes(passed=jobs)


def test_no_more_than_asked(pytester: pytest.Pytester, place: Any) -> None:
    """Of twenty never more than three."""
    pytester.makepyfile(counting(place, 20, "0.1", 3))
    run(pytester, place, "--sandbox-jobs=3").assert_outcomes(passed=20)


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


def test_a_scope_that_changes_waits(pytester: pytest.Pytester, place: Any) -> None:
    """A fixture of a wider scope is set up, and torn down, while no test runs that stands on it."""
    pytester.makepyfile(f"""{meeting(place)}
import contextlib
@contextlib.contextmanager
def alone(name):
    assert list(PLACE.iterdir()) == [], "somebody runs"
    yield
@pytest.fixture(scope="session", params=[1, 2, 3])
def session(request):
    with alone("up"): pass
    yield request.param
    with alone("down"): pass
@pytest.mark.parametrize("number", range(5))
def test_it(session, number):
    mine = PLACE / f"{{session}}-{{number}}"
    mine.touch()
    time.sleep(0.05 * number)
    assert all(path.name.startswith(str(session)) for path in PLACE.iterdir())
    mine.unlink()
""")
    run(pytester, place, "--sandbox-jobs=3").assert_outcomes(passed=15)


def test_limits(pytester: pytest.Pytester) -> None:
    """Each has its own, and meets them by itself."""
    pytester.makepyfile("""
        import pytest, sys, time
        @pytest.mark.sandbox(timeout=1)
        @pytest.mark.parametrize("number", range(4))
        def test_slow(number): time.sleep(60 if number % 2 else 0)
        @pytest.mark.sandbox(output="1M")
        def test_loud():
            import os
            while True: os.write(1, bytes(1 << 16))
        def test_last(): pass
    """)
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=4", "-rA")
    result.assert_outcomes(passed=3, failed=3)
    text = result.stdout.str()
    assert len(re.findall("^timed out: killed after", text, re.MULTILINE)) == 2
    assert len(re.findall("^too much output: ended at", text, re.MULTILINE)) == 1


@pytest.mark.needs("memory")
def test_memory(pytester: pytest.Pytester, place: Any) -> None:
    """Tests whose limits do not fit the machine's memory together run one by one, until it is known what they take."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) >> 10 for line in file if line.startswith("MemAvailable:"))
    pytester.makepyfile(f"""{meeting(place)}
@pytest.mark.parametrize("number", range(3))
def test_it(number):
    try: meet(str(number), 2, seconds=2)
    finally: (PLACE / str(number)).unlink()
""")
    options = (f"--sandbox-memory={free * 3 // 4}M", "--sandbox-jobs=2")
    run(pytester, place, *options).assert_outcomes(failed=3)
    pytester.makepyfile(
        f"{meeting(place)}\n@pytest.mark.parametrize('number', range(2))\ndef test_it(number): meet(str(number), 2)"
    )
    run(pytester, place, *options).assert_outcomes(passed=2)


def test_long_ones_first(pytester: pytest.Pytester, place: Any) -> None:
    """Beside the one whose turn it is, what took long the last time."""
    pytester.makepyfile(f"""{meeting(place)}
@pytest.mark.parametrize("number", range(8))
def test_short(number):
    (PLACE / f"short-{{number}}").write_text(str(time.monotonic()))
    time.sleep(0.05)
def test_long():
    (PLACE / "long").write_text(str(time.monotonic()))
    time.sleep(1.5)
""")
    starts = []
    for _ in range(2):
        run(pytester, place, "--sandbox-jobs=2").assert_outcomes(passed=9)
        starts.append(sorted(path.name for path in place.iterdir() if path.read_text() < (place / "long").read_text()))
    assert len(starts[0]) >= 7
    assert len(starts[1]) <= 4
    cache = json.loads(next(pytester.path.rglob("v/sandbox/usage")).read_text())
    assert len(cache) == 9


@pytest.mark.parametrize("text", ["nonsense", '{"test_it.py::test_it[0]": [-1, "x"], "a": 3}', "[1]", '{"a": [1e999, 0]}'])
def test_a_cache_that_is_none(pytester: pytest.Pytester, text: str) -> None:
    """Whatever stands in that file, the run goes on."""
    cache = pytester.mkdir(".pytest_cache").joinpath("v", "sandbox")
    cache.mkdir(parents=True)
    cache.joinpath("usage").write_text(text)
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n): pass")
    pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=2").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("args", "why"),
    [(("-s",), "-s"), (("--capture=tee-sys",), "-s"), (("--pdb",), "debugger"), (("--trace",), "debugger")],
    ids=["-s", "tee-sys", "pdb", "trace"],
)
def test_one_at_a_time(pytester: pytest.Pytester, place: Any, args: tuple[str, ...], why: str) -> None:
    """Where somebody watches them one by one; and the header says so."""
    pytester.makepyfile(f"""{meeting(place)}
@pytest.mark.parametrize("number", range(3))
def test_it(number):
    assert list(PLACE.iterdir()) == []
    (PLACE / "busy").touch(); time.sleep(0.1); (PLACE / "busy").unlink()
""")
    result = pytester.run(
        "sh", "-c", f"yes c | {_python()} -m pytest --sandbox --sandbox-writable={place} --sandbox-jobs=3 {' '.join(args)}"
    )
    result.stdout.fnmatch_lines([f"sandbox: one test at a time: *{why}*", "*3 passed*"])


def _python() -> str:
    import sys

    return sys.executable


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


def at_a_terminal(pytester: pytest.Pytester, *args: str) -> str:
    """What a run writes to a terminal, with its escape sequences."""
    pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed: it plays the person at the terminal")
    pytester._monkeypatch.setenv("TERM", "xterm")
    command = ["-m", "pytest", "--sandbox", "--sandbox-memory=none", *args]
    child = pexpect.spawn(_python(), command, cwd=str(pytester.path), encoding="utf-8", timeout=300, dimensions=(40, 100))
    child.expect(pexpect.EOF)
    found: str = child.before
    return found


def test_progress(pytester: pytest.Pytester) -> None:
    """On a terminal the tests that run for some time are named behind what stands there, until more is written."""
    pytester.makepyfile("""
        import time, pytest
        @pytest.mark.parametrize("name", ["a" * 200, "b", "c", "d"])
        def test_slow(name): time.sleep(3 if name in "bc" else 0)
    """)
    text = at_a_terminal(pytester, "--sandbox-jobs=2", "--color=no")
    shown = re.findall(r"\x1b7 \x1b\[2m(.*?)\x1b\[0m\x1b8(...)", text, re.DOTALL)
    assert any("running: " in name and "test_slow[b]" in name and "test_slow[c]" in name for name, _ in shown), text
    assert all(after == "\x1b[K" for _, after in shown)
    assert all(len(name) < 98 for name, _ in shown)
    plain = re.sub(r"\x1b7.*?\x1b8|\x1b\[K", "", text, flags=re.DOTALL)
    assert re.search(r"test_progress\.py \.\.\.\. +\[100%\]\r\n", plain)
    for args in (["--sandbox-jobs=1"], ["--sandbox-jobs=2", "-q"], ["--sandbox-jobs=2", "-s"]):
        assert "\x1b7" not in at_a_terminal(pytester, *args)
    assert "\x1b7" not in pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=2").stdout.str()


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


def test_no_more_than_asked_with_long_ones_first(pytester: pytest.Pytester, place: Any) -> None:
    """Also when it is known which are long, and the one whose turn it is ends."""
    pytester.makepyfile(counting(place, 16, "0.05 if number < 10 else 0.5", 2))
    for _ in range(2):
        run(pytester, place, "--sandbox-jobs=2").assert_outcomes(passed=16)


@pytest.mark.parametrize(("limit", "jobs"), [(128, 3), (256, 8)])
def test_few_descriptors(pytester: pytest.Pytester, limit: int, jobs: int) -> None:
    """As many at once as there are descriptors for; none fails for want of one."""
    pytester.makepyfile("import pytest, time\n@pytest.mark.parametrize('n', range(24))\ndef test_it(n): time.sleep(0.2)")
    command = f"ulimit -n {limit} && exec {_python()} -m pytest --sandbox --sandbox-jobs=32"
    result = pytester.run("sh", "-c", command)
    result.assert_outcomes(passed=24)
    result.stdout.fnmatch_lines([f"sandbox: up to {jobs} tests at once: there are no more descriptors (ulimit -n)"])


@pytest.mark.parametrize(
    "limit", [pytest.param(limit, marks=pytest.mark.needs(limit.partition("=")[0])) for limit in ("memory=32M", "pids=16")]
)
def test_scopes_have_room_for_all(pytester: pytest.Pytester, limit: str) -> None:
    """What many sandboxes take of their scope's limits is no part of what its fixtures may have."""
    pytester.makepyfile("import pytest, time\n@pytest.mark.parametrize('n', range(24))\ndef test_it(n): time.sleep(0.5)")
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=16", f"--sandbox-{limit}")
    result.assert_outcomes(passed=24)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("memory", "pids")])
def test_scopes_have_what_a_limit_can_be(pytester: pytest.Pytester, name: str) -> None:
    """Where tests already have the most that the kernel can hold there is no more for a scope, and it needs none."""
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=2", f"--sandbox-{name}={most(name)}").assert_outcomes(passed=1)


def test_under_xdist(pytester: pytest.Pytester) -> None:
    """Its workers are the jobs, and the header says so, once."""
    pytest.importorskip("xdist")
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n): pass")
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=3", "-n2")
    result.assert_outcomes(passed=4)
    assert result.stdout.str().count("sandbox: one test at a time: pytest-xdist hands them out") == 1


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
