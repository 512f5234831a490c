"""The same endings and limits by `pytest --sandbox`, options and marker: in the test's report, and the run goes on."""

from __future__ import annotations

import os
import re
import resource
import textwrap
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_sandbox import capabilities


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller gave to his pytest is not for the inner one."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


def case(pytester: pytest.Pytester, source: str, *options: str) -> str:
    """Run a module whose test_it fails by its sandbox, and whose test_after passes; the output."""
    pytester.makepyfile("import os, pytest, subprocess, sys, threading, time\n" + source + "\ndef test_after(): pass\n")
    result = pytester.runpytest_subprocess("--sandbox", *options, timeout=100)
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == 1
    return result.stdout.str()


#: Without a cgroup nobody counts refused forks, and EAGAIN of a socket looks like one.
counts_refusals = pytest.mark.skipif("RLIMIT" in capabilities()["pids"].reason, reason="processes are limited by RLIMIT_NPROC")

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


#: A conftest with which the sizes of a sandbox's files are looked at by no one while a short test runs.
UNSEEN = "import pytest_sandbox.sandbox.outside.clock as clock; clock.FIRST_LOOK = clock.LOOK = 600.0"
OUTPUTS = """
import os, pytest, sys
pytestmark = pytest.mark.sandbox(output="100k")
@pytest.fixture(scope="session")
def wide(): print("w" * 60000)
@pytest.fixture
def early(): print("s" * 60000)
@pytest.fixture
def late(): yield; print("s" * 60000)
def test_within(): print("x" * 60000); print("x" * 40000, file=sys.stderr)
def test_after_a_wider_fixture(wide): print("x" * 60000)
def test_bytes_that_are_no_text(): os.write(1, b"\\xff" * 90000)
def test_over(): print("x" * 60000); print("x" * 60000, file=sys.stderr)
def test_over_by_bytes(): print("\xe4" * 60000)
def test_over_with_set_up(early): print("x" * 60000)
def test_over_with_teardown(late): print("x" * 60000)
def test_over_and_failing(): print("x" * 120000); assert 0
def test_next(): pass
"""


@pytest.mark.parametrize("options", [(), ("--capture=sys",), ("--sandbox-scope=module",)], ids=["fd", "sys", "shared"])
def test_output_is_judged_at_the_end_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """What a test wrote more than the limit fails it though nobody saw it while it stood in its files; no other test fails."""
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makeconftest(UNSEEN)
    pytester.makepyfile(OUTPUTS)
    result = pytester.runpytest_subprocess("--sandbox", "-rA", "--show-capture=no", *options)
    failed = re.findall(r"^FAILED .*::test_(\w+)", result.stdout.str(), re.MULTILINE)
    assert failed == ["over", "over_by_bytes", "over_with_set_up", "over_with_teardown", "over_and_failing"]
    assert len(re.findall("^too much output: ended at 117k, limit 100k", result.stdout.str(), re.MULTILINE)) >= 4
    result.stdout.fnmatch_lines(["FAILED *::test_over_and_failing - too much output: assert 0"])
    result.assert_outcomes(passed=4, failed=5)


@pytest.mark.parametrize("when", ["set-up", "teardown"])
def test_output_of_a_wider_fixture_is_judged_at_the_end_too(pytester: pytest.Pytester, when: str) -> None:
    """It fails the tests that need it, or is an error of the last of them; what another one writes has nothing to do with it."""
    pytester.makeconftest(UNSEEN)
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.fixture(scope="session")
        def other(): print("x" * 60000); yield; print("x" * 60000)
        @pytest.fixture(scope="module")
        def loud(other):
            if {when == "set-up"}: print("x" * 120000)
            yield
            if {when == "teardown"}: print("x" * 120000)
        def test_1(loud): pass
        def test_2(loud): pass
        def test_3(other): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-output=100k", "--show-capture=no")
    result.assert_outcomes(**({"errors": 2, "passed": 1} if when == "set-up" else {"passed": 3, "errors": 1}))
    result.stdout.fnmatch_lines([f"*too much output: ended at 117k, limit 100k*{'loud*' if when == 'set-up' else ''}"])


def test_a_marker_raises_and_lifts_what_is_a_limit_of_each_process(pytester: pytest.Pytester) -> None:
    """Descriptors, and for a user without cgroups processes: of a test only, whatever the run has, which forks it."""
    is_counted = "RLIMIT" in capabilities()["pids"].reason

    def pids(value: object) -> str:
        return f", pids={value}" if is_counted else ""

    pytester.makepyfile(
        f"""
        import pytest, resource
        def limits(): return [resource.getrlimit(one) for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
        def test_usual(): print("usual", limits())
        @pytest.mark.sandbox(files=200{pids(100)})
        def test_more(): print("more", limits())
        @pytest.mark.sandbox(files=None{pids(None)})
        def test_none(): print("none", limits())
        @pytest.mark.sandbox(files=40{pids(30)})
        def test_less(): print("less", limits())
        def test_usual_again(): print("again", limits())
        """
    )
    options = ("--sandbox-files=100", *(["--sandbox-pids=50"] if is_counted else []))
    result = pytester.runpytest_subprocess("--sandbox", *options, "-rP")
    result.assert_outcomes(passed=5)
    found = dict(re.findall(r"^(usual|more|none|less|again) (.*)$", result.stdout.str(), re.MULTILINE))
    files, processes = (resource.getrlimit(which) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    expected = {"usual": (100, 51), "more": (200, 101), "less": (40, 31), "again": (100, 51)}  # with init
    told = {name: str([(few, few), (many, many) if is_counted else processes]) for name, (few, many) in expected.items()}
    assert found == told | {"none": str([files, processes])}


@pytest.mark.needs("cpus")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_marker_lifts_the_quota(pytester: pytest.Pytester, jobs: int) -> None:
    """Of the run, which the scope has from which the test is forked."""
    pytester.makepyfile(
        """
        import pytest, time
        @pytest.mark.parametrize("number", [1, 2])
        @pytest.mark.sandbox(cpus=None)
        def test_it(sandbox, number):
            while time.process_time() < 0.5: pass
            assert sandbox.usage().throttled == 0
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-cpus=0.2", f"--sandbox-jobs={jobs}")
    result.assert_outcomes(passed=2)


@pytest.mark.needs("cpuset")
def test_a_marker_lifts_the_choice_of_cpus(pytester: pytest.Pytester) -> None:
    """The same."""
    cpus = os.sched_getaffinity(0)
    pytester.makepyfile(
        f"""
        import os, pytest
        def test_one(): assert os.sched_getaffinity(0) == {{{min(cpus)}}}
        @pytest.mark.sandbox(cpuset=None)
        def test_all(): assert os.sched_getaffinity(0) == {cpus}
        """
    )
    pytester.runpytest_subprocess("--sandbox", f"--sandbox-cpuset={min(cpus)}").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("cpu_time", "while time.process_time() < 0.5: pass\n    assert 0"),
        ("pids", "raise BlockingIOError(errno.EAGAIN, 'of a socket')"),
    ],
)
def test_a_limit_that_does_not_hold_is_not_met(pytester: pytest.Pytester, name: str, body: str) -> None:
    """What the header says is not enforced is blamed for nothing that a test fails of."""
    capability = capabilities()[name]
    if capability.available:
        pytest.skip(f"{name} is enforced here: {capability.reason}")
    pytester.makepyfile(f"import errno, time\ndef test_it():\n    {body}")
    options = ("--sandbox-cpu-time=200ms", "--sandbox-pids=500", "--sandbox-degrade")
    result = pytester.runpytest_subprocess("--sandbox", *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"sandbox: NOT ENFORCED: *{name}*"])
    result.stdout.no_fnmatch_line("*limit *")


@pytest.mark.parametrize("capture", ["sys", "tee-sys"])
def test_output_is_counted_while_python_captures_it(pytester: pytest.Pytester, capture: str) -> None:
    """What a test prints ends it at the limit also where pytest would have it in memory."""
    body = "print('x' * 120000); time.sleep(100)"
    pytester.makepyfile(f"import time\ndef test_it():\n    {body}\ndef test_after(): print('x' * 80000)")
    options = ("--sandbox-output=100k", "--sandbox-degrade", "--sandbox-timeout=60")
    result = pytester.runpytest_subprocess("--sandbox", f"--capture={capture}", *options)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["too much output: ended at 117k, limit 100k"])


def test_of_too_much_output_both_ends_are_shown(pytester: pytest.Pytester) -> None:
    """What stands between is left out, with its size: the sentence would be lost above it."""
    pytester.makepyfile("def test_it():\n    print('first')\n    while True: print('x' * 99)")
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-output=1M")
    told = ["too much output: ended at *, limit 1M", "*Captured stdout call*", "first", "... * bytes are left out here ..."]
    result.stdout.fnmatch_lines(told)
    assert len(result.stdout.str()) < 80_000


@pytest.mark.parametrize("option", ["-s", "--capture=tee-sys"])
def test_output_that_nobody_counts(pytester: pytest.Pytester, option: str) -> None:
    """Where tests write straight to pytest's own output no limit is claimed, and one that was asked for is refused."""
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox\ndef test_it(): print('it ran')")
    why = f"with {option}, tests write straight to pytest's own output, where nobody counts it"
    run = pytester.runpytest_subprocess("--sandbox", option)
    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines([f"sandbox: NOT ENFORCED: output: {why}"])
    run.stdout.no_fnmatch_line("*output 64M*")
    for asked in ("--sandbox-output=1M", "--sandbox-require=output"):
        refused = pytester.runpytest_subprocess("--sandbox", option, asked)
        assert refused.ret == pytest.ExitCode.USAGE_ERROR
        refused.stderr.fnmatch_lines([f"*output is not available here: {why}. Fix: capture by descriptors (--capture=fd), *"])
    run = pytester.runpytest_subprocess("--sandbox", option, "--sandbox-output=none")
    run.stdout.no_fnmatch_line("*NOT ENFORCED:*output*")
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox(output='1M')\ndef test_it(): print('it ran')")
    refused = pytester.runpytest_subprocess("--sandbox", option)
    refused.stderr.fnmatch_lines([f"*::test_it: the limit output is not available here: {why}. Fix: *"])
    refused.stdout.no_fnmatch_line("*it ran*")
    run = pytester.runpytest_subprocess("--sandbox", option, "--sandbox-degrade")
    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines([f"sandbox: NOT ENFORCED: output (asked for, but --sandbox-degrade): {why}"])


@pytest.mark.parametrize("options", [(), ("--capture=sys",)], ids=["fd", "sys"])
def test_output_before_the_end(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    """What Python and a subprocess wrote before SIGKILL is in the report, or was seen."""
    body = "print('mine', flush=True); subprocess.run(['echo', 'its']); os.kill(os.getpid(), 9)"
    output = case(pytester, f"def test_it():\n    {body}", *options)
    assert "mine" in output
    assert "its" in output


SAYING = """
import logging, os, pytest, sys
def say(phase):
    print("out of", phase)
    print("err of", phase, file=sys.stderr)
    logging.warning("log of %s", phase)
    if phase == "{phase}": {end}
@pytest.fixture
def made():
    say("setup")
    yield
    if "{phase}" == "teardown": say("teardown")
def test_it(made): say("call")
"""


def captured(pytester: pytest.Pytester, phase: str, end: str, *options: str) -> tuple[list[tuple[str, str]], list[str]]:
    """What a test of which a phase ends so has written, by the terminal's sections, and the lines of it that JUnit's file has."""
    pytester.makepyfile(SAYING.format(phase=phase, end=end))
    result = pytester.runpytest_subprocess(*options, "--junitxml=out.xml", "-ojunit_logging=all")
    test = ET.parse(pytester.path / "out.xml").find(".//testcase")
    assert test is not None
    lines = "\n".join(element.text or "" for element in test if element.tag.startswith("system")).split("\n")
    sections = re.findall(r"^-+ Captured (.+?) -+\n((?:.* of .*\n)+)", result.stdout.str(), re.MULTILINE)
    return sections, [line for line in lines if " of " in line]


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_output_of_all_phases_before_the_end(pytester: pytest.Pytester, phase: str) -> None:
    """As in plain pytest of a test that raises; only what was logged in the phase of the end is in the memory that is gone."""
    raised, lines = captured(pytester, phase, "raise ValueError")
    killed = captured(pytester, phase, "os.kill(os.getpid(), 9)", "--sandbox")
    assert f"log {phase}" in dict(raised)
    assert killed == ([one for one in raised if one[0] != f"log {phase}"], [one for one in lines if f"log of {phase}" not in one])


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


@pytest.mark.needs("cpus")
def test_throttling_is_told(pytester: pytest.Pytester) -> None:
    """How long the test waited for its share of CPU: less than it gets of a machine under load, or it need not wait."""
    source = "@pytest.mark.sandbox(cpus=0.1)\ndef test_it():\n    while time.process_time() < 0.1: pass\n    assert 0\n"
    assert "throttled" in case(pytester, source)


@pytest.mark.parametrize("name", ["memory", "swap", "cpus", "cpu_time"])
def test_what_cannot_be_enforced_is_a_usage_error(pytester: pytest.Pytester, name: str) -> None:
    """Before any test, by option and by marker, with what, why and the fix; where it can be, it holds."""
    value = {"memory": "512M", "swap": "0", "cpus": "0.5", "cpu_time": "60"}[name]
    pytester.makepyfile("import pathlib\ndef test_it(): pathlib.Path('ran').touch()")
    marked = pytester.path / "marked"
    marked.mkdir()
    (marked / "test_marked.py").write_text(f"import pytest\n@pytest.mark.sandbox({name}='{value}')\ndef test_it(): pass\n")
    option = pytester.runpytest_subprocess("--sandbox", f"--sandbox-{name.replace('_', '-')}={value}", ".")
    marker = pytester.runpytest_subprocess("--sandbox", str(marked))
    if capabilities()[name].available:
        assert (option.ret, marker.ret) == (0, 0)
        return
    for result in (option, marker):
        text = result.stdout.str() + result.stderr.str()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert f"the limit {name} is not available here: " in text
        assert "Fix: " in text


@pytest.mark.parametrize(("keep", "kept"), [("never", 0), ("failed", 1), ("always", 2)])
def test_keep(pytester: pytest.Pytester, tmp_path: Path, keep: str, kept: int) -> None:
    """What a test wrote is saved, and the path told."""
    source = "def test_bad():\n    open('/var/tmp/evidence', 'w').write('bad'); assert 0\n"
    pytester.makepyfile(source + "def test_good():\n    open('/var/tmp/evidence', 'w').write('good')\n")
    base = tmp_path / "base"
    result = pytester.runpytest_subprocess("--sandbox", f"--sandbox-keep={keep}", f"--basetemp={base}")
    found = sorted(path.read_text() for path in base.rglob("evidence"))
    assert found == ["bad", "good"][:kept]
    for path in base.rglob("evidence"):
        assert str(path.parents[2]) in result.stdout.str()
    assert not os.path.exists("/var/tmp/evidence")


@pytest.mark.needs("xattr")
def test_scratch_leaves_nothing(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """The run's directory below scratch is gone at the end."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pytester.makepyfile("def test_it(tmp_path):\n    (tmp_path / 'x').write_text('x' * 100000)\n")
    options = ("--sandbox-scratch", str(scratch), "--sandbox-disk=none", "--sandbox-inodes=none")
    assert pytester.runpytest_subprocess("--sandbox", *options).ret == 0
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("network", ["auto", "loopback", "none", "shared", "host"])
def test_network_of_a_run(pytester: pytest.Pytester, network: str) -> None:
    """Every value works for a whole run."""
    pytester.makepyfile(
        """
        import os
        def test_it(pytestconfig):
            inside = os.listdir("/sys/class/net")
            up = open("/proc/net/dev").read()
            assert "lo" in inside and "lo:" in up
            assert (os.readlink("/proc/self/ns/net") == os.environ["HOST"]) == (os.environ["NETWORK"] == "host")
        """
    )
    os.environ |= {"NETWORK": network, "HOST": os.readlink("/proc/self/ns/net")}
    result = pytester.runpytest_subprocess("--sandbox", f"--sandbox-network={network}")
    result.assert_outcomes(passed=1)


@pytest.mark.needs("bandwidth")
def test_bandwidth_of_a_scope(pytester: pytest.Pytester) -> None:
    """A test that shares its scope's network has the scope's limit; one of its own, which is smaller, cannot be had there."""
    pytester.makepyfile(
        """
        import pytest, socket
        @pytest.fixture(scope="session")
        def server():
            with socket.create_server(("127.0.0.1", 0)) as listening: yield listening
        @pytest.mark.sandbox(bandwidth="64k")
        def test_own(server): pass
        @pytest.mark.sandbox(bandwidth="1M")
        def test_wider(server): pass
        @pytest.mark.sandbox(bandwidth="64k", network="loopback")
        def test_alone(server): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-bandwidth=256k")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the limit bandwidth is not available here: the test shares the network of the scope*Fix: *"])


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
