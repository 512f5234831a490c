"""sybil: examples of one document need each other. Imports pytest only."""

from __future__ import annotations

import pytest

#: Packages whose items are parts of a document, each of which goes on with what those before it have defined.
_OF_DOCUMENTS = ("sybil",)


def document(item: pytest.Item) -> str | None:
    """The document that an item is a part of, which needs all of it before: an example of sybil's."""
    if type(item).__module__.partition(".")[0] in _OF_DOCUMENTS and item.parent is not None:
        return f"the document {item.parent.nodeid}"
    return None
