"""Event loops of wider scopes, by pytest-asyncio and anyio: what a test does to its loop, no other one sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED = ["pytest_asyncio.plugin", "anyio.pytest_plugin"]
NEEDED = ["pytest_asyncio", "anyio"]
#: How each makes a loop of a scope, and a fixture in it.
HEADS = {
    "asyncio": """
        import pytest_asyncio
        pytestmark = pytest.mark.asyncio(loop_scope="{scope}")
        fixture = pytest_asyncio.fixture(scope="{scope}", loop_scope="{scope}")
        in_thread = asyncio.to_thread
    """,
    "anyio": """
        import anyio.to_thread
        pytestmark = pytest.mark.anyio
        @pytest.fixture(scope="{scope}")
        def anyio_backend(): return "asyncio"
        fixture = pytest.fixture(scope="{scope}")
        in_thread = anyio.to_thread.run_sync
    """,
}
SUITE = """
        import asyncio, pytest, time
        {head}
        async def answer(reader, writer):
            writer.write(b"hello " + await reader.readline()); await writer.drain(); writer.close()
        async def ask(server):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"world"); writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 30) == b"hello world"; writer.close()
        @fixture
        async def server({argument}):
            server = await asyncio.start_server(answer, "127.0.0.1", 0); yield server
            await ask(server); server.close()
        class TestIt:
            {body}
"""
CLOSES = """
            async def test_closes(self, server): await ask(server); server.close()
            async def test_asks(self, server): await ask(server)
            async def test_asks_again(self, server): await ask(server)
"""
THREADS = """
            @pytest.mark.parametrize("n", range(6))
            async def test_threads(self, server, n):
                for _ in range(100): await in_thread(time.sleep, 0.001)
"""
_OPTIONS = ("-o", "asyncio_default_fixture_loop_scope=function", "--tb=short")
_BOXED = "--sandbox-timeout=60"


@pytest.fixture(params=sorted(HEADS))
def plugin(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    return name


def write(compat: Compat, plugin: str, scope: str, body: str) -> None:
    """Put the suite into a package."""
    argument = "anyio_backend" if plugin == "anyio" else ""
    package = compat.pytester.mkpydir("package")
    suite = SUITE.format(head=HEADS[plugin].format(scope=scope), argument=argument, body=body)
    path = compat.pytester.makepyfile(test_it=suite)
    path.rename(package / "test_it.py")


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_a_server_is_closed(compat: Compat, plugin: str, scope: str) -> None:
    """By a test: in a plain run nobody can ask it any more, in sandboxes the next test does, and the fixture's own teardown."""
    write(compat, plugin, scope, CLOSES)
    plain = compat.one(*_OPTIONS, sandbox=False)
    assert [outcome for _, when, outcome in plain.outcomes() if when == "call"] == ["passed", "failed", "failed"]
    boxed = compat.one(*_OPTIONS, _BOXED)
    assert [outcome for _, _, outcome in boxed.outcomes()] == ["passed"] * 9, boxed.text


@pytest.mark.parametrize("scope", ["module", "session"])
def test_threads_wake_their_own_test(compat: Compat, plugin: str, scope: str) -> None:
    """Also where several run at once, whose loops are forks of one."""
    write(compat, plugin, scope, THREADS)
    plain = compat.one(*_OPTIONS, sandbox=False)
    boxed = compat.one(*_OPTIONS, _BOXED, "--sandbox-jobs=3")
    assert boxed.outcomes() == plain.outcomes(), boxed.text
    assert len(plain.outcomes()) == 18


@pytest.mark.parametrize("needed", [[*NEEDED, "uvloop"]])
def test_uvloop(compat: Compat) -> None:
    """Which is no Python object: one test at a time, whatever was asked for."""
    compat.pytester.makeconftest("""
        import pytest, uvloop
        @pytest.fixture(scope="session")
        def event_loop_policy(): return uvloop.EventLoopPolicy()
    """)
    head = "assert 'uvloop' in repr(asyncio.get_running_loop())"
    write(compat, "asyncio", "session", CLOSES + THREADS.replace("for _", f"{head}\n                for _"))
    boxed = compat.one(*_OPTIONS, "-Wignore", _BOXED, "--sandbox-jobs=3")
    assert [outcome for _, when, outcome in boxed.outcomes() if when == "call"] == ["passed"] * 9, boxed.text
    assert "one test at a time: uvloop" in boxed.text
