"""Bodies for sandboxes outside of pytest's protocol: a program, or a function and its value. Imports `sandbox/` below.

Used by `Sandbox` on the machine and by the fixture `sandbox_factory` in a test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import faulthandler
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_sandbox.model.errors import SandboxError
from pytest_sandbox.model.outcome import Ending, Outcome, Usage
from pytest_sandbox.primitives import process
from pytest_sandbox.primitives.process import STACKS_SIGNAL
from pytest_sandbox.sandbox.inside.child import Body, Inside
from pytest_sandbox.sandbox.wire import values
from pytest_sandbox.sandbox.wire.frames import Channel
from pytest_sandbox.sandbox.wire.words import SEEN


@dataclasses.dataclass(frozen=True, slots=True)
class Result(Outcome):
    """An `Outcome` whose stdout and stderr are the whole output, unless it is cut."""


class CallError(SandboxError):
    """A function called in a sandbox gave no value; `outcome` says how the sandbox ended."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


def take_output(inside: Inside, stdin: bytes | None = None) -> None:
    """Make the sandbox's own files its stdout and stderr, and some bytes, or nothing, its stdin."""
    source = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if stdin is None else _file_of(stdin)
    for own, target in ((source, 0), (inside.descriptors.stdout, 1), (inside.descriptors.stderr, 2)):
        os.dup2(own, target)
    os.close(source)


def _file_of(content: bytes) -> int:
    """A file and no pipe, which somebody would have to fill while the program runs."""
    fd = os.memfd_create("sandbox-stdin", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _words(argv: object) -> list[str]:
    """Raises TypeError for what is no list of words, as one string is none; ValueError for none at all and for a NUL in one."""
    if isinstance(argv, (str, bytes)) or not isinstance(argv, Sequence):
        raise TypeError(f"{argv!r} is no list of a program and its arguments: write ['program', 'argument']")
    words = [os.fsdecode(part) for part in argv]
    if not words or not words[0]:
        raise ValueError(f"{argv!r} names no program: write ['program', 'argument']")
    _refuse_nul(*words)
    return words


def _environment(environ: object) -> dict[str, str]:
    """Raises TypeError for what is no mapping of strings; ValueError for a name that an environment cannot have: environ(7)."""
    if environ is None:
        return dict(os.environ)
    if not isinstance(environ, Mapping) or not all(isinstance(part, str) for pair in environ.items() for part in pair):
        raise TypeError(f"env={environ!r} is no mapping of strings to strings")
    for name, value in environ.items():
        if not name or "=" in name:
            raise ValueError(f"{name!r} can be no name of an environment variable")
        _refuse_nul(name, value)
    return dict(environ)


def _refuse_nul(*words: str) -> None:
    for word in words:
        if "\0" in word:
            raise ValueError(f"{word!r} has a NUL, which no argument of a program can have: execve(2)")


def program(
    argv: Sequence[str | os.PathLike[str]],
    cwd: str | os.PathLike[str] | None,
    environ: Mapping[str, str] | None,
    stdin: bytes | None,
) -> Body:
    """A body that becomes the program `argv`, found by PATH, in `cwd`; what it cannot be is said on stderr, as a shell does.

    Raises TypeError and ValueError for what cannot be meant.
    """
    words, variables = _words(argv), _environment(environ)
    if stdin is not None and not isinstance(stdin, bytes):
        raise TypeError(f"input is {type(stdin).__name__} and not bytes: write b'...' or text.encode()")
    place = None if cwd is None else os.fsdecode(cwd)
    _refuse_nul(*(() if place is None else (place,)))

    def body(inside: Inside) -> int:
        take_output(inside, stdin)
        if place is not None:
            try:
                os.chdir(place)
            except OSError as error:
                return _cannot(f"cwd {place}", error)
        try:
            os.execvpe(words[0], words, variables)
        except OSError as error:
            return _cannot(words[0], error)

    return body


def _cannot(what: str, error: OSError) -> int:
    """Say why a program could not be begun; the exit status that a shell gives for it."""
    os.write(2, f"{what}: {error.strerror}\n".encode(errors="replace"))
    return 127 if isinstance(error, FileNotFoundError) else 126


def function(
    call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], after: Callable[[Inside], None] | None = None
) -> Body:
    """A body that calls a function and says what came of it; `after` is called then."""

    def body(inside: Inside) -> int:
        take_output(inside)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)
        faulthandler.enable(file=inside.descriptors.stacks, all_threads=True)
        faulthandler.register(STACKS_SIGNAL, file=inside.descriptors.stacks, all_threads=True, chain=False)
        code = _call(inside, call, args, kwargs)
        if after is not None:
            after(inside)
        process.flush()
        with contextlib.suppress(EOFError):
            inside.channel.ask({"op": "done"}, "bye")
        return code

    return body


def _call(inside: Inside, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    try:
        inside.channel.send({"op": "value", "value": values.pack(call(*args, **kwargs))})
    except SystemExit as error:
        inside.channel.send({"op": "raised", "text": f"SystemExit: {error.code}", "traceback": ""})
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        tell_errno(inside.channel, error)
        text = "".join(traceback.format_exception_only(error)).strip()
        inside.channel.send({"op": "raised", "text": text, "traceback": traceback.format_exc()})
        return 1
    return 0


def value_of(frame: Mapping[str, Any] | None, outcome: Outcome) -> Any:  # noqa: ANN401  # the function's own
    """The value in the last frame of `function`'s body. Raises CallError where there is none."""
    if frame is not None and frame["op"] == "raised":
        raised = f"{frame.get('text')}\n{frame.get('traceback')}".strip()
        raise CallError(raised if outcome.ending is Ending.EXITED else f"{outcome.sentence}\n{raised}", outcome)
    if frame is None and outcome.ending is Ending.EXITED:
        sentence = f"ended without a report: its main process left with exit status {outcome.status} and no value"
        outcome = dataclasses.replace(outcome, ending=Ending.NO_REPORT, sentence=sentence)
    if outcome.ending is not Ending.EXITED or frame is None:
        raise CallError(outcome.sentence, outcome)
    try:
        return values.unpack(frame.get("value"))
    except ValueError as error:
        raise CallError(str(error), outcome) from error


#: Of the exception itself, whatever a class of the test's has in its place.
_ERRNO: Callable[[OSError], object] = vars(OSError)["errno"].__get__


def errno_of(error: BaseException | None, deepest: int = 10) -> int:
    """The number of the OSError that it is, or that stands behind it; 0 for none. Runs nothing of a class of the test's."""
    for _ in range(deepest):
        if error is None:
            break
        number = _ERRNO(error) if isinstance(error, OSError) else None
        if number and type(number) is int:
            return number
        if type(error) is RuntimeError and error.args == ("can't start new thread",):  # how threading puts it
            return errno.EAGAIN
        error = error.__cause__ or error.__context__
    return 0


def tell_errno(channel: Channel, error: BaseException | None) -> tuple[int, bool]:
    """Say which number `errno_of` an error is; that, and whether the controller sees a limit used up, if it says so."""
    number = errno_of(error)
    told = {"op": "errno", "errno": number}
    if number in SEEN:
        return number, bool(channel.ask(told, "noted")["full"])
    if number:
        channel.send(told)
    return number, False


def outcome_to_frame(outcome: Outcome) -> dict[str, Any]:
    """An outcome as fields of a frame; output as packed bytes."""
    plain = dataclasses.asdict(outcome)
    plain["ending"] = outcome.ending.value
    plain["changes"] = [[change.path, change.kind.value, change.size] for change in outcome.changes]
    plain["leaks"] = [[leak.pid, leak.command] for leak in outcome.leaks]
    plain["usage"]["missing"] = dict(outcome.usage.missing)
    plain |= {"stdout": values.pack(outcome.stdout), "stderr": values.pack(outcome.stderr)}
    return plain


def outcome_from_frame(plain: Mapping[str, Any]) -> Result:
    """The outcome of such a frame, which comes from the controller."""
    from pytest_sandbox.model.outcome import Change, ChangeKind, Leak

    return Result(
        ending=Ending(plain["ending"]),
        status=plain["status"],
        usage=Usage(**plain["usage"]),
        sentence=plain["sentence"],
        stdout=values.unpack(plain["stdout"]),
        stderr=values.unpack(plain["stderr"]),
        stacks=plain["stacks"],
        leaks=tuple(Leak(pid, command) for pid, command in plain["leaks"]),
        changes=tuple(Change(path, ChangeKind(kind), size) for path, kind, size in plain["changes"]),
        changes_cut=plain["changes_cut"],
        output_cut=plain["output_cut"],
    )
