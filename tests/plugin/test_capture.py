"""Captured output and logging: the same sections, records and files as in plain pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

LOGGING = """
import logging, pytest, sys
log = logging.getLogger("mine")
def say(text):
    print("print " + text)
    print("error " + text, file=sys.stderr)
    log.warning("log %s", text)
    log.info("info %s", text)
@pytest.fixture(scope="session")
def outer(): say("outer up"); yield; say("outer down")
@pytest.fixture(scope="module")
def middle(outer): say("middle up"); yield; say("middle down")
@pytest.fixture
def inner(middle): say("inner up"); yield; say("inner down")
def test_1(inner): say("one"); assert 0
def test_2(inner): say("two")
def test_3(middle): say("three"); assert 0
"""


@pytest.mark.parametrize(
    "options", [(), ("-rA",), ("--log-level=INFO", "-rA"), ("--show-capture=log",), ("--capture=sys", "-rA")]
)
def test_sections(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """What fixtures of every scope print and log is in the sections of the test that they were set up for, or torn down after."""
    pytester.makepyfile(LOGGING)
    compare.same(*options)


def test_capture_fixtures(pytester: pytest.Pytester, compare: Compare) -> None:
    """capsys, capfd, capsysbinary, capfdbinary, and their disabled()."""
    pytester.makepyfile(
        """
        import os, subprocess, sys
        def test_sys(capsys):
            print("out"); print("err", file=sys.stderr)
            assert capsys.readouterr() == ("out\\n", "err\\n")
            print("left")
        def test_fd(capfd):
            os.write(1, b"direct\\n"); subprocess.run(["echo", "echoed"])
            assert capfd.readouterr().out == "direct\\nechoed\\n"
        def test_binary(capsysbinary, request):
            sys.stdout.buffer.write(b"\\xff")
            assert capsysbinary.readouterr().out == b"\\xff"
        def test_fd_binary(capfdbinary):
            os.write(2, b"\\xfe")
            assert capfdbinary.readouterr().err == b"\\xfe"
        def test_failing(capsys): print("seen"); assert 0
        def test_bytes(): os.write(1, b"\\xff\\n"); assert 0
        """
    )
    compare.same("-rA")


@pytest.mark.parametrize("fixture", ["capsys", "capfd"])
def test_capture_disabled(pytester: pytest.Pytester, compare: Compare, fixture: str) -> None:
    """What is printed in disabled() is shown on the terminal, once."""
    pytester.makepyfile(
        f"""
        import subprocess
        def test_1({fixture}):
            with {fixture}.disabled():
                print("shown to all", flush=True)
                subprocess.run(["echo", "by a program"])
            print("hidden")
        """
    )
    pair = compare()
    for run in (pair.plain, pair.boxed):
        assert run.status == 0
        assert run.text.count("shown to all") == run.text.count("by a program") == 1
        assert "hidden" not in run.text


def test_output_of_processes(pytester: pytest.Pytester, compare: Compare) -> None:
    """Output of subprocesses, interleaved with Python's own, in the order in which it was written."""
    pytester.makepyfile(
        """
        import os, subprocess, sys
        def test_1():
            for number in range(3):
                print("python", number, flush=True)
                subprocess.run(["sh", "-c", f"echo shell {number}; echo error {number} >&2"])
            assert 0
        """
    )
    compare.same()


def test_caplog(pytester: pytest.Pytester, compare: Compare) -> None:
    """caplog: records, levels, handlers and text."""
    pytester.makepyfile(
        """
        import logging, pytest
        log = logging.getLogger()
        @pytest.fixture
        def early(caplog): log.warning("early"); yield; log.warning("late")
        def test_1(early, caplog):
            caplog.set_level(logging.DEBUG, logger="mine")
            logging.getLogger("mine").debug("debug")
            log.info("not seen")
            assert caplog.messages == ["debug"]
            assert [r.message for r in caplog.get_records("setup")] == ["early"]
            with caplog.at_level(logging.INFO):
                log.info("seen")
            assert caplog.record_tuples[-1] == ("root", logging.INFO, "seen")
            caplog.clear()
            assert not caplog.text
        def test_2(caplog): log.error("bad"); assert 0
        """
    )
    compare.same("-rA")


@pytest.mark.parametrize("ending", ["pass", "pytest.skip('why')", "pytest.fail('why', pytrace=False)"])
def test_setup_of_collectors(pytester: pytest.Pytester, compare: Compare, ending: str) -> None:
    """What a collector's own set-up and tear-down print, log and warn of is its first test's and its last one's."""
    pytester.makeconftest(
        f"""
        import logging, pytest, sys, warnings
        def say(word):
            print(word, "to stdout"); print(word, "to stderr", file=sys.stderr); logging.warning(word); warnings.warn(word)
        class Item(pytest.Item):
            def runtest(self): assert self.name != "2", "as expected"
            def repr_failure(self, excinfo): return str(excinfo.value)
        class File(pytest.File):
            def setup(self):
                say("up")
                {ending}
            def teardown(self): say("down")
            def collect(self): return [Item.from_parent(self, name=name) for name in "123"]
        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".foo": return File.from_parent(parent, path=file_path)
        """
    )
    (pytester.path / "one.foo").touch()
    (pytester.path / "two.foo").touch()
    package = pytester.mkpydir("package")
    (package / "__init__.py").write_text("def setup_module(): print('up')\ndef teardown_module(): print('down')\n")
    (package / "test_it.py").write_text("def test_1(): assert 0\ndef test_2(): assert 0\n")
    compare.same("-rA")


def test_failures_that_are_any_object(pytester: pytest.Pytester, compare: Compare) -> None:
    """What an item makes of its failure is shown as `str` has it."""
    pytester.makeconftest(
        """
        import pytest
        class Shown:
            def __repr__(self): return "by repr"
            def __str__(self): return "by str, first line\\nsecond line"
        class Item(pytest.Item):
            def runtest(self): assert 0
            def repr_failure(self, excinfo): return {"1": Shown(), "2": ["a", 1], "3": b"bytes", "4": 5}[self.name]
        class File(pytest.File):
            def collect(self): return [Item.from_parent(self, name=name) for name in "1234"]
        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".foo": return File.from_parent(parent, path=file_path)
        """
    )
    (pytester.path / "one.foo").touch()
    compare.same("-rA")


def test_caplog_of_wider_fixtures(pytester: pytest.Pytester, compare: Compare) -> None:
    """What they log as they are set up for a test is a part of that test's set-up, and of no other's; also if that is early."""
    pytester.makepyfile(
        """
        import logging, pytest
        log = logging.getLogger("mine")
        @pytest.fixture(scope="session")
        def session_value(): log.warning("session"); yield; log.warning("end of session")
        @pytest.fixture(scope="module")
        def module_value(session_value): log.warning("module"); log.info("not caught")
        @pytest.fixture(scope="module")
        def later(session_value): log.warning("later")
        @pytest.fixture
        def own(caplog):
            log.warning("own")
            assert "own" in caplog.text
            print(caplog.messages)
            yield
            print([r.message for r in caplog.get_records("setup")])
        def test_1(module_value, own, caplog):
            log.warning("call")
            print([r.message for r in caplog.get_records("setup")], caplog.messages)
        def test_2(module_value, own): pass
        def test_3(later, own, caplog): print([r.message for r in caplog.get_records("setup")])
        """
    )
    pair = compare.same("-rP")
    assert "['session', 'module', 'own'] ['call']" in pair.boxed.text


def test_what_is_logged_is_formatted_once(pytester: pytest.Pytester, compare: Compare) -> None:
    """When it is logged: what a wider fixture's object says of itself later is no business of a test's set-up."""
    pytester.makepyfile(
        """
        import logging, pytest
        class Connection:
            closed = False
            def __repr__(self):
                if self.closed: raise RuntimeError("connection is closed")
                return "connection"
        @pytest.fixture(scope="module")
        def connection():
            made = Connection()
            logging.warning("opened %r", made)
            made.closed = True
            return made
        def test_1(connection): pass
        def test_2(connection, caplog): assert caplog.text == ""
        """
    )
    compare.same("-rA")


def test_setup_of_a_collector_whose_first_test_is_skipped(pytester: pytest.Pytester, compare: Compare) -> None:
    """What it prints, logs and warns of is of the first test that runs."""
    package = pytester.mkpydir("package")
    (package / "__init__.py").write_text(
        "import logging, warnings\ndef setup_module(): print('up'); logging.warning('logged'); warnings.warn('warned')\n"
    )
    (package / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.skip\ndef test_0(): pass\n"
        "def test_1(caplog): print([r.message for r in caplog.get_records('setup')]); assert 0\n"
    )
    pair = compare.same("-rA")
    assert "['logged']" in pair.boxed.text


def test_live_log(pytester: pytest.Pytester, compare: Compare) -> None:
    """log_cli shows records as they come, under the name of the test."""
    pytester.makepyfile(LOGGING)
    pair = compare("-o", "log_cli=true", "--log-cli-level=INFO").assert_same(screen=False)
    plain, boxed = (
        re.findall(r"(?:INFO|WARNING) +mine:.*|live log \w+", run.result.stdout.str()) for run in (pair.plain, pair.boxed)
    )
    assert sorted(set(boxed)) == sorted(set(plain))
    assert [line for line in boxed if "mine" in line] == [line for line in plain if "mine" in line]


def test_live_log_with_subtests(pytester: pytest.Pytester, compare: Compare) -> None:
    """What is logged, and how each subtest ends, in the order in which it happens."""
    pytester.makepyfile(
        """
        import logging
        def test_1(subtests):
            logging.warning("before")
            with subtests.test("one"): logging.warning("in one")
            with subtests.test("two"): assert 0
            logging.warning("after")
        def test_2(subtests):
            with subtests.test("three"): logging.warning("in three")
        """
    )
    compare.same("-o", "log_cli=true")
    compare.same("--setup-show")


def test_what_a_fixture_writes_past_the_capture(pytester: pytest.Pytester, compare: Compare) -> None:
    """Stands where the fixture is set up, and not where its scope ends."""
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.fixture(scope="session")
        def session(): os.write(1, b"<session up>"); yield; os.write(1, b"<session down>")
        @pytest.fixture(scope="module")
        def module(): os.write(1, b"<module up>"); yield; os.write(1, b"<module down>")
        def test_1(session): os.write(1, b"<one>")
        def test_2(module): os.write(1, b"<two>")
        def test_3(): os.write(1, b"<three>")
        """
    )
    pair = compare("--capture=sys")
    found = [re.findall(r"<(.*?)>", run.result.stdout.str()) for run in (pair.plain, pair.boxed)]
    assert found[0] == ["session up", "one", "module up", "two", "three", "module down", "session down"]
    assert found[1] == found[0]


@pytest.mark.parametrize("mode", ["w", "a"])
def test_log_file(pytester: pytest.Pytester, compare: Compare, mode: str) -> None:
    """log_file: what tests and fixtures log is in the file, in order; what was there is kept with mode a."""
    pytester.makepyfile(LOGGING)
    (pytester.path / "log.txt").write_text("from before\n")
    pair = compare("--log-file=log.txt", "--log-file-level=INFO", f"--log-file-mode={mode}")
    assert pair.boxed.read("log.txt") == pair.plain.read("log.txt")
    assert "info two" in pair.boxed.read("log.txt")
    assert ("from before" in pair.boxed.read("log.txt")) == (mode == "a")


@pytest.mark.parametrize("capture", ["fd", "sys", "no", "tee-sys"])
def test_a_caller_whose_stdout_is_in_memory(pytester: pytest.Pytester, capture: str) -> None:
    """As in a notebook: what is not captured is seen there, in its place."""
    pytester.makepyfile(
        """
        import sys
        def test_it(capsys):
            with capsys.disabled():
                print("said aloud")
            print("said low"); print("err", file=sys.stderr)
        """
    )
    code = """
import io, sys, pytest
kept, sys.stdout, sys.stderr = sys.stdout, io.StringIO(), io.StringIO()
status = pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]])
said = sys.stdout.getvalue() + sys.stderr.getvalue()
sys.stdout = kept
print(status, said.count("said aloud"), said.count("said low"), said.index("said aloud") < said.index("1 passed"))
"""
    runs = [
        subprocess.run([sys.executable, "-c", code, f"--capture={capture}", *more], capture_output=True, text=True, check=False)
        for more in ([], ["--sandbox"])
    ]
    assert runs[1].stdout == runs[0].stdout, runs
    assert runs[0].stdout.startswith("ExitCode.OK 1 ") or runs[0].stdout.startswith("0 1 ")


def test_tee(pytester: pytest.Pytester, compare: Compare) -> None:
    """--capture=tee-sys: what is printed is seen on the stream that it is printed to, and in the reports."""
    pytester.makepyfile("import sys\ndef test_it():\n    print('out'); print('err', file=sys.stderr)\n    assert 0\n")
    pair = compare("--capture=tee-sys")
    for run in (pair.plain, pair.boxed):
        assert [line for line in run.result.errlines if line] == ["err"]
        assert run.result.stdout.str().count("out\n") == 2


@pytest.mark.parametrize("capture", ["no", "tee-sys"])
def test_what_shows_at_once(pytester: pytest.Pytester, compare: Compare, capture: str) -> None:
    """It stands beside the name and result of the test that has written it."""
    pytester.makepyfile(
        """
        import sys
        def test_1(): pass
        def test_2(): print("out of 2")
        def test_3(): print("out of 3"); sys.stdout.flush()
        def test_4(): pass
        def test_5(): print("out of 5"); assert 0
        def test_6(): print("out of 6")
        """
    )
    compare.same("-v", f"--capture={capture}")


def test_a_stream_that_has_not_every_letter(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test writes past its capture ends no run by a letter that the caller's encoding lacks."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    pytester.makepyfile(
        """
        import os
        def test_1(capfd):
            with capfd.disabled(): os.write(1, b"\\xff and more")
        def test_2(): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*and more*"])


@pytest.mark.needs("memory")
def test_live_log_after_a_report_that_is_made_anew(pytester: pytest.Pytester) -> None:
    """A test that has passed fails for its limit after all: what its teardown logs is shown all the same."""
    pytester.makepyfile("""
        import logging, pytest, subprocess, sys
        @pytest.fixture
        def made():
            yield
            logging.warning("words of the teardown")
        @pytest.mark.sandbox(memory="64M")
        def test_it(made):
            subprocess.run([sys.executable, "-c", "x = bytearray(1 << 30)"])
    """)
    result = pytester.runpytest_subprocess("--sandbox", "-o", "log_cli=true", "--show-capture=no")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*live log teardown*", "WARNING*words of the teardown*"])
