"""pytest-dependency: a test knows how those ended that it depends on, though each has a sandbox of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED = ["pytest_dependency"]

SUITE = """
    import pytest
    from pytest_dependency import depends
    @pytest.mark.dependency(name="a")
    def test_a(): pass
    @pytest.mark.dependency()
    def test_b(): assert 0
    @pytest.mark.dependency(depends=["a"])
    def test_c(): pass
    @pytest.mark.dependency(depends=["test_b"])
    def test_d(): pass
    @pytest.mark.dependency(depends=["test_c", "test_d"])
    def test_e(): pass
    @pytest.mark.dependency()
    def test_bad_teardown(broken): pass
    @pytest.mark.dependency(depends=["test_bad_teardown"])
    def test_f(): pass
    @pytest.fixture
    def broken(): yield; 1 / 0
    @pytest.mark.sandbox(enabled=False)
    @pytest.mark.dependency(depends=["a"])
    def test_unsandboxed(): pass
    @pytest.mark.dependency(depends=["test_unsandboxed"])
    def test_g(): pass
    class TestIt:
        @pytest.mark.dependency()
        def test_1(self): pass
        @pytest.mark.dependency(depends=["test_1"], scope="class")
        def test_2(self): pass
        @pytest.mark.dependency(depends=["TestIt::test_2"])
        def test_3(self, module): pass
        @pytest.mark.parametrize("n", [1, 2])
        @pytest.mark.dependency()
        def test_n(self, n): assert n == 1
        @pytest.mark.dependency(depends=["TestIt::test_n[1]"])
        def test_4(self): pass
        @pytest.mark.dependency(depends=["TestIt::test_n[2]"])
        def test_5(self): pass
    @pytest.fixture(scope="module")
    def module(): pass
    def test_at_run_time(request): depends(request, ["a", "test_c"])
    def test_at_run_time_too(request): depends(request, ["test_b"])
"""
OTHER = """
    import pytest
    @pytest.mark.dependency(depends=["test_one.py::test_c"], scope="session")
    def test_other(): pass
    @pytest.mark.dependency(depends=["test_one.py::test_b"], scope="session")
    def test_another(): pass
"""


def test_results_of_earlier_tests(pytester: pytest.Pytester, compat: Compat) -> None:
    """Known in every scope, of every kind of end, whoever ran it."""
    pytester.makepyfile(test_one=SUITE, test_two=OTHER)
    plain, boxed = compat.both("-rs")
    skipped = [sorted(re.findall(r"SKIPPED.*", run.text)) for run in (plain, boxed)]
    assert skipped[1] == skipped[0]
    assert len(skipped[0]) > 3


def test_automark_and_unknown(pytester: pytest.Pytester, compat: Compat) -> None:
    """All tests count; what did not run is not known, which can be ignored."""
    pytester.makepyfile(test_one=SUITE, test_two=OTHER)
    compat.both("-o", "automark_dependency=true")
    compat.both("test_two.py")
    compat.both("--ignore-unknown-dependency", "test_two.py")


def test_who_is_killed_has_not_succeeded(pytester: pytest.Pytester, compat: Compat) -> None:
    """Who depends on it is skipped."""
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.mark.dependency()
        def test_1(): os.kill(os.getpid(), 9)
        @pytest.mark.dependency(depends=["test_1"])
        def test_2(): pass
        """
    )
    run = compat.one()
    assert [(name, outcome) for name, when, outcome in run.outcomes() if when != "teardown" and outcome != "passed"] == [
        ("test_who_is_killed_has_not_succeeded.py::test_1", "failed"),
        ("test_who_is_killed_has_not_succeeded.py::test_2", "skipped"),
    ]


def test_the_teardown_of_a_wider_fixture(pytester: pytest.Pytester, compat: Compat) -> None:
    """Is a part of its last test, which has not succeeded where that fails."""
    pytester.makepyfile(
        test_one="""
        import pytest
        @pytest.fixture(scope="module")
        def wide():
            yield
            raise RuntimeError("on purpose")
        @pytest.mark.dependency(name="a")
        def test_1(wide): pass
        """,
        test_two="""
        import pytest
        @pytest.mark.dependency(depends=["a"], scope="session")
        def test_2(): pass
        """,
    )
    plain, _ = compat.both()
    assert "1 skipped" in plain.text


@pytest.mark.parametrize("options", [(), ("-p", "xdist.plugin", "-n1")], ids=["alone", "xdist"])
def test_on_who_runs_without_a_sandbox(pytester: pytest.Pytester, compat: Compat, options: tuple[str, ...]) -> None:
    """A worker of pytest-xdist runs it itself, too."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.sandbox(enabled=False)
        @pytest.mark.dependency()
        def test_here(): pass
        @pytest.mark.dependency(depends=["test_here"])
        def test_boxed(): assert 0
        """
    )
    plain, _ = compat.both(*options)
    assert "1 failed, 1 passed" in plain.text


def test_one_at_a_time(compat: Compat) -> None:
    """Whatever `--sandbox-jobs` says; and it is said."""
    compat.pytester.makepyfile("""
        import pytest, time
        @pytest.mark.dependency()
        def test_a(): time.sleep(0.5)
        @pytest.mark.dependency(depends=["test_a"])
        def test_b(): pass
    """)
    found = compat.one("--sandbox-jobs=3")
    assert found.status == 0, found.text
    assert found.line("sandbox: one test at a time: pytest-dependency has tests ask"), found.text
