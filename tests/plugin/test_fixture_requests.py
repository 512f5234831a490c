"""Which fixture a test gets, of whatever scope: by its parameter, by what overrides another, or asked for at run time."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import LOG, Compare, make, same_log


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
    assert pair.boxed.read("log.txt").splitlines() == ["set up session for ", "tear down session for "] * 3


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
