"""What a suite does to Python's sockets, and to all that it makes of them, is not done to those of a run."""

from __future__ import annotations

import pytest

OPTIONS = ("--sandbox", "-p", "no:cacheprovider", "-p", "no:randomly")

#: Scopes that wait while tests of their own and of other modules run, a test that makes sandboxes and asks, and a long report.
SUITE = """
    import time
    import pytest

    @pytest.fixture(scope="module")
    def module(): pass

    def test_waits(module):
        time.sleep(0.3)

    def test_asks(module, sandbox, sandbox_factory):
        assert sandbox.usage().wall > 0
        assert sandbox_factory.run(["sleep", "0.3"]).ok
        assert sandbox_factory.call(len, "ab") == 2

    def test_is_long(module):
        print("x" * 500_000)
"""


@pytest.mark.parametrize(
    "conftest",
    [
        "TIMEOUT",
        "def pytest_configure(config): TIMEOUT",
        "def pytest_runtest_setup(item): TIMEOUT",
        "@pytest.fixture(scope='session', autouse=True)\ndef session(): TIMEOUT",
        "@pytest.fixture(autouse=True)\ndef own(): TIMEOUT",
    ],
    ids=["import", "configure", "setup", "session", "test"],
)
def test_a_default_timeout(pytester: pytest.Pytester, conftest: str) -> None:
    """Each new socket of Python's has it, wherever it is set; a test, or its silence, may be longer."""
    pytester.makeconftest("import socket, pytest\n" + conftest.replace("TIMEOUT", "socket.setdefaulttimeout(0.1)"))
    pytester.makepyfile(test_1=SUITE, test_2=SUITE)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=6)
