"""What goes wrong before or around a sandbox. Imports nothing of the package.

Hitting a limit is not here: that is an `Outcome`.

    SandboxError
    +- SpecError          what was asked for makes no sense: a usage error
    +- UnavailableError   what was asked for makes sense, and this machine cannot give it
    +- SetupError         a system call on the way into a sandbox failed
    +- WireError          a peer sent what is no frame
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from errno import EAGAIN, EINVAL, EMFILE, ENOTSUP, EPERM

_NARROWER = "let a function-scoped fixture do that, or put these tests into one sandbox by scope="


class SandboxError(Exception):
    """Base of every error that the package raises on purpose."""


class SpecError(SandboxError):
    """An option, ini key or marker argument that cannot be understood; names what, why and the fix."""


class UnavailableError(SandboxError):
    """A capability that was asked for and that this machine does not have.

    Attributes are those of `pytest_sandbox.Capability`: `capability` (its name), `reason` and `fix`. Where more are missing,
    they are of the first that has one reason and one fix, alone or with others, and the message has a line for each of the rest.
    """

    def __init__(self, capability: str, reason: str, fix: str, others: Iterable[UnavailableError] = ()) -> None:
        verb = "are" if ", " in capability else "is"
        super().__init__("\n".join([f"{capability} {verb} not available here: {reason}. Fix: {fix}", *map(str, others)]))
        self.capability = capability
        self.reason = reason
        self.fix = fix


class SetupError(SandboxError):
    """A step of making a sandbox that failed: `step`, the object it was about, and `errno`; 0: it was not the kernel's doing.

    reason: all that the message says but the fix. fix: "" where none is known.
    """

    def __init__(self, step: str, obj: str, errno: int) -> None:
        what = f"{step}: {obj}" if obj else step
        why, self.fix = _meaning(what, errno)
        self.reason = f"{what}: {os.strerror(errno)} (errno {errno}){why}" if errno else what
        super().__init__(f"{self.reason}. Fix: {self.fix}" if self.fix else self.reason)
        self.step = step
        self.object = obj
        self.errno = errno

    @classmethod
    def of(cls, step: str, error: OSError | ValueError) -> SetupError:
        """What an error of Python's says of a step."""
        if isinstance(error, OSError):
            return cls(step, str(error.filename or ""), error.errno or 0)
        return cls(step, str(error), EINVAL)


def _meaning(what: str, number: int) -> tuple[str, str]:
    """What a number means where it is not what its text says, or where that does not say why; and the fix."""
    if number == EAGAIN and ("fork" in what or "clone" in what):  # fork(2)
        return ": no further process may be made", "raise ulimit -u of this user, or pids.max of the cgroups around pytest"
    if number == EPERM and what == "setns":  # setns(2)
        why = ": the process around it, which is to enter it, may not, as since a wider fixture has changed its user (os.setuid)"
        return why, _NARROWER
    if number == ENOTSUP and what.endswith("root directory"):
        return ": a wider fixture has changed it (os.chroot)", _NARROWER
    if number == EMFILE and what in ("receive descriptors", "exchange descriptors"):
        why = ": the process around it has no room for those that it takes, as since a wider fixture has lowered RLIMIT_NOFILE"
        return why, f"{_NARROWER}, or let it leave room for 24 more"
    return "", ""


class WireError(SandboxError):
    """Bytes that are no frame, or a frame that its sender may not send."""


class TeardownWarning(UserWarning):
    """Something a run made and could not undo; names the object, so that it can be removed by hand."""


def warn_of_teardown(text: str) -> None:
    """A TeardownWarning of who clears up, and goes on with that: where a filter makes it an error, it is written to stderr."""
    try:
        warnings.warn(TeardownWarning(text), stacklevel=3)
    except TeardownWarning as error:
        sys.stderr.write(f"TeardownWarning: {error}\n")
