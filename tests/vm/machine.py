"""What every kind of guest is to guest.py: how it is started on this machine. Imports only the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

#: pid 1 of every guest.
INIT = Path(__file__).resolve().with_name("init.sh")


class GuestError(Exception):
    """No guest can be booted; the text says why, and what to change."""


class Machine(Protocol):
    """A kernel and what runs it. The host's tree is the guest's first root, read-only, and `INIT` is started from it."""

    @property
    def name(self) -> str:
        """What a summary calls it."""

    @property
    def show(self) -> Sequence[Path]:
        """Directories of the host's that init must not cover."""

    def argv(self, words: Sequence[str], *, memory: str, job: Path, disk: Path | None) -> list[str]:
        """The program of the host's that is the guest. It ends when the guest is off, and prints the guest's console.

        words: for the kernel's command line. memory: its size, as "2G". job: a directory that the guest may write. disk: an
        image that is to be a block device, which this names to init (`disk=`).
        """
