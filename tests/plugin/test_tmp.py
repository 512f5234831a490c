"""tmp_path and its kin: names, places, what is kept."""

from __future__ import annotations

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


def test_runs_are_numbered(pytester: pytest.Pytester, compare: Compare) -> None:
    """Each run has a directory of its own, and old ones are removed, as ever."""
    pytester.makepyfile("def test_1(tmp_path): print(tmp_path.parent.name)\n")
    for pair in compare.sequence(*[["-rA"]] * 5):
        pair.assert_same()
