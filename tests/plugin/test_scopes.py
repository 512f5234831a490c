"""Fixtures of every scope: set up once, in the same order, and torn down when plain pytest would."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pytest_sandbox import capabilities
from tests.plugin.conftest import LOG, Compare, make, same_log

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
    plain, boxed = (run.read("log.txt").splitlines() for run in (pair.plain, pair.boxed))
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
    assert run.read("log.txt") == "made\n"


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
    assert run.read("log.txt") == "made\n"
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
    if change == OTHER_NAMESPACE and capabilities()["identity"].reason.startswith("identity"):
        pytest.skip("a test that is root as the machine's root is makes no user namespace")
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


def test_a_collector_that_only_tears_down(pytester: pytest.Pytester, compare: Compare) -> None:
    """It does so once, after the last of its items."""
    pytester.makeconftest(
        """
        import pytest
        class Text(pytest.File):
            def teardown(self): print("closed")
            def collect(self):
                for n in range(3): yield Line.from_parent(self, name=f"line {n}")
        class Line(pytest.Item):
            def runtest(self): assert self.name != "line 0"
        def pytest_collect_file(parent, file_path):
            if file_path.suffix == ".txt": return Text.from_parent(parent, path=file_path)
        """
    )
    pytester.path.joinpath("a.txt").touch()
    compare.same("-rA")
