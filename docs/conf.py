"""Sphinx's configuration. What can be generated is: the options from their one table, the changelog from its fragments."""

from __future__ import annotations

import enum
import importlib.metadata
from pathlib import Path

from pytest_sandbox.model import units
from pytest_sandbox.plugin.planning.options import OPTIONS, Kind, Option, Where

HERE = Path(__file__).resolve().parent
GENERATED = HERE / "_generated"

project = "pytest-sandbox"
author = "The pytest-sandbox maintainers"
release = importlib.metadata.version("pytest-sandbox")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = f"pytest-sandbox {release}"
nitpicky = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
# Docstrings say what each field is; a second list with types alone would hide them.
autodoc_typehints = "none"
autodoc_member_order = "bysource"


def default_of(option: Option) -> str:
    """An option's default, in the words that a user would type."""
    value = option.default
    if value is None:
        return "none" if option.metavar == "DIR" else "no limit"
    if isinstance(value, enum.Enum):
        return f"`{value.value}`"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and option.metavar == "SIZE":
        return f"`{units.format_size(value)}`"
    return f"`{value}`" if isinstance(value, (int, float, str)) else "nothing"


def places_of(option: Option) -> str:
    """How an option is written at each level where it may be given."""
    value = f" {option.metavar}" if option.kind is not Kind.FLAG and option.metavar else ""
    places = []
    if Where.CLI in option.where:
        places.append(f"`{option.flag}{value}`")
    if Where.INI in option.where:
        places.append(f"`{option.key} =`")
    if Where.MARKER in option.where:
        places.append(f"`sandbox({option.name}=...)`")
    return "<br>".join(places)


def options_table() -> str:
    """All options, as a table in Markdown."""
    rows = ["| name | what | default | written |", "|---|---|---|---|"]
    for option in OPTIONS:
        what = option.help.replace("|", "\\|")
        default = "" if option.name == "group" else default_of(option)
        rows.append(f"| `{option.name}` | {what} | {default} | {places_of(option)} |")
    return "\n".join(rows) + "\n"


def units_list() -> str:
    """The forms that each kind of value takes, in the words of the error messages."""
    forms = {
        "SIZE": units.SIZE_FORMS, "SECONDS": units.SECONDS_FORMS, "COUNT": units.COUNT_FORMS, "CPUS": units.FRACTION_FORMS,
        "LIST": units.CPUS_FORMS,
    }  # fmt: skip
    return "\n\n".join(f"{metavar}\n: {text}" for metavar, text in forms.items()) + "\n"


def unreleased() -> str:
    """The news fragments of what is not yet released."""
    fragments = sorted(path for path in (HERE.parent / "news").glob("*.md") if path.name != "README.md")
    if not fragments:
        return ""
    items = ["- " + fragment.read_text().strip().replace("\n", "\n  ") for fragment in fragments]
    return "## Not yet released\n\n" + "\n".join(items) + "\n"


def with_tables(page: str) -> str:
    """The text of options.md with its tables as they are now: they stand there, so that the source can be read too."""
    for name, table in (("options", options_table()), ("units", units_list())):
        begin, end = f"<!-- {name}: written by conf.py -->\n\n", f"\n<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = before + begin + table + end + rest.partition(end)[2]
    return page


def setup(_app: object) -> None:
    """Write what is generated, before Sphinx reads any page."""
    options = HERE / "options.md"
    options.write_text(with_tables(options.read_text()))
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "unreleased.md").write_text(unreleased())
