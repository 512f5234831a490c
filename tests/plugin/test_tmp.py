"""tmp_path and its kin: names, places, what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

SUITE = """
import os, pytest
@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared")
    (path / "file").write_text("by the session")
    return path
def test_pass(tmp_path, shared): (tmp_path / "mine").write_text("pass"); print(tmp_path.name, shared.name)
def test_fail(tmp_path, shared): (tmp_path / "mine").write_text("fail"); print(tmp_path.name); assert 0
@pytest.mark.parametrize("value", ["a b", "x/y", "é"])
def test_names(tmp_path, value): print(tmp_path.name)
def test_several(tmp_path_factory):
    print([tmp_path_factory.mktemp("d").name for _ in range(2)], tmp_path_factory.mktemp("plain", numbered=False).name)
def test_unused(): pass
def test_chdir(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path); open("here", "w").close(); assert os.listdir() == ["here"]
"""


def _left(pytester: pytest.Pytester) -> list[str]:
    top = pytester.path / "base"
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


@pytest.mark.parametrize("policy", ["all", "failed", "none"])
def test_retention(pytester: pytest.Pytester, compare: Compare, policy: str) -> None:
    """tmp_path_retention_policy: after the run there is what plain pytest leaves, under --basetemp."""
    pytester.makepyfile(SUITE)
    left = []
    for sandbox in (False, True):  # the second run removes what the first left
        keep = ["--sandbox-keep=never"] if sandbox else []
        run = compare.one("--basetemp=base", "-o", f"tmp_path_retention_policy={policy}", "-rA", *keep, sandbox=sandbox)
        assert run.status == 1
        left.append([path for path in _left(pytester) if not path.endswith("current")])
    plain, boxed = left
    assert boxed == plain


def test_names_of_directories(pytester: pytest.Pytester, compare: Compare) -> None:
    """Directories have the same names, in the same places, as in plain pytest, and are printed alike."""
    pytester.makepyfile(SUITE)
    compare.same("-rA")


@pytest.mark.parametrize("scope", ["test", "module"])
def test_what_was_not_named(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """A fixture that a test asks for as it runs, or the directory itself: what was written there is kept as in plain pytest."""
    pytester.makepyfile(
        """
        import sys, pytest
        @pytest.fixture(scope="module")
        def made(request): return request.getfixturevalue("tmp_path_factory").mktemp("module")
        def test_1(request): (request.getfixturevalue("tmp_path") / "f").write_text("x")
        def test_2(request): (request.config._tmp_path_factory.getbasetemp() / "g").write_text("x")
        def test_3(made): (made / "h").write_text("x")
        def test_4(): pass
        def test_5(request):
            path = request.getfixturevalue("tmp_path")
            (path / "f").write_text("x")
            path.chmod(0o500)
            if "--sandbox" in sys.argv:  # with which plain pytest could not end, for an ordinary user
                path.parent.chmod(0o300)
        """
    )
    left = []
    for sandbox in (False, True):
        scoped = [f"--sandbox-scope={scope}"] if sandbox else []
        compare.one("--basetemp=base", *scoped, sandbox=sandbox).result.assert_outcomes(passed=5)
        left.append([path for path in _left(pytester) if "current" not in path])
    assert left[1] == left[0]
    assert {"test_10/f", "g", "module0/h", "test_50/f"} <= set(left[0])


def test_where_nothing_was_written(pytester: pytest.Pytester, compare: Compare) -> None:
    """No layer is walked but the session's; something in the directory's place is nothing."""
    pytester.makepyfile(
        """
        import pathlib, shutil
        def test_none(): pathlib.Path("/var/tmp/other").touch()
        def test_gone(tmp_path_factory): shutil.rmtree(tmp_path_factory.getbasetemp())
        def test_file(tmp_path_factory):
            base = tmp_path_factory.getbasetemp()
            shutil.rmtree(base)
            base.write_text("x")
        def test_link(tmp_path_factory):
            base = tmp_path_factory.getbasetemp()
            shutil.rmtree(base)
            base.symlink_to("/etc")
        """
    )
    pytester.makeconftest(
        """
        from pytest_sandbox.sandbox.files import copying
        def copy_out(*_):
            with open("looked", "a") as file:
                file.write("x")
            return 0
        copying.copy_out = copy_out
        """
    )
    compare.one("--basetemp=base", "-W", "error").result.assert_outcomes(passed=4)
    assert _left(pytester) == []
    assert (pytester.path / "looked").read_text() == "x"


def test_session_directory_is_copied(pytester: pytest.Pytester, compare: Compare) -> None:
    """A test changes what a session fixture made in its temporary directory; the next test finds it as it was made."""
    pytester.makepyfile(
        """
        import pytest, shutil
        @pytest.fixture(scope="session")
        def shared(tmp_path_factory):
            path = tmp_path_factory.mktemp("shared")
            (path / "file").write_text("fresh")
            return path
        @pytest.mark.parametrize("n", range(3))
        def test_it(shared, n):
            assert (shared / "file").read_text() == "fresh"
            shutil.rmtree(shared)
        """
    )
    compare.one().result.assert_outcomes(passed=3)


def test_directories_of_wider_fixtures_are_as_they_were_made(pytester: pytest.Pytester, compare: Compare) -> None:
    """Nobody sees what an earlier test has added there, though all of it is there at the end."""
    pytester.makepyfile(
        """
        import time, pytest
        @pytest.fixture(scope="session")
        def shared(tmp_path_factory):
            path = tmp_path_factory.mktemp("shared")
            (path / "bin").mkdir()
            return path
        @pytest.mark.parametrize("n", range(6))
        def test_it(shared, n):
            assert [path.name for path in shared.rglob("*")] == ["bin"]
            (shared / f"new{n}").touch()
            (shared / "bin" / f"new{n}").touch()
            time.sleep(0.1)
        """
    )
    compare.one("--basetemp=base").result.assert_outcomes(passed=6)
    made = {"bin", *(f"{place}new{n}" for place in ("", "bin/") for n in range(6))}
    top = pytester.path / "base" / "shared0"
    assert {str(path.relative_to(top)) for path in top.rglob("*")} == made
    assert not [path for path in (pytester.path / "base").iterdir() if "sandbox" in path.name]


def test_tests_of_one_name(pytester: pytest.Pytester, compare: Compare) -> None:
    """Each has a directory of its own, by the number that it has in plain pytest, with what it wrote alone."""
    body = "def test_it(tmp_path):\n    (tmp_path / {name!r}).touch()\n    print(tmp_path.name)\n    {more}"

    def write(more: str) -> None:
        pytester.makepyfile(**{name: body.format(name=name, more=more) for name in ("test_a", "test_b", "test_c")})
        here = "import pytest\n@pytest.mark.sandbox(enabled=False)\n"
        pytester.makepyfile(test_d=here + body.format(name="test_d", more=more))

    write("")
    compare.same("-rA")
    write("tmp_path.chmod(0o500)")  # which makes it hard to move
    left = []
    for sandbox in (False, True):
        compare.one("--basetemp=base", sandbox=sandbox).result.assert_outcomes(passed=4)
        left.append([path for path in _left(pytester) if "current" not in path])
    assert left[0] == left[1]
    assert left[0] == sorted(f"test_it{n}{name}" for n, own in enumerate("abcd") for name in ("", f"/test_{own}"))


def test_what_tests_left_is_out_of_reach(pytester: pytest.Pytester, compare: Compare) -> None:
    """Nobody sees, nor changes by what he writes, what earlier tests left in temporary directories and what is kept of them."""
    pytester.makepyfile(
        """
        import os, pathlib, pytest

        def own(tmp_path):
            return [tmp_path.name, tmp_path.name[:-1] + "current"]

        @pytest.fixture(scope="session", params=[1, 2])
        def shared(request, tmp_path_factory):  # with another parameter in another sandbox
            assert os.listdir(tmp_path_factory.getbasetemp()) == []
            if request.param == 2:
                os._exit(1)

        def test_early(tmp_path):
            (tmp_path.parent / "test_evidence0").mkdir()
            (tmp_path.parent / "test_evidence0" / "evidence").write_text("forged")
            (tmp_path.parent / "test_other0").write_text("in the way")

        def test_evidence(tmp_path):
            (tmp_path / "evidence").write_text("genuine")
            assert 0

        def test_other(tmp_path): (tmp_path / "file").write_text("other")

        def test_session(tmp_path, shared): assert sorted(os.listdir(tmp_path.parent)) == sorted(own(tmp_path))

        def test_late(tmp_path, request):
            names = sorted(os.listdir(tmp_path.parent))
            for value in request.config.stash._storage.values():
                if top := getattr(value, "top", None):
                    for place in ("test_evidence0", "tmp/test_evidence0", "s2/test_evidence0", os.path.basename(top)):
                        os.makedirs(os.path.join(top, place), exist_ok=True)
                        pathlib.Path(top, place, "evidence").write_text("forged")
            for name in ("evidence0", "other0"):
                (tmp_path.parent / f"test_{name}").mkdir(exist_ok=True)
                (tmp_path.parent / f"test_{name}" / "planted").write_text("forged")
            assert names == sorted(own(tmp_path))
        """
    )
    run = compare.one("--basetemp=base", "-rA", "-W", "error")
    run.result.assert_outcomes(passed=4, failed=1, errors=1)
    assert [path for path in _left(pytester) if "current" not in path and not path.startswith("sandbox-")] == [
        "test_early0",
        "test_evidence0",
        "test_evidence0/evidence",
        "test_late0",
        "test_other0",
        "test_other0/file",
        "test_session_1_0",
    ]
    assert (pytester.path / "base/test_evidence0/evidence").read_text() == "genuine"
    (top,) = (pytester.path / "base").glob("sandbox-*")
    kept = {path.name: [one.read_text() for one in path.rglob("evidence")] for path in top.iterdir()}
    assert list(kept.values()) == [["genuine"]]
    assert f"deleted: {top}" not in run.text
    assert f"{top / next(iter(kept))}  test_what_tests_left_is_out_of_reach.py::test_evidence" in run.text


@pytest.mark.parametrize("how", ["--sandbox-writable=base", "--sandbox-scope=session", "--sandbox-jobs=2"])
def test_what_is_left_in_other_ways(pytester: pytest.Pytester, compare: Compare, how: str) -> None:
    """Also where tests write to the machine's directory itself, or see each other's, there is at the end what each wrote."""
    pytester.mkdir("base")
    pytester.makepyfile(
        "def test_1(tmp_path): (tmp_path / 'a').touch()\ndef test_2(tmp_path): (tmp_path / 'b').touch(); assert 0\n"
    )
    compare.one("--basetemp=base/below", how, "-W", "error").result.assert_outcomes(passed=1, failed=1)
    left = [path for path in _left(pytester) if "current" not in path and not path.startswith("below/sandbox-")]
    assert left == ["below", "below/test_10", "below/test_10/a", "below/test_20", "below/test_20/b"]


def test_names_that_end_in_digits(pytester: pytest.Pytester, compare: Compare) -> None:
    """The name of one test with its number is not that of another with its own, nor of what somebody makes by that name."""
    classes = "".join(f"class Test{n}:\n    def test_x(self, tmp_path, request): write(tmp_path, request)\n" for n in range(11))
    names = ("test_x1", "TEST_X1")
    pytester.makepyfile(
        "def write(path, request): (path / 'log').write_text(request.node.nodeid)\n"
        + classes
        + "".join(f"def {name}(tmp_path, request): write(tmp_path, request)\n" for name in names)
        + "def test_other(tmp_path_factory, request): write(tmp_path_factory.mktemp('test_x'), request)\n"
    )
    pytester.makeini("[pytest]\npython_functions = test_* TEST_*")
    left = []
    for sandbox in (False, True):
        compare.one("--basetemp=base", sandbox=sandbox).result.assert_outcomes(passed=14)
        left.append({path.parent.name: path.read_text() for path in (pytester.path / "base").glob("*[0-9]/log")})
    assert len(left[0]) == 14
    assert sorted(left[1].values()) == sorted(left[0].values())
    if hasattr(pytest.TempPathFactory, "_make_counted_dir"):  # before pytest 9.2 a number is above all that are there
        assert left[1] == left[0]


def test_runs_are_numbered(pytester: pytest.Pytester, compare: Compare) -> None:
    """Each run has a directory of its own, and old ones are removed, as ever."""
    pytester.makepyfile("def test_1(tmp_path): print(tmp_path.parent.name)\n")
    for pair in compare.sequence(*[["-rA"]] * 5):
        pair.assert_same()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system of the machine's")
def test_what_there_is_no_room_to_keep(pytester: pytest.Pytester) -> None:
    """Nothing of it is kept in part, and that is said."""
    pytester.makepyfile("def test_it(tmp_path): (tmp_path / 'big').write_bytes(b'x' * (1 << 20)); assert 0")
    place = pytester.mkdir("small")
    run = f"{sys.executable} -m pytest -p no:cacheprovider --sandbox --basetemp=small/base -W error"
    command = f"mount -t tmpfs -o size=512k none {place} && {run}; find {place} -type f -name big"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], cwd=pytester.path, capture_output=True, text=True, check=False)
    lost = done.stdout.partition("= sandbox files lost =")[2]
    assert "test_it: some of what was left in temporary directories could not be copied to " in lost, done.stdout + done.stderr
    assert "test_it: some of what was written could not be kept in " in lost
    assert lost.count(": No space left on device") == 2
    assert not done.stdout.rstrip().endswith("big")


def test_a_directory_in_the_place_of_a_file(pytester: pytest.Pytester) -> None:
    """That a test without a sandbox has left: what came last is there at the end."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.sandbox(enabled=False)
        def test_1(tmp_path_factory): (tmp_path_factory.getbasetemp() / "place").write_text("file")
        def test_2(tmp_path_factory):
            place = tmp_path_factory.getbasetemp() / "place"
            place.unlink()
            place.mkdir()
            (place / "inner").write_text("kept")
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--basetemp=base")
    result.assert_outcomes(passed=2)
    assert (pytester.path / "base" / "place" / "inner").read_text() == "kept", result.stdout.str()
