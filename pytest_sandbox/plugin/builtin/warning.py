"""Warnings that the plugin gives itself, by the filters that hold for the item that they are about. Imports pytest only."""

from __future__ import annotations

import warnings

import pytest

#: A path, and a line in it.
Place = tuple[str, int]


def warn(
    config: pytest.Config, warning: pytest.PytestWarning, place: Place, nodeid: str = "", item: pytest.Item | None = None
) -> str | None:
    """Warn as if the item had, None: the run; what is said where its filters make it an error.

    nodeid: where the warning belongs.
    """
    from _pytest.warnings import catch_warnings_for_item

    if not config.pluginmanager.hasplugin("warnings"):
        tell(config, warning, place, nodeid)
        return None
    try:
        with (
            catch_warnings_for_item(config=config, ihook=config.hook, when="runtest", item=item),
            warnings.catch_warnings(record=True) as recorded,
        ):
            warnings.warn_explicit(warning, type(warning), *place)
    except type(warning) as error:
        return f"{type(warning).__name__}: {error}"
    if recorded:
        tell(config, warning, place, nodeid)
    return None


def hint(
    config: pytest.Config, warning: pytest.PytestWarning, place: Place, nodeid: str = "", item: pytest.Item | None = None
) -> None:
    """Warn of what makes no test fail, and stays a warning where filters make errors of all: they may have it left out."""
    if warn(config, warning, place, nodeid, item) is not None:
        tell(config, warning, place, nodeid)


def tell(config: pytest.Config, warning: pytest.PytestWarning, place: Place, nodeid: str = "") -> None:
    """Have it shown, whatever filters say."""
    message = warnings.WarningMessage(warning, type(warning), *place)
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={"warning_message": message, "nodeid": nodeid, "when": "runtest", "location": None}
    )
