"""inline-snapshot rewrites sources and external files, and reports, as in a plain run."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat
    from tests.conftest import Run

# A source of the same size, written in the same second, is not compiled again: so what is to be fixed is longer.
HELPER = """
from inline_snapshot import snapshot
def check(x): assert x == snapshot({"k": 1})
"""
SUITE = '''
import pytest
from inline_snapshot import snapshot, external, outsource, external_file
from helper import check
MODULE = snapshot([1])
def test_module(): assert [2] == MODULE
def test_helper(): check({"k": 20})
@pytest.mark.parametrize("x", [3, 9, 5])
def test_le(x): assert x <= snapshot(20)
@pytest.mark.parametrize("x", [3, 9, 5])
def test_ge(x): assert x >= snapshot(4)
@pytest.mark.parametrize("x", [3, 9])
def test_at_bound(x): assert x <= snapshot(9)
@pytest.mark.parametrize("x", [3, 9])
def test_le_create(x): assert x <= snapshot()
@pytest.mark.parametrize("x", [3, 9, 3])
def test_in(x): assert x in snapshot([3, 4])
@pytest.mark.parametrize("x", [3, 4])
def test_in_all(x): assert x in snapshot([3, 4])
@pytest.mark.parametrize("x", ["a", "b"])
def test_in_create(x): assert x in snapshot()
@pytest.mark.parametrize("x", ["a", "b"])
def test_key(x): assert len(x) == snapshot({"a": 2, "z": 3})[x]
@pytest.mark.parametrize("x", ["a", "b"])
def test_key_create(x): assert ord(x) == snapshot()[x]
def test_external(): assert "text" == external()
def test_external_bin(): assert b"bin" == external("hash:.bin")
def test_outsource(): assert outsource({"a": 1}) == snapshot()
def test_external_file(): assert "hello" == external_file("data/x.txt")
@pytest.fixture(scope="module")
def deep():
    assert 5 == snapshot(6)
    yield 5
    assert 1 in snapshot([1, 2])
def test_deep(deep): assert deep == snapshot(5)
def test_deep_create(deep): assert deep + 1 == snapshot()
def test_update(): assert "a" == snapshot("""a""")
def test_nested(): assert {"a": [1, {"b": 2}], "c": (1, 2)} == snapshot({"a": [1, {"b": 3}, 7], "c": (1,)})
@pytest.mark.xfail
def test_xfail(): assert 1 == snapshot(2)
@pytest.mark.sandbox(enabled=False)
def test_here(): assert [2] == snapshot()
@pytest.mark.sandbox(group="x")
def test_group_1(): assert 1 in shared()
@pytest.mark.sandbox(group="x")
def test_group_2(): assert 2 in shared()
@pytest.mark.sandbox(enabled=False)
def test_shared_here(): assert 3 in shared()
def shared(): return snapshot([1, 2, 9])
class TestClass:
    def test_long(self): assert ["x" * 30] * 4 == snapshot()
'''
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


LOADED = ["inline_snapshot"]


@pytest.fixture
def suite(compat: Compat) -> Compat:
    """Tests that use snapshots in each way, by one test and by several."""
    compat.pytester.makepyfile(helper=HELPER, test_it=SUITE)
    return compat


def same_for_all(text: str) -> str:
    """Text without the names that are drawn by lot."""
    return _UUID.sub("UUID", text)


def files(run: Run) -> dict[str, str]:
    """What the run left; names drawn by lot are no difference."""
    return {same_for_all(name): same_for_all(content.decode()) for name, content in run.files.items()}


def report(run: Run) -> list[str]:
    """What inline-snapshot has to say at the end."""
    lines = run.result.stdout.lines
    begin = next((number for number, line in enumerate(lines) if "═ inline-snapshot ═" in line), len(lines))
    return [same_for_all(line) for line in lines[begin:] if " passed" not in line]


FLAGS = ["create", "fix", "trim", "update", "create,fix", "create,fix,trim,update", "report", "short-report", "trim,report", ""]


@pytest.mark.parametrize("flags", FLAGS)
def test_same_sources_and_report(suite: Compat, flags: str) -> None:
    """Each flag leaves the same sources and external files, and prints the same; and so does the next run."""
    options = [f"--inline-snapshot={flags}"] if flags else []
    first, second = suite.sequence(["--tb=no", *options], ["--tb=no", "--inline-snapshot=report"])
    for pair in (first, second):
        plain, boxed = pair.assert_same_ends()
        assert files(boxed) == files(plain)
        assert report(boxed) == report(plain)
    changed = first[1].read("test_it.py") != SUITE.strip()
    assert changed == bool({"create", "fix", "trim", "update"} & set(flags.split(",")))


def test_created_is_there(suite: Compat) -> None:
    """After create and fix the suite passes, with all that stands in external files."""
    suite.one("--inline-snapshot=create,fix")
    run = suite.one("--inline-snapshot=disable")
    assert run.status == 0, run.text
    assert b"hello" in run.files["data/x.txt"]
    assert b"bin" in {content for name, content in run.files.items() if name.endswith(".bin")}


def test_unused_externals_are_trimmed(compat: Compat) -> None:
    """An external file that no source names is removed by trim, and only that."""
    compat.pytester.makepyfile(
        test_it='from inline_snapshot import external\ndef test_1(): assert "one" == external("hash:.txt")'
    )
    compat.one("--inline-snapshot=create")
    compat.pytester.makepyfile(
        test_it=compat.files()["test_it.py"].decode() + '\ndef test_2(): assert "two" == external("hash:.txt")'
    )
    compat.one("--inline-snapshot=create")
    source = compat.files()["test_it.py"].decode()
    compat.pytester.makepyfile(test_it=source.partition("\ndef test_2")[0])
    plain, boxed = compat.both("--inline-snapshot=trim")
    assert files(boxed) == files(plain)
    assert {content for name, content in boxed.files.items() if name.endswith(".txt") and "files_using" not in name} == {b"one"}


def test_review(compat: Compat) -> None:
    """--inline-snapshot=review asks in the controller, and does what it is told."""
    pexpect = pytest.importorskip("pexpect")
    compat.pytester.makepyfile(test_it="from inline_snapshot import snapshot\ndef test_1(): assert 5 == snapshot()\n")
    assert compat.one("--inline-snapshot=short-report").status == 1
    command = (
        "-m pytest -p no:cacheprovider -p pytest_sandbox.plugin.plugin -p inline_snapshot --sandbox --inline-snapshot=review"
    )
    with compat.in_environment():
        child = compat.pytester.spawn(f"{sys.executable} {command}", expect_timeout=120)
        child.expect("Do you want to")
        child.sendline("y")
        child.expect(pexpect.EOF)
    assert "snapshot(5)" in compat.files()["test_it.py"].decode()


def test_different_values_are_told(compat: Compat) -> None:
    """Tests that want one snapshot to be different things: the first's is taken, which is said, and the run fails."""
    compat.pytester.makepyfile(
        test_it="""
        import pytest
        from inline_snapshot import snapshot
        @pytest.mark.parametrize("x", [1, 2])
        def test_1(x): assert x == snapshot()
        """
    )
    plain, boxed = compat.both("--inline-snapshot=create", same=False)
    assert boxed.files["test_it.py"] == plain.files["test_it.py"]
    assert b"snapshot(1)" in boxed.files["test_it.py"]
    assert plain.status == boxed.status == 1
    assert "different values" in boxed.text


def test_nothing_of_a_killed_test_is_trimmed(compat: Compat) -> None:
    """What a killed test would have used is unknown: nothing is trimmed, though that was asked for; others are fixed."""
    compat.pytester.makepyfile(
        test_it="""
        import os, pytest
        from inline_snapshot import snapshot
        @pytest.mark.parametrize("x", [1, 2, 3])
        def test_1(x):
            if x == 2: os.kill(os.getpid(), 9)
            assert x in snapshot([1, 2, 3, 4])
        def test_2(): assert 5 == snapshot(6)
        """
    )
    run = compat.one("--inline-snapshot=trim,fix")
    assert run.status == 1
    assert "snapshot([1, 2, 3, 4])" in run.read("test_it.py")
    assert "snapshot(5)" in run.read("test_it.py")
    assert "trim was disabled" in run.text


#: The `snapshot(6)` of the attacked file; see `attack`.
CALL = """next(number for number, node in enumerate(ast.walk(ast.parse(text))) if isinstance(node, ast.Call))"""
LIES: dict[str, dict[str, Any]] = {
    "no expression": {
        "changes": [{"kind": "CallArg", "flag": "fix", "arg_pos": 0, "arg_name": None, "new_code": "1)\nimport os#"}]
    },
    "statements": {"changes": [{"kind": "CallArg", "flag": "fix", "arg_pos": 0, "arg_name": None, "new_code": "x = 1"}]},
    "no name": {"changes": [{"kind": "CallArg", "flag": "fix", "arg_pos": None, "arg_name": "a=1, b", "new_code": "1"}]},
    "an import of more": {"changes": [{"kind": "RequiredImport", "flag": "fix", "module": "os\nimport sys", "name": None}]},
    "another node": {"changes": [{"kind": "Replace", "flag": "fix", "node": 1, "new_code": "1"}]},
    "no node": {"changes": [{"kind": "Replace", "flag": "fix", "node": 10**6, "new_code": "1"}]},
    "no call": {"node": 1, "changes": []},
    "no flag": {"changes": [{"kind": "CategoryChange", "flag": "erase"}]},
    "no kind": {"kind": "Any", "changes": []},
    "no change": {"changes": [{"kind": "ChangeBase", "flag": "fix"}]},
    "more than a change": {"changes": [{"kind": "Delete", "flag": "fix", "position": 1}]},
    "another source": {"source": "0" * 64, "changes": [{"kind": "Delete", "flag": "fix"}]},
    "another file": {"file": "other.py", "changes": [{"kind": "Delete", "flag": "fix"}]},
    "a file outside": {"file": "/usr/lib/os.py", "changes": [{"kind": "Delete", "flag": "fix"}]},
    "no source": {"file": "tox.ini", "changes": [{"kind": "CategoryChange", "flag": "fix"}]},
}


def attack(compat: Compat, use: dict[str, Any]) -> Run:
    """Have a test say this of the snapshot in its file, and look at what becomes of all files."""
    compat.pytester.makepyfile(
        other="def f(x): pass\nf(1)",
        test_it=f"""
        def target(snapshot): snapshot(6)
        import ast, executing, hashlib, os
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        def test_lie(request):
            lie = {use!r}
            path = os.path.join(os.path.dirname(__file__), lie.get("file", "test_it.py"))
            text = executing.Source.for_filename(path).text if path.endswith(".py") and os.path.exists(path) else ""
            call = {CALL} if text else 0
            use = {{"kind": "SnapshotReference", "operation": "EqValue", "line": 1, "node": call}}
            use |= {{"source": hashlib.sha256(text.encode()).hexdigest()}} | lie | {{"file": path}}
            for change in use["changes"]:
                if change["kind"] in ("CallArg", "Delete"): change.setdefault("node", use["node"])
            frame = {{"op": "carried", "ended": True, "plugins": {{"inline-snapshot": {{"uses": [use], "problems": []}}}}}}
            request.config.stash[INSIDE].channel.send(frame)
        """,
        test_next="from inline_snapshot import snapshot\ndef test_next(): assert 1 == snapshot()",
    )
    return compat.one("--inline-snapshot=create,fix,trim,update")


@pytest.mark.parametrize("lie", list(LIES))
def test_lies(compat: Compat, lie: str) -> None:
    """What a sandbox says changes nothing but the arguments of snapshots in the project's sources."""
    run = attack(compat, LIES[lie])
    assert run.status == 1, run.text  # as something was created, at least
    assert "INTERNALERROR" not in run.text
    assert "snapshot(1)" in run.read("test_next.py")
    assert run.read("test_it.py").startswith("def target(snapshot): snapshot(6)\n")
    assert run.read("other.py") == "def f(x): pass\nf(1)"
    assert ("test_it.py::test_lie", "call", "failed") in run.outcomes() or "--sandbox: " in run.text


def test_the_attack_would_work(compat: Compat) -> None:
    """The same with what is allowed changes the source: so the lies are refused for what they are."""
    change = {"kind": "CallArg", "flag": "fix", "arg_pos": 0, "arg_name": None, "new_code": "7"}
    run = attack(compat, {"changes": [change | {"kind": "CallArg"}]})
    assert "snapshot(7, 6)" in run.read("test_it.py"), run.text


PLACES: dict[str, dict[str, Any]] = {
    "a way out": {"qualname": "../../../evil"},
    "a stem": {"stem": "../evil"},
    "a suffix": {"suffix": "/../evil.py"},
    "another source": {"filename": "/etc/passwd"},
    "another storage": {"storage": "evil"},
}


@pytest.mark.parametrize("place", list(PLACES))
def test_lies_about_external_files(compat: Compat, place: str) -> None:
    """An external file is written only where its storage puts it."""
    stem = "00000000-0000-0000-0000-000000000000"
    old = {"storage": "uuid", "stem": "", "suffix": "", "qualname": None, "filename": "None"}
    new = {"storage": "uuid", "stem": stem, "suffix": ".txt", "qualname": "test_lie", "filename": "?"} | PLACES[place]
    change = {"kind": "ExternalChange", "flag": "create", "content": "", "format": ".txt", "old": old, "new": new}
    run = attack(compat, {"kind": "External", "changes": [change]})
    assert ("test_it.py::test_lie", "call", "failed") in run.outcomes() or run.status == 1
    assert not [name for name in run.files if "evil" in name or stem in name]


@pytest.mark.parametrize("path", ["../out.txt", "conftest.py", ".hidden/x.txt", "link/x.txt"])
def test_external_file_elsewhere(compat: Compat, path: str) -> None:
    """external_file() in a sandbox writes below its test's directory only, and nothing that is code: it is said what is not."""
    victim = compat.pytester.path.parent / f"{compat.pytester.path.name}-victim"
    victim.mkdir()
    (compat.pytester.path / "link").symlink_to(victim)
    compat.pytester.makepyfile(
        test_it=f"""
        from inline_snapshot import external_file
        def test_1(): assert "new" == external_file({path!r}, format=".txt")
        """
    )
    before = compat.files()
    run = compat.one("--inline-snapshot=create,fix")
    assert run.files == before
    assert not list(victim.iterdir())
    assert not (compat.pytester.path.parent / "out.txt").exists()
    assert "--sandbox: " in run.text
    assert run.status == 1


def test_unknown_version_is_refused(compat: Compat) -> None:
    """A version without what is read: the run is refused before the first test; with plugin, reason and way around."""
    compat.pytester.makeconftest("import inline_snapshot._change as c\ndef pytest_collection_finish(): del c.Replace\n")
    compat.pytester.makepyfile("def test_1(): pass")
    run = compat.one("--inline-snapshot=create")
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "inline-snapshot 0." in run.text
    assert "has no Replace" in run.text
    assert "-p no:inline_snapshot" in run.text
    assert not run.outcomes()


def test_fix_assert_is_refused(compat: Compat) -> None:
    """--inline-snapshot=fix-assert, which some versions have, is refused, with the option and the way around."""
    compat.pytester.makepyfile("def test_1(): pass")
    run = compat.one("--inline-snapshot=fix-assert")
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "--inline-snapshot=fix-assert" in run.text
    assert not run.outcomes()
