"""Making room for run directories below our own cgroup: mkdir, and on v2 cgroup.subtree_control. Imports `files`, `locks`.

On v2 a cgroup other than the real root cannot both hold processes and pass controllers on ("no internal processes",
Documentation/admin-guide/cgroup-v2.rst):

    base/                              base/                                    subtree_control: memory pids
      cgroup.procs: pytest      ->       pytest-sandbox-controller-NAME/          cgroup.procs: pytest
                                         pytest-sandbox-run-NAME/                 subtree_control: memory pids
                                           one directory a sandbox

A process that finds itself in such a leaf already (an xdist worker) uses the leaf's parent as its base. At close all is
put back. The real root's subtree_control is never written: it belongs to the whole machine. Whatever is made here is locked
for as long as this process lives, so that a later run knows what may be removed (`locks`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Sequence

from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox.model.capability import Cause
from pytest_sandbox.primitives.cgroups.controllers import Choice
from pytest_sandbox.primitives.cgroups.files import REMOVE_SECONDS, inherit, is_real_root, pids_in, read, remove, upwards, write
from pytest_sandbox.primitives.cgroups.layout import CONTROLLER_PREFIX, RUN_PREFIX, V2, Problem, explain
from pytest_sandbox.primitives.locks import Locks

#: How often processes are moved out of a cgroup before it is told as it is: not empty (EBUSY).
_MOST_MOVES = 100
#: How long is waited between two attempts to leave a leaf, in seconds.
_PAUSE = 0.02


class Delegation:
    """The run directory of one run in each hierarchy, made when first needed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._locks = Locks()
        self._made: list[str] = []
        self._leaf: str | None = None
        self._before: frozenset[str] = frozenset()

    def run_directory(self, choice: Choice) -> str:
        """Where this run's sandboxes are in the hierarchy of `choice`; it need not exist yet."""
        return f"{choice.hierarchy.directory}/{RUN_PREFIX}{self.name}"

    def leaf_directory(self, base: str) -> str:
        """Where this process moves to on v2, if it must."""
        return f"{base}/{CONTROLLER_PREFIX}{self.name}"

    def activate(self, choice: Choice) -> Problem | None:
        """Make the run directory and pass the controller on to its children; what is made is undone by `close`."""
        directory, base = self.run_directory(choice), choice.hierarchy.directory
        try:
            if directory not in self._made:
                self._make(directory)
            inherit(directory, choice.controller.inherits)
            if choice.controller.version == V2 and choice.controller.name:
                return self._pass_on(choice, base) or self._pass_on(choice, directory)
        except OSError as error:
            return explain(error, choice.hierarchy)
        return None

    def _make(self, directory: str) -> None:
        """Make and lock it. Known before it is there, since Ctrl-C may come at any moment."""
        self._made.append(directory)
        try:
            self._locks.make(directory)
        except OSError:
            self._made.remove(directory)
            raise

    def _pass_on(self, choice: Choice, directory: str) -> Problem | None:
        """Enable the controller for the children of `directory`."""
        name = choice.controller.name
        if name in _passed_on(directory):
            return None
        if directory == choice.hierarchy.directory:
            if choice.hierarchy.real_root:
                return _not_passed_on(name, [directory])
            self._leave(directory)
        write(directory + "/cgroup.subtree_control", "+" + name)
        return None

    def _leave(self, base: str) -> None:
        """Move this process, with what it has forked itself (a janitor), out of `base` into a leaf, if it is there."""
        if self._leaf is None and os.getpid() in pids_in(base):
            self._before = _passed_on(base)
            leaf = self.leaf_directory(base)
            self._make(leaf)
            self._leaf = leaf
            self._made.remove(leaf)
            for _ in range(_MOST_MOVES):  # some CI runners move processes back (runc#4812)
                own = [pid for pid in pids_in(base) if _is_own(pid)]
                for pid in own:
                    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                        write(leaf + "/cgroup.procs", str(pid))
                if not own:
                    break

    def _return(self) -> None:
        """Go back to where this process was."""
        if self._leaf is not None:
            leave_leaf(self._leaf, self._before)
        self._leaf = None

    def close(self) -> None:
        """Remove the run directories and what is below, disable what was enabled, and go back."""
        try:
            remove(reversed(self._made))
        finally:
            self._made = []
            self._return()
            self._locks.release()


def withheld(base: str, name: str) -> Problem | None:
    """Why the v2 cgroup `base` does not have a controller that one above it has; None where none above has it."""
    around: list[str] = []
    with contextlib.suppress(OSError):  # of one that is removed meanwhile
        for directory in itertools.islice(upwards(base), 1, None):
            around.insert(0, directory)
            if name in read(f"{directory}/cgroup.controllers").decode().split():
                return _not_passed_on(name, around)
    return None


def _not_passed_on(name: str, directories: Sequence[str]) -> Problem:
    """Of these, from the top, each takes it from the one above; one with processes cannot, but for the real root."""
    top = directories[0]
    who = "the root cgroup" if is_real_root(top) else "a cgroup above"
    reason = f"{who} does not pass on the controller {name} (cgroup.subtree_control in {top})"
    if not is_real_root(top) and pids_in(top):
        return Problem(reason, Cause.SHARED_ABOVE, top)
    able = itertools.takewhile(lambda one: one == top or not pids_in(one), directories)
    return Problem(reason, Cause.NOT_PASSED_ON, " ".join([f"+{name} | tee", *(f"{one}/cgroup.subtree_control" for one in able)]))


def can_divide(base: str) -> bool:
    """Whether `Delegation` will find this v2 cgroup writable, and without processes but those that it moves."""
    files = (base, f"{base}/cgroup.procs", f"{base}/cgroup.subtree_control")
    return all(os.access(path, os.W_OK) for path in files) and all(map(_is_own, pids_in(base)))


def _is_own(pid: int) -> bool:
    """Whether it is this process or one that it has forked itself (a janitor)."""
    return os.getpid() in (pid, _parent(pid))


def _parent(pid: int) -> int | None:
    """The parent of a process, by the fourth field of its stat file (proc_pid_stat(5)); None where it has ended."""
    try:
        return int(read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])
    except OSError:
        return None


def _passed_on(directory: str) -> frozenset[str]:
    return frozenset(read(directory + "/cgroup.subtree_control").decode().split())


def leave_leaf(leaf: str, before: frozenset[str] = frozenset(), seconds: float = REMOVE_SECONDS) -> None:
    """Empty a controller's leaf into its parent and remove it. Its processes (a janitor among them) are not killed.

    before: the controllers that the parent passed on before the leaf was made. None, as a janitor assumes: with processes
    in it, it could not. All others are disabled, whichever worker enabled them. seconds: how long it is waited for workers of
    pytest-xdist to end, whose sandboxes lie beside the leaf.
    """
    if not os.path.isdir(leaf):  # what the parent passes on is then somebody else's
        return
    base, deadline = os.path.dirname(leaf), monotonic() + seconds
    with contextlib.suppress(OSError):  # ENOENT, ENODEV: somebody else has removed it
        while not _has_left(leaf, base, before) and monotonic() < deadline:
            time.sleep(_PAUSE)
    remove([leaf], min(REMOVE_SECONDS, max(_PAUSE, deadline - monotonic())))


def _has_left(leaf: str, base: str, before: frozenset[str]) -> bool:
    """Try it once: nobody can be moved to where controllers are passed on, and those cannot be disabled that are in use."""
    for name in _passed_on(base) - before:
        with contextlib.suppress(OSError):  # EBUSY: another one below passes it on
            write(base + "/cgroup.subtree_control", "-" + name)
    for pid in filter(None, pids_in(leaf)):  # 0: of a pid namespace that is not seen from here
        with contextlib.suppress(OSError):  # ESRCH: it ended meanwhile
            write(base + "/cgroup.procs", str(pid))
    return not pids_in(leaf)
