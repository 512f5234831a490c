"""Fixtures of every scope: set up once, in the same order, and torn down when plain pytest would."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

LOG = "--sandbox-writable=log.txt"

#: What each suite's conftest has: `log(text)` appends a line to a file that goes through to the machine.
CONFTEST = """
import pathlib, pytest
PATH = pathlib.Path(__file__).parent / "log.txt"

def write(text):
    with PATH.open("a") as file:
        file.write(text + "\\n")

@pytest.fixture(scope="session")
def log():
    return write

def maker(scope, name=None):
    @pytest.fixture(scope=scope, name=name or scope + "_value")
    def made(log, request):
        log(f"set up {scope} for {request.node.nodeid}")
        yield [scope]
        log(f"tear down {scope} for {request.node.nodeid}")
    return made

session_value = maker("session")
package_value = maker("package")
module_value = maker("module")
class_value = maker("class")
function_value = maker("function")
"""


def make(pytester: pytest.Pytester, conftest: str = "", **files: str) -> None:
    """Write a suite: paths with "/" spelled as "__", without ".py"."""
    pytester.makeconftest(CONFTEST + textwrap.dedent(conftest))
    (pytester.path / "log.txt").touch()
    for name, text in files.items():
        path = pytester.path / (name.replace("__init", "/!init").replace("__", "/").replace("/!init", "/__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def same_log(compare: Compare, *args: str) -> list[str]:
    """Run it both ways; outcomes and the log must be the same. Returns the log's lines."""
    pair = compare(*args, options=[LOG]).assert_same()
    assert pair.boxed.files["log.txt"] == pair.plain.files["log.txt"]
    lines = pair.plain.files["log.txt"].splitlines()
    assert lines
    return lines


EVERY = """
import pytest

def test_first(session_value, package_value, module_value, function_value): pass
def test_second(session_value, module_value): pass

class TestOne:
    def test_third(self, class_value, module_value): pass
    def test_fourth(self, class_value): pass

class TestTwo:
    def test_fifth(self, class_value, function_value): pass
"""


def test_every_scope(pytester: pytest.Pytester, compare: Compare) -> None:
    """A fixture of each scope is set up once for its node and torn down when the last test of that node is over."""
    make(pytester, test_a=EVERY, test_b=EVERY)
    lines = same_log(compare)
    assert lines.count("set up session for ") == 1
    assert lines.count("set up module for test_a.py") == 1
    assert lines.count("tear down class for test_b.py::TestOne") == 1


def test_packages(pytester: pytest.Pytester, compare: Compare) -> None:
    """Package fixtures of nested packages are set up once a package, those defined in an inner conftest too."""
    inner = """
        import pytest
        @pytest.fixture(scope="package")
        def inner_value(log, package_value):
            log("set up inner"); yield; log("tear down inner")
    """
    test = "def test_it(package_value): pass\n"
    make(
        pytester,
        one____init="",
        one__test_a=test,
        one__test_b=test,
        one__sub____init="",
        one__sub__conftest=inner,
        one__sub__test_c="def test_it(package_value, inner_value): pass\n",
        one__sub__test_d="def test_it(inner_value): pass\n",
        two____init="",
        two__test_e=test,
    )
    same_log(compare)


def test_setup_of_packages_and_modules(pytester: pytest.Pytester, compare: Compare) -> None:
    """Functions setup_module of a package's __init__ and of modules run once each, in the order of plain pytest."""
    write = "import pathlib\ndef write(text):\n    open({path!r}, 'a').write(text + '\\n')\n".format(
        path=str(pytester.path / "log.txt")
    )
    init = write + "def setup_module(): write('set up package')\ndef teardown_module(): write('tear down package')\n"
    module = write + "def setup_module(): write('set up ' + __name__)\ndef teardown_module(): write('tear down ' + __name__)\n"
    test = module + "def test_1(): write('1')\ndef test_2(): write('2')\n"
    make(
        pytester,
        pack____init=init,
        pack__test_a=test,
        pack__test_b=test,
        pack__sub____init=init,
        pack__sub__test_c=test,
        test_d=test,
    )
    same_log(compare)


def test_xunit(pytester: pytest.Pytester, compare: Compare) -> None:
    """setup_class, setUpClass, setUpModule, asyncSetUp and cleanups of classes and modules run as in plain pytest."""
    make(
        pytester,
        test_x=f"""
        import unittest
        def write(text):
            open({str(pytester.path / "log.txt")!r}, 'a').write(text + '\\n')

        def setUpModule():
            write("setUpModule")
            unittest.addModuleCleanup(write, "module cleanup")
        def tearDownModule(): write("tearDownModule")
        def setup_function(function): write("setup_function " + function.__name__)
        def teardown_function(function): write("teardown_function " + function.__name__)

        def test_function(): write("test")

        class TestPlain:
            @classmethod
            def setup_class(cls): write("setup_class"); cls.value = 1
            @classmethod
            def teardown_class(cls): write("teardown_class")
            def setup_method(self, method): write("setup_method"); self.own = 2
            def teardown_method(self, method): write("teardown_method")
            def test_1(self): assert (self.value, self.own) == (1, 2)
            def test_2(self): assert (self.value, self.own) == (1, 2)

        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls): write("setUpClass"); cls.addClassCleanup(write, "class cleanup"); cls.value = 1
            @classmethod
            def tearDownClass(cls): write("tearDownClass")
            def setUp(self): write("setUp"); self.addCleanup(write, "cleanup")
            def tearDown(self): write("tearDown")
            def test_1(self): self.assertEqual(self.value, 1)
            def test_2(self): self.assertEqual(self.value, 1)

        class AsyncCase(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self): write("asyncSetUp")
            async def test_async(self): write("async")
        """,
    )
    same_log(compare)


@pytest.mark.parametrize("scope", ["session", "package", "module", "class", "function"])
def test_parametrized_fixture(pytester: pytest.Pytester, compare: Compare, scope: str) -> None:
    """A parametrized fixture is set up once for each value, and tests are ordered by it."""
    make(
        pytester,
        f"""
        @pytest.fixture(scope={scope!r}, params=["a", "b", "c"])
        def value(log, request):
            log("set up " + request.param); yield request.param; log("tear down " + request.param)
        @pytest.fixture(scope={scope!r})
        def above(value, log):
            log("above " + value); yield value * 2; log("no longer above " + value)
        """,
        test_a="""
        def test_1(value, log): log("1 " + value)
        class TestIt:
            def test_2(self, above, log): log("2 " + above)
            def test_3(self, log): log("3")
        """,
        test_b="def test_4(above, value, log): log('4 ' + above + value)\n",
    )
    lines = same_log(compare)
    if scope == "session":
        assert lines.count("set up b") == 1


def test_two_parametrized_fixtures(pytester: pytest.Pytester, compare: Compare) -> None:
    """Two of them in two scopes, one of which asks for the other."""
    make(
        pytester,
        """
        @pytest.fixture(scope="session", params=[1, 2])
        def outer(log, request):
            log(f"set up outer {request.param}"); yield request.param; log(f"tear down outer {request.param}")
        @pytest.fixture(scope="module", params=["x", "y"])
        def inner(outer, log, request):
            log(f"set up inner {request.param}"); yield (outer, request.param); log(f"tear down inner {request.param}")
        """,
        test_a="def test_1(inner, log): log(repr(inner))\ndef test_2(outer, log): log(repr(outer))\ndef test_3(inner): pass\n",
        test_b="def test_4(inner, log): log(repr(inner))\ndef test_5(outer, log): log(repr(outer))\n",
    )
    same_log(compare)


def test_direct_parametrization_of_a_fixture(pytester: pytest.Pytester, compare: Compare) -> None:
    """`indirect` parametrization, with a scope of its own, of a session fixture."""
    make(
        pytester,
        """
        @pytest.fixture(scope="session")
        def value(log, request):
            log(f"set up {request.param}"); yield request.param; log(f"tear down {request.param}")
        """,
        test_a="""
        import pytest
        @pytest.mark.parametrize("value", ["a", "b"], indirect=True)
        class TestIt:
            def test_1(self, value, log): log("1" + value)
            def test_2(self, value, log): log("2" + value)
        @pytest.mark.parametrize("value", ["c", "a"], indirect=True)
        def test_3(value, log): log("3" + value)
        @pytest.mark.parametrize("plain", [1, 2], scope="module")
        def test_4(plain, module_value, log): log(f"4{plain}")
        """,
    )
    same_log(compare)


def test_overrides(pytester: pytest.Pytester, compare: Compare) -> None:
    """A fixture that overrides another of its name, in another scope, with and without asking for it."""
    make(
        pytester,
        """
        @pytest.fixture(scope="session")
        def value(log):
            log("session value"); yield ["session"]; log("session value down")
        """,
        test_a="""
        import pytest
        @pytest.fixture(scope="module")
        def value(value, log):
            log("module value"); yield [*value, "module"]; log("module value down")
        def test_1(value): assert value == ["session", "module"]
        class TestIt:
            @pytest.fixture
            def value(self, value, log):
                log("own value"); yield [*value, "function"]; log("own value down")
            def test_2(self, value): assert value == ["session", "module", "function"]
            def test_3(self, value): assert value == ["session", "module", "function"]
        class TestOther:
            @pytest.fixture(scope="class")
            def value(self): return "other"
            def test_4(self, value): assert value == "other"
        """,
        test_b="def test_5(value): assert value == ['session']\n",
    )
    lines = same_log(compare)
    assert lines.count("session value") == 1


def test_asked_for_at_run_time(pytester: pytest.Pytester, compare: Compare) -> None:
    """request.getfixturevalue finds fixtures of every scope, those that are up already and others."""
    make(
        pytester,
        test_a="""
        def test_up(module_value, request): assert request.getfixturevalue("module_value") is module_value
        def test_down(request): assert request.getfixturevalue("function_value") == ["function"]
        """,
    )
    same_log(compare)


def test_higher_scopes_asked_for_at_run_time(pytester: pytest.Pytester, compare: Compare) -> None:
    """A session fixture that only getfixturevalue asks for is there; it is set up, and torn down, in each sandbox anew."""
    make(
        pytester,
        test_a="""
        import pytest
        @pytest.mark.parametrize("number", range(3))
        def test_it(request, number): assert request.getfixturevalue("session_value") == ["session"]
        """,
    )
    pair = compare(options=[LOG]).assert_same()
    assert pair.boxed.files["log.txt"].splitlines() == ["set up session for ", "tear down session for "] * 3


def test_autouse_and_usefixtures(pytester: pytest.Pytester, compare: Compare) -> None:
    """Autouse fixtures of every scope, and usefixtures by mark."""
    make(
        pytester,
        """
        def auto(scope):
            @pytest.fixture(scope=scope, autouse=True)
            def made(log):
                log("auto " + scope); yield; log("auto down " + scope)
            return made
        a1, a2, a3, a4 = map(auto, ["session", "module", "class", "function"])
        """,
        test_a="""
        import pytest
        pytestmark = pytest.mark.usefixtures("module_value")
        def test_1(): pass
        @pytest.mark.usefixtures("class_value")
        class TestIt:
            def test_2(self): pass
            def test_3(self): pass
        """,
        test_b="def test_4(session_value): pass\n",
    )
    same_log(compare)


def test_set_up_ahead(pytester: pytest.Pytester, compare: Compare) -> None:
    """What a later test needs of an outer scope is set up before an inner scope is forked from it, still once."""
    make(
        pytester,
        test_a="def test_1(module_value): pass\ndef test_2(module_value, session_value): pass\n",
    )
    pair = compare(options=[LOG]).assert_same()
    plain, boxed = (run.files["log.txt"].splitlines() for run in (pair.plain, pair.boxed))
    assert plain[:2] == boxed[1::-1] == ["set up module for test_a.py", "set up session for "]
    assert plain[2:] == boxed[2:]


def test_request_addfinalizer(pytester: pytest.Pytester, compare: Compare) -> None:
    """Finalizers of request.addfinalizer, also one added by a test to what a higher scope has, run once."""
    make(
        pytester,
        """
        @pytest.fixture(scope="module")
        def value(request, log):
            request.addfinalizer(lambda: log("first"))
            request.addfinalizer(lambda: log("second"))
            request.node.addfinalizer(lambda: log("of the module"))
            return 1
        """,
        test_a="""
        def test_1(value, request, log): request.addfinalizer(lambda: log("of the test"))
        def test_2(value): pass
        """,
    )
    same_log(compare)


def test_memory_and_files_are_copied(pytester: pytest.Pytester, compare: Compare) -> None:
    """Each test changes what a session fixture made, in memory and on disk, and no other test notices."""
    make(
        pytester,
        """
        @pytest.fixture(scope="session")
        def made(tmp_path_factory, log):
            log("made")
            path = tmp_path_factory.mktemp("made") / "file"
            path.write_text("fresh")
            return {"list": [1, 2], "path": path}
        """,
        test_a="""
        import pytest
        @pytest.mark.parametrize("number", range(4))
        def test_it(made, number):
            assert made["list"] == [1, 2]
            assert made["path"].read_text() == "fresh"
            made["list"].append(number)
            made["path"].write_text("spoiled")
        """,
    )
    run = compare.one(LOG)
    run.result.assert_outcomes(passed=4)
    assert run.files["log.txt"] == "made\n"


def test_costly_session_fixture(pytester: pytest.Pytester, compare: Compare) -> None:
    """Fifty tests wait once for a fixture of two seconds; each may change what it made; its daemon serves them all, and ends."""
    make(
        pytester,
        """
        import subprocess, sys, time
        @pytest.fixture(scope="session")
        def costly(log, tmp_path_factory):
            log("made")
            time.sleep(2)
            directory = tmp_path_factory.mktemp("served")
            (directory / "file").write_text("fresh")
            daemon = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(directory)]
            process = subprocess.Popen(daemon, stdout=subprocess.PIPE, text=True, start_new_session=True)
            address = process.stdout.readline().split("(")[1].split(")")[0]
            yield [0], directory / "file", address + "file"
        """,
        test_a="""
        import pytest, urllib.request
        @pytest.mark.parametrize("number", range(50))
        def test_it(costly, number):
            numbers, path, address = costly
            numbers[0] += 1
            assert numbers == [1]
            assert path.read_text() == "fresh"
            path.write_text("spoiled")
            assert urllib.request.urlopen(address).read() == b"fresh"
        """,
    )
    run = compare.one(LOG)
    run.result.assert_outcomes(passed=50)
    assert run.files["log.txt"] == "made\n"
    mark = os.environ["PYTEST_DEBUG_TEMPROOT"]  # the directory that it serves is below
    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and mark in _command_line(pid)] == []


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


def test_context_managers(pytester: pytest.Pytester, compare: Compare) -> None:
    """A fixture's `with` is left, and its `finally` run, once, by whoever has set it up, and not where a sandbox inherits it."""
    make(
        pytester,
        conftest="""
        import contextlib, gc, sqlite3
        @contextlib.contextmanager
        def managed(name):
            write(f"enter {name}")
            state = {"open": True}
            try: yield state
            finally:
                state["open"] = False
                write(f"leave {name}")
        def maker(scope):
            @pytest.fixture(scope=scope, name=scope + "_context")
            def made():
                with managed(scope) as state:
                    try: yield state
                    finally: write(f"finally {scope}")
            return made
        session_context, package_context, module_context, class_context = map(maker, ("session", "package", "module", "class"))
        @pytest.fixture(scope="module")
        def database():
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                connection.execute("create table numbers (number)")
                yield connection
        @pytest.fixture(scope="session")
        def added(request):
            context = managed("added"); state = context.__enter__()
            request.addfinalizer(lambda: context.__exit__(None, None, None))
            return state
        """,
        test_it="""
        import gc, pytest
        class TestClass:
            def test_1(self, session_context, added, package_context, module_context, class_context):
                gc.collect()
                assert session_context["open"] and package_context["open"] and module_context["open"] and class_context["open"]
            def test_2(self, class_context, added): assert class_context["open"] and added["open"]
        def test_3(session_context, module_context): assert session_context["open"] and module_context["open"]
        @pytest.mark.parametrize("number", [1, 2])
        def test_database(database, number):
            database.execute("insert into numbers values (?)", [number])
        """,
        test_more="""
        def test_4(session_context, module_context, added):
            assert session_context["open"] and module_context["open"] and added["open"]
        """,
    )
    assert same_log(compare).count("leave session") == 1


def test_context_managers_of_unsandboxed_tests(pytester: pytest.Pytester, compare: Compare) -> None:
    """What the controller has set up, for tests with enabled=False, no sandbox leaves."""
    make(
        pytester,
        conftest="""
        import contextlib
        @pytest.fixture(scope="session")
        def context():
            try: yield
            finally: write("finally")
        """,
        test_it="""
        import pytest
        @pytest.mark.sandbox(enabled=False)
        def test_here(context): pass
        def test_1(): pass
        @pytest.mark.sandbox(enabled=False)
        def test_here_too(context): pass
        """,
    )
    assert same_log(compare) == ["finally"]


def test_after_one_that_failed(pytester: pytest.Pytester, compare: Compare) -> None:
    """What comes after a fixture that failed is set up once, by its scope, for the next test that needs it."""
    make(
        pytester,
        conftest="""
        @pytest.fixture(scope="session")
        def broken(log): raise ValueError("broken")
        @pytest.fixture(scope="module", autouse=True)
        def module(log):
            log("module is set up"); yield; log("module is torn down")
        @pytest.fixture(scope="session")
        def session(log):
            log("session is set up"); yield; log("session is torn down")
        """,
        test_it="""
        def test_broken(broken, session): pass
        def test_broken_too(session, broken): pass
        def test_1(): pass
        def test_2(session): pass
        def test_3(session): pass
        """,
        test_more="""
        def test_4(session, broken): pass
        def test_5(): pass
        """,
    )
    lines = same_log(compare)
    assert [lines.count(f"{scope} is set up") for scope in ("module", "session")] == [2, 1]


def test_a_packages_fixture_defined_in_a_module(pytester: pytest.Pytester, compare: Compare) -> None:
    """Lives as long as the one of the package that it asks for, and not only as long as its module, nor the session."""
    make(
        pytester,
        pkg____init="",
        pkg__conftest="""
        import pytest
        @pytest.fixture(scope="package")
        def outer(log): log("outer up"); yield; log("outer down")
        """,
        pkg__test_1="""
        import pytest
        @pytest.fixture(scope="package")
        def inner(outer, log): log("inner up"); yield; log("inner down")
        def test_1(inner, log): log("test_1")
        """,
        pkg__test_2="""
        def test_2(log): log("test_2")
        def test_3(outer, log): log("test_3")
        """,
        test_other="def test_4(log): log('test_4')",
    )
    lines = same_log(compare, "pkg", "test_other.py")
    assert lines == ["outer up", "inner up", "test_1", "test_2", "test_3", "inner down", "outer down", "test_4"]


@pytest.mark.parametrize("error", ["1 / 0", "pytest.skip('no')"])
def test_nothing_after_a_failed_one(pytester: pytest.Pytester, compare: Compare, error: str) -> None:
    """For no test that needs it: what comes after it is set up by who does not need it, once, and wider scopes stay."""
    make(
        pytester,
        f"""
        import sys
        @pytest.fixture(scope="session")
        def fails(log): log("fails"); {error}
        @pytest.fixture(scope="package")
        def elsewhere(log): log("elsewhere up"); yield; log("elsewhere down")
        @pytest.fixture(scope="module")
        def after(log): log("after up"); yield; log("after down")
        @pytest.fixture(scope="module", autouse=True)
        def always(log): log("always up"); yield; log("always down")
        """,
        test_1="""
        import pytest
        @pytest.fixture(scope="class")
        def last(log): log("last up"); yield; log("last down")
        class Test1:
            def test_1(self, fails, elsewhere, after, last): pass
            def test_2(self, fails, elsewhere, after, last): pass
            def test_3(self, elsewhere, after, last, log): log("test_3")
            def test_4(self, fails, after, last, tmp_path_factory): pass
            def test_5(self, after, last, log): log("test_5")
        def test_6(after, log): log("test_6")
        """,
    )
    lines = same_log(compare)
    assert lines.count("after up") == lines.count("always up") == lines.count("last up") == lines.count("elsewhere up") == 1


def test_which_fixture_has_a_thread(pytester: pytest.Pytester) -> None:
    """The innermost is named, once; what depends on it is set up by each test. What ends for that says nothing aside."""
    pytester.makepyfile(
        """
        import pytest, threading, time
        @pytest.fixture(scope="session")
        def quiet(): print("quiet up"); yield; print("quiet down")
        @pytest.fixture(scope="session")
        def inner(): threading.Thread(target=time.sleep, args=(60,), daemon=True, name="own").start(); yield
        @pytest.fixture(scope="session")
        def middle(inner, quiet): yield
        @pytest.fixture(scope="session")
        def outer(middle): yield
        def test_1(quiet): pass
        def test_2(outer): pass
        def test_3(outer, middle): pass
        """
    )
    run = pytester.runpytest_subprocess("--sandbox", "-v")
    run.assert_outcomes(passed=3, warnings=1)
    run.stdout.fnmatch_lines(["*fixture 'inner' starts a thread (own)*"])
    assert "quiet" not in run.stdout.str()


def test_what_a_factorys_fixture_asks_for_at_run_time(pytester: pytest.Pytester, compare: Compare) -> None:
    """A server whose name the factory was given, as of pytest-postgresql and its kin, is set up once, by its scope."""
    make(
        pytester,
        test_a="""
        import pytest
        @pytest.fixture(scope="session")
        def server(log): log("up"); yield 1; log("down")
        def factory(process_fixture_name):
            @pytest.fixture
            def client(request): return request.getfixturevalue(process_fixture_name)
            return client
        client = factory("server")
        @pytest.mark.parametrize("number", range(3))
        def test_1(client, number, log): log(f"test {number}")
        """,
    )
    assert same_log(compare) == ["up", "test 0", "test 1", "test 2", "down"]


OTHER_USER = "before = os.getresuid(); os.setresuid(1000, 1000, 0); yield; os.setresuid(*before)"
OTHER_NAMESPACE = "syscalls.unshare(Clone.NEWUSER); yield"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(OTHER_USER, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else"), id="user"),
        pytest.param(OTHER_NAMESPACE, id="namespace"),
    ],
)
def test_who_may_not_enter_another_sandbox(pytester: pytest.Pytester, change: str) -> None:
    """It is said at once, with what can be done, which works: nobody waits for the end of the sandbox around it, which lives."""
    pytester.makeconftest(f"""
        import os, pytest
        from pytest_sandbox._linux import syscalls
        from pytest_sandbox._linux.flags import Clone
        from pytest_sandbox.plugin.controller import tree, walk
        tree.DEATH_TIME = walk.DEATH_TIME = 3600.0
        @pytest.fixture(scope="module")
        def wide():
            {change}
        @pytest.fixture(scope="session")
        def widest():
            {change}
        @pytest.fixture
        def own():
            {change}
    """)
    pytester.makepyfile(
        test_wide="import pytest\n@pytest.mark.parametrize('number', range(3))\ndef test_it(wide, number): pass",
        test_own="def test_it(own): pass",
        test_widest="import pytest\n@pytest.mark.usefixtures('wide')\ndef test_it(widest): pass",
        test_shared="import pytest\n@pytest.mark.sandbox(scope='module')\ndef test_it(wide): pass",
    )
    result = pytester.run(sys.executable, "-m", "pytest", "--sandbox", timeout=300)
    result.assert_outcomes(errors=4, passed=2)
    said = "setns: Operation not permitted *(os.setuid). Fix: let a function-*"
    result.stdout.fnmatch_lines([f"the sandbox could not be made: {said}", f"{said}: that ended the sandbox of test_widest.py"])
