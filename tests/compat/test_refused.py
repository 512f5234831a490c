"""What cannot work with other libraries is refused before the first test, with the way around."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED = ["pytest_regressions.plugin", "pytest_datadir.plugin", "pytest_bdd.plugin"]
NEEDED = ["gevent", "pytest_regressions", "pytest_datadir", "pytest_bdd"]


def test_gevent(pytester: pytest.Pytester, compat: Compat) -> None:
    """Patched when a conftest is imported, at whatever depth, it would be in the controller: refused. In a fixture it works."""
    green = """
        import time
        def test_1():
            import gevent
            order = []
            def sleeper(): order.append("begins"); time.sleep(2); order.append("ends")
            gevent.joinall([gevent.spawn(sleeper) for _ in range(3)])
            assert order == ["begins"] * 3 + ["ends"] * 3  # as it is not where each blocks the others
    """
    pytester.makepyfile(test_green=green)
    below = pytester.mkdir("below")
    (below / "test_more.py").write_text("def test_2(): pass\n")
    for conftest in (pytester.path / "conftest.py", below / "conftest.py"):
        conftest.write_text("import gevent.monkey\ngevent.monkey.patch_all()\n")
        run = compat.one()
        assert run.status == pytest.ExitCode.USAGE_ERROR, run.text
        assert "gevent has replaced functions of the standard library in pytest's own process" in run.text
        assert "Fix: patch in a session fixture" in run.text
        assert not run.outcomes()
        conftest.unlink()
    pytester.makeconftest(
        """
        import pytest
        @pytest.fixture(scope="session", autouse=True)
        def green():
            import gevent.monkey
            gevent.monkey.patch_all()
        """
    )
    assert compat.one().status == pytest.ExitCode.OK


REGEN = "def test_1(data_regression): data_regression.check({'a': 1})\n"


def test_files_that_would_be_lost(pytester: pytest.Pytester, compat: Compat) -> None:
    """--force-regen writes what would be gone with the sandbox: refused, and done where it is let through."""
    pytester.makepyfile(test_data=REGEN)
    made = pytester.mkdir("test_data")
    (made / "test_1.yml").write_text("a: 2\n")
    pytester.mkdir("elsewhere")
    (made / "below").mkdir()
    for options in ((), ("--sandbox-writable=elsewhere",), ("--sandbox-writable=test_data/below",)):
        run = compat.one("--force-regen", *options)
        assert run.status == pytest.ExitCode.USAGE_ERROR
        assert "with --force-regen of pytest-regressions, tests write files, which would be gone with their sandboxes" in run.text
        assert f"test_data.py::test_1 may not change {os.path.realpath(made)}. Fix: let that through with" in run.text
        assert "--sandbox-writable=test_data, give" in run.text
        assert "@pytest.mark.sandbox(enabled=False)" in run.text
        assert (made / "test_1.yml").read_text() == "a: 2\n"
    compat.one("--force-regen", "--sandbox-writable=test_data")
    assert (made / "test_1.yml").read_text() == "a: 1\n"
    assert compat.one().status == pytest.ExitCode.OK


def test_who_would_lose_files(pytester: pytest.Pytester, compat: Compat) -> None:
    """Only tests that use the plugin, in a sandbox, must be let through; each must."""
    for name in ("one", "two"):
        pytester.mkdir(name).joinpath(f"test_{name}.py").write_text(REGEN)
    pytester.mkdir("three").joinpath("test_three.py").write_text("def test_1(): pass\n")
    run = compat.one("--force-regen", "--sandbox-writable=one")
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "two/test_two.py::test_1 may not change" in run.text
    (pytester.path / "two" / "test_two.py").write_text(f"import pytest\n@pytest.mark.sandbox(enabled=False)\n{REGEN}")
    plain, boxed = compat.both("--force-regen", "--sandbox-writable=one", same=False)
    assert plain.status == pytest.ExitCode.USAGE_ERROR  # --sandbox-writable
    assert len(boxed.outcomes()) == 9
    assert [name for name in boxed.files if name.endswith(".yml")] == ["one/test_one/test_1.yml", "two/test_two/test_1.yml"]


def test_a_place_of_the_projects_own(pytester: pytest.Pytester, compat: Compat) -> None:
    """Where a fixture of the project says where such files are, who lets something through is trusted to know."""
    data = pytester.mkdir("data")
    pytester.mkdir("tests").joinpath("test_it.py").write_text(REGEN)
    pytester.makeconftest(
        f"""
        import pathlib, pytest
        @pytest.fixture
        def original_datadir(): return pathlib.Path({str(data)!r})
        """
    )
    assert compat.one("--force-regen").status == pytest.ExitCode.USAGE_ERROR
    run = compat.one("--force-regen", "--sandbox-writable=data")
    assert run.files["data/test_1.yml"] == b"a: 1\n"


def test_a_report_of_an_earlier_run(compat: Compat) -> None:
    """A run that is refused for the report that it was asked for leaves the one that is there."""
    compat.pytester.makefile(".feature", "Feature: it\n  Scenario: one\n    Given a word\n")
    compat.pytester.makepyfile(
        "from pytest_bdd import given, scenarios\n"
        "scenarios('test_a_report_of_an_earlier_run.feature')\n"
        "@given('a word')\ndef _(): pass\n"
    )
    compat.one("--cucumberjson=report.json", sandbox=False)
    report = compat.files()["report.json"]
    assert b"a word" in report
    run = compat.one("--cucumberjson=report.json")
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "pytest-bdd (--cucumberjson) tells only of what happens in pytest's own process" in run.text
    assert "Fix: leave it out" in run.text
    assert run.files["report.json"] == report
    assert compat.one().outcomes() == compat.one(sandbox=False).outcomes()
