"""What forks share of a process's memory."""

from __future__ import annotations

import gc
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_sandbox._linux import proc
from pytest_sandbox.primitives.pages import make_huge, shared, unshared

_SIZE = 16 << 20
MAP_NORESERVE = 0x4000  # which Python's mmap has no name for before 3.13

#: A kernel's age, and how it was built: what it has no huge pages for stays where it is.
has_huge_pages = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists()
    or tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (6, 1),
    reason="the kernel has no transparent huge pages, or no MADV_COLLAPSE (before Linux 6.1)",
)


def _memory(size: int = _SIZE) -> mmap.mmap:
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = bytes(range(256)) * (size // 256)
    return memory


def _huge() -> int:
    """Bytes of this process that are in huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages:"))


@has_huge_pages
def test_huge() -> None:
    """Memory is moved into huge pages, and says what it did before."""
    with _memory() as memory:
        before = _huge()
        assert make_huge() >= _SIZE // 2
        assert _huge() - before >= _SIZE // 2
        assert memory[:] == bytes(range(256)) * (_SIZE // 256)


def test_what_is_not_there_is_not_looked_at() -> None:
    """A mapping of which next to nothing is in memory, as the terabytes of sanitizers: nobody walks through that."""
    size = 1 << 36  # a process of User-Mode Linux has no room for more than half a terabyte
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE) as shadow:
        shadow[:8] = b"a shadow"
        found = [(end - begin, resident) for begin, end, resident in proc.anonymous_mappings() if end - begin >= size]
        assert [resident < 64 << 20 for _, resident in found] == [True]
        make_huge()
        assert shadow[:9] == b"a shadow\0"


@has_huge_pages
def test_what_others_share_stays() -> None:
    """What a fork has too is not moved: there would be two of it."""
    with _memory():
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        before = _huge()
        make_huge()
        shared_huge = _huge() - before
        os.close(writing)
        os.waitpid(pid, 0)
        os.close(reading)
        assert shared_huge < _SIZE // 2


def test_the_collector_leaves_it_alone() -> None:
    """Within, garbage that was there before is not collected, and what is new is; where tests run here, all of it."""

    class Cycle:
        def __init__(self, name: str) -> None:
            self.name, self.own = name, self

        def __del__(self) -> None:
            gone.append(self.name)

    gone: list[str] = []
    gc.collect()
    gc.disable()
    try:
        Cycle("old")
        with shared(1):
            Cycle("new")
            gc.collect()
            assert gone == ["new"]
            with unshared():
                gc.collect()
            assert gone == ["new", "old"]
            Cycle("newer")
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


@has_huge_pages
@pytest.mark.parametrize(
    ("tests", "megabytes", "mark", "is_huge"),
    [(200, 80, "", True), (199, 80, "", False), (200, 10, "", False), (200, 80, "group='all'", False)],
)
def test_in_a_run(pytester: pytest.Pytester, tests: int, megabytes: int, mark: str, is_huge: bool) -> None:
    """A run of many sandboxes in a large process shares its memory in huge pages; a test finds there what was collected."""
    pytester.makeconftest(f"""
        import mmap
        memory = mmap.mmap(-1, {megabytes} << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[:] = bytes(range(256)) * ({megabytes} << 12)
    """)
    pytester.makepyfile(f"""
        import conftest, pytest
        @pytest.mark.parametrize("number", range({tests}))
        @pytest.mark.sandbox({mark})
        def test_it(number):
            assert conftest.memory[:] == bytes(range(256)) * ({megabytes} << 12)
            with open("/proc/self/smaps_rollup") as file:
                huge = next(int(line.split()[1]) >> 10 for line in file if line.startswith("AnonHugePages:"))
            pytest.fail(f"huge: {{huge >= {megabytes} // 2}}", pytrace=False)
    """)
    argv = [sys.executable, "-m", "pytest", "-x", "--sandbox", "-p", "no:cacheprovider", "-p", "no:randomly"]
    result = subprocess.run(argv, cwd=pytester.path, capture_output=True, text=True, check=False)
    assert f"huge: {is_huge}" in result.stdout, result.stdout + result.stderr
