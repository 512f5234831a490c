"""What a program or a function starts with: its directory, arguments, descriptors and devices, whatever its caller has."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import CallError, Sandbox
from tests.sandbox.conftest import shell

PYTHON = sys.executable


def test_current_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the caller, or as `cwd=` says, or / if it is gone."""
    monkeypatch.chdir(place)
    assert shell("pwd") == f"{place}\n"
    assert Sandbox().run(["pwd"], cwd="/usr").stdout == b"/usr\n"
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert shell("cd /; pwd") == "/\n"
    monkeypatch.chdir(place)


def test_a_machine_that_cannot_be_looked_at() -> None:
    """No descriptor is left to read its mounts by: no sandbox can be made, as the docstring of `run` says."""
    code = """
import resource
from pytest_sandbox import Sandbox, SetupError
sandbox = Sandbox()
sandbox.run(["true"])
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    sandbox.run(["true"])
except SetupError as error:
    print(error.errno)
"""
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{errno.EMFILE}\n", done.stderr


def test_cwd_that_is_not_there() -> None:
    """An error of the program's start, not of the sandbox."""
    result = Sandbox().run(["pwd"], cwd="/no/such/directory")
    assert (result.status, result.stderr) == (127, b"cwd /no/such/directory: No such file or directory\n")


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, "is no list of a program", {"argv": "true"}),
        (TypeError, "is no list of a program", {"argv": iter(["true"])}),
        (ValueError, "names no program", {"argv": []}),
        (ValueError, "names no program", {"argv": [""]}),
        (ValueError, "has a NUL", {"argv": ["true", "a\0b"]}),
        (TypeError, "NoneType", {"argv": ["true", None]}),
        (ValueError, "has a NUL", {"argv": ["true"], "cwd": "a\0b"}),
        (TypeError, "int", {"argv": ["true"], "cwd": 3}),
        (TypeError, "no mapping of strings to strings", {"argv": ["true"], "env": {"A": 1}}),
        (TypeError, "no mapping of strings to strings", {"argv": ["true"], "env": ["A=1"]}),
        (ValueError, "can be no name of an environment variable", {"argv": ["true"], "env": {"A=B": "1"}}),
        (ValueError, "has a NUL", {"argv": ["true"], "env": {"A": "\0"}}),
        (TypeError, "not bytes", {"argv": ["cat"], "input": "text"}),
    ],
)
def test_what_no_program_can_be_run_with(error: type[Exception], words: str, arguments: dict[str, Any]) -> None:
    """Is the caller's mistake, and said where it is made."""
    with pytest.raises(error, match=words):
        Sandbox().run(**arguments)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed_standard_descriptors(closed: tuple[int, ...], tmp_path: Path) -> None:
    """A caller without stdin, stdout or stderr gets the same results, and keeps the numbers free."""
    script = f"""
import os
for fd in {closed}: os.close(fd)
from pytest_sandbox import Sandbox
result = Sandbox().run(["sh", "-c", "cat; echo out; echo err >&2"])
value = Sandbox().call(lambda: 42)
free = []
for fd in {closed}:
    try: os.fstat(fd)
    except OSError: free.append(fd)
said = repr((result.stdout, result.stderr, value, tuple(free)))
os.write(os.open({str(tmp_path / "out")!r}, os.O_CREAT | os.O_WRONLY), said.encode())
"""
    subprocess.run([PYTHON, "-c", script], check=True, timeout=300)
    assert (tmp_path / "out").read_text() == repr((b"out\n", b"err\n", 42, closed))


def test_no_inherited_descriptor_leads_out(tmp_path: Path) -> None:
    """A file of the caller is opened anew, on the copy; a socket and a device are nothing."""
    (tmp_path / "file").write_text("old")
    here, there = socket.socketpair()
    with (tmp_path / "file").open("r+") as file, here, there:
        directory = os.open("/", os.O_RDONLY)

        def look() -> tuple[str, bool, bool]:
            file.write("new")
            file.flush()
            null = os.stat("/dev/null").st_rdev
            same = os.fstat(directory).st_dev == os.stat("/").st_dev
            return (tmp_path / "file").read_text(), os.fstat(here.fileno()).st_rdev == null, same

        assert Sandbox().call(look) == ("new", True, True)
        os.close(directory)
    assert (tmp_path / "file").read_text() == "old"


def test_programs_have_three_descriptors() -> None:
    """0, 1 and 2; what the caller had open for its children leads nowhere."""
    script = "for fd in /proc/self/fd/*; do readlink $fd || true; done"
    assert set(shell(script).split()) <= {"/dev/null", "/memfd:sandbox-stdout", "/memfd:sandbox-stderr", "(deleted)"}


def test_standard_files_can_be_opened_anew() -> None:
    """/dev/stdout and /dev/stderr work as outside."""
    assert shell("echo x > /dev/stdout; echo y >&2 2> /dev/null") == "x\n"


def test_devices() -> None:
    """The usual harmless ones, and terminals of its own."""
    script = "for d in null zero full random urandom; do test -c /dev/$d || exit 1; done; "
    script += "head -c 5 /dev/urandom | wc -c; ls /dev/pts"
    assert shell(script).split() == ["5", "ptmx"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_threaded_caller() -> None:
    """Threads of the caller hinder no sandbox, and are not in it."""
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    try:
        assert Sandbox().call(lambda: len(os.listdir("/proc/self/task"))) == 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_error_in_a_function_with_a_bad_value() -> None:
    """A sandboxed function that sends nonsense as its value makes an error of its caller, no crash."""
    with pytest.raises(CallError):
        Sandbox().call(object)


def test_output_into_a_file_is_no_change(tmp_path: Path) -> None:
    """Where the run's own output goes to a file, that file is not opened for writing inside, which would copy it up whole."""
    code = (
        "import os; os.dup(1); from pytest_sandbox import Sandbox; result = Sandbox().run(['true']);"
        "print(result.changes, result.usage.overlay_inodes)"
    )
    log = tmp_path / "log"
    with log.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, timeout=300)
    assert log.read_text() == "() 0\n"
