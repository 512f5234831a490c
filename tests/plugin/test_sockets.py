"""What a suite does to Python's sockets, and to all that it makes of them, is not done to those of a run."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import OPTIONS

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


@pytest.mark.parametrize(
    "goes_on",
    [
        "threading.Thread(target=repeat, args=[logging.warning, 'said'], daemon=True).start()",
        "threading.Thread(target=repeat, args=[sandbox.usage], daemon=True).start()",
        "signal.signal(signal.SIGALRM, lambda *_: logging.warning('said')); signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)",
    ],
    ids=["logs", "asks", "is interrupted"],
)
def test_who_speaks_while_a_report_is_sent(pytester: pytest.Pytester, goes_on: str) -> None:
    """A thread that logs or asks, and a signal handler: the report comes whole, and so does theirs."""
    pytester.makepyfile(
        f"""
        import logging, signal, threading
        def repeat(function, *args):
            while True: function(*args)
        def test_it(sandbox):
            {goes_on}
            print("x" * 5_000_000)
        def test_next(): pass
        """
    )
    pytester.runpytest_subprocess(*OPTIONS, "-o", "log_cli=1").assert_outcomes(passed=2)


def test_who_asks_as_it_ends_where_sigpipe_kills(pytester: pytest.Pytester) -> None:
    """The signal is not for pytest, which has an answer that nobody reads any more."""
    pytester.makeconftest("import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)")
    pytester.makepyfile(
        """
        import os
        def test_exit(sandbox):
            for _ in range(100):
                sandbox._inside.channel.send({"op": "usage?"})
            os._exit(0)
        def test_next(): pass
        """
    )
    run = pytester.runpytest_subprocess(*OPTIONS)
    run.assert_outcomes(passed=1, failed=1)
    run.stdout.fnmatch_lines(["*ended without a report*"])


@pytest.mark.parametrize("family", ["None", "socket.AF_UNIX"])
def test_a_guard_in_the_place_of_the_class(pytester: pytest.Pytester, family: str) -> None:
    """As pytest-socket's, from when a conftest file is imported: it is for tests, and no sandbox is made by it."""
    pytester.makeconftest(
        f"""
        import socket
        class Guard(socket.socket):
            def __new__(cls, family=-1, *args, **kwargs):
                if family == {family}: return super().__new__(cls, family, *args, **kwargs)
                raise RuntimeError("blocked")
        socket.socket = Guard
        """
    )
    pytester.makepyfile(
        SUITE
        + """
    @pytest.mark.sandbox(bandwidth="1M", network="loopback")
    def test_guarded():
        import socket
        with pytest.raises(RuntimeError, match="blocked"):
            socket.socket()
"""
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=4)


@pytest.mark.parametrize("network", ["loopback", "auto"])
def test_names_of_the_machine_itself(pytester: pytest.Pytester, network: str) -> None:
    """Are found by AI_ADDRCONFIG too, by which many programs ask: for glibc 127.0.0.1 alone is no address."""
    pytester.makepyfile(
        """
        import os, pytest, socket

        def look_up(family, name):
            found = socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            return [address[0] for *_, address in found]

        @pytest.fixture(scope="module")
        def of_module(): return look_up(socket.AF_INET, "127.0.0.1")

        def test_4(of_module):
            assert of_module == look_up(socket.AF_INET, "127.0.0.1") == ["127.0.0.1"]
            assert "127.0.0.1" in look_up(socket.AF_INET, "localhost")

        @pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6")
        def test_6(): assert look_up(socket.AF_INET6, "::1") == ["::1"]

        def test_nowhere_else():
            for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
                with pytest.raises(OSError), socket.socket(family) as one: one.connect((address, 80))
        """
    )
    result = pytester.runpytest_subprocess(*OPTIONS, f"--sandbox-network={network}")
    assert result.ret == 0, result.stdout.str()
