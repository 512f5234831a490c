"""What cannot work with other libraries is refused before the first test, with the way around."""

from __future__ import annotations

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
        assert not run.outcomes
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


def test_files_that_would_be_lost(pytester: pytest.Pytester, compat: Compat) -> None:
    """--force-regen writes what would be gone with the sandbox: refused, and done where it is let through."""
    pytester.makepyfile(test_data="def test_1(data_regression): data_regression.check({'a': 1})")
    made = pytester.mkdir("test_data")
    (made / "test_1.yml").write_text("a: 2\n")
    run = compat.one("--force-regen")
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert (
        "with --force-regen tests write files, which would be gone with their sandboxes. Fix: add --sandbox-writable" in run.text
    )
    assert (made / "test_1.yml").read_text() == "a: 2\n"
    compat.one("--force-regen", "--sandbox-writable=test_data")
    assert (made / "test_1.yml").read_text() == "a: 1\n"
    assert compat.one().status == pytest.ExitCode.OK


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
    assert "--cucumberjson tells what pytest_bdd keeps in memory, which is gone with each sandbox. Fix: leave it out" in run.text
    assert run.files["report.json"] == report
    assert compat.one().outcomes == compat.one(sandbox=False).outcomes
