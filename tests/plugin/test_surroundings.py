"""Processes that pytest is started in, and runs that lack some of its own plugins."""

from __future__ import annotations

import errno
import os
import platform
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Run
    from tests.plugin.conftest import Compare

SUITE = """
    import logging, pytest, warnings
    @pytest.fixture(scope="module")
    def module(): yield 1
    def test_passes(module): print("out"); warnings.warn("warned")
    def test_fails(module): print("out"); logging.warning("logged"); assert [1] == [2]
    @pytest.mark.skip
    def test_skipped(): pass
    @pytest.mark.xfail
    def test_expected(): assert 0
"""

DEEP = """
    import pytest
    @pytest.fixture(scope="session")
    def session(): pass
    @pytest.fixture(scope="package")
    def package(session): pass
    @pytest.fixture(scope="module")
    def module(package): pass
    @pytest.fixture(scope="class")
    def klass(module): pass
    class Test:
        @pytest.mark.parametrize("number", range(5))
        def test_deep(self, klass, number): pass
"""


def _run(pytester: pytest.Pytester, change: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process that was changed so."""
    command = f"{change}\nimport sys, pytest\nsys.exit(pytest.main(['--sandbox', *sys.argv[1:]]))"
    return subprocess.run([sys.executable, "-c", command, *args], cwd=pytester.path, capture_output=True, text=True, check=False)


ITS_OWN = (
    "assertion", "cacheprovider", "capture", "debugging", "doctest", "faulthandler", "junitxml", "legacypath", "logging",
    "monkeypatch", "pastebin", "recwarn", "setuponly", "setupplan", "skipping", "stepwise", "subtests", "terminal",
    "threadexception", "tmpdir", "unittest", "unraisableexception", "warnings",
)  # fmt: skip


@pytest.mark.parametrize("name", ITS_OWN)
def test_without_one_of_pytests_own_plugins(pytester: pytest.Pytester, compare: Compare, name: str) -> None:
    """The same as plain pytest without it."""
    pytester.makepyfile(SUITE)
    compare.same("-p", f"no:{name}")


@pytest.mark.parametrize(
    "names",
    [
        ("capture", "logging"),
        ("capture", "warnings"),
        ("skipping", "subtests"),
        ("threadexception", "unraisableexception", "faulthandler"),
        ("assertion", "terminal"),
        ("tmpdir", "monkeypatch", "legacypath"),
        # Without pytest's terminal nothing would be printed to compare.
        tuple(name for name in ITS_OWN if name != "terminal"),
        ITS_OWN,
    ],
    ids=lambda names: "-".join(names) if len(names) < 4 else f"{len(names)} of them",
)
def test_without_several(pytester: pytest.Pytester, compare: Compare, names: tuple[str, ...]) -> None:
    """Nor does what takes the place of one lean on another."""
    pytester.makepyfile(SUITE)
    pair = compare(*(word for name in names for word in ("-p", f"no:{name}")))
    pair.assert_same(screen="capture" not in names)
    # What is not captured of stderr a sandboxed run shows on stdout.
    assert _written(pair.boxed) == _written(pair.plain)
    assert pair.plain.status == pytest.ExitCode.TESTS_FAILED, pair.plain.text
    assert pair.plain.outcomes()


def _written(run: Run) -> list[str]:
    """What the tests write, wherever it went: whose line it shares depends on which stream is flushed first."""
    return sorted(re.findall(r"\bout$|UserWarning: warned$|WARNING:root:logged$", run.text, re.MULTILINE))


def test_what_no_report_can_do_without(pytester: pytest.Pytester) -> None:
    """Is refused, before a test runs."""
    pytester.makepyfile(SUITE)
    run = pytester.runpytest_subprocess("--sandbox", "-p", "no:reports")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: --sandbox: with -p no:reports no report can leave a sandbox: leave that out*"])


def test_few_open_files(pytester: pytest.Pytester) -> None:
    """As few as a run needs will do; fewer are refused, with what to type."""
    pytester.makepyfile(SUITE)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))"
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed" in _run(pytester, limit.format(128)).stdout
    pytester.makepyfile(test_deep=DEEP)
    assert "5 passed" in _run(pytester, limit.format(128), "test_deep.py").stdout
    run = _run(pytester, limit.format(127))
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "this process may have 127 open files (ulimit -n). Fix: before pytest: ulimit -n 1024" in run.stderr


def test_small_files(pytester: pytest.Pytester) -> None:
    """A limit of a file's size that leaves no room for what makes a sandbox."""
    pytester.makepyfile(SUITE)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed" in _run(pytester, limit.format(1 << 20)).stdout
    run = _run(pytester, limit.format(10 << 10))
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no file of this process may have more than 10240 bytes (ulimit -f). Fix: before pytest: ulimit -f unl" in run.stderr


def test_a_descriptor_above_the_limit(pytester: pytest.Pytester) -> None:
    """One that was opened before the limit was lowered, as shells have some, is no hindrance."""
    pytester.makepyfile(SUITE)
    change = f"""
import os, resource
os.dup2(os.open({str(pytester.path)!r}, os.O_RDONLY), 200)
resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
"""
    assert "1 failed, 1 passed" in _run(pytester, change).stdout


def test_who_ignores_the_end_of_children(pytester: pytest.Pytester) -> None:
    """Nobody could wait for a sandbox: refused, with a way out."""
    pytester.makepyfile(SUITE)
    change = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    run = _run(pytester, change)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "this process ignores SIGCHLD" in run.stderr
    assert "env --default-signal=CHLD" in run.stderr
    pytester.makeconftest("import signal; signal.signal(signal.SIGCHLD, signal.SIG_DFL)")
    assert "1 failed, 1 passed" in _run(pytester, change).stdout


def test_a_protocol_that_runs_nothing(pytester: pytest.Pytester) -> None:
    """A test of which nothing is told has not passed."""
    pytester.makepyfile("def test_1(): pass")
    pytester.makeconftest("def pytest_runtest_protocol(item, nextitem): return True")
    run = pytester.runpytest_subprocess("--sandbox")
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines(["*without a report of its teardown. Fix, if *pytest_runtest_protocol of its own: it must call*"])


def test_a_protocol_that_runs_the_test(pytester: pytest.Pytester, compare: Compare) -> None:
    """One that does what pytest's does is used."""
    pytester.makepyfile(SUITE)
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol
        def pytest_runtest_protocol(item, nextitem):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            runtestprotocol(item, nextitem=nextitem)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
        """
    )
    compare.same()


#: struct sock_filter[]: EPERM for unshare(2), which is 272 on x86_64, and 97 on aarch64.
NO_UNSHARE = [
    (0x20, 0, 0, 0), (0x15, 0, 1, {"x86_64": 272, "aarch64": 97}[platform.machine()]),
    (0x06, 0, 0, 0x0005_0000 | errno.EPERM), (0x06, 0, 0, 0x7FFF_0000),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (
            "os.chroot(path)",
            "from another root directory: .*a wider fixture has changed it .os.chroot.. Fix: let a function-scoped",
        ),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))", "has lowered RLIMIT_NOFILE. Fix: let a function-scoped"),
        (
            f"syscalls.set_filter(b''.join(struct.pack('=HBBI', *line) for line in {NO_UNSHARE}))",
            "enter a sandbox: unshare a cgroup namespace: Operation not permitted",
        ),
    ],
    ids=["root", "files", "filter"],
)
def test_what_wider_fixtures_must_not_do(pytester: pytest.Pytester, call: str, why: str) -> None:
    """Is said of each test that would be in a sandbox below, with what to do; the others run."""
    if "chroot" in call and os.geteuid() != 0:
        pytest.skip("a user's sandbox has no right to chroot(2)")
    pytester.makepyfile(
        f"""
        import os, pytest, resource, struct
        from pytest_sandbox._linux import syscalls
        @pytest.fixture(scope="module")
        def doing(tmp_path_factory):
            path = tmp_path_factory.mktemp("it")
            {call}
        def test_it(doing): pass
        """
    )
    pytester.makepyfile(test_other="def test_after(): pass")
    result = pytester.runpytest_subprocess("--sandbox")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.re_match_lines([f"the sandbox could not be made: .*{why}"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_working_directory_that_is_gone(pytester: pytest.Pytester, compare: Compare) -> None:
    """Is none for tests either, which would be somewhere else without a word."""
    pytester.makepyfile(
        """
        import os, pytest, subprocess
        @pytest.fixture(scope="module")
        def gone(tmp_path_factory):
            path = tmp_path_factory.mktemp("gone")
            os.chdir(path)
            path.rmdir()
        @pytest.fixture(scope="class")
        def below(gone): pass
        class Test:
            def test_it(self, below):
                with pytest.raises(FileNotFoundError): os.getcwd()
                with pytest.raises(FileNotFoundError): open("here", "w")
                assert os.listdir(".") == []
            def test_leaves(self, below):
                os.chdir("/")
                assert os.getcwd() == "/"
        """
    )
    compare.same()


@pytest.mark.parametrize("option", ["--sandbox", "--sandbox-doctor"])
def test_a_process_that_may_not_be_dumped(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    """A user's is refused with that reason: his files in /proc are root's then."""
    if os.geteuid() == 0:
        pytest.skip("root may write them")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    pytester.makepyfile(hiding="import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)", test_it="def test_it(): pass")
    result = pytester.runpytest_subprocess(option, "-p", "hiding")
    assert result.ret != 0
    output = result.stdout.str() + result.stderr.str()
    assert re.search(r"/proc/\d+/setgroups: Permission denied .errno 13.: pytest's process is not dumpable", output), output
    assert re.search(r"[Ff]ix: call no prctl.PR_SET_DUMPABLE, 0. in conftest files", output), output


def test_who_may_be_dumped() -> None:
    """As it was set, and by default."""
    source = "from pytest_sandbox.primitives.process import *; print(is_dumpable()); set_dumpable(False); print(is_dumpable())"
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout == "True\nFalse\n"


def test_how_deep_a_test_begins(pytester: pytest.Pytester, compare: Compare) -> None:
    """About as deep as in plain pytest, for who tests with recursion: no scope stands on the stack of another one."""
    pytester.makepyfile(
        DEEP
        + """
    def depth(frame): return 0 if frame is None else 1 + depth(frame.f_back)
    import sys
    def test_1(record_property): record_property("depth", depth(sys._getframe()))
    class TestDeep:
        def test_2(self, klass, record_property): record_property("depth", depth(sys._getframe()))
"""
    )
    pair = compare()

    def depths(run: Run) -> list[int]:
        calls = (report for report in run.reports if report["when"] == "call")
        return [int(value) for report in calls for name, value in report["properties"] if name == "depth"]

    assert len(depths(pair.boxed)) == 2
    assert len(set(depths(pair.boxed))) == 1
    assert 0 < depths(pair.boxed)[0] - depths(pair.plain)[0] < 16


def test_a_thread_of_a_module(pytester: pytest.Pytester) -> None:
    """Is in no sandbox, which is said before a test waits for it."""
    pytester.makepyfile(
        """
        from concurrent.futures import ThreadPoolExecutor
        EXECUTOR = ThreadPoolExecutor(2, thread_name_prefix="mine")
        READY = EXECUTOR.submit(int, "5")
        def test_it(): assert EXECUTOR.submit(pow, 2, 3).result() == 8
        def test_other(): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-timeout=3")
    result.assert_outcomes(passed=1, failed=1, warnings=1)
    result.stdout.fnmatch_lines(["*ThreadWarning: a module starts a thread as it is imported (mine_0), which no sandbox has*"])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["-W", "ignore"], {"passed": 1}),
        (["-W", "error"], {"passed": 1, "warnings": 1}),
        (["-W", "error", "-n", "2"], {"passed": 1, "warnings": 2}),  # each worker imports it
        (["-W", "error", "-p", "no:warnings"], {"passed": 1, "warnings": 1}),  # nobody filters then
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_of_a_thread_of_a_module(pytester: pytest.Pytester, options: list[str], found: dict[str, int]) -> None:
    """Hold for that too, which is a warning also where all are errors."""
    pytester.makepyfile(
        """
        from concurrent.futures import ThreadPoolExecutor
        EXECUTOR = ThreadPoolExecutor(1, thread_name_prefix="mine")
        READY = EXECUTOR.submit(int, "5")
        def test_it(): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", *options)
    assert result.parseoutcomes() == found
    assert result.ret == 0
