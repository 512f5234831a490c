"""pytest-trio: its tests, fixtures, nurseries and clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED = ["pytest_trio.plugin"]
NEEDED = ["pytest_trio", "trio"]
SUITE = """
import pytest, trio
async def echo(stream):
    async for data in stream: await stream.send_all(data)
@pytest.fixture
async def port(nursery):
    listeners = await nursery.start(trio.serve_tcp, echo, 0)
    yield listeners[0].socket.getsockname()[1]
async def test_sleeps(autojump_clock):
    before = trio.current_time()
    await trio.sleep(1000)
    assert trio.current_time() - before >= 1000
async def test_echo(port):
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(b"x")
    assert await stream.receive_some() == b"x"
async def test_thread(): assert await trio.to_thread.run_sync(lambda: 3) == 3
async def test_process():
    assert (await trio.run_process(["echo", "said"], capture_stdout=True)).stdout == b"said\\n"
async def test_fails(): await trio.sleep(0); assert 0
async def test_fails_in_a_nursery():
    async with trio.open_nursery() as nursery: nursery.start_soon(trio.sleep, 0.01); nursery.start_soon(bad)
async def bad(): raise ValueError("x")
async def test_other_port(port): pass
"""


@pytest.mark.parametrize("jobs", [1, 3])
def test_trio(compat: Compat, jobs: int) -> None:
    """What a test and its fixtures wait for together is the test's own."""
    compat.pytester.makeini("[pytest]\ntrio_mode = true")
    compat.pytester.makepyfile(SUITE)
    plain, boxed = compat.both("-o", f"sandbox_jobs={jobs}")
    plain.result.assert_outcomes(passed=5, failed=2)
    group = "FAILED test_trio.py::test_fails_in_a_nursery"
    assert boxed.line(group) == plain.line(group) != ""
