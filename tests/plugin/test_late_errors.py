"""What pytest notes of finalizers and threads, and tells later, and filters of warnings: not lost, though in another process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

HEAD = """
import os, pytest, threading, unittest, warnings
class Loud:
    def __init__(self, name): self.name = name
    def __del__(self): raise ValueError(f"del {self.name}")
def thread(name):
    def run(): raise ValueError(f"thread {name}")
    one = threading.Thread(target=run, name="own")
    one.start()
    one.join()
"""
OF_FIXTURES = {
    "a finalizer in a teardown": """
        @pytest.fixture(scope={scope!r})
        def made():
            yield
            Loud("in a teardown")
        def test_1(made): pass
        """,
    "a thread in a teardown": """
        @pytest.fixture(scope={scope!r})
        def made():
            yield
            thread("in a teardown")
        def test_1(made): pass
        """,
    "a cycle that a teardown leaves": """
        @pytest.fixture(scope={scope!r})
        def made():
            yield
            one = Loud("of a cycle")
            one.one = one
            del one
            import gc; gc.collect()
        def test_1(made): pass
        """,
    "a value that is left open": """
        @pytest.fixture(scope={scope!r})
        def made(): return open(os.devnull)
        def test_1(made): pass
        """,
    "a set-up for a later test": """
        @pytest.fixture(scope={scope!r})
        def made():
            Loud("in a set-up")
            yield
        @pytest.fixture(scope="class")
        def inner(): yield 1
        def test_0(inner): pass
        def test_1(made): pass
        """,
}


@pytest.mark.parametrize("scope", ["session", "module", "function"])
@pytest.mark.parametrize("source", list(OF_FIXTURES.values()), ids=list(OF_FIXTURES))
def test_errors_that_are_noted(pytester: pytest.Pytester, compare: Compare, source: str, scope: str) -> None:
    """Fail one test where warnings are errors, and are warnings else. Plain pytest tells the next test, or nobody of the last."""
    pytester.makepyfile(HEAD + source.replace("\n        ", "\n").format(scope=scope))
    strict, lax = compare("-Werror"), compare()
    assert strict.boxed.result.parseoutcomes()["errors"] == 1
    assert strict.boxed.status == 1
    assert any(said in strict.boxed.text for said in ("Unraisable", "thread in a teardown"))
    assert lax.boxed.status == 0
    assert lax.boxed.result.parseoutcomes().get("warnings") == lax.plain.result.parseoutcomes().get("warnings")


@pytest.mark.parametrize("scope", ["session", "module", "function"])
@pytest.mark.parametrize("end", ["del one; raise RuntimeError('teardown')", "raise RuntimeError('teardown')"])
def test_errors_beside_that_of_a_teardown(pytester: pytest.Pytester, compare: Compare, scope: str, end: str) -> None:
    """Are told as well, and shown with it where warnings are errors; also of what its traceback has held."""
    pytester.makepyfile(
        HEAD
        + f"""
@pytest.fixture(scope={scope!r})
def made():
    one = Loud("beside")
    yield one
    {end}
def test_1(made): pass
"""
    )
    strict, lax = compare("-Werror"), compare()
    for run in (*strict, *lax):
        run.result.assert_outcomes(passed=1, errors=1, warnings=int(run is lax.boxed))
        assert run.status == 1
        assert run.report("test_1", "teardown")["longrepr"].count("RuntimeError: teardown") == 1
        assert "ValueError: del beside" in run.text
    assert "Another error at teardown" in strict.boxed.text


@pytest.mark.parametrize("scope", ["session", "module", "function"])
@pytest.mark.parametrize("end", ["pytest.skip('done')", "pytest.xfail('done')", "pytest.exit('done')"])
def test_errors_beside_what_is_none(pytester: pytest.Pytester, compare: Compare, scope: str, end: str) -> None:
    """Where warnings are errors, a teardown that skips fails all the same; one that ends the run does."""
    pytester.makepyfile(
        HEAD
        + f"""
@pytest.fixture(scope={scope!r})
def made():
    one = Loud("beside")
    yield one
    del one
    {end}
def test_1(made): pass
"""
    )
    strict, lax = compare("-Werror"), compare()
    assert all("ValueError: del beside" in run.text for run in (strict.plain, *lax)), lax.boxed.text
    assert lax.boxed.status == lax.plain.status
    assert lax.boxed.result.parseoutcomes().get("warnings") == 1
    assert strict.boxed.status != 0
    if "exit" in end:
        assert "Exit: done" in strict.boxed.text
    else:
        strict.boxed.result.assert_outcomes(passed=1, errors=1)
        assert "ValueError: del beside" in strict.boxed.text


def test_of_a_class(pytester: pytest.Pytester, compare: Compare) -> None:
    """What tearDownClass leaves."""
    pytester.makepyfile(
        HEAD
        + """
class Test(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.file = open(os.devnull)
    @classmethod
    def tearDownClass(cls): del cls.file
    def test_it(self): pass
"""
    )
    compare("-Werror").assert_same_ends()


FILTERS = {
    "an error by setUpClass": """
        class Test(unittest.TestCase):
            @classmethod
            def setUpClass(cls): warnings.simplefilter("error", DeprecationWarning)
            def test_1(self): warnings.warn("old", DeprecationWarning)
            def test_2(self): warnings.warn("old", DeprecationWarning)
        """,
    "none by setUpClass": """
        pytestmark = pytest.mark.filterwarnings("error")
        class Test(unittest.TestCase):
            @classmethod
            def setUpClass(cls): warnings.simplefilter("ignore", DeprecationWarning)
            def test_1(self): warnings.warn("old", DeprecationWarning)
        """,
    "by a module": """
        def setup_module(): warnings.filterwarnings("ignore", message="noise")
        def test_1(): warnings.warn("noise")
        def test_2(): warnings.warn("noise")
        """,
    "by two scopes": """
        @pytest.fixture(scope="session")
        def one(): warnings.filterwarnings("ignore", message="one")
        @pytest.fixture(scope="module")
        def two(one): warnings.filterwarnings("ignore", message="two")
        def test_1(two):
            warnings.warn("one")
            warnings.warn("two")
            warnings.warn("three")
        def test_2(two): warnings.warn("two")
        """,
    "within a fixture": """
        @pytest.fixture(scope="class", autouse=True)
        def quiet():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        def test_1(): warnings.warn("old", DeprecationWarning)
        """,
}


@pytest.mark.parametrize("source", list(FILTERS.values()), ids=list(FILTERS))
def test_filters_of_wider_fixtures(pytester: pytest.Pytester, compare: Compare, source: str) -> None:
    """Hold for the test for which they are set up, and no other."""
    pytester.makepyfile(HEAD + source.replace("\n        ", "\n"))
    pair = compare().assert_same_ends()
    assert pair.boxed.result.parseoutcomes() == pair.plain.result.parseoutcomes()
