"""Making the process that a fork left in a sandbox the sandbox's own: descriptors, fault handler, terminal, reporters.

Imports pytest and what is beside it.
"""

from __future__ import annotations

import atexit
import faulthandler
import io
import os
import stat
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

import pytest
from _pytest.capture import CaptureIO, CaptureManager, FDCapture, FDCaptureBinary, MultiCapture, SysCapture

from pytest_sandbox.plugin.builtin import junit, watchdog
from pytest_sandbox.primitives.process import STACKS_SIGNAL
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.wire.frames import Channel

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

INSIDE: pytest.StashKey[Inside] = pytest.StashKey()
#: In the controller: whether several tests run at once, of which none can have the terminal to itself.
SEVERAL: pytest.StashKey[bool] = pytest.StashKey()
#: Kinds of --capture under which what tests print is seen at once, on the stream that it is printed to.
_ALOUD = ("no", "tee-sys")


def settle_in(config: pytest.Config, inside: Inside, *, keeps: bool) -> None:
    """Make the process that the fork left here the sandbox's own.

    Below the outermost sandbox everything that is done once is done, and descriptors have been exchanged.
    """
    atexit._clear()
    config.stash[INSIDE] = inside
    if not inside.outermost:
        return
    _take_descriptors(config, inside, keeps=keeps)
    _forward_streams(config, inside.channel)
    watchdog.settle(config)
    faulthandler.enable(file=inside.descriptors.stacks, all_threads=True)
    faulthandler.register(STACKS_SIGNAL, file=inside.descriptors.stacks, all_threads=True, chain=False)
    _silence_reporters(config, inside.channel)


def _global_capture(config: pytest.Config) -> MultiCapture[Any]:
    """pytest's capture of the whole run; one of nothing where there is none."""
    manager: CaptureManager | None = config.pluginmanager.getplugin("capturemanager")
    return getattr(manager, "_global_capturing", None) or MultiCapture(None, None, None)


def captures(config: pytest.Config) -> list[FDCapture | FDCaptureBinary]:
    """pytest's captures of descriptors 0, 1 and 2, where it has them."""
    whole = _global_capture(config)
    parts = (whole.in_, whole.out, whole.err)
    return [part for part in parts if isinstance(part, (FDCapture, FDCaptureBinary))]


def keeps_terminal(config: pytest.Config) -> bool:
    """Whether tests get the terminal itself: they are to show it all, or somebody may want to talk to a debugger."""
    option = config.option
    if hasattr(config, "workerinput"):  # nobody talks to a worker of pytest-xdist, whose terminal may be another one's
        return getattr(option, "capture", "") in _ALOUD
    if getattr(option, "capture", "") in _ALOUD or getattr(option, "usepdb", False) or getattr(option, "trace", False):
        return True
    if config.stash.get(SEVERAL, False):
        return False
    # While pytest captures, descriptor 0 is the null device, and what it was stands elsewhere.
    stdin = next((capture.targetfd_save for capture in captures(config) if capture.targetfd == 0), 0)
    try:
        return os.isatty(stdin)
    except OSError:
        return False


def past_counting(config: pytest.Config) -> str:
    """By what tests write straight to pytest's own stdout or stderr, whose size nobody sees; "" where they do not."""
    if not keeps_terminal(config) or {1, 2} <= {capture.targetfd for capture in captures(config)}:
        return ""
    kind = getattr(config.option, "capture", None)
    option = {None: "-p no:capture", "no": "-s"}.get(kind, f"--capture={kind}")
    return option if kind in _ALOUD else f"{option}, and the terminal kept for a debugger"


def kept_descriptors(config: pytest.Config, *, keeps: bool) -> tuple[int, ...]:
    """Where pytest keeps, while it captures, what sandboxes get too: the terminal, or else a stdin that is a pipe."""
    saved = {capture.targetfd: capture.targetfd_save for capture in captures(config)}
    return tuple(saved.values()) if keeps else tuple(fd for target, fd in saved.items() if target == 0 and _is_pipe(fd))


def _is_pipe(fd: int) -> bool:
    """Whether it is a pipe: whoever reads it does nothing else to the machine, while a file could be opened anew and written."""
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


def _take_descriptors(config: pytest.Config, inside: Inside, *, keeps: bool) -> None:
    """Put the sandbox's own files under pytest's capture and under descriptors 0, 1 and 2.

    Where the terminal is kept (-s, --pdb, a run by hand that may meet a breakpoint) what pytest shows uncaptured goes to it;
    elsewhere to a file that the controller shows afterwards. A stdin that is a pipe, with a debugger's commands say, stays.
    """
    own = {1: inside.descriptors.stdout, 2: inside.descriptors.stderr}
    captured = {capture.targetfd: capture for capture in captures(config)}
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        capture = captured.get(fd)
        if capture is not None and fd:
            os.dup2(own[fd], capture.tmpfile.fileno(), inheritable=False)
        if not keeps:
            shown = inside.descriptors.shown if fd else null
            for target in (fd,) if capture is None else (fd, capture.targetfd_save):
                if fd or not _is_pipe(target):
                    os.dup2(shown, target, inheritable=target == fd)
        if capture is not None and fd and capture._state == "started":
            os.dup2(own[fd], fd)
    os.close(null)
    whole = _global_capture(config)
    for fd, stream in ((1, whole.out), (2, whole.err)):
        if isinstance(stream, SysCapture) and isinstance(stream.tmpfile, CaptureIO):
            _put_on_file(stream.tmpfile, own[fd])
    _take_fault_handler(config, inside.descriptors.stacks)


class _OnFile(io.BytesIO):
    """The buffer of a capture in memory, on a file of the sandbox's: the controller sees its size, and it survives a kill."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._file = io.FileIO(fd, "r+", closefd=False)

    def write(self, data: ReadableBuffer, /) -> int:
        return self._file.write(data)

    def writelines(self, lines: Iterable[ReadableBuffer], /) -> None:
        self._file.writelines(lines)

    def getvalue(self) -> bytes:
        self._file.seek(0)
        return self._file.readall()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        return self._file.truncate(size)


def _put_on_file(capture: CaptureIO, fd: int) -> None:
    """Have what is captured from now on in a file. The stream stays the same object, which others may hold."""
    io.TextIOWrapper.__init__(capture, _OnFile(fd), encoding="UTF-8", newline="", write_through=True)


def _take_fault_handler(config: pytest.Config, stacks: int) -> None:
    from _pytest.faulthandler import fault_handler_stderr_fd_key

    fd = config.stash.get(fault_handler_stderr_fd_key, None)
    if fd is not None:
        os.dup2(stacks, fd, inheritable=False)


class _Forward(io.TextIOBase):
    """A text file whose lines the controller writes to its terminal; nothing is kept back."""

    encoding = "utf-8"

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # as any other text file has it
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._channel.send({"op": "terminal", "text": text})
        return len(text)


def _forward_streams(config: pytest.Config, channel: Channel) -> None:
    """Let what tests print without capture be seen where the caller's sys.stdout is an object in memory (a notebook's)."""
    whole = _global_capture(config)
    for name, capture in (("stdout", whole.out), ("stderr", whole.err)):
        owner, attribute = (sys, name) if capture is None else (getattr(capture, "syscapture", capture), "_old")
        if not _has_descriptor(getattr(owner, attribute, None)):
            setattr(owner, attribute, _Forward(channel))
            if (tee := getattr(owner, "tmpfile", None)) is not None and hasattr(tee, "_other"):
                tee._other = _Forward(channel)


def _has_descriptor(stream: Any) -> bool:  # noqa: ANN401  # whatever somebody has put there
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True


class _Stub:
    """Stands where plugins look for the terminal reporter; has no hooks, and so prints nothing by itself."""

    def __init__(self, reporter: object) -> None:
        self._reporter = reporter

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # the reporter's own
        return getattr(self._reporter, name)


def _silence_reporters(config: pytest.Config, channel: Channel) -> None:
    """Take away what reports by itself: the controller does that, once for every report."""
    manager = config.pluginmanager
    terminal = manager.getplugin("terminalreporter")
    if terminal is not None and not isinstance(terminal, _Stub):
        manager.unregister(terminal)
        manager.register(_Stub(terminal), "terminalreporter")
    if terminal is not None:
        stream: IO[str] = _Forward(channel)  # type: ignore[assignment]
        terminal._tw._file = stream
    junit.silence(config)
