"""Files that a passing test has written, and that by their names are to be compared with in later runs: gone, where nobody looks.

A failed test's files are listed, and kept. Of one that passes that would be noise: to write at will is what sandboxes are for.
But a recorded cassette, or a snapshot that is made where there is none, is what somebody waits for. Imports `model`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pytest_sandbox.model.outcome import ChangeKind, Outcome

#: In the name of a directory.
_COMPARED = re.compile("approved|baseline|cassette|golden|regtest|snapshot", re.IGNORECASE)


def first_lost(outcome: Outcome, root: Path) -> Path | None:
    """The first such file below the rootdir; relative to that."""
    for change in outcome.changes:
        path = Path(change.path)
        if change.kind is not ChangeKind.DELETED and change.size and path.is_relative_to(root):
            relative = path.relative_to(root)
            if any(map(_COMPARED.search, relative.parts[:-1])) and not any(part.startswith(".") for part in relative.parts):
                return relative
    return None


def told(nodeid: str, path: Path, root: Path) -> str:
    """What is said of it. The directory that is named is there: what is not, cannot be let through."""
    there = next(one for one in path.parents if os.path.isdir(root / one))
    return (
        f"{path}, which {nodeid} has written, is gone with its sandbox. To have such files: --sandbox-writable={there}, or "
        "@pytest.mark.sandbox(enabled=False) on such tests; to hear nothing of them: --sandbox-keep=never"
    )
