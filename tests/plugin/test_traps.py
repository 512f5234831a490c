"""What a test may lay as a trap for the controller, knowingly or not: each is its own failure, or none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import OPTIONS


def test_a_link_where_kept_files_would_go(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """A failed test leaves links in the base temporary directory: what it wrote is kept elsewhere, and nothing goes through."""
    pytester.makepyfile(f"""
        import os
        def test_it(tmp_path):
            for name in "sandbox", "sandbox-s2", "s2":
                os.symlink({os.fspath(tmp_path)!r}, tmp_path.parent / name)
            (tmp_path / "payload").write_text("x")
            assert 0
    """)
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["what it wrote is kept in *"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_holes(pytester: pytest.Pytester) -> None:
    """A file that claims a terabyte keeps its holes when it is copied to the machine's temporary directory."""
    pytester.makepyfile("""
        def test_it(tmp_path):
            with open(tmp_path / "big", "w") as file:
                file.write("first")
                file.truncate(1 << 40)
                file.seek(1 << 39)
                file.write("middle")
    """)
    base = pytester.path / "base"
    pytester.runpytest_subprocess(*OPTIONS, f"--basetemp={base}").assert_outcomes(passed=1)
    copy = base / "test_it0" / "big"
    assert copy.stat().st_size == 1 << 40
    assert copy.stat().st_blocks * 512 < 1 << 20
    with copy.open("rb") as file:
        assert file.read(5) == b"first"
        file.seek(1 << 39)
        assert file.read(6) == b"middle"


def test_conditions_and_parameters_that_raise(pytester: pytest.Pytester) -> None:
    """A mark's condition and a parameter's comparison are foreign code: what they raise ends nobody else's run."""
    pytester.makepyfile("""
        import pytest

        class Strange:
            def __eq__(self, other):
                raise ValueError("not to be compared, as an array")
            __hash__ = object.__hash__

        @pytest.fixture(scope="module", params=[Strange()])
        def strange(request): pass

        @pytest.mark.skipif("1/0", reason="never asked")
        def test_condition(): pass
        def test_parameter(strange): pass
        def test_other(): pass
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2, errors=1)


def test_the_path_of_its_cgroup(pytester: pytest.Pytester) -> None:
    """Is the root of what it sees, in every hierarchy, for a test and for a sandbox that it makes."""
    expected = ["/"] if Path("/proc/self/cgroup").read_text() else []  # a machine without any hierarchy
    pytester.makepyfile(f"""
        def paths():
            with open("/proc/self/cgroup") as file:
                return sorted({{line.split(":", 2)[2].strip() for line in file}})

        def test_it(sandbox_factory):
            assert paths() == {expected}
            assert sandbox_factory.call(paths) == {expected}
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


def test_what_the_factory_is_given(pytester: pytest.Pytester) -> None:
    """Input as much as there is, or nothing to read; paths to hide as elsewhere; text as input is refused at once."""
    pytester.makepyfile("""
        import pytest
        from pytest_sandbox import SpecError

        @pytest.mark.parametrize("size", [0, 3, 1 << 20])
        def test_input(sandbox_factory, size):
            assert sandbox_factory.run(["cat"], input=b"x" * size).stdout == b"x" * size
        def test_none(sandbox_factory):
            assert sandbox_factory.run(["cat"]).stdout == b""
        def test_text(sandbox_factory):
            with pytest.raises(TypeError, match="input is str and not bytes"):
                sandbox_factory.run(["cat"], input="x")
        def test_hide(sandbox_factory):
            with pytest.raises(SpecError, match="/proc cannot be hidden"):
                sandbox_factory(hide="/proc")
            assert sandbox_factory(hide=["/etc/passwd"]).run(["cat", "/etc/passwd"]).stdout == b""
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=6)


def test_garbage_from_before_is_the_runs(pytester: pytest.Pytester) -> None:
    """What a finalizer raises that pytest's process had not collected is told at the run's end, as in plain pytest."""
    pytester.makeini("[pytest]\nfilterwarnings = error::pytest.PytestUnraisableExceptionWarning\n")
    pytester.makeconftest(
        """
        import gc
        gc.disable()
        class Broken:
            def __init__(self): self.me = self
            def __del__(self): raise ValueError("del is broken")
        Broken()
        """
    )
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="module")
        def wide(): return 1
        def test_1(wide): pass
        def test_2(wide): pass
        def test_3(): pass
        """,
        test_other="def test_4(): pass",
    )
    plain, boxed = (pytester.runpytest_subprocess(*options) for options in (("-p", "no:sandbox", *OPTIONS[1:]), OPTIONS))
    for result in plain, boxed:
        result.assert_outcomes(passed=4)
        assert result.stderr.str().count("ValueError: del is broken") == 1
    assert boxed.ret == plain.ret


@pytest.mark.parametrize("mark", ["", "pytestmark = pytest.mark.sandbox(enabled=False)"])
def test_garbage_of_the_collection_is_gone(pytester: pytest.Pytester, mark: str) -> None:
    """What was collected leaves nothing behind that a test's own collector could not find, or would find in plain pytest."""
    pytester.makepyfile(
        f"""
        import gc, pytest, weakref
        {mark}
        class Base: pass
        lost = Base(); lost.me = lost; reference = weakref.ref(lost); del lost
        def make():
            class Derived(Base): pass
        make()
        def test_object():
            gc.collect()
            assert reference() is None
        def test_class():
            gc.collect()
            assert Base.__subclasses__() == []
        """
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2)


def test_locks_that_are_held_over_a_fork(pytester: pytest.Pytester) -> None:
    """As those of concurrent.futures: taken before each fork, given back after it on both sides, registered late."""
    pytester.makeconftest(
        """
        import os, threading
        from concurrent.futures import ThreadPoolExecutor
        lock = threading.Lock()
        os.register_at_fork(before=lock.acquire, after_in_child=lock.release, after_in_parent=lock.release)
        """
    )
    pytester.makepyfile(
        """
        import os
        from concurrent.futures import ThreadPoolExecutor
        def test_pool():
            with ThreadPoolExecutor(2) as pool: assert list(pool.map(abs, [-1, 2])) == [1, 2]
        def test_fork():
            if (pid := os.fork()) == 0: os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        """
    )
    pytester.runpytest_subprocess(*OPTIONS, timeout=120).assert_outcomes(passed=2)
    assert pytester.run(sys.executable, "-c", "import concurrent.futures.thread, conftest; from pytest_sandbox.sandbox.doctor "
                        "import main; main()", timeout=120).ret == 0  # fmt: skip


@pytest.mark.parametrize("umask", ["0000", "0027", "0077"])
def test_umask(pytester: pytest.Pytester, umask: str) -> None:
    """Whatever pytest was started with, tests have the same."""
    pytester.makepyfile(f"import os\ndef test_it(): assert os.umask(0) == 0o{umask}")
    command = 'umask "$1"; shift; exec "$@"'
    result = pytester.run("sh", "-c", command, "sh", umask, sys.executable, "-m", "pytest", *OPTIONS, "--sandbox-keep=never")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("value", ["float('nan')", "float('-inf')", "10**5000", "[loop]", "object()", "{1: 2.5}"])
def test_properties_of_every_kind(pytester: pytest.Pytester, value: str) -> None:
    """What a test records about itself makes neither it fail, nor the run."""
    pytester.makepyfile(
        f"""
        loop = []; loop.append(loop)
        def test_1(record_property): record_property("name", {value})
        def test_2(): pass
        """
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2)


@pytest.mark.parametrize("scope", ["session", "module", "class"])
def test_an_environment_that_a_wider_fixture_clears(pytester: pytest.Pytester, scope: str) -> None:
    """With what pytest itself has put there: it is its own again for each phase of a test."""
    pytester.makepyfile(f"""
        import os, unittest.mock, pytest
        @pytest.fixture(scope="{scope}", autouse=True)
        def clean():
            with unittest.mock.patch.dict(os.environ, {{"LANG": "C"}}, clear=True):
                yield
        class TestIt:
            @pytest.mark.parametrize("n", range(2))
            def test_it(self, n):
                assert os.environ["PYTEST_CURRENT_TEST"].endswith(f"test_it[{{n}}] (call)")
                assert "PATH" not in os.environ
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2)
