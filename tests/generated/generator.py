"""Small test-suites made at random: each a set of files and pytest's arguments for them, the same for the same seed.

A suite has whatever pytest's users write: fixtures of all scopes, parametrized, autouse, failing, in conftest files and classes;
xunit-style and unittest set-ups; marks; every way to pass, fail, skip, warn, print, log and stop. Its tests change nothing that
a wider fixture made, as only that is meant to differ in a sandbox. Standard library only.
"""

from __future__ import annotations

import builtins
import dataclasses
import random
import textwrap
from collections.abc import Sequence

SCOPES = ("function", "class", "module", "package", "session")
HEAD = """
import asyncio, logging, os, subprocess, sys, threading, unittest, warnings
import pytest
LOG = logging.getLogger("suite")
class Loud:
    def __del__(self): raise ValueError("from __del__")
def in_thread():
    def run(): raise ValueError("in a thread")
    thread = threading.Thread(target=run, name="own")  # a number would count anew in each sandbox
    thread.start()
    thread.join()
"""


@dataclasses.dataclass(frozen=True)
class Suite:
    """Files by path, and pytest's arguments.

    moves: it has what makes set-ups differ. That is a parametrized fixture of a wider scope: as it moves to its
    next value, the narrower scopes, which are forks of its own, are set up anew. (No teardown of a fixture fails where there are
    such: in plain pytest the old value's does so in the set-up of the next test, which then does not run. Nor is a warning an
    error: what is set up anew for a test has that test's filters.) And a fixture of a package that is not defined in the conftest
    of one: it lives as long as the session, and so is set up before all that lives in the package's directory.
    leaving: the tests that leave what is told of when it is collected, or by a thread. letters: those with subtests of unittest.
    """

    files: dict[str, str]
    arguments: tuple[str, ...]
    moves: bool
    leaving: frozenset[str]
    letters: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Fixture:
    """What tests and other fixtures need to know of one."""

    name: str
    scope: str
    params: int


class Maker:
    """Makes one suite out of one source of chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._count = 0
        self._moves = self._is(0.08)
        self._has_moving = False
        self._leaving: set[str] = set()
        self._letters: set[str] = set()
        self._strict = "once" if self._moves else "error"  # see `Suite.moves`

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    def _one(self, *choices: str) -> str:
        return self._chance.choice(choices)

    def _is(self, share: float) -> bool:
        return self._chance.random() < share

    def _some(self, known: Sequence[Fixture], share: float = 0.4, most: int = 3) -> list[Fixture]:
        return [one for one in known if self._is(share)][:most]

    # -- what is done --------------------------------------------------------------------------------------------------

    def _quiet(self, where: str) -> str:
        """A statement that says or notes something, and goes on."""
        return self._one(
            f"print('out of {where}')",
            f"print('err of {where}', file=sys.stderr)",
            f"os.write(1, b'written by {where}\\n')",
            f"LOG.warning('log of {where}')",
            f"LOG.info('info of {where}')",
            f"warnings.warn('warned in {where}')",
            f"warnings.warn(DeprecationWarning('old in {where}'))",
            "print('\\u20ac \\x1b[31mred\\x1b[0m \\x00')",
            "pass",
            "x = {'a': list(range(30)), 'b': 'text'}",
        )

    def _test_only(self, where: str) -> str:
        if self._is(0.1):  # rarely: what is told of garbage and threads is not compared
            self._leaving.add(where)
            return self._one("Loud()", "in_thread()", "open(os.devnull)")
        return self._one(
            f"subprocess.run(['echo', 'echoed by {where}'])",
            f"request.node.add_report_section('call', 'own', 'section of {where}')",
            f"request.node.user_properties.append(('property', '{where}'))",
            "asyncio.run(asyncio.sleep(0))",
            "pytest.importorskip('os')",
            "sys.stdout.write('no newline')",
        )

    def _loud(self, where: str) -> str:
        """A statement that ends what it is in."""
        return self._one(
            f"assert 1 == 2, '{where}'",
            "assert {'a': 1, 'b': [1, 2, 3]} == {'a': 1, 'b': [1, 2, 4]}",
            f"raise ValueError('{where}\\nsecond line')",
            "1 / 0",
            f"pytest.fail('failed in {where}', pytrace=False)",
            f"pytest.skip('skipped in {where}')",
            f"pytest.xfail('expected in {where}')",
            "raise KeyError(('a', 1)) from ValueError('why')",
            f"sys.exit('{where}')",
            "raise BaseException('base')" if self._is(0.2) else "raise RuntimeError",
            "raise ExceptionGroup('group', [ValueError(1), TypeError(2)])" if sys_has_groups() else "raise OSError(2, 'no')",
        )

    def _stop(self) -> str:
        return self._one(
            "pytest.exit('enough')",
            "pytest.exit('enough', returncode=7)",
            "raise KeyboardInterrupt",
            "request.session.shouldstop = 'stop'",
        )

    def _body(self, where: str, *, fails: float, test: bool = False) -> list[str]:
        """Statements; no SystemExit in a teardown: in the last one of all it is the end of plain pytest itself."""
        lines = [self._quiet(where) for _ in range(self._chance.randrange(3))]
        if test and self._is(0.3):
            lines.append(self._test_only(where))
        # Where parameters of wider fixtures move, see `Suite.moves`.
        if self._is(0 if self._moves and "teardown" in where.lower() else fails):
            loud = self._loud(where)
            lines.append("1 / 0" if "teardown" in where and loud.startswith(("sys.exit", "raise BaseException")) else loud)
        return lines or ["pass"]

    # -- fixtures ------------------------------------------------------------------------------------------------------

    def _fixture(self, known: Sequence[Fixture], *, method: bool, package: bool) -> tuple[Fixture, str]:
        """One more; method: of a class, package: of a package's conftest."""
        scope = self._one(*SCOPES) if not method else self._one("function", "class")
        if scope == "package" and not package:
            scope = "package" if self._is(0.03) else "module"
            self._has_moving |= scope == "package"
        wider = [one for one in known if SCOPES.index(one.scope) >= SCOPES.index(scope)]
        needed = self._some(wider, 0.3, 2)
        params = self._chance.choice((0, 0, 0, 0, 2, 3))
        if params and scope != "function":
            params = params if self._moves else 0
            self._has_moving |= bool(params)
        name = self._name("fix")
        arguments = [f"scope={scope!r}"]
        if params:
            arguments.append(f"params={list(range(params))}")
        if params and self._is(0.3):
            arguments.append(f"ids=[{', '.join(repr(f'{name}p{n}') for n in range(params))}]")
        if self._is(0.12):
            arguments.append("autouse=True")
        own = ["self"] if method else []
        wants = [*own, *(["request"] if params or self._is(0.2) else []), *(one.name for one in needed)]
        value = "request.param" if params else repr(name)
        lines = self._body(f"set-up of {name}", fails=0.06)
        if "request" in wants and self._is(0.4):
            lines.insert(0, f"request.addfinalizer(lambda: print('finalizer of {name}'))")
        if self._is(0.6):
            lines += [f"yield {value}", *self._body(f"teardown of {name}", fails=0.06)]
        else:
            lines.append(f"return {value}")
        source = [f"@pytest.fixture({', '.join(arguments)})", f"def {name}({', '.join(wants)}):", *indented(lines)]
        return Fixture(name, scope, params), "\n".join(source)

    def _fixtures(self, known: list[Fixture], most: int, *, method: bool = False, package: bool = False) -> list[str]:
        made = []
        for _ in range(self._chance.randrange(most + 1)):
            fixture, source = self._fixture(known, method=method, package=package)
            known.append(fixture)
            made.append(source)
        return made

    # -- tests ---------------------------------------------------------------------------------------------------------

    def _marks(self, known: Sequence[Fixture]) -> tuple[list[str], list[str]]:
        """Decorators, and the arguments that they give."""
        marks, arguments = [], []
        if self._is(0.2):
            name = self._name("arg")
            values = self._one("[1, 2]", "['a', 'b', 'c']", "[pytest.param(1, marks=pytest.mark.xfail), 2]", "[None, ()]", "[]")
            scope = f", scope={self._one('module', 'class', 'session')!r}" if self._moves and self._is(0.4) else ""
            self._has_moving |= bool(scope)
            marks.append(f"@pytest.mark.parametrize({name!r}, {values}{scope})")
            arguments.append(name)
        with_params = [one for one in known if one.params]
        if with_params and self._is(0.2):
            one = self._chance.choice(with_params)
            marks.append(f"@pytest.mark.parametrize({one.name!r}, [7, 8], indirect=True)")
            arguments.append(one.name)
        if self._is(0.25):
            marks.append(
                self._one(
                    "@pytest.mark.skip(reason='marked')", "@pytest.mark.skipif(True, reason='always')", "@pytest.mark.xfail",
                    "@pytest.mark.xfail(strict=True, reason='strictly')", "@pytest.mark.xfail(raises=ValueError)",
                    "@pytest.mark.xfail(run=False)", "@pytest.mark.skipif('sys.version_info < (3,)')",
                    "@pytest.mark.filterwarnings('ignore')",
                    f"@pytest.mark.filterwarnings({self._strict!r})",
                )
            )  # fmt: skip
        if known and self._is(0.15):
            marks.append(f"@pytest.mark.usefixtures({self._chance.choice(list(known)).name!r})")
        return marks, arguments

    def _test(self, known: Sequence[Fixture], *, method: bool = False, stops: bool = False) -> str:
        name = self._name("test")
        marks, arguments = self._marks(known)
        needed = [one.name for one in self._some(known) if one.name not in arguments]
        builtin = [
            one
            for one in ("capsys", "caplog", "tmp_path", "monkeypatch", "recwarn", "record_property", "subtests")
            if self._is(0.07)
        ]
        lines = self._body(name, fails=0.3, test=True)
        lines[:0] = [line for one in builtin for line in self._use(one, name)]
        if stops and self._is(0.15):
            lines.append(self._stop())
        wants = [*(["self"] if method else []), "request", *arguments, *needed, *builtin]
        return "\n".join([*marks, f"def {name}({', '.join(wants)}):", *indented(lines)])

    def _use(self, builtin: str, where: str) -> list[str]:
        failing = self._one("pass", "assert n != 1, n", "pytest.skip('sub')", "print('in subtest', n)")
        return {
            "capsys": ["print('captured')", "assert capsys.readouterr().out.endswith('captured\\n')"],
            "caplog": ["caplog.set_level(10)", "LOG.debug('deep')", "assert 'deep' in caplog.text"],
            "tmp_path": ["(tmp_path / 'file').write_text('x')", "print(sorted(path.name for path in tmp_path.iterdir()))"],
            "monkeypatch": [f"monkeypatch.setenv('SUITE', {where!r})", "print(os.environ['SUITE'])"],
            # Not of what another test has left to be collected.
            "recwarn": ["warnings.warn('kept')", "print(sum('ignored in' not in str(one.message) for one in recwarn))"],
            "record_property": [f"record_property('recorded', {where!r})"],
            "subtests": ["for n in range(3):", "    with subtests.test('sub', n=n):", f"        {failing}"],
        }[builtin]

    def _class(self, known: Sequence[Fixture]) -> str:
        own = list(known)
        parts = self._fixtures(own, 2, method=True)
        if self._is(0.3):
            name = self._one("setup_method", "teardown_method")
            parts.append("\n".join([f"def {name}(self):", *indented(self._body(name, fails=0.08))]))
        if self._is(0.25):
            name = self._one("setup_class", "teardown_class")
            parts.append("\n".join(["@classmethod", f"def {name}(cls):", *indented(self._body(name, fails=0.08))]))
        parts += [self._test(own, method=True) for _ in range(self._chance.randrange(1, 4))]
        return f"class Test{self._name('Class')}:\n" + textwrap.indent("\n".join(parts), "    ")

    def _unittest(self) -> str:
        parts = []
        for name in ("setUp", "tearDown", "setUpClass", "tearDownClass"):
            if self._is(0.25):
                kind = ["@classmethod", f"def {name}(cls):"] if name.endswith("Class") else [f"def {name}(self):"]
                parts.append("\n".join([*kind, *indented(self._body(name, fails=0.1))]))
        for _ in range(self._chance.randrange(1, 4)):
            name = self._name("test")
            lines = self._body(name, fails=0.25)
            if self._is(0.05):
                self._letters.add(name)
                inner = self._one("self.assertEqual(n, 0)", "pass", "self.skipTest('sub')")
                lines[:0] = ["for n in range(2):", "    with self.subTest(n=n):", f"        {inner}"]
            if self._is(0.15):
                lines.insert(0, f"self.addCleanup(print, 'cleanup of {name}')")
            mark = ["@unittest.expectedFailure"] if self._is(0.1) else ["@unittest.skip('no')"] if self._is(0.1) else []
            parts.append("\n".join([*mark, f"def {name}(self):", *indented(lines)]))
        return f"class {self._name('Case')}(unittest.TestCase):\n" + textwrap.indent("\n".join(parts), "    ")

    # -- files ---------------------------------------------------------------------------------------------------------

    def _module(self, known: Sequence[Fixture], *, stops: bool) -> str:
        own = list(known)
        parts = [HEAD, *self._fixtures(own, 3)]
        if self._is(0.1):
            parts.append(self._one("pytestmark = pytest.mark.xfail", "pytestmark = pytest.mark.filterwarnings('ignore')"))
        for name in ("setup_module", "teardown_module", "setup_function", "teardown_function"):
            if self._is(0.1):
                parts.append("\n".join([f"def {name}():", *indented(self._body(name, fails=0.1))]))
        for _ in range(self._chance.randrange(1, 6)):
            kind = self._chance.random()
            parts.append(self._class(own) if kind < 0.2 else self._unittest() if kind < 0.32 else self._test(own, stops=stops))
        if self._is(0.04):
            parts.append(
                self._one(
                    "raise ValueError('at import')", "pytest.skip('all of it', allow_module_level=True)", "import no_such_module"
                )
            )
        return "\n".join(parts) + "\n"

    def _conftest(self, known: list[Fixture], *, package: bool) -> str:
        return "\n".join([HEAD, *self._fixtures(known, 4, package=package)]) + "\n"

    def suite(self) -> Suite:
        """The suite of this seed."""
        stops = self._is(0.2)
        root: list[Fixture] = []
        files = {"pytest.ini": self._ini(), "conftest.py": self._conftest(root, package=False)}
        for _ in range(self._chance.randrange(1, 3)):
            files[f"{self._name('test_module')}.py"] = self._module(root, stops=stops)
        if self._is(0.5):
            below, package = list(root), self._name("pkg")
            if self._is(0.7):
                files[f"{package}/__init__.py"] = ""
            files[f"{package}/conftest.py"] = self._conftest(below, package=True)
            for _ in range(self._chance.randrange(1, 3)):
                files[f"{package}/{self._name('test_module')}.py"] = self._module(below, stops=stops)
        arguments = tuple(self._arguments())
        return Suite(files, arguments, self._has_moving, frozenset(self._leaving), frozenset(self._letters))

    def _ini(self) -> str:
        lines = ["[pytest]", "addopts = -p no:cacheprovider"]
        if self._is(0.1):
            lines.append("log_level = INFO")
        if self._is(0.05):
            lines.append("xfail_strict = true")
        if self._is(0.1):
            lines.append(f"filterwarnings = {self._one(self._strict, 'ignore::DeprecationWarning', 'always')}")
        if self._is(0.05):
            lines.append("junit_family = xunit1")
        return "\n".join(lines) + "\n"

    def _arguments(self) -> list[str]:
        found = [self._one("-v", "-q", "-ra", "-rA", "-vv", "-rfE")]
        more = {
            "-x": 0.03, "--maxfail=2": 0.03, "--tb=short": 0.1, "--tb=line": 0.06, "--tb=native": 0.06, "--tb=no": 0.04,
            "-l": 0.1,
            "--capture=sys": 0.06, "--capture=no": 0.06, "--capture=tee-sys": 0.04, f"-W{self._strict}": 0.04, "--runxfail": 0.05,
            "--setup-show": 0.06, "--log-cli-level=INFO": 0.06, "-p no:logging": 0.03, "-p no:warnings": 0.03,
            "--import-mode=importlib": 0.06, "--show-capture=no": 0.04, "--show-capture=stdout": 0.04, "--full-trace": 0.02,
            "-p no:unraisableexception": 0.02, "-p no:threadexception": 0.02, "-o console_output_style=count": 0.04,
            "-k test_1 or test_3 or not fix": 0.03, "--junitxml=junit.xml": 0.3, "-p no:faulthandler": 0.04,
            "--strict-markers": 0.05, "-o log_file=log.txt": 0.05, "--no-header": 0.05, "-o junit_logging=all": 0.05,
        }  # fmt: skip
        for argument, share in more.items():
            if self._is(share):
                found += argument.split(" ", 1)
        return found


def indented(lines: Sequence[str]) -> list[str]:
    """The lines of a function's body."""
    return [f"    {line}" for line in lines]


def sys_has_groups() -> bool:
    """Whether this Python has ExceptionGroup (3.11)."""
    return hasattr(builtins, "ExceptionGroup")


def make(seed: int) -> Suite:
    """The suite of a seed."""
    return Maker(seed).suite()
