"""Hidden paths: what there is not to hide, or nobody may enter, is no obstacle; and no test sees what is hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare


def test_a_path_to_hide_that_nobody_may_enter(pytester: pytest.Pytester, compare: Compare) -> None:
    """What is closed to whoever runs the tests needs no cover: root finds it empty, a user not at all."""
    closed = pytester.mkdir(".closed")
    (closed / "inner").mkdir()
    (closed / "inner" / "file").touch()
    pytester.makeini("[pytest]\nsandbox_hide = .closed/inner\n")
    pytester.makepyfile("""
        import os, pytest
        def test_it():
            try:
                assert os.listdir(".closed/inner") == []
            except PermissionError:
                assert os.getuid() != 0
    """)
    closed.chmod(0)
    try:
        compare.one().result.assert_outcomes(passed=1)
    finally:
        closed.chmod(0o700)


def test_what_there_is_not_to_hide_is_told(pytester: pytest.Pytester, compare: Compare) -> None:
    """A path in the ini file or a marker may be one that other machines have: the run goes on, and says so."""
    pytester.makeini("[pytest]\nsandbox_hide = ini-path\n")
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.mark.sandbox(hide=["marker-path", "there"])
        def test_1(): assert not os.listdir("there")
        @pytest.mark.sandbox(enabled=False)
        def test_2(): assert os.listdir("there")
        """
    )
    (pytester.mkdir("there") / "file").touch()
    run = compare.one()
    run.result.assert_outcomes(passed=2)
    assert "".join(line for line in run.text.splitlines(keepends=True) if "nothing to hide" in line) == (
        f"sandbox: nothing to hide: {pytester.path}/ini-path does not exist here\n"
        f"sandbox: nothing to hide: {pytester.path}/marker-path does not exist here\n"
    )
