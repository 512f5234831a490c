"""Tests that replace functions of the standard library, by fixtures of every scope: what is ours uses no replacement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

#: What plain pytest does without for a while.
REPLACED = {
    "os": [
        "getpid",
        "getppid",
        "_exit",
        "close",
        "write",
        "read",
        "open",
        "getcwdb",
        "fork",
        "dup",
        "listdir",
        "scandir",
        "readlink",
        "waitpid",
        "urandom",
        "set_inheritable",
        "get_inheritable",
        "kill",
        "getuid",
        "geteuid",
        "uname",
        "pipe",
        "fsdecode",
        "getenv",
        "isatty",
        "setsid",
        "memfd_create",
        "chdir",
        "umask",
        "strerror",
        "eventfd",
    ],
    "os.path": ["exists"],
    "time": ["time", "sleep", "monotonic", "perf_counter", "process_time", "time_ns"],
    "socket": ["socket", "socketpair", "recv_fds", "send_fds", "create_connection", "getaddrinfo"],
    "json": ["dumps", "loads", "JSONEncoder", "JSONDecoder"],
    "threading": ["enumerate", "Thread", "current_thread", "Lock"],
    "gc": ["collect", "freeze", "disable", "get_objects"],
    "traceback": ["format_exc", "format_exception_only"],
    "random": ["getstate", "setstate", "random", "seed"],
    "signal": ["signal", "getsignal"],
    "sys": ["exit", "getrefcount"],
    "builtins": ["open", "print", "input"],
    "resource": ["setrlimit", "getrlimit"],
    "struct": ["pack", "unpack", "Struct"],
    "array": ["array"],
    "base64": ["b64encode", "b64decode"],
    "select": ["select", "poll", "epoll"],
    "fcntl": ["fcntl"],
    "subprocess": ["Popen", "run"],
    "atexit": ["register"],
    "itertools": ["chain"],
    "dataclasses": ["replace"],
    "pathlib.Path": ["open"],
    "tempfile": ["mkdtemp"],
    "ctypes": ["CDLL", "byref"],
    "math": ["isfinite"],
    "warnings": ["warn"],
    "shutil": ["rmtree"],
    "copy": ["copy"],
    "pickle": ["dumps"],
    "uuid": ["uuid4"],
}
NAMES = [f"{module}.{name}" for module, names in REPLACED.items() for name in names]
CONFTEST = """
    import builtins, importlib, pytest
    def replaced(name, patch):
        path, _, last = name.rpartition(".")
        module, _, attribute = path.partition(".")
        owner = importlib.import_module(module)
        for part in filter(None, attribute.split(".")): owner = getattr(owner, part)
        def refuse(*args, **kwargs): raise RuntimeError(f"{name} is patched")
        patch.setattr(owner, last, refuse)
"""
FUNCTION = """
    import warnings, pytest
    from conftest import replaced
    @pytest.fixture(params={names})
    def patched(request):
        with pytest.MonkeyPatch.context() as patch:
            replaced(request.param, patch)
            yield
    def test_passes(patched): print("printed") if 0 else None
    def test_fails(patched): assert [1] == [2]
    def test_skips(patched): pytest.skip("no")
    def test_warns(patched, recwarn): pass
"""
MODULE = """
    import pytest
    from conftest import replaced
    @pytest.fixture(scope="module")
    def patched():
        with pytest.MonkeyPatch.context() as patch:
            replaced({name!r}, patch)
            yield
    @pytest.fixture(scope="class")
    def wide(patched): return 1
    class TestClass:
        def test_passes(self, patched, wide): pass
        def test_fails(self, wide): assert 0
    def test_after(): pass
"""


def different(compare: Compare) -> list[tuple[str, str, str]]:
    """The reports that only one of both runs has."""
    pair = compare("--tb=short")
    plain, boxed = set(pair.plain.outcomes()), set(pair.boxed.outcomes())
    assert len(plain) > 3 * len(NAMES), pair.plain.text
    return sorted(plain ^ boxed)


def test_by_a_test(pytester: pytest.Pytester, compare: Compare) -> None:
    """By a fixture of its own, which stands while reports are made: the outcomes of a plain run."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=FUNCTION.format(names=NAMES))
    assert different(compare) == []


def test_by_a_wider_fixture(pytester: pytest.Pytester, compare: Compare) -> None:
    """By a module's, which stands while sandboxes are made; there is a loop, which is made their own."""
    pytester.makeconftest(CONFTEST + "    import asyncio\n    LOOP = asyncio.new_event_loop()\n")
    pytester.makepyfile(**{f"test_{name.replace('.', '_')}": MODULE.format(name=name) for name in NAMES})
    assert different(compare) == []
