"""pytest's cache and Hypothesis's examples: what comes home of what tests write there, and what is said of the rest."""

from __future__ import annotations

import json
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


def test_values_that_pytest_cannot_read(pytester: pytest.Pytester, compare: Compare) -> None:
    """What is too large, too deep or no JSON stays behind, each by itself; what a value was before it is again."""
    cache = pytester.mkdir(".pytest_cache") / "v" / "mine"
    cache.mkdir(parents=True)
    (cache / "old").write_text('"old"')
    pytester.makepyfile(
        """
        def test_1(pytestconfig):
            values = pytestconfig.cache._cachedir / "v" / "mine"
            (values / "old").write_text("[" * 200 + "]" * 200)
            (values / "deeper").write_text("[" * 100_000 + "]" * 100_000)
            (values / "text").write_text("neither")
            (values / "large").write_text('"' + "x" * (4 << 20) + '"')
            (pytestconfig.cache.mkdir("mine") / "large").write_bytes(bytes(5 << 20))
            pytestconfig.cache.set("mine/new", [{"a": [[1]]}] * 10_000)
        """
    )
    run = compare.one()
    assert run.status == 0
    run.result.stdout.fnmatch_lines(["4 of what tests wrote is lost, of which the first is *"])
    assert {path.name: json.loads(path.read_text()) for path in cache.iterdir()} == {"old": "old", "new": [{"a": [[1]]}] * 10_000}
    assert (cache.parent.parent / "d" / "mine" / "large").stat().st_size == 5 << 20


def test_values_of_pytests_own(pytester: pytest.Pytester, compare: Compare) -> None:
    """What a test makes of them it has for itself: pytest's own process says what has failed."""
    pytester.makepyfile(
        """
        def test_1(pytestconfig):
            pytestconfig.cache.set("cache/lastfailed", [1])
            pytestconfig.cache.set("cache/nodeids", 7)
            pytestconfig.cache.set("cache/stepwise", "lies")
            assert pytestconfig.cache.get("cache/nodeids", None) == 7
        def test_2(): assert 0
        """
    )
    first = compare.one("--sandbox-jobs=2")
    first.result.stdout.fnmatch_lines(["1 of what tests wrote is lost, * pytest's own process writes that"])
    second = compare.one("--lf")
    assert (first.status, second.status) == (1, 1)
    assert [nodeid[-6:] for nodeid, when, _ in second.outcomes() if when == "call"] == ["test_2"]


@pytest.mark.parametrize("name", ["cache", "build/cache"])
@pytest.mark.parametrize("file", ["test_left.py", "test_left.txt"])
def test_a_directory_that_pytest_collects(pytester: pytest.Pytester, compare: Compare, name: str, file: str) -> None:
    """Nothing comes home to it: pytest would run that in the next run, outside. Where it does not look, all comes."""
    pytester.makeini(f"[pytest]\ncache_dir = {name}\n")
    pytester.makepyfile(f"def test_1(pytestconfig): (pytestconfig.cache.mkdir('x') / {file!r}).write_text('>>> 1 / 0\\n')")
    first, second = compare.one(), compare.one()
    left = f"{name}/d/x/{file}"
    assert (first.status, second.status, left in second.files) == (0, 0, name != "cache")
    assert (f"sandbox: what tests write to {pytester.path / name} is gone with them: pytest looks" in first.text) == (
        name == "cache"
    )


@pytest.mark.parametrize("way", ["--basetemp", "TMPDIR"])
def test_temporary_files_below_the_cache(
    pytester: pytest.Pytester, compare: Compare, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What a fixture has made there each test has for itself."""
    place = pytester.mkdir(".pytest_cache") / "tmp"
    place.mkdir()
    if way == "TMPDIR":
        monkeypatch.setenv("TMPDIR", str(place))
        monkeypatch.delenv("PYTEST_DEBUG_TEMPROOT")
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="session")
        def file(tmp_path_factory):
            file = tmp_path_factory.mktemp("session") / "file"
            file.write_text("made")
            return file
        @pytest.mark.parametrize("number", range(2))
        def test_1(file, number):
            assert file.read_text() == "made"
            file.write_text("changed")
        """
    )
    run = compare.one(*([f"--basetemp={place}/base"] if way == "--basetemp" else []))
    assert run.status == 0
    assert f"sandbox: what tests write to {pytester.path}/.pytest_cache is gone with them: {place}" in run.text


def test_something_else_as_the_cache(pytester: pytest.Pytester, compare: Compare) -> None:
    """A conftest may have put it there; tests have what it has."""
    pytester.makeconftest(
        """
        import types
        def pytest_collection_modifyitems(config):
            config.cache = types.SimpleNamespace(get=lambda key, default: default, set=lambda key, value: None)
        """
    )
    pytester.makepyfile("def test_1(pytestconfig): assert pytestconfig.cache.get('a/b', 7) == 7")
    compare().assert_same()


def test_a_working_directory_that_is_gone(pytester: pytest.Pytester, compare: Compare) -> None:
    """A conftest may have removed it."""
    pytester.makeconftest(
        """
        import os, tempfile
        def pytest_collection_finish():
            directory = tempfile.mkdtemp()
            os.chdir(directory)
            os.rmdir(directory)
        """
    )
    pytester.makepyfile("def test_1(): pass")
    compare().assert_same()


@pytest.mark.parametrize("again", ["", "; os.mkdir('.pytest_cache')", "; os.symlink('/', '.pytest_cache')"])
def test_somebody_removes_it(pytester: pytest.Pytester, compare: Compare, again: str) -> None:
    """As a test without a sandbox may, or `git clean`: the run goes on, and says what is lost."""
    pytester.makepyfile(
        f"""
        import os, pytest, shutil
        @pytest.fixture(scope="module")
        def module(): pass
        def test_1(module, pytestconfig): pytestconfig.cache.set("a/b", 1)
        @pytest.mark.sandbox(enabled=False)
        def test_2(): shutil.rmtree(".pytest_cache"){again}
        def test_3(module): pass
        def test_4(): assert os.listdir("/")
        """
    )
    run = compare.one()
    assert run.status == 0, run.text
    lost = f"what tests wrote to {pytester.path}/.pytest_cache is lost: somebody has removed it meanwhile"
    run.result.stdout.fnmatch_lines([lost])
