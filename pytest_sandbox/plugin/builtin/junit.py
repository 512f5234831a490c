"""What the JUnit reporter keeps in memory, from a sandbox to the controller. Imports pytest, `model` and `reports`.

record_xml_attribute and record_testsuite_property do not go into reports, but into the memory of the process in which they are
called.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import pytest
from _pytest.junitxml import LogXML, _NodeReporter, xml_key

from pytest_sandbox.model.errors import WireError
from pytest_sandbox.plugin.builtin.fields import xml_text
from pytest_sandbox.plugin.builtin.reports import identity

#: How many of the run's properties the controller knows already.
_KNOWN: pytest.StashKey[int] = pytest.StashKey()
#: Of an attribute, in XML: what is no such name ends it, and begins another element.
_NAME = re.compile(r"[A-Za-z_:][\w:.-]*")


class _WithoutFigures(_NodeReporter):
    """A test's entry, without what we say of it. What tests record themselves stays, as in plain pytest, which warns of it."""

    def add_property(self, name: str, value: object) -> None:
        """Leave our own out."""
        if not str(name).startswith("sandbox_"):
            super().add_property(name, value)


class _KeepingToSchema(LogXML):
    """A reporter of a family in which a test has no properties (xunit2, the default): strict readers refuse such a file."""

    def node_reporter(self, report: Any) -> _NodeReporter:  # noqa: ANN401  # what it takes differs between versions
        """A test's entry."""
        reporter = super().node_reporter(report)
        reporter.__class__ = _WithoutFigures
        return reporter


def keep_to_schema(config: pytest.Config) -> None:
    """Keep a sandbox's figures out of a file whose schema has no place for them. To be called when all is configured.

    The reporter stays where it is among the plugins: some change a report before it sees it.
    """
    xml = config.stash.get(xml_key, None)
    if type(xml) is LogXML and xml.family == "xunit2":
        xml.__class__ = _KeepingToSchema


def silence(config: pytest.Config) -> None:
    """In a sandbox: take the reporter away, which would report by itself."""
    xml: LogXML | None = config.stash.get(xml_key, None)
    if xml is not None:
        config.stash[_KNOWN] = len(xml.global_properties)
        if xml.__class__ is _KeepingToSchema:  # a test that fails shows what record_xml_attribute is
            xml.__class__ = LogXML  # type: ignore[assignment]
        if config.pluginmanager.is_registered(xml):
            config.pluginmanager.unregister(xml)


def news(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """In a sandbox: what tests noted for the item and the run, as fields of a frame; {} if nothing since the last time."""
    xml: LogXML | None = config.stash.get(xml_key, None)
    if xml is None:
        return {}
    reporters: Any = xml.node_reporters  # by what identifies a report, which pytest 9 changed, and the worker
    mine = reporters.get((item.nodeid, None)) or reporters.get((identity(item), None))
    attributes = {} if mine is None else {str(name): str(value) for name, value in mine.attrs.items()}
    properties = xml.global_properties[config.stash[_KNOWN] :]
    config.stash[_KNOWN] = len(xml.global_properties)
    return {"attributes": attributes, "properties": properties} if attributes or properties else {}


def add_to_suite(config: pytest.Config, properties: Sequence[tuple[str, object]]) -> None:
    """Properties of the whole run, for which every family has a place."""
    xml: LogXML | None = config.stash.get(xml_key, None)
    if xml is not None:
        for name, value in properties:
            xml.add_global_property(name, value)


@dataclasses.dataclass(frozen=True, slots=True)
class Noted:
    """What a sandbox says that a test noted."""

    attributes: dict[str, str]
    properties: list[tuple[str, str]]

    @classmethod
    def from_frame(cls, frame: dict[str, Any]) -> Noted:
        """Raises WireError for what is nothing for junit."""
        try:
            properties = [(xml_text(name), xml_text(value)) for name, value in frame.get("properties") or ()]
            attributes = {str(name): xml_text(value) for name, value in (frame.get("attributes") or {}).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise WireError(f"a frame has nothing for junit: {error!r}") from error
        for name in attributes:
            if not _NAME.fullmatch(name):
                raise WireError(f"{name[:100]!r} is no name of an attribute in XML")
        return cls(attributes, properties)

    def remember(self, config: pytest.Config, item: pytest.Item) -> None:
        """In the controller: note it."""
        xml: LogXML | None = config.stash.get(xml_key, None)
        if xml is None:
            return
        for name, value in self.properties:
            xml.add_global_property(name, value)
        if self.attributes:
            xml.node_reporter(identity(item)).attrs.update(self.attributes)
