"""benchmarks/: what its figures are made of, on which every claim about speed rests. How fast anything is, is no matter here."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import ends
import goals
import plot
import running
import suites
import table
import variants
from results import Ends, Results, Runs, SuiteResult

ROOT = Path(__file__).resolve().parents[2]


def suite(name: str, walls: dict[str, list[float]], *, session_fixture: bool = False) -> SuiteResult:
    """A suite of 100 tests that was run by these variants."""
    bases = {"limit": None, "forked": "plain-1", "plain-1": "plain-1"}
    runs = {key: Runs(key, f"by {key}", bases.get(key, "plain"), 100, each) for key, each in walls.items()}
    return SuiteResult(name, f"the suite {name}", 100, session_fixture, runs)


def results(*each: SuiteResult) -> Results:
    """All of these."""
    return Results("as uid 0", ["Python 3"], suites={one.name: one for one in each})


TRIVIAL = {
    "plain": [1.0, 9.0, 1.1], "off": [1.0, 9.0, 1.2], "sandbox": [1.6, 1.5, 9.0], "jobs": [1.35], "xdist": [1.3],
    "plain-1": [2.0], "forked": [3.0], "limit": [0.2],
}  # fmt: skip
ENDS = Ends((5.0, 4.0), (1000, 1009), 10.0, {"descriptors": (9, 9), "cgroups": (4, 5)})


def test_a_cost_is_what_a_test_takes_above_plain_pytest_of_the_same_version() -> None:
    """By medians, in milliseconds; what is no pytest is above nothing, and plain pytest above itself."""
    trivial = suite("trivial", TRIVIAL)
    costs = {name: trivial.cost(name) for name in ("sandbox", "forked", "limit", "plain")}
    assert costs == pytest.approx({"sandbox": 5.0, "forked": 10.0, "limit": 2.0, "plain": 0.0})
    assert trivial.ratio("sandbox", "forked") == pytest.approx(0.5)
    assert trivial.cost("isolate") is None


def test_a_refused_suite_has_no_figures() -> None:
    """Walls of runs that did not do the same are no walls."""
    trivial = suite("trivial", TRIVIAL)
    trivial.refused = "not comparable"
    assert trivial.wall("plain") is None
    assert "REFUSED: not comparable" in table.table(results(trivial))


def test_results_are_saved_and_read(tmp_path: Path) -> None:
    """So that a table and a plot can be made later, of all that was measured."""
    long = suite("long", TRIVIAL)
    long.runs["sandbox"].ends = [ENDS]
    results(long).save(tmp_path / "saved.json")
    read = Results.load(tmp_path / "saved.json")
    assert json.dumps(dataclasses.asdict(read)) == json.dumps(dataclasses.asdict(results(long)))
    assert read.suites["long"].left == ["cgroups: 4 before, 5 after"]


def verdicts(*each: SuiteResult) -> dict[str, bool | None]:
    """Whether each goal is met."""
    return {goal.wanted: goal.met for goal in goals.goals(results(*each))}


def test_goals_are_met_missed_or_not_measured() -> None:
    """Each by its own figures."""
    trivial = suite("trivial", TRIVIAL)
    fixture = suite("fixture", {"jobs": [3.0], "xdist": [2.0]}, session_fixture=True)
    assert verdicts(trivial, fixture) == {
        "a sandbox costs at most 0.8 of pytest-forked's fork": True,
        "and at most 2.5 of its system calls from C": True,
        "with two jobs at most 0.6 of that with one": True,
        "two jobs take less time than two workers of pytest-xdist (fixture)": False,
        "a large process makes a test dearer by less than with pytest-forked": None,
        "not asked for, it costs nothing that can be measured": True,
        "at the end of a long run a test costs at most 1.05 of what it did at the start": None,
        "a finished test leaves at most 1 KB more in the controller than in plain pytest": None,
    }


def test_costs_that_are_too_high_miss_their_goals() -> None:
    """The same goals the other way round."""
    slow = suite("trivial", {**TRIVIAL, "sandbox": [3.0], "jobs": [2.5], "off": [12.0] * 3})
    heavy = suite("heavy", {**TRIVIAL, "sandbox": [9.0]})
    found = verdicts(slow, heavy)
    assert [met for met in found.values() if met is not None] == [False] * 5


def test_the_ends_of_a_long_run() -> None:
    """Above plain pytest's pace; memory beside plain pytest's; and what was left."""
    long = suite("long", TRIVIAL)
    quiet = Ends((1.0, 1.0), (1000, 1000), 0.0, {})
    for name, noted in (("plain", quiet), ("sandbox", Ends((5.0, 5.0), (1000, 1009), 1000.0, {}))):
        long.runs[name].ends = [noted]
    assert list(verdicts(long).values())[-3:] == [True, True, True]
    long.runs["sandbox"].ends = [Ends((5.0, 5.3), (1000, 1009), 2000.0, {"mounts": (3, 4)})]
    assert list(verdicts(long).values())[-3:] == [False, False, False]


def test_the_table_has_a_row_for_each_variant() -> None:
    """With figures in the columns that they belong to."""
    trivial = suite("trivial", TRIVIAL)
    trivial.runs["forked"].tests = 3
    trivial.missing["bwrap"] = "there is no bwrap"
    text = table.table(results(trivial))
    assert "by sandbox                            1.60 s     1.50     9.00     5.00 ms/t      0.50    2.50          1.23" in text
    assert "by plain                              1.10 s     1.00     9.00" in text
    assert text.count("from 3 tests") == 1
    assert "no figures of bwrap: there is no bwrap" in text


def test_the_plot_is_drawn_from_the_figures() -> None:
    """Well-formed, a bar for each variant with a cost, longer where that is higher."""
    drawing = ET.fromstring(plot.svg(results(suite("trivial", TRIVIAL))))
    bars = {bar.get("fill"): float(bar.get("width", "")) for bar in drawing.iterfind(".//{*}rect") if bar.get("fill") != "white"}
    assert bars.keys() == {plot.COLOURS[name] for name in ("sandbox", "jobs", "forked", "limit")}
    assert bars[plot.COLOURS["limit"]] < bars[plot.COLOURS["sandbox"]] < bars[plot.COLOURS["forked"]]
    with pytest.raises(ValueError, match="no figures to draw"):
        plot.svg(results())


def test_a_variant_brings_what_its_cost_is_counted_from() -> None:
    """And nothing else."""
    each = [("plain", "plain"), ("off", "plain"), ("plain-1", "plain-1"), ("forked", "plain-1"), ("limit", None)]
    everything = {name: variants.Variant(name, name, "1", base=base) for name, base in each}
    assert list(variants.chosen(everything, ["forked", "limit", "unknown"])) == ["plain-1", "forked", "limit"]


def test_outcomes_are_compared_only_where_all_agree_and_nothing_failed() -> None:
    """A test that fails everywhere measures how a failure is shown."""
    comparable = running._is_comparable
    assert all(comparable({outcome}) for outcome in ("passed", "setup skipped", "skipped", "xfailed", "passed, skipped x2"))
    assert not any(comparable({outcome}) for outcome in ("failed", "setup failed", "passed, teardown failed", ""))
    assert not comparable({"passed", "skipped"})


class HereOnly(variants.Environments):
    """One environment, which is this test's own."""

    def __init__(self) -> None:
        pass

    def python(self, pytest: str, requirements: tuple[str, ...] = ()) -> Path:
        """The interpreter that runs the suite."""
        del pytest, requirements
        return Path(sys.executable)


def measure(suite: suites.Suite, folder: Path, options: dict[str, tuple[str, ...]]) -> SuiteResult:
    """A suite that lies in `folder`, run once by variants with these options."""
    place = folder.with_name("place")
    place.mkdir()
    tools = running.Tools.make(place, HereOnly(), ())
    off = ("-p", "no:sandbox")
    everything = {name: variants.Variant(name, name, "1", off + words, "plain") for name, words in options.items()}
    return running.Measurement(suite, suites.Place(folder), everything, tools).run(1)


SOMEBODYS = """
import pytest
def test_a(request): assert request.config.option.verbose <= 0
def test_ab(): pass
def test_fails(): assert 0
@pytest.mark.skip
def test_skipped(): pass
@pytest.mark.parametrize("number", range(36))
def test_many(number): pass
"""


def test_only_what_passes_with_all_alike_is_measured(tmp_path: Path) -> None:
    """The others are named, with what pytest deselects with them; a peer that cannot run the suite is left out, with why."""
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_it.py").write_text(SOMEBODYS)
    options = {
        "plain": (), "sandbox": ("-vv",), "forked": ("--no-such-option",), "xdist": ("--deselect=test_it.py::test_many",),
        "isolate": (),
    }  # fmt: skip
    suite = suites.Suite("its", "its own suite", 1, foreign=True, samples={"isolate": 2})
    found = measure(suite, tmp_path / "suite", options)
    assert found.refused == ""
    assert found.deselected == ["test_it.py::test_a", "test_it.py::test_ab", "test_it.py::test_fails"]
    assert (found.tests, {name: runs.tests for name, runs in found.runs.items()}) == (
        37,
        {"plain": 37, "sandbox": 37, "isolate": 2},
    )
    assert all(len(runs.walls) == 1 for runs in found.runs.values())
    assert list(found.missing) == ["forked", "xdist"]
    assert "36 of 40 tests differ" in found.missing["xdist"]


def test_a_suite_of_which_too_little_passes_is_refused(tmp_path: Path) -> None:
    """What is left would not be that suite."""
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_it.py").write_text(SOMEBODYS.replace("range(36)", "range(3)"))
    found = measure(suites.Suite("its", "its own suite", 1, foreign=True), tmp_path / "suite", {"plain": ()})
    assert found.refused == "not comparable: 1 of 7 tests differ, or do not pass"


def test_a_run_with_other_outcomes_is_refused(tmp_path: Path) -> None:
    """Though its trial was as it should be."""
    (tmp_path / "suite").mkdir()
    once = "from pathlib import Path\ndef test_once():\n    with Path('runs').open('a+') as runs:\n        runs.write('x')\n"
    once += "    assert len(Path('runs').read_text()) < 4\n"
    (tmp_path / "suite" / "test_it.py").write_text(once)
    found = measure(suites.Suite("its", "its own suite", 1, foreign=True), tmp_path / "suite", {"plain": (), "sandbox": ()})
    assert found.refused == "not comparable: with sandbox 1 outcomes differ: test_it.py::test_once (passed, now failed)"


@pytest.mark.parametrize("name", [name for name, each in suites.SUITES.items() if not each.foreign and not each.resident])
def test_a_suite_has_as_many_tests_as_it_says(name: str, pytester: pytest.Pytester) -> None:
    """Costs are divided by that number."""
    at = suites.put(suites.SUITES[name], pytester.path / name)
    run = pytester.run(sys.executable, "-m", "pytest", "--co", "-qq", "-p", "no:cacheprovider", "--rootdir", at.folder, at.folder)
    counted = sum(int(line.rpartition(": ")[2]) for line in run.outlines if ": " in line)
    assert counted == suites.SUITES[name].tests


def test_the_probe_notes_what_a_run_took(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each test, in the process that pytest was started in."""
    shutil.copy(ROOT / "benchmarks" / "ends_probe.py", pytester.path)
    noted = pytester.path / "ends.json"
    monkeypatch.setenv("ENDS", str(noted))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    pytester.makepyfile(test_it="import pytest\nKEPT = []\n@pytest.mark.parametrize('n', range(50))\ndef test_it(n):\n"
                                "    KEPT.append(bytearray(100_000))")  # fmt: skip
    pytester.runpytest_subprocess("-p", "ends_probe", "-p", "no:cacheprovider").assert_outcomes(passed=50)
    found = ends.read(noted, {"mounts": 3}, {"mounts": 4})
    assert found.pace[0] > 0
    assert found.growth == pytest.approx(100_000, rel=0.3)
    assert found.left == ["mounts: 3 before, 4 after"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="limit.c is compiled by cc")
@pytest.mark.needs("user", "mount", "pid", "net", "ipc", "uts", "cgroup", "proc", "sysfs")
def test_the_c_program_makes_sandboxes_and_leaves_nothing(tmp_path: Path) -> None:
    """What it mounted is gone with the namespaces of each."""
    program = running.compile_limit(tmp_path)
    place = tmp_path / "place"
    place.mkdir()
    before = ends.count()["mounts"]
    run = subprocess.run([program, "--count", "3", "--resident", "10", place], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert float(run.stdout) > 0
    assert not list(place.iterdir())
    assert ends.count()["mounts"] == before
