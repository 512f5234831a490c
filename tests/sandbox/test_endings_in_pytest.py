"""The same endings and limits by `pytest --sandbox`, options and marker: in the test's report, and the run goes on."""

from __future__ import annotations

import re

import pytest

from tests.sandbox.conftest import case, counts_refusals

pytestmark = pytest.mark.usefixtures("plain_environment")

HOG = "[b'x' * (1 << 20) for _ in range(1000)]"


GRANDCHILD = f"""subprocess.run(['sh', '-c', 'exec "$0" -c "$1"', sys.executable, {HOG!r}])"""


NO_MEMORY = r"out of memory: .*limit 64M, peak 6"


CASES = [
    pytest.param("memory='64M'", f"held = {HOG}", NO_MEMORY, id="memory", marks=pytest.mark.needs("memory", "swap")),
    pytest.param("memory='64M'", GRANDCHILD, NO_MEMORY, id="memory of a grandchild", marks=pytest.mark.needs("memory", "swap")),
    pytest.param("timeout='2s'", "threading.Thread(target=other).start(); time.sleep(60)",
                 "timed out: killed after .*, limit 2s", id="timeout"),
    pytest.param("cpu_time=0.3", "while True: pass", "cpu time: ended after .* of CPU, limit 300ms", id="cpu_time",
                 marks=pytest.mark.needs("cpu_time")),
    pytest.param("pids=20", "while os.fork(): pass\n    time.sleep(60)", "too many processes: limit 20", id="pids",
                 marks=pytest.mark.needs("pids")),
    pytest.param("disk='1M'", "open('/tmp/big', 'wb').write(bytes(1 << 23))", "disk full: limit 1M", id="disk"),
    pytest.param("inodes=100", "for i in range(1000): open(f'/tmp/{i}', 'w')", "out of inodes: limit 100", id="inodes"),
    pytest.param("output='1M'", "while True: os.write(1, b'x' * 65536)", "too much output: ended at .*, limit 1M", id="output"),
    pytest.param("output='1M'", "while True: subprocess.run(['seq', '100000'])", "too much output: .*limit 1M", id="its output"),
    pytest.param("", "os._exit(0)", "ended without a report: its main process left with exit status 0", id="no report"),
    pytest.param("", "os.kill(os.getpid(), 11)", "killed by SIGSEGV", id="crash"),
    pytest.param("files=40", "while True: os.dup(0)", "too many open files: limit 40 descriptors a process", id="files"),
]  # fmt: skip


@pytest.mark.parametrize(("limit", "body", "sentence"), CASES)
def test_ending(pytester: pytest.Pytester, limit: str, body: str, sentence: str) -> None:
    """Named in one sentence, with the figures."""
    if "time" in limit:  # on a machine under load it takes its turn to print its stacks
        pytester.makeconftest("from pytest_sandbox.sandbox.outside import watch\nwatch.STACKS_TIME = 60.0\n")
    source = f"def other(): time.sleep(60)\n@pytest.mark.sandbox({limit})\ndef test_it():\n    {body}\n"
    output = case(pytester, source)
    assert re.search(sentence, output), output
    assert not limit or f"\nlimit {limit.partition('=')[0]}: set by @pytest.mark.sandbox(" in output
    if "time" in limit:
        assert "in test_it" in output
    if "other" in body:
        assert "in other" in output


@pytest.mark.needs("memory", "swap")
def test_too_little_memory_to_begin_in(pytester: pytest.Pytester) -> None:
    """A fork of what is large takes more for its page tables: that ends it, and not the scope that it is forked from."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="session")
        def large(): return [bytearray(b"x") * (1 << 20) for _ in range(400)]
        @pytest.mark.sandbox(memory="1M")
        @pytest.mark.parametrize("number", range(3))
        def test_small(large, number): pass
        def test_next(large): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "-rA")
    result.assert_outcomes(errors=3, passed=1)
    result.stdout.re_match_lines(["out of memory: the kernel killed .*limit 1M, peak 1M"] * 3)


@pytest.mark.parametrize(
    ("where", "options"),
    [
        pytest.param("set by --sandbox-pids", ["--sandbox-pids=20"], id="option"),
        pytest.param("set by ini key sandbox_pids", ["-o", "sandbox_pids=20"], id="ini"),
        pytest.param("the default; to set it: --sandbox-pids, or @pytest.mark.sandbox(pids=...)", [], id="default"),
    ],
)
@pytest.mark.needs("pids")
def test_where_a_limit_was_set(pytester: pytest.Pytester, where: str, options: list[str]) -> None:
    """Is told below what it says."""
    body = "while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    output = case(pytester, f"def test_it():\n    {body}\n", *options)
    assert re.search(rf"\ntoo many processes: limit .*\nlimit pids: {re.escape(where)}\nwall ", output), output


@pytest.mark.parametrize(
    ("limit", "body", "summary"),
    [
        pytest.param("disk='1M'", "open('/tmp/big', 'wb').write(bytes(1 << 23))", "disk full: OSError: [Errno 28]", id="disk"),
        pytest.param("inodes=20", "for i in range(99): open(f'/tmp/{i}', 'w')", "out of inodes: OSError: [Errno", id="inodes"),
        pytest.param("files=40", "while True: os.dup(0)", "too many open files: OSError: [Errno 24]", id="files"),
        pytest.param("pids=5", "for _ in range(9): subprocess.Popen(['sleep', '9'])", "too many processes: Blocking", id="pids",
                     marks=pytest.mark.needs("pids")),
        pytest.param("memory='64M'", f"{GRANDCHILD[:-1]}, check=True)",
                     "out of memory: subprocess.Called", id="memory", marks=pytest.mark.needs("memory", "swap")),
        pytest.param("pids=5", "raise BlockingIOError(11, 'a socket')", "- BlockingIOError: [Errno 11] a", id="no limit",
                     marks=[pytest.mark.needs("pids"), counts_refusals]),
    ],
)  # fmt: skip
def test_the_short_summary_names_the_limit(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, limit: str, body: str, summary: str
) -> None:
    """Also where the test raised what the limit led to, and nothing where none was met."""
    monkeypatch.setenv("COLUMNS", "200")
    output = case(pytester, f"@pytest.mark.sandbox({limit})\ndef test_it():\n    {body}\n")
    last = output[output.index("short test summary info") :]
    assert summary in last, last


@pytest.mark.parametrize("limit", ["output", "timeout"])
def test_what_was_said_before_a_limit_was_met(pytester: pytest.Pytester, limit: str) -> None:
    """A controller that is slow to hear it takes none of it for unsaid: the call has passed, and the teardown fails."""
    if not hasattr(pytest, "Subtests"):
        pytest.skip("subtests came with pytest 9")
    # At the first report: the others it hears when the limit was met.
    pytester.makeconftest(
        f"""
        import os, time
        heard, HERE = [], os.getpid()
        def pytest_report_from_serializable(data):
            if os.getpid() == HERE and not heard: time.sleep({1 if limit == "output" else 3.5})
            heard.append(data)
        """
    )
    pytester.makepyfile(
        f"""
        import os, pytest, time
        @pytest.fixture
        def late():
            yield
            if {limit == "output"}: os.write(1, b'x\\n' * (1 << 20))
            time.sleep(100)
        @pytest.mark.sandbox({"output='1M'" if limit == "output" else "timeout=3"})
        def test_it(late, subtests):
            for number in range(3):
                with subtests.test(number=number): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "-rA", timeout=100)
    result.assert_outcomes(passed=1, errors=1)
    said = "too much output: *" if limit == "output" else "timed out: *"
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*", said])


@pytest.mark.parametrize("when", ["set-up", "teardown"])
def test_a_wider_fixture_that_is_a_little_late(pytester: pytest.Pytester, when: str) -> None:
    """One that ends while its stacks are asked for has met its limit all the same."""
    pytester.makepyfile(
        f"""
        import pytest, time
        @pytest.fixture(scope="module")
        def late():
            time.sleep({3.1 if when == "set-up" else 0})
            yield
            time.sleep({3.1 if when == "teardown" else 0})
        def test_1(late): pass
        def test_2(late): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-timeout=3s")
    result.assert_outcomes(**({"errors": 2} if when == "set-up" else {"passed": 2, "errors": 1}))
    result.stdout.fnmatch_lines(["*timed out: killed after *, limit 3s*"])
