"""What a test inherits, and what it can say: its own result at most, nobody else's."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

import pytest


def test_no_inherited_descriptor_leads_to_the_machine(attack: Any) -> None:
    """Files, directories, pipes and sockets that were open before pytest or in it lead to nothing of the machine inside."""
    reading, writing = os.pipe()
    mine, theirs = socket.socketpair()
    victim = attack.path / "victim"
    victim.write_text("untouched")
    opened = os.open(victim, os.O_RDWR)
    directory = os.open(attack.path, os.O_RDONLY | os.O_DIRECTORY)
    attack.inherit = [writing, theirs.fileno(), opened, directory]
    attack.facts["inherited"] = attack.inherit
    attack.write(
        """
import tempfile
FILE = open(FACTS["path"] + "/victim", "r+b", buffering=0)
LISTENER = socket.create_server(("127.0.0.1", 0))
PIPE = os.pipe()
DELETED = tempfile.TemporaryFile(buffering=0)
""",
        "opened.py",
    )
    attack.write("""
import opened
def test_write_to_all():
    inner.assert_inside(FACTS["path"])
    wire = inner.wire_socket()
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, wire):
            inner.code(lambda: os.write(int(name), b"escaped"))
            inner.code(lambda: os.pwrite(int(name), b"escaped", 0))
            inner.code(lambda: os.ftruncate(int(name), 3))
    for fd in FACTS["inherited"]:
        inner.code(lambda: os.close(os.open("by-directory", os.O_CREAT | os.O_WRONLY, dir_fd=fd)))
def test_list():
    allowed = ("/dev/null", "/memfd:sandbox-", "pipe:", "anon_inode:", "/proc/", FACTS["path"])
    found = [inner.link(name) for name in os.listdir("/proc/self/fd")]
    assert len([link for link in found if link.startswith("socket:")]) == 1
    strange = [link for link in found if link and not link.startswith(("socket:", *allowed)) and "(deleted)" not in link]
    assert not strange, found
def test_programs_get_three():
    code = "import os; print([(n, os.readlink(f'/proc/self/fd/{n}')) for n in os.listdir('/proc/self/fd')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, close_fds=False, check=False)
    assert "socket:" not in shown.stdout, shown
def test_scopes_are_not_reached():
    '''What another test made through a directory older than both. (Open files are shared: docs, "What is shared".)'''
    assert "by-directory" not in os.listdir(FACTS["path"])
""")
    try:
        result = attack.run()
        result.passed("test_write_to_all", "test_list", "test_programs_get_three", "test_scopes_are_not_reached", "test_next")
        assert victim.read_text() == "untouched"
        assert "by-directory" not in os.listdir(attack.path)
        os.set_blocking(reading, False)
        mine.setblocking(False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        with pytest.raises(BlockingIOError):
            mine.recv(1)
    finally:
        mine.close()
        theirs.close()
        for fd in (reading, writing, opened, directory):
            os.close(fd)


FORGERIES = {
    "another test's report": """{"op": "report", "data": report("test_zz_after.py::test_next", "failed")}""",
    "another test's finish": """{"op": "finish", "item": 1}""",
    "another test's start": """{"op": "start", "item": 1}""",
    "an unknown frame": """{"op": "spawn", "name": "s1"}""",
    "no op": """{"no": "op"}""",
    "no JSON": """b"\\xff\\x00{" """,
    "deep JSON": """b"[" * 1_000_000""",
    "a list": """[1]""",
    "a report of nothing": """{"op": "report", "data": None}""",
    "a report of a collector": """{"op": "report", "data": report(ME, "failed") | {"$report_type": "CollectReport"}}""",
    "a report of no class": """{"op": "report", "data": report(ME, "failed") | {"$report_type": "Nonsense"}}""",
    "a warning of nothing": """{"op": "warning"}""",
    "a warning of sys.exit": """{"op": "warning", "text": "x", "category": ["sys", "exit"], "filename": 1, "lineno": "x"}""",
    "junit of nothing": """{"op": "junit", "properties": [1], "attributes": 3}""",
    "news of no plugins": """{"op": "carried", "plugins": [1], "ended": 1}""",
    "news of a plugin that is not there": """{"op": "carried", "plugins": {"x": {}}, "ended": True}""",
    "a made sandbox": """{"op": "make", "number": 1, "limits": 3}""",
    "a number of nothing": """{"op": "errno", "errno": "x"}""",
    "an exit of nothing": """{"op": "closed", "data": {}}""",
}
HEAD = """
ME = "test_attack.py::test_forge"
def report(nodeid, outcome, **more):
    return {"$report_type": "TestReport", "nodeid": nodeid, "location": ["test_attack.py", 0, "test_forge"], "keywords": {},
            "outcome": outcome, "longrepr": "forged", "when": "call", "sections": [], "duration": 0, "start": 0, "stop": 0,
            "user_properties": [], **more}
"""


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_frame_is_its_own_failure_at_most(attack: Any, kind: str) -> None:
    """Whatever a test sends by the plugin's own socket, the run goes on, and no other test's result changes."""
    attack.write(f"{HEAD}\ndef test_forge():\n    inner.send({FORGERIES[kind]})\n    time.sleep(0.2)\n")
    result = attack.run()
    result.passed("test_next")
    assert result.cases["test_forge"].outcome in ("failed", "passed")
    assert len(result.cases) == 2
    assert result.status == (1 if result.cases["test_forge"].outcome == "failed" else 0), result.output


MALFORMED: dict[str, dict[str, object]] = {
    "keywords": {"keywords": 5},
    "longrepr of nothing": {"longrepr": {"reprcrash": 1, "reprtraceback": 2, "sections": 3, "chain": None}},
    "longrepr with numbers": {
        "longrepr": {
            "reprcrash": {"path": 1, "lineno": "x", "message": 3},
            "reprtraceback": {"reprentries": [], "extraline": 1, "style": 2},
            "sections": [1],
            "chain": None,
        }
    },
    "longrepr a number": {"longrepr": 3},
    "longrepr a list": {"longrepr": [1, 2]},
    "skipped with text": {"outcome": "skipped", "longrepr": "no tuple"},
    "skipped with a list": {"outcome": "skipped", "longrepr": ["a", "b"]},
    "skipped with nothing": {"outcome": "skipped", "longrepr": None},
    "failed with nothing": {"longrepr": None},
    "sections": {"sections": [[1, 2], [3]]},
    "duration": {"duration": "x"},
    "not a number": {"duration": float("nan")},
    "when": {"when": None},
    "outcome": {"outcome": 5},
    "outcome with a newline": {"outcome": "good\nbad"},
    "location": {"location": ["a", "b", {}]},
    "wasxfail": {"wasxfail": 3, "outcome": "skipped"},
    "wasxfail nothing": {"wasxfail": None, "outcome": "skipped", "longrepr": ["a", 1, "b"]},
    "properties": {"user_properties": [["a", {"b": 1}], [1]]},
    "own methods": {"toterminal": 1, "longreprtext": 2, "head_line": [], "count_towards_summary": None, "passed": True},
    "subtests": {"_subtest.context": {"msg": 1, "kwargs": 2}, "$report_type": "SubtestReport", "_report_type": "SubTestReport"},
    "subtests of nothing": {"_subtest.context": None, "$report_type": "SubtestReport", "_report_type": "SubTestReport"},
    "arguments": {"_subtest.context": {"msg": None, "kwargs": 2}, "_report_type": "SubtestReport"},
    "id": {"id": []},
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_report_is_its_own_failure_at_most(attack: Any, kind: str) -> None:
    """A report whose fields are of the wrong kind breaks nobody's reporter: the run goes on, and reports the next test."""
    attack.facts["more"] = MALFORMED[kind]
    attack.write(
        f"{HEAD}\ndef test_forge():\n"
        "    inner.send({'op': 'report', 'data': report(ME, 'failed') | FACTS['more']})\n    time.sleep(0.2)\n"
    )
    result = attack.run("-ra")
    result.passed("test_next")
    assert result.cases["test_forge"].outcome == "failed" or kind.startswith(("skipped", "wasxfail")), result.output


#: What is said by sandboxes, but for what ends a run (exit, interrupt, stop, internal), each with one odd value in every field.
FUZZ = """
import itertools
OPS = (
    "carried changes? coverage errno finish fixture for generators hold junit left make prepared raised refused report start "
    "terminal threaded timer unmake usage? value warning"
).split()
FIELDS = (
    "again arcs attributes category data duration ended errno failed filename generators grace hide item lineno limits message "
    "name needs network number numbers plain plugins properties reason returncode scope seconds shares_network skip subtests "
    "text threads timeout tracers unit value"
).split()
LIMITS = "memory swap pids cpus cpuset cpu_time timeout disk inodes files output bandwidth nothing".split()
ODD = [None, float("inf"), True, -1, 0.5, 7, 10**30, 1e300, "none", "x" * 3000, chr(0xd800), [], [[1, 2]], [[0, 0], "x"], {}]
FRAMES = [{"op": op, **dict.fromkeys(FIELDS, value)} for op, value in itertools.product(OPS, ODD)]
FRAMES += [{"op": "make", "number": 1, "limits": {name: value}} for name, value in itertools.product(LIMITS, ODD[:8])]
"""


@pytest.mark.parametrize("who", ["test", "scope"])
def test_odd_frames_are_their_senders_failure_at_most(attack: Any, who: str) -> None:
    """Fields of every kind and size in every frame that there is, from a test and from a fixture of a wider scope."""
    attack.write(FUZZ, "fuzz.py")
    attack.write(
        f"""
from fuzz import FRAMES
@pytest.fixture(scope="module", params=range(len(FRAMES)))
def sent(request):
    if {who == "scope"}:
        inner.send(FRAMES[request.param])
    return request.param
def test_send(sent, sandbox_factory):
    if {who == "test"}:
        inner.send(FRAMES[sent])
"""
    )
    result = attack.run("-p", "no:cacheprovider")
    assert "INTERNALERROR" not in result.output
    assert result.status in (0, 1), result.output
    assert len(result.cases) > 100
    result.passed("test_next")


def test_a_flood_of_frames_does_not_stop_the_clock(attack: Any) -> None:
    """A test that talks without end, and one that asks and never listens, are stopped by their timeouts like any other."""
    attack.write("""
@pytest.mark.sandbox(timeout=1)
def test_flood():
    inner.assert_inside()
    body = b'{"op": "errno", "errno": 1}'
    fd, data = inner.wire_socket(), (len(body).to_bytes(4, "big") + body) * 1000
    while True:
        os.write(fd, data)
@pytest.mark.sandbox(timeout=1)
def test_deaf(sandbox):
    inner.assert_inside()
    while True:
        inner.send({"op": "usage?"})
@pytest.mark.sandbox(timeout=1)
def test_terminal():
    inner.assert_inside()
    inner.send({"op": "hold", "value": True})
    time.sleep(600)
@pytest.mark.sandbox(timeout=1)
def test_half_a_frame():
    inner.assert_inside()
    os.write(inner.wire_socket(), b"\\x00\\x10\\x00\\x00{")
    time.sleep(600)
@pytest.mark.sandbox(timeout=1)
def test_done_and_on():
    inner.assert_inside()
    inner.send({"op": "done"})
    time.sleep(600)
""")
    result = attack.run()
    for name in ("test_flood", "test_terminal", "test_half_a_frame", "test_done_and_on"):
        result.failed(name, "timed out", "timed out")
    assert result.cases["test_deaf"].outcome == "failed"
    result.passed("test_next")


def test_output_is_bounded_also_after_the_last_word(attack: Any) -> None:
    """A test that says "done", and then writes output without end, has not escaped the limit of output."""
    attack.write("""
@pytest.mark.sandbox(timeout=20, output="1M")
def test_done():
    inner.assert_inside()
    inner.send({"op": "done"})
    while True:
        os.write(1, bytes(1 << 16))
        time.sleep(0.005)
""")
    result = attack.run()
    result.failed("test_done", "too much output", "too much output")
    result.passed("test_next")


#: A bound of 1 MiB for what is no output, and what is held of reports until the run's end.
HOLDER = """
from pytest_sandbox.plugin.controller import kept
kept.MOST = 1 << 20
HELD = []
def pytest_runtest_logreport(report):
    HELD.append(sum(len(text) for _, text in report.sections) + len(str(report.user_properties)) + len(report.longreprtext))
def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"held {sum(HELD)} bytes")
"""
WORDS = {
    "terminal": ("""{"op": "terminal", "text": TEXT}""", "too much output: ended at 1.3"),
    "terminal, later": ("""{"op": "terminal", "text": TEXT} if number else said("passed")""", "too much output: ended at 1.3"),
    "output": ("""said("passed", sections=[[f"Captured stdout {number}", TEXT]])""", "too much output: ended at 13"),
    "output of what fails": (
        """said("failed", sections=[[f"Captured stderr {number}", TEXT]])""",
        "too much output: ended at 13",
    ),
    "output of others": (
        """said("passed", sections=[["Captured stdout setup", TEXT * 9]]) if number else
        {"op": "start", "item": 0, "captured": 1 << 40}""",
        "too much output: ended at 2.0",
    ),
    "log": ("""said("passed", sections=[[f"Captured log {number}", TEXT]])""", "it has said 1.3"),
    "properties": ("""said("passed", user_properties=[["x", TEXT]])""", "it has said 1.3"),
    "warnings": (
        """{"op": "warning", "text": TEXT, "category": ["builtins", "UserWarning"],
        "filename": "x", "lineno": 1, "when": "runtest"}""",
        "it has said 1.3",
    ),
    "junit": (
        """{"op": "junit", "properties": [["x", TEXT]], "attributes": []}""",
        "besides its output (errors, logs, properties)",
    ),
}


@pytest.mark.parametrize("kind", WORDS)
def test_what_is_kept_of_a_test_is_bounded(attack: Any, kind: str) -> None:
    """Whatever it says, and whether it is shown at once or held until the end: more than its limit of output fails it."""
    frame, words = WORDS[kind]
    attack.write(HOLDER, "conftest.py")
    attack.write(f"""{HEAD}
TEXT = "x" * 700_000
def said(outcome, **more):
    return {{"op": "report", "data": report(ME, outcome, **more) | ({{}} if outcome == "failed" else {{"longrepr": None}})}}
@pytest.fixture(scope="module")
def wide(): pass
@pytest.mark.sandbox(output="1M")
def test_forge(wide):
    for number in range(20): inner.send({frame})
    time.sleep(0.5)
""")
    result = attack.run("--sandbox-output=2M")
    result.passed("test_next")
    assert result.cases["test_forge"].outcome == "failed", result.output
    assert words in result.cases["test_forge"].text or words in result.output, result.output
    assert len(result.output) < 4 << 20
    held = re.search(r"held (\d+) bytes", result.output)
    assert held is not None
    assert int(held[1]) < 7 << 20


def test_what_a_fixture_shows_is_bounded(attack: Any) -> None:
    """On the terminal, from the sandbox of its scope."""
    attack.write("""
@pytest.fixture(scope="module")
def wide():
    for _ in range(9): inner.send({"op": "terminal", "text": "x" * 700_000})
    time.sleep(60)
def test_it(wide): pass
""")
    result = attack.run("--sandbox-output=1M")
    result.passed("test_next")
    assert "too much output: ended at 1.3" in result.cases["test_it"].text, result.output
    assert len(result.output) < 2 << 20


def test_a_warning_makes_nobody_open_a_file(attack: Any) -> None:
    """The line that a warning quotes is read by the test, not by the controller, whom a FIFO or terminal would hold for ever."""
    fifo = attack.project / "fifo.py"
    os.mkfifo(fifo)
    attack.facts["fifo"] = str(fifo)
    attack.write("""
def test_warn():
    inner.send({"op": "warning", "text": "x", "category": ["builtins", "UserWarning"], "filename": FACTS["fifo"], "lineno": 1,
                "line": None, "when": "runtest", "nodeid": "", "location": None})
""")
    result = attack.run()
    result.passed("test_warn", "test_next")


def test_forks_and_exits_are_the_tests_own_failure(attack: Any) -> None:
    """A test that prints frames, writes to every descriptor, forks and returns, or leaves by os._exit(0) harms its own result."""
    attack.write("""
import json
def frame(frame):
    body = json.dumps(frame).encode()
    return len(body).to_bytes(4, "big") + body
def test_prints_frames(capfd):
    with capfd.disabled():
        os.write(1, frame({"op": "finish", "item": 1}))
    os.write(1, frame({"op": "finish", "item": 0}))
    os.write(2, frame({"op": "exit", "status": 0}))
def test_writes_everywhere():
    inner.assert_inside()
    for name in os.listdir("/proc/self/fd"):
        inner.code(lambda: os.write(int(name), b"\\xff" * 100))
    time.sleep(0.2)
def test_closes_everything():
    inner.assert_inside()
    os.closerange(0, 65536)
def test_forks_and_returns():
    os.fork()
def test_forks_and_fails_in_the_child():
    if os.fork() == 0:
        assert False, "in the child"
    os.wait()
def test_leaves():
    os._exit(0)
def test_leaves_in_a_thread():
    import threading
    threading.Thread(target=os._exit, args=(0,)).start()
    time.sleep(60)
def test_becomes_another_program():
    os.execv("/bin/true", ["true"])
def test_kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)
def test_exits():
    sys.exit(0)
""")
    result = attack.run()
    result.passed("test_prints_frames", "test_forks_and_returns", "test_forks_and_fails_in_the_child", "test_next")
    for name in ("test_leaves", "test_leaves_in_a_thread", "test_becomes_another_program"):
        result.failed(name, "no report", "ended without a report")
    result.failed("test_kills_itself", "signalled", "SIGKILL")
    for name in ("test_writes_everywhere", "test_closes_everything", "test_exits"):
        assert result.cases[name].outcome == "failed", result.output
    assert len(result.cases) == 11, result.output
    assert result.output.count("test_zz_after.py .") == 1 or "3 passed" in result.output or "4 passed" in result.output


@pytest.mark.parametrize("frame", ["{'op': 'bogus'}", "report(ME, 'passed')", "{'op': 'finish', 'item': 0}"])
def test_what_a_scope_must_not_say_as_it_tears_down(attack: Any, frame: str) -> None:
    """Is an error of its last test's teardown, and harms nobody else."""
    attack.write(
        f"{HEAD}\n@pytest.fixture(scope='class')\ndef wide():\n    yield\n    inner.send({frame})\n    time.sleep(0.2)\n"
        "class TestIt:\n    def test_forge(self, wide): pass\n"
    )
    result = attack.run("-ra")
    result.passed("test_next")
    assert "test_forge" in result.output.partition("short test summary")[2], result.output
