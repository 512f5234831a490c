"""What a wider fixture holds open is every test's: they take turns at it, and nobody is given what a killed one has asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

#: A service that answers each line with itself, after a while, and a session's connection to it.
CONFTEST = """
    import pytest, socket, subprocess, sys, textwrap
    SERVER = '''
    import socket, sys, time, threading
    def serve(connection):
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                time.sleep(2 if "slow" in line else 0.1)
                lines.write(line)
                lines.flush()
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    while True: threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
    '''
    @pytest.fixture(scope="session")
    def ask():
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(SERVER)], stdout=subprocess.PIPE, text=True) as service:
            port = int(service.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client, client.makefile("rw") as lines:
                def ask(text):
                    lines.write(text + "\\n")
                    lines.flush()
                    return lines.readline().strip()
                assert ask("ready") == "ready"
                yield ask
            service.kill()
"""


def test_a_connection(pytester: pytest.Pytester, compare: Compare) -> None:
    """Each has its own answers, and the run says why there was one at a time."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("number", range(6))
        def test_it(ask, number):
            for turn in range(3): assert ask(f"{number} {turn}") == f"{number} {turn}"
        """
    )
    run = compare.one("--sandbox-jobs=3")
    run.result.assert_outcomes(passed=6)
    line = (
        "sandbox: one test at a time with fixtures of the session, which hold a connection to 127.0.0.1 port *, by which tests *"
    )
    run.result.stdout.fnmatch_lines([line])


@pytest.mark.parametrize("jobs", [1, 2])
def test_who_is_killed_amid_a_conversation(pytester: pytest.Pytester, compare: Compare, jobs: int) -> None:
    """The fixture is set up anew for those after it, which would else be given the answer; and that is told."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest
        def test_before(ask): assert ask("1") == "1"
        @pytest.mark.sandbox(timeout="1s")
        def test_slow(ask): ask("slow")
        @pytest.mark.parametrize("number", range(3))
        def test_after(ask, number): assert ask(f"after {number}") == f"after {number}"
        """
    )
    run = compare.one(f"--sandbox-jobs={jobs}")
    run.result.assert_outcomes(passed=4, failed=1)
    run.result.stdout.fnmatch_lines(
        ["sandbox: set up anew 1 time(s), since a test was killed: fixtures of the session, which hold *"]
    )


def test_a_database(pytester: pytest.Pytester, compare: Compare) -> None:
    """In a file that a wider fixture has opened by sqlite3."""
    pytester.makepyfile(
        """
        import pytest, sqlite3
        @pytest.fixture(scope="module")
        def database(tmp_path_factory):
            connection = sqlite3.connect(tmp_path_factory.mktemp("data") / "it.db", isolation_level=None)
            connection.execute("create table numbers (number)")
            yield connection
            connection.close()
        @pytest.mark.parametrize("number", range(6))
        def test_it(database, number):
            database.execute("begin immediate")
            database.execute("insert into numbers values (?)", [number])
            database.execute("rollback")
        """
    )
    run = compare.one("--sandbox-jobs=3")
    run.result.assert_outcomes(passed=6)
    run.result.stdout.fnmatch_lines(
        ["sandbox: one test at a time with fixtures of test_a_database.py, which hold the database *it.db*"]
    )


def test_a_connection_of_a_module(pytester: pytest.Pytester, compare: Compare) -> None:
    """That was made as it was imported."""
    pytester.makeconftest(
        """
        import socket
        SERVER = socket.create_server(("127.0.0.1", 0))
        CLIENT = socket.create_connection(SERVER.getsockname())
        """
    )
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('number', range(4))\ndef test_it(number): pass")
    run = compare.one("--sandbox-jobs=2")
    run.result.assert_outcomes(passed=4)
    run.result.stdout.fnmatch_lines(["sandbox: one test at a time: a module or plugin holds a connection to 127.0.0.1 port *"])


def test_what_leads_nowhere_else(pytester: pytest.Pytester, place: Any) -> None:
    """A pair of sockets, a socket that listens, and a file are none of these."""
    pytester.makepyfile(f"""
import asyncio, pathlib, pytest, socket, time
PLACE = pathlib.Path({str(place)!r})
@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)), asyncio.Runner() if hasattr(asyncio, "Runner") else open("/dev/null"):
        pair = socket.socketpair()
        with open(tmp_path_factory.mktemp("data") / "log", "w+") as file: yield pair, file
@pytest.mark.parametrize("number", range(2))
def test_it(wide, number):
    (PLACE / str(number)).touch()
    limit = time.monotonic() + 60
    while len(list(PLACE.iterdir())) < 2: assert time.monotonic() < limit
""")
    result = pytester.runpytest_subprocess(
        "--sandbox", "--sandbox-jobs=2", f"--sandbox-writable={place}", "--sandbox-memory=none"
    )
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*one test at a time*")
