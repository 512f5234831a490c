"""Limits that refuse and do not kill, by `pytest --sandbox`: named only where they are what a test has failed of."""

from __future__ import annotations

import re
import textwrap

import pytest

from tests.sandbox.conftest import case, counts_refusals

pytestmark = pytest.mark.usefixtures("plain_environment")

NO_ROOM = """
import ctypes, shutil
LIBC = ctypes.CDLL(None, use_errno=True)
def fill(where):
    with open(f"{where}/big", "wb") as file: file.write(bytes(8 << 20))
def make(where):
    for number in range(1000): open(f"{where}/{number}", "w").close()
def share(where):
    while LIBC.shmget(0, 1, 0o600) >= 0: pass
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
@pytest.fixture
def where():
    os.mkdir("/tmp/where")
    yield "/tmp/where"
    shutil.rmtree("/tmp/where", ignore_errors=True)
@pytest.mark.sandbox(disk="4M", inodes=100)
def test_it(where):
"""


@pytest.mark.parametrize(("call", "limit"), [("fill", "disk full: limit 4M"), ("make", "out of inodes: limit 100")])
def test_no_room_until_the_teardown(pytester: pytest.Pytester, call: str, limit: str) -> None:
    """It is looked before a fixture cleans up, and of two small limits the one is named that was used up."""
    output = case(pytester, f"{NO_ROOM}    {call}(where)")
    assert limit in output
    assert "Sandbox hint" not in output


@pytest.mark.parametrize("body", ["try: fill(where)", "try: make(where)", "try: share(where)"])
def test_room_again(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Nobody knows which limit it was, if any: so none is named as what was met, and a hint says what it can have been."""
    monkeypatch.setenv("COLUMNS", "200")
    output = case(pytester, f"{NO_ROOM}    {body}\n    finally: shutil.rmtree(where)")
    assert "The sandbox had room when this was reported (disk 4M, inodes 100)" in output
    assert "- OSError: [Errno 28] No space" in output[output.index("short test summary info") :]
    assert "disk full" not in output
    assert "out of inodes" not in output


NO_FILES = """
import resource
def close():
    with open("/dev/null") as file:
        held = []
        try:
            while True: held.append(os.dup(file.fileno()))
        finally:
            for one in held: os.close(one)
def lower():
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, 100))
    while True: os.dup(0)
def start():
    held = []
    while True: held.append(subprocess.Popen(["sleep", "9"], stdin=-1, stdout=-1, stderr=-1))
@pytest.mark.sandbox(files=100)
def test_it():
"""


def test_files_that_a_call_has_given_back(pytester: pytest.Pytester) -> None:
    """What starts a process lacks several, and closes those that it had got before it says so."""
    assert re.search(
        "too many open files: limit 100 descriptors a process, 9[2-9] in use", case(pytester, f"{NO_FILES}    start()")
    )


def test_files_and_another_error_in_the_teardown(pytester: pytest.Pytester) -> None:
    """Which is what often follows, and says nothing of what the test has failed of."""
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.fixture
        def gone():
            yield
            os.stat("/nowhere")
        @pytest.mark.sandbox(files=64)
        def test_it(gone):
            while True: os.dup(0)
        """
    )
    result = pytester.runpytest_subprocess("--sandbox")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*too many open files: limit 64 descriptors a process, *"])


def test_few_inodes(pytester: pytest.Pytester) -> None:
    """One or two are left that are not enough: to change a file of the machine takes more."""
    for number in range(20):
        pytester.path.joinpath(f"file-{number}").touch()
    tests = [
        f"""
        @pytest.mark.sandbox(inodes={inodes})
        @pytest.mark.parametrize("change", [append, os.setxattr, rename])
        def test_{inodes}(change):
            for number in range(20):
                change(f"file-{{number}}", "user.x", b"y")
        """
        for inodes in range(8, 16)
    ]
    helpers = """
        import os, pytest
        def append(path, *_):
            with open(path, "a") as file: file.write("x")
        def rename(path, *_): os.rename(path, f"{path}-moved")
    """
    pytester.makepyfile("\n".join(map(textwrap.dedent, [helpers, *tests])))
    result = pytester.runpytest_subprocess("--sandbox")
    result.assert_outcomes(failed=24)
    result.stdout.fnmatch_lines([f"*out of inodes: limit {inodes}, *" for inodes in range(8, 16) for _ in range(3)])


@pytest.mark.needs("pids")
@counts_refusals
def test_a_later_test_has_not_failed(pytester: pytest.Pytester) -> None:
    """Of those that share a sandbox: what one has failed of is no ending of the next, which has met a limit and coped with it."""
    pytester.makepyfile(
        """
        import os, pytest, signal
        pytestmark = pytest.mark.sandbox(scope="module", pids=8)
        def test_failing(): assert 0
        def test_coping():
            made = []
            try:
                while True:
                    if not (pid := os.fork()): signal.pause()
                    made.append(pid)
            except BlockingIOError:
                for pid in made: os.kill(pid, 9); os.waitpid(pid, 0)
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-usage")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*too many processes*")


@pytest.mark.parametrize("body", ["close()", "lower()", "raise OSError(24, 'Too many open files')"])
def test_files_again(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Of an error that also says something else only what is seen is a verdict, and a hint says what it can have been."""
    monkeypatch.setenv("COLUMNS", "200")
    output = case(pytester, f"{NO_FILES}    {body}")
    assert "The sandbox's limit (files 100) was not met when this was reported" in output
    assert "- OSError: [Errno 24] Too many" in output[output.index("short test summary info") :]
    assert "too many open files:" not in output
