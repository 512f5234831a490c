"""asyncio's event loops that are made outside of a test: each test's is its own, as are its wake-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

SUITE = """
    import asyncio, os, signal, time
    import pytest
    {made}
    async def sleep(): await asyncio.to_thread(time.sleep, 0.001)
    @pytest.mark.parametrize("n", range({count}))
    def test_threads(loop, n):
        for _ in range(100): loop.run_until_complete(sleep())
    def test_signal(loop):
        async def wait():
            seen = loop.create_future()
            loop.add_signal_handler(signal.SIGUSR1, seen.set_result, True)
            os.kill(os.getpid(), signal.SIGUSR1)
            return await seen
        assert loop.run_until_complete(wait())
    def test_closes(loop): loop.close()
    def test_again(loop): loop.run_until_complete(sleep())
"""
FIXTURE = """
    @pytest.fixture(scope="{scope}")
    def loop():
        loop = asyncio.new_event_loop()
        yield loop
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
"""


def outcomes(compare: Compare, suite: str, *args: str) -> list[str]:
    """How the calls of a sandboxed run end; those that wait for ever are killed."""
    compare.pytester.makepyfile(test_it=suite)
    run = compare.one("--sandbox-timeout=60", *args)
    return [outcome for _, when, outcome in run.outcomes() if when == "call"]


@pytest.mark.parametrize("scope", ["session", "module"])
def test_a_wider_fixture(compare: Compare, scope: str) -> None:
    """Threads and signals wake the loop of their own test, and no other of those that run beside it."""
    suite = SUITE.format(made=FIXTURE.format(scope=scope), count=6)
    assert outcomes(compare, suite, "--sandbox-jobs=3") == ["passed"] * 9


def test_made_at_import(compare: Compare) -> None:
    """In pytest's own process, whose descriptors a sandbox does not get."""
    made = "LOOP = asyncio.new_event_loop()\n    @pytest.fixture\n    def loop(): return LOOP"
    suite = SUITE.format(made=made, count=2)
    assert outcomes(compare, suite) == ["passed"] * 5


def test_a_server_of_a_module(compare: Compare) -> None:
    """One test closes it, with that its registration, and for the next and for the teardown it is there still."""
    suite = """
        import asyncio, pytest
        @pytest.fixture(scope="module")
        def loop():
            loop = asyncio.new_event_loop(); yield loop; loop.close()
        async def answer(reader, writer):
            writer.write(b"hello " + await reader.readline()); await writer.drain(); writer.close()
        async def ask(server):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"world"); writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 30) == b"hello world"; writer.close()
        @pytest.fixture(scope="module")
        def server(loop):
            server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0)); yield server
            loop.run_until_complete(ask(server)); server.close()
        def test_closes(loop, server): loop.run_until_complete(ask(server)); server.close()
        def test_asks(loop, server): loop.run_until_complete(ask(server))
    """
    compare.pytester.makepyfile(test_it=suite)
    run = compare.one("--sandbox-timeout=60")
    assert {outcome for _, _, outcome in run.outcomes()} == {"passed"}, run.text


@pytest.mark.parametrize("odd", ["end = odd._csock; odd._csock = None", "end = odd._ssock; end.close()", "odd = Unhashed()"])
def test_loops_that_cannot_be_used(compare: Compare, odd: str) -> None:
    """Without a pair of sockets that is whole, or of a class that cannot be hashed: they end no scope, nor a test beside them."""
    suite = f"""
        import asyncio, pytest
        class Unhashed(asyncio.SelectorEventLoop):
            def __eq__(self, other): return self is other
        @pytest.fixture(scope="module")
        def loop():
            loop = asyncio.new_event_loop(); yield loop; loop.close()
        @pytest.fixture(scope="module")
        def other():
            odd = asyncio.SelectorEventLoop(); odd._remove_reader(odd._ssock); {odd}; yield odd
        def test_1(loop, other): assert loop.run_until_complete(asyncio.sleep(0, 7)) == 7
        def test_2(loop, other): assert loop.run_until_complete(asyncio.sleep(0, 7)) == 7
    """
    assert outcomes(compare, suite) == ["passed"] * 2
