"""What a sandbox or the launcher says of its own failure, as it may be believed. Imports `model` only."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from pytest_sandbox.model.errors import SetupError

#: By which it says that a file system is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
#: Where it waits until the controller has looked whether it was its limit.
SEEN = (*NO_ROOM, errno.EMFILE)


def refusal(frame: Mapping[str, Any]) -> SetupError:
    """What a frame of the kind "failed" or "refused" says; of what makes no sense the errno becomes 0."""
    number = frame.get("errno")
    if not isinstance(number, int) or not 0 <= number < 4096:  # MAX_ERRNO of the kernel
        number = 0
    return SetupError(str(frame.get("step"))[:1000], str(frame.get("object", ""))[:1000], number)
