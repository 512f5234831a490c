"""pytest-benchmark measures in sandboxes; its table, files and comparisons have what was measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat
    from tests.conftest import Run

SUITE = """
import pytest
def test_fast(benchmark): assert benchmark(lambda: 5) == 5
@pytest.mark.parametrize("n", [10, 1000])
def test_n(benchmark, n):
    benchmark.group = "sums"
    benchmark.extra_info.update(n=n, odd=float("nan"), deep={"float": "nan", "list": [1, None]}, thing=object)
    benchmark.pedantic(lambda: sum(range(n)), rounds=5, iterations=2)
def test_bad(benchmark):
    with pytest.raises(ZeroDivisionError): benchmark(lambda: 1 / 0)
def test_fails_after(benchmark):
    benchmark.pedantic(int, rounds=3)
    assert 0
def test_unused(benchmark): pass
def test_other(): pass
"""
NAMES = ["test_fast", "test_n[10]", "test_n[1000]", "test_fails_after"]
#: Rows are in the order of what was measured else, which is another where something gets in between.
BY_NAME = ("--benchmark-sort=name",)


LOADED = ["benchmark"]
NEEDED = ["pytest_benchmark"]


@pytest.fixture
def suite(compat: Compat) -> Compat:
    """Some benchmarks."""
    compat.pytester.makepyfile(test_it=SUITE)
    return compat


def table(run: Run) -> list[str]:
    """The names in the tables printed, under the names of their groups; without figures."""
    words = [line.split() for line in run.text.splitlines()]
    return [line[0] if line[0].startswith("test_") else " ".join(line[1:4]) for line in words if _is_row(line)]


def _is_row(words: list[str]) -> bool:
    return len(words) > 5 and (words[0].startswith("test_") or (set(words[0]) == {"-"} and words[1] == "benchmark"))


def shape(value: Any) -> Any:
    """What a file of benchmarks says, without what any two measurements differ by."""
    if isinstance(value, dict):
        stats = value.keys() & {"stats"}
        return {key: sorted(entry) if key in stats else shape(entry) for key, entry in value.items()}
    return [shape(entry) for entry in value] if isinstance(value, list) else str(value)


def test_table_and_json(suite: Compat) -> None:
    """The table has the same rows and groups; --benchmark-json the same fields, names, options, rounds and notes."""
    plain, boxed = suite.both("--benchmark-json=out.json", "--benchmark-max-time=0.05", *BY_NAME)
    assert table(plain) == table(boxed)
    assert [name for name in NAMES if name in table(boxed)] == NAMES
    saved = [json.loads(run.read("out.json")) for run in (plain, boxed)]
    assert shape(saved[1]["benchmarks"]) == shape(saved[0]["benchmarks"])
    assert saved[1].keys() == saved[0].keys()
    by_name = {one["name"]: one for one in saved[1]["benchmarks"]}
    assert list(by_name) == NAMES
    for name, rounds in (("test_n[10]", 5), ("test_fails_after", 3)):
        data = by_name[name]["stats"]["data"]
        assert len(data) == by_name[name]["stats"]["rounds"] == rounds
        assert all(value > 0 for value in data)
    assert by_name["test_n[10]"]["params"] == {"n": 10}
    assert by_name["test_n[10]"]["extra_info"]["deep"] == {"float": "nan", "list": [1, None]}


def test_saved_and_compared(suite: Compat) -> None:
    """--benchmark-autosave saves; a later run compares with that, and --benchmark-compare-fail fails by it."""
    (suite.pytester.path / "test_it.py").write_text(
        "import os, time\ndef test_slow(benchmark): benchmark.pedantic(time.sleep, (float(os.environ['PAUSE']),), rounds=3)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAUSE", "0.002")
        first = suite.one("--benchmark-autosave")
        patch.setenv("PAUSE", "0.5")  # much more than what a busy machine adds to the least of three
        worse = suite.one("--benchmark-compare", "--benchmark-compare-fail=min:200%")
        fair = suite.one("--benchmark-compare", "--benchmark-compare-fail=min:900000%", "--benchmark-save=second")
    assert first.status == 0
    assert any(name.startswith(".benchmarks/") and name.endswith(".json") for name in first.files)
    assert "Performance has regressed" in worse.text
    assert worse.status != 0
    assert "NOW" in fair.text
    assert fair.status == 0, fair.text
    assert any(name.endswith("_second.json") for name in fair.files)


def test_profiles(suite: Compat) -> None:
    """--benchmark-cprofile shows, and --benchmark-cprofile-dump writes, what ran in the sandbox."""
    options = ("--benchmark-cprofile=tottime", "--benchmark-cprofile-dump=dumps/it", "--benchmark-max-time=0.05")
    plain, boxed = suite.both(*options)
    assert [name for name in boxed.files if name.endswith(".prof")] == [name for name in plain.files if name.endswith(".prof")]
    assert "dumps/it-test_n[1000].prof" in boxed.files
    assert "built-in method builtins.sum" in boxed.line("builtins.sum")


@pytest.mark.parametrize("option", ["--benchmark-skip", "--benchmark-only", "--benchmark-disable"])
def test_switches(suite: Compat, option: str) -> None:
    """What is skipped or not measured is so in sandboxes too."""
    plain, boxed = suite.both(option, *BY_NAME)
    assert table(plain) == table(boxed)


def test_shared_sandbox(compat: Compat) -> None:
    """Tests that share a sandbox: each benchmark is there once."""
    compat.pytester.makepyfile(
        test_it="""
        import pytest
        pytestmark = pytest.mark.sandbox(scope="module")
        def test_1(benchmark): benchmark.pedantic(int, rounds=2)
        def test_2(benchmark): benchmark.pedantic(int, rounds=2)
        @pytest.mark.sandbox(enabled=False)
        def test_3(benchmark): benchmark.pedantic(int, rounds=2)
        """
    )
    run = compat.one("--benchmark-json=out.json")
    assert [one["name"] for one in json.loads(run.read("out.json"))["benchmarks"]] == ["test_1", "test_2", "test_3"]


LIES: dict[str, dict[str, Any]] = {
    "no number": {"data": ["1"]},
    "too much": {"data": [1e400]},
    "no iterations": {"iterations": 0},
    "an option": {"options": {"timer": ["x"]}},
    "a name": {"name": None},
    "no notes": {"extra_info": ["x"]},
    "other notes": {"extra_info": {"x": 1}},
    "notes of no JSON": {"extra_info": {"$": "dict", "of": [["x", {"$": "set", "of": []}]]}},
    "a profile": {"profile": [1]},
    "another profile": {"profile": [[["a", "b", "c"], [1, 2, 3, 4], []]]},
}


@pytest.mark.parametrize("lie", list(LIES))
def test_lies(compat: Compat, lie: str) -> None:
    """What makes no sense costs the test that says it, and nothing else."""
    good: dict[str, Any] = {
        "name": "n", "fullname": "f", "group": None, "extra_info": {"$": "dict", "of": []}, "options": {}, "iterations": 1,
        "data": [1.0], "has_error": False, "profile": None,
    }  # fmt: skip
    frame = {"op": "carried", "ended": True, "plugins": {"pytest-benchmark": {"benchmarks": [good | LIES[lie]]}}}
    compat.pytester.makepyfile(
        test_it=f"""
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        inf = float("inf")
        def test_lie(request): request.config.stash[INSIDE].channel.send({frame!r})
        def test_next(benchmark): benchmark.pedantic(int, rounds=2)
        """.replace("[inf]", "[10 ** 400]")
    )
    run = compat.one()
    assert ("test_it.py::test_next", "call", "passed") in run.outcomes()
    assert ("test_it.py::test_lie", "call", "failed") in run.outcomes() or run.status == 1
    assert run.status == 1, run.text
    assert [name for name in table(run) if name.startswith("test_")] == ["test_next"]


def test_names_cannot_break_the_terminal(compat: Compat) -> None:
    """A name or group that a terminal or a file cannot hold is shown in escapes."""
    compat.pytester.makepyfile(
        test_it=r"""
        def test_1(benchmark):
            benchmark.group = "a\x1b[31m\ud800\n/../b"
            benchmark.pedantic(int, rounds=2)
        """
    )
    run = compat.one()
    assert run.status == 0, run.text
    assert run.line("benchmark 'a").count("ud800") == 1
    assert "\x1b" not in run.text


def test_unknown_version_is_refused(compat: Compat) -> None:
    """A version without what is read: the run is refused before the first test; with plugin, reason and way around."""
    compat.pytester.makeconftest("def pytest_collection_finish():\n    import pytest_benchmark.stats as s; del s.Stats\n")
    compat.pytester.makepyfile("def test_1(benchmark): open('ran', 'w')")
    run = compat.one()
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "pytest-benchmark 5" in run.text
    assert "has no Stats" in run.text
    assert "-p no:benchmark" in run.text
    assert not run.outcomes()


def test_one_at_a_time(compat: Compat) -> None:
    """Whatever `--sandbox-jobs` says; and it is said."""
    compat.pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("n", range(3))
        def test_it(benchmark, n): benchmark(list)
    """)
    found = compat.one("--sandbox-jobs=3")
    assert found.status == 0, found.text
    assert found.line("sandbox: one test at a time: pytest-benchmark measures"), found.text
