"""How many tests run at once, which, and what a terminal shows of them."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from tests.plugin.jobs.conftest import counting, meeting, run


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
        "sh", "-c", f"yes c | {sys.executable} -m pytest --sandbox --sandbox-writable={place} --sandbox-jobs=3 {' '.join(args)}"
    )
    result.stdout.fnmatch_lines([f"sandbox: one test at a time: *{why}*", "*3 passed*"])


def at_a_terminal(pytester: pytest.Pytester, *args: str) -> str:
    """What a run writes to a terminal, with its escape sequences."""
    pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed: it plays the person at the terminal")
    pytester._monkeypatch.setenv("TERM", "xterm")
    command = ["-m", "pytest", "--sandbox", "--sandbox-memory=none", *args]
    child = pexpect.spawn(sys.executable, command, cwd=str(pytester.path), encoding="utf-8", timeout=300, dimensions=(40, 100))
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


def test_no_more_than_asked_with_long_ones_first(pytester: pytest.Pytester, place: Any) -> None:
    """Also when it is known which are long, and the one whose turn it is ends."""
    pytester.makepyfile(counting(place, 16, "0.05 if number < 10 else 0.5", 2))
    for _ in range(2):
        run(pytester, place, "--sandbox-jobs=2").assert_outcomes(passed=16)


def test_no_more_than_asked_where_the_one_whose_turn_comes_has_run(pytester: pytest.Pytester, place: Any) -> None:
    """And what comes after it has not, since it is short."""
    pytester.makepyfile(counting(place, 5, "(0.9, 0.6, 0.1, 0.6, 0.6)[number]", 2))
    for _ in range(2):
        run(pytester, place, "--sandbox-jobs=2").assert_outcomes(passed=5)


def test_under_xdist(pytester: pytest.Pytester) -> None:
    """Its workers are the jobs, and the header says so, once."""
    pytest.importorskip("xdist")
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n): pass")
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-jobs=3", "-n2")
    result.assert_outcomes(passed=4)
    assert result.stdout.str().count("sandbox: one test at a time: pytest-xdist hands them out") == 1
