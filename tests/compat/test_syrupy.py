"""syrupy's snapshots are written, compared, reported as unused and removed as in a plain run; none is lost otherwise."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat
    from tests.conftest import Run

SUITE = """
import pytest
from syrupy.extensions.json import JSONSnapshotExtension
from syrupy.extensions.single_file import SingleFileSnapshotExtension
@pytest.fixture
def js(snapshot): return snapshot.with_defaults(extension_class=JSONSnapshotExtension)
def test_a(snapshot): assert {"a": 1} == snapshot
def test_b(snapshot):
    assert [1, 2] == snapshot
    assert [1, 3] == snapshot(name="other")
@pytest.mark.parametrize("x", ["p", "q/r"])
def test_c(snapshot, x): assert x == snapshot
def test_d(js): assert {"z": [1]} == js
def test_e(snapshot): assert b"\\x00\\xff" == snapshot(extension_class=SingleFileSnapshotExtension)
class TestK:
    def test_f(self, snapshot):
        for i in range(3): assert i == snapshot
@pytest.mark.xfail
def test_g(snapshot):
    assert object == snapshot
    assert 0
@pytest.mark.skip
def test_h(snapshot): assert "h" == snapshot
def test_without(): pass
"""
OLD = """# serializer version: 1
# name: test_a
  dict({
    'a': 2,
  })
# ---
# name: test_gone
  1
# ---
# name: test_h
  'h'
# ---
"""
KILLED = """
import os, pytest
def test_1(snapshot):
    assert 1 == snapshot
    if os.environ.get("KILL"): os.kill(os.getpid(), 9)
    assert 2 == snapshot
def test_2(snapshot): assert 3 == snapshot
def test_3(snapshot): assert 4 == snapshot
"""


LOADED = ["syrupy"]


@pytest.fixture
def suite(compat: Compat) -> Compat:
    """Tests that use snapshots in each way, some of which there are, and some snapshots that nobody uses."""
    compat.pytester.makepyfile(test_it=SUITE)
    top = compat.pytester.path / "__snapshots__"
    (top / "test_it").mkdir(parents=True)
    (top / "test_it.ambr").write_text(OLD)
    (top / "test_old.ambr").write_text("# serializer version: 1\n# name: test_x\n  1\n# ---\n")
    (top / "test_it" / "test_gone.json").write_text("{}")
    return compat


def summary(run: Run) -> list[str]:
    """What syrupy has to say at the end."""
    lines = run.result.stdout.lines
    begin = next((number for number, line in enumerate(lines) if "snapshot report summary" in line), len(lines))
    return [line for line in lines[begin + 1 :] if not line.startswith(("=", "FAILED", "XFAIL", "SKIPPED"))]


OPTIONS = {
    "compare": [],
    "details": ["--snapshot-details"],
    "warn": ["--snapshot-warn-unused"],
    "update": ["--snapshot-update", "--snapshot-details"],
    "new only": ["--snapshot-update-new-only"],
    "no cleanup": ["--snapshot-update", "--snapshot-no-cleanup"],
    "no unused": ["--snapshot-update", "--snapshot-disable-unused"],
    "some": ["--snapshot-update", "-k", "test_a or test_c"],
    "one": ["--snapshot-update", "test_it.py::test_b"],
    "in order": ["--snapshot-update", "--snapshot-declaration-order"],
}


@pytest.mark.parametrize("options", list(OPTIONS.values()), ids=list(OPTIONS))
def test_same_files_and_summary(suite: Compat, options: list[str]) -> None:
    """Each option leaves the same files, has the same summary and exit status; and so has a plain run with what it left."""
    first, second = suite.sequence(options, [])
    for pair in (first, second):
        plain, boxed = pair.assert_same_ends()
        assert boxed.files == plain.files
        assert summary(boxed) == summary(plain)
    if options[:1] == ["--snapshot-update"]:
        assert first[1].files["__snapshots__/test_it.ambr"] != OLD.encode()


def test_without_update_nothing_changes(suite: Compat) -> None:
    """A run that only compares fails for what is missing and unused, and touches no file."""
    before = suite.files()
    run = suite.one()
    assert run.files == before
    assert "snapshots unused" in run.text


def test_own_extension(compat: Compat) -> None:
    """An extension of the project's own puts files where it says; one that only its test knows fails that test, and says why."""
    compat.pytester.makeconftest(
        """
        from pathlib import Path
        from syrupy.extensions.amber import AmberSnapshotExtension
        class Elsewhere(AmberSnapshotExtension):
            @classmethod
            def dirname(cls, *, test_location):
                return str(Path(test_location.filepath).parent / "elsewhere")
        """
    )
    compat.pytester.makepyfile(
        test_it="""
        from conftest import Elsewhere
        def test_1(snapshot): assert 1 == snapshot.use_extension(Elsewhere)
        def test_local(snapshot):
            class Local(Elsewhere): pass
            assert 1 == snapshot.use_extension(Local)
        """
    )
    plain, boxed = compat.both("--snapshot-update", same=False)
    assert "test_local" in plain.read("elsewhere/test_it.ambr")
    assert "# name: test_1\n" in boxed.read("elsewhere/test_it.ambr")
    assert ("test_it.py::test_local", "call", "failed") in boxed.outcomes()
    assert "cannot be found by this name outside" in boxed.text


def test_shared_sandbox_and_controller(compat: Compat) -> None:
    """Tests that share a sandbox, and one without, write into one file."""
    compat.pytester.makepyfile(
        test_it="""
        import pytest
        def test_0(snapshot): assert 0 == snapshot
        @pytest.mark.sandbox(group="x")
        def test_1(snapshot): assert 1 == snapshot
        @pytest.mark.sandbox(group="x")
        def test_2(snapshot): assert 2 == snapshot
        @pytest.mark.sandbox(enabled=False)
        def test_3(snapshot): assert 3 == snapshot
        """
    )
    for pair in compat.sequence(["--snapshot-update"], []):
        plain, boxed = pair.assert_same_ends()
        assert boxed.files == plain.files
        assert summary(boxed) == summary(plain)


@pytest.mark.parametrize("options", [[], ["-x"], ["-k", "test_1 or test_2"]], ids=["all", "x", "some"])
def test_nothing_of_a_killed_test_is_removed(compat: Compat, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    """What a killed test would have used, or one that never ran, is unknown: all of it stays; others are updated."""
    compat.pytester.makepyfile(test_it=KILLED)
    assert compat.one("--snapshot-update").status == 0
    before = compat.files()["__snapshots__/test_it.ambr"].decode()
    compat.pytester.makepyfile(test_it=KILLED.replace("3 == snap", "'three' == snap"))
    monkeypatch.setenv("KILL", "1")
    run = compat.one("--snapshot-update", *options)
    assert run.status == 1
    after = run.read("__snapshots__/test_it.ambr")
    assert after == (before if "-x" in options else before.replace("\n  3\n", "\n  'three'\n"))
    assert "deleted" not in run.text
    assert compat.one().status == 1
    assert compat.files()["__snapshots__/test_it.ambr"].decode() == after


def test_refused_run_removes_nothing(compat: Compat) -> None:
    """A run that is refused before its first test, when everything has been collected, has used no snapshot, and removes none."""
    compat.pytester.makepyfile(test_it=KILLED)
    assert compat.one("--snapshot-update").status == 0
    before = compat.files()["__snapshots__/test_it.ambr"]
    compat.pytester.makepyfile(
        test_it=f"{KILLED}\n@pytest.mark.sandbox(nonsense=1)\ndef test_4(snapshot): assert 4 == snapshot\n"
    )
    run = compat.one("--snapshot-update")
    assert "has no argument 'nonsense'" in run.text
    assert not run.outcomes()
    assert run.files["__snapshots__/test_it.ambr"] == before


def test_interrupted_run_removes_nothing(compat: Compat) -> None:
    """A run that ends early has not seen who uses the rest."""
    compat.pytester.makepyfile(test_it=KILLED)
    assert compat.one("--snapshot-update").status == 0
    before = compat.files()["__snapshots__/test_it.ambr"]
    compat.pytester.makepyfile(
        test_it="import pytest\ndef test_1(snapshot): pytest.exit('enough')\n"
        + KILLED.partition("def test_2")[2].join(("def test_2", ""))
    )
    run = compat.one("--snapshot-update")
    assert "enough" in run.text
    assert run.files["__snapshots__/test_it.ambr"] == before


#: Each file's tests to a worker of its own.
SPREAD = ("-p", "xdist.plugin", "-Wignore", "-n2", "--dist=loadfile")
#: A test that uses one snapshot, of two that there are.
STALE = """
import os
def test_{name}(snapshot):
    assert "{name}" == snapshot
    if os.environ.get("KILL") == "{name}": os.kill(os.getpid(), 9)
    if "BOTH" in os.environ: assert "old" == snapshot
def test_{name}_next(snapshot): assert "next" == snapshot
"""


@pytest.fixture
def spread(compat: Compat, monkeypatch: pytest.MonkeyPatch) -> Compat:
    """Files whose tests run in different workers, each with a snapshot that its test does not use any more."""
    compat.pytester.makepyfile(**{f"test_{name}": STALE.format(name=name) for name in "pqr"})
    with monkeypatch.context() as patch:
        patch.setenv("BOTH", "1")
        assert compat.one("--snapshot-update").status == 0
    return compat


@pytest.mark.parametrize("options", [[], ["--snapshot-update"]], ids=["compare", "update"])
def test_stale_snapshots_under_xdist(spread: Compat, options: list[str]) -> None:
    """A snapshot that its test does not use any more fails the run, or is removed, whichever worker has run the test."""
    plain, boxed = spread.both(*SPREAD, *options, same=False)
    assert sorted(boxed.outcomes()) == sorted(plain.outcomes())
    assert boxed.status == plain.status == (0 if options else 1), boxed.text
    assert summary(boxed) == summary(plain)
    assert boxed.files == plain.files
    assert (b"old" in boxed.files["__snapshots__/test_q.ambr"]) is (not options)


@pytest.mark.parametrize("options", [[], ["-x"]], ids=["all", "x"])
def test_nothing_of_a_killed_test_is_removed_under_xdist(
    spread: Compat, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """What it would have used stays, and what those after it would have, that no worker has run; what others left unused goes."""
    before = spread.files()
    monkeypatch.setenv("KILL", "q")
    run = spread.one(*SPREAD, "--snapshot-update", *options)
    assert run.status != 0
    assert run.files["__snapshots__/test_q.ambr"] == before["__snapshots__/test_q.ambr"], run.text
    assert b"next" in run.files["__snapshots__/test_r.ambr"]
    if not options:
        assert b"old" not in run.files["__snapshots__/test_p.ambr"]
        assert b"old" not in run.files["__snapshots__/test_r.ambr"]


LIES: dict[str, dict[str, Any]] = {
    "another file's test": {"nodeid": "test_other.py::test_o"},
    "no test": {"nodeid": "nobody"},
    "no extension": {"extension": "os:path"},
    "a base class": {"extension": "builtins:object"},
    "an abstract class": {"extension": "syrupy.extensions.base:AbstractSyrupyExtension"},
    "what must be imported": {"extension": "evil:Extension"},
    "a name of lines": {"index": "x\n# ---\n# name: test_next\n"},
    "no index": {"index": 1.5},
    "bytes for text": {"base64": "AAAA"},
    "half a pair": {"text": "\ud800"},
    "another place": {"extension": "conftest:Outside"},
    "through a link": {"extension": "conftest:Linked"},
}


@pytest.mark.parametrize("lie", list(LIES))
def test_lies(compat: Compat, lie: str) -> None:
    """What a sandbox says is written only where syrupy puts the snapshots of that test's file."""
    victim = compat.pytester.path.parent / f"{compat.pytester.path.name}-victim"
    victim.mkdir()
    (compat.pytester.path / "link").symlink_to(victim)
    compat.pytester.makeconftest(
        f"""
        from syrupy.extensions.amber import AmberSnapshotExtension
        class Outside(AmberSnapshotExtension):
            dirname = classmethod(lambda cls, **_: {str(victim)!r})
        class Linked(AmberSnapshotExtension):
            dirname = classmethod(lambda cls, **_: {str(compat.pytester.path / "link")!r})
        """
    )
    (compat.pytester.path / "evil.py").write_text("open('imported', 'w')\n")
    write: dict[str, Any] = {
        "extension": "syrupy.extensions.amber:AmberSnapshotExtension",
        "nodeid": "test_it.py::test_lie",
        "index": 0,
    }
    write |= LIES[lie] if LIES[lie].keys() & {"text", "base64"} else {"text": "lie"} | LIES[lie]
    frame = {"op": "carried", "ended": True, "plugins": {"syrupy": {"assertions": [], "writes": [write]}}}
    compat.pytester.makepyfile(
        test_it=f"""
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        def test_lie(request): request.config.stash[INSIDE].channel.send({frame!r})
        def test_next(snapshot): assert 1 == snapshot
        """,
        test_other="def test_o(snapshot): assert 2 == snapshot",
    )
    run = compat.one("--snapshot-update")
    assert run.status == 1, run.text
    assert run.read("__snapshots__/test_it.ambr") == "# serializer version: 1\n# name: test_next\n  1\n# ---\n"
    assert run.read("__snapshots__/test_other.ambr") == "# serializer version: 1\n# name: test_o\n  2\n# ---\n"
    assert not list(victim.iterdir())
    assert "imported" not in run.files


@pytest.mark.parametrize("options", [(), SPREAD], ids=["alone", "xdist"])
def test_link_made_by_a_test(compat: Compat, options: tuple[str, ...]) -> None:
    """Where a test may really write and puts a link in the place of the snapshots: nothing is written or removed through it."""
    victim = compat.pytester.path.parent / f"{compat.pytester.path.name}-victim"
    victim.mkdir()
    (victim / "test_it.ambr").write_text(OLD)
    (victim / "precious").write_text("precious")
    compat.pytester.makepyfile(
        test_it=f"""
        import os, pytest
        @pytest.mark.sandbox(writable=os.path.dirname(__file__))
        def test_1(snapshot):
            assert 1 == snapshot
            os.symlink({str(victim)!r}, os.path.join(os.path.dirname(__file__), "__snapshots__"))
        def test_2(snapshot): assert 2 == snapshot
        """,
        test_other="def test_o(): pass",
    )
    run = compat.one("--snapshot-update", *options)
    assert os.path.islink(compat.pytester.path / "__snapshots__"), run.text
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"test_it.ambr": OLD, "precious": "precious"}
    assert "symbolic link" in run.text


def test_unknown_version_is_refused(compat: Compat) -> None:
    """A version without what is read: the run is refused before the first test; with plugin, reason and way around."""
    compat.pytester.makeconftest("def pytest_collection_finish(session):\n    del session.config._syrupy._assertions\n")
    compat.pytester.makepyfile("def test_1(snapshot): pass")
    run = compat.one()
    assert run.status == pytest.ExitCode.USAGE_ERROR or "has no _assertions" in run.text
    assert "-p no:syrupy" in run.text
    assert not run.outcomes()
