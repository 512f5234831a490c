"""What a failed test's report says of the sandbox, where the error is of its making and does not say so."""

from __future__ import annotations

import pytest

from pytest_sandbox import capabilities

#: Errors as programs meet them: of the kernel, of the resolver, and what libraries raise from those.
CALLS = {
    "address": ("socket.create_connection(('192.0.2.1', 80), 5)", "no other host is there"),
    "v6": ("socket.create_connection(('2001:db8::1', 80), 5)", "no other host is there"),
    "name": ("socket.create_connection(('service.example', 80), 5)", "no other host is there"),
    "library": ("urllib.request.urlopen('http://service.example/')", "no other host is there"),
    "service": ("socket.create_connection(('127.0.0.1', 5432), 5)", "a loopback of its own"),
    "async": ("asyncio.run(asyncio.open_connection('127.0.0.1', 5432))", "a loopback of its own"),
    "chained": ("connect()", "a loopback of its own"),
}
SOURCE = """
import asyncio, os, pytest, shutil, socket, urllib.request
def connect():
    try:
        socket.create_connection(("127.0.0.1", 5432), 5)
    except OSError:
        raise RuntimeError("no database")
"""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("phase", ["call", "setup", "session"])
def test_network(pytester: pytest.Pytester, call: str, phase: str) -> None:
    """Whatever raises it, and wherever."""
    source, words = CALLS[call]
    scope = "session" if phase == "session" else "function"
    body = "pass" if phase != "call" else source
    fixture = source if phase != "call" else "pass"
    pytester.makepyfile(f"{SOURCE}@pytest.fixture(scope={scope!r})\ndef made(): {fixture}\ndef test_it(made): {body}\n")
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*- Sandbox hint -*", f"*{words}*", "*--sandbox-network=host*"])


def test_directories(pytester: pytest.Pytester) -> None:
    """Of what overlays do differently."""
    pytester.mkdir("given").joinpath("file").touch()
    pytester.makepyfile("import os\ndef test_it(): os.rename('given', 'taken')")
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*- Sandbox hint -*", "*shutil.move*"])


@pytest.mark.parametrize("said", ["fork", "captured", "other"])
def test_processes(pytester: pytest.Pytester, said: str) -> None:
    """Where nobody counts those that were refused, of a child's words: not where there never were as many as the limit allows."""
    if "RLIMIT" not in capabilities()["pids"].reason:
        pytest.skip("a cgroup counts refused processes")
    if said == "captured":
        body = "done = subprocess.run(['sh', '-c', START], capture_output=True, text=True); assert not done.stderr"
    else:
        body = "assert not os.system(START)" if said == "fork" else "print('Resource temporarily unavailable'); assert False"
    pytester.makepyfile(
        "import os, pytest, subprocess\nSTART = 'for i in 1 2 3 4 5 6 7 8 9; do sleep 60 >/dev/null 2>&1 & done; wait'\n"
        f"@pytest.mark.sandbox(pids=6)\ndef test_it(): {body}"
    )
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    assert ("Perhaps it has met its limit (pids 6)" in result.stdout.str()) is (said != "other")


def test_none(pytester: pytest.Pytester) -> None:
    """Neither of a test that passes, or fails as expected, nor of another error, nor where the network is the machine's."""
    pytester.makepyfile(f"""{SOURCE}
def test_passes():
    with pytest.raises(OSError): socket.create_connection(("192.0.2.1", 80), 5)
@pytest.mark.xfail
def test_expected(): socket.create_connection(("192.0.2.1", 80), 5)
def test_other(): open("/nowhere")
""")
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1, xfailed=1)
    assert "Sandbox hint" not in result.stdout.str()
    pytester.makepyfile(f"{SOURCE}\ndef test_it(): connect()")
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-network=host", "-p", "no:cacheprovider")
    assert "Sandbox hint" not in result.stdout.str()


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="subtests came with pytest 9")
def test_subtests(pytester: pytest.Pytester) -> None:
    """Each by itself: not of another error that comes after."""
    pytester.makepyfile(f"{SOURCE}def test_it(subtests):\n    with subtests.test(): connect()\n    assert False\n")
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=2)
    assert result.stdout.str().count("- Sandbox hint -") == 1


def test_a_fixture_that_was_set_up_early(pytester: pytest.Pytester) -> None:
    """Of one that replaces something, to tests that come before any that asks for it; not to those after, nor of other ones."""
    pytester.makeconftest(
        """
        import pytest
        from unittest import mock
        @pytest.fixture(scope="session")
        def frozen():
            with mock.patch("time.time", lambda: 5.0): yield
        @pytest.fixture(scope="session")
        def plain(): pass
        @pytest.fixture(scope="session")
        def asked_for():
            with mock.patch("time.localtime", lambda: 5.0): yield
        @pytest.fixture(scope="module")
        def module(request): request.getfixturevalue("asked_for")
        """
    )
    pytester.makepyfile(
        """
        import time
        def test_early(module): assert time.time() > 100
        def test_passes(module): pass
        def test_asks(module, plain, frozen): assert time.time() > 100
        def test_later(module): assert time.time() > 100
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "-p", "no:cacheprovider", "-rP")
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(["*_ test_early _*", "*- Sandbox hint -*", "Set up already, *: frozen. *", "*_ test_asks _*"])
    assert result.stdout.str().count("Sandbox hint") == 1
