"""What every process of a run's sandboxes has by the fork, and what it does first and last. Imports `reporter`, and below."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Sequence
from contextlib import suppress
from os import getpid

import pytest

from pytest_sandbox.plugin.builtin.generators import Generators
from pytest_sandbox.plugin.builtin.ledger import Ledger, Once
from pytest_sandbox.plugin.builtin.settling import settle_in
from pytest_sandbox.plugin.builtin.tmp import Numbers, leave_room
from pytest_sandbox.plugin.inside import meeting
from pytest_sandbox.plugin.inside.children import Children
from pytest_sandbox.plugin.inside.reporter import Reporter
from pytest_sandbox.plugin.others import carried, dependency, django, pyfakefs
from pytest_sandbox.plugin.others.coverage import measuring
from pytest_sandbox.plugin.others.loops import Loops
from pytest_sandbox.plugin.others.randomly import Seeds
from pytest_sandbox.plugin.planning.scopes import Unit
from pytest_sandbox.primitives.pages import unshared
from pytest_sandbox.sandbox.inside.child import Inside
from pytest_sandbox.sandbox.wire.frames import Frame


class World:
    """What every process of the run shares by fork: the session, and the units. keeps_terminal: see `settling`.

    failed: units and items of theirs, by indexes, for which a scope could not set up all; nothing more is set up for these then.
    broken: the parameter of each fixture that failed, by definition's id. heir: the unit, by index, whose sandbox is to tell what
    plugins have noted while fixtures were set up for it.
    """

    def __init__(
        self, session: pytest.Session, units: Sequence[Unit], ledger: Ledger, numbers: Numbers, *, keeps_terminal: bool
    ) -> None:
        self.session = session
        self.numbers = numbers
        self.config = session.config
        self.units = units
        self.ledger = ledger
        self.keeps_terminal = keeps_terminal
        self.reporter = Reporter(session.config)
        self.protocol = session.config.hook.pytest_runtest_protocol
        self.failed: set[tuple[int, int]] = set()
        self.broken: dict[int, object] = {}
        self.heir: int | None = None
        self.once = Once()
        self.children = Children()
        self.known_files: set[meeting.File] = set(meeting.found())
        self.generators = Generators()
        self.generators.note()
        self.loops = Loops()
        self.seeds = Seeds(session.config)

    def begin(self, inside: Inside) -> None:
        """Make the process that a fork has left in a sandbox its own."""
        self.ledger.disown(self.session)
        self.children.begin()
        self.generators.restore()
        if inside.outermost:
            leave_room(self.config)
            with unshared():
                self.loops.note()  # of pytest's own process, made when a module was imported
        self.loops.renew()
        settle_in(self.config, inside, keeps=self.keeps_terminal)
        measuring.begin(self.config)
        self.reporter.owner = getpid()
        carried.begin(self.config)
        pyfakefs.keep_off()

    def take(self, handed: Frame | None) -> None:
        """Have what the controller hands on: see `Baton`."""
        self.generators.put(handed)
        if handed is not None:
            dependency.enter(self.session, handed.get("ends", ()))

    def tell_meeting(self, inside: Inside) -> None:
        """Close what each test can open anew, and say by what else tests would meet that this scope has opened."""
        django.close_connections()
        files = meeting.found(self.known_files)
        self.known_files |= files.keys()
        for what in files.values():
            inside.channel.send({"op": "meets", "what": what})

    def tell_generators(self, inside: Inside) -> None:
        """Say to what the generators' state has changed."""
        if news := self.generators.news():
            inside.channel.send({"op": "generators", **news})

    @staticmethod
    def end(inside: Inside) -> int:
        """Run atexit functions, say that all is said, and wait until the controller has looked; the exit status.

        What is inherited of those was dropped when the sandbox began.
        """
        with suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        with suppress(EOFError):
            inside.channel.ask({"op": "done"}, "bye")
        return 0
