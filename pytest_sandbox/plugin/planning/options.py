"""The names users type, as one table, and what is made of it: options, ini keys, arguments of the marker.

Imports `model` only: pytest imports this module in every run, also in those without a sandbox and on platforms that
have none. Values are parsed, and so rejected, where they are given; which level wins is `resolve`'s business.
"""

from __future__ import annotations

import argparse
import enum
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest

from pytest_sandbox.model import units
from pytest_sandbox.model.errors import SpecError
from pytest_sandbox.model.spec import MIB, Keep, Limits, Network, Spec


class Scope(enum.Enum):
    """Which tests share one sandbox: each has its own, or all of a class, module, package or of the run."""

    TEST = "test"
    CLASS = "class"
    MODULE = "module"
    PACKAGE = "package"
    SESSION = "session"


class Where(enum.Flag):
    """The levels at which an option may be given."""

    CLI = enum.auto()
    INI = enum.auto()
    MARKER = enum.auto()
    RUN = CLI | INI
    ALL = CLI | INI | MARKER


class Kind(enum.Enum):
    """How an option is written: with one value, as a bare flag, or several times."""

    VALUE = enum.auto()
    FLAG = enum.auto()
    LIST = enum.auto()


@dataclass(frozen=True)
class Option:
    """One name: `parse` makes a value of text (or of what stands in a marker), and raises SpecError.

    For Kind.LIST `parse` takes one element. `default` is what holds where nobody said anything, parsed already.
    """

    name: str
    parse: Callable[[object], object]
    default: object
    help: str
    metavar: str = ""
    kind: Kind = Kind.VALUE
    where: Where = Where.ALL

    @property
    def flag(self) -> str:
        """The option on the command line, e.g. "--sandbox-cpu-time"."""
        return "--sandbox-" + self.name.replace("_", "-")

    @property
    def key(self) -> str:
        """The ini key, which is also the attribute of pytest's `config.option`, e.g. "sandbox_cpu_time"."""
        return "sandbox_" + self.name


def _choice(values: type[enum.Enum]) -> Callable[[object], enum.Enum]:
    """A parser of the values of an enumeration; it takes the members themselves too."""
    known = [str(member.value) for member in values]

    def parse(value: object) -> enum.Enum:
        if isinstance(value, values):
            return value
        if not isinstance(value, str) or value.strip().lower() not in known:
            hint = ": pytest's function is a test here" if value == "function" and "test" in known else closest(value, known)
            raise SpecError(f"{value!r} is none of {', '.join(known)}{hint}")
        return values(value.strip().lower())

    return parse


def _size(least: int) -> Callable[[object], object]:
    return lambda value: units.parse_size(value, least=least)


def _count(least: int, because: str) -> Callable[[object], object]:
    return lambda value: units.parse_count(value, least=least, because=because)


def _path(value: object) -> str:
    """A path as it was written; `resolve` knows what it is relative to."""
    path = value.__fspath__() if hasattr(value, "__fspath__") else value
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise SpecError(f"{value!r} is not a path: write the path of a file or directory")
    return path


def _scratch(value: object) -> str | None:
    """A path, or None for the tmpfs, which lets a closer level undo what a farther one said."""
    return None if value is None or value == "none" else _path(value)


def _jobs(value: object) -> int:
    """How many; "auto": as many as there are processors for this process (sched_getaffinity(2))."""
    if value == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        count = units.parse_count(value)
    except SpecError:
        count = None
    if count is None:
        raise SpecError(f"{value!r} is not a number of sandboxes: write 1 or more, or auto")
    return count


def _names(value: object) -> frozenset[str]:
    """Names between commas or spaces; which of them there are is known to the host's list of capabilities."""
    names = frozenset(value.replace(",", " ").split()) if isinstance(value, str) else frozenset()
    if not names:
        raise SpecError(f'{value!r} names no capability: write "all", or some of what --sandbox-doctor lists: "memory,pids"')
    return names


def _yes(value: object) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"{value!r} is neither True nor False")
    return value


def _group(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f'{value!r} is not the name of a group: write some text, the same on each test of it: group="db"')
    return value


_L: Final = Limits()
_S: Final = Spec()

# The least of each limit is what still does what it says: tmpfs takes a size or number of inodes of 0 for "no limit"
# (tmpfs(5)), and memory of less than a mebibyte is a forgotten unit ("64" for "64M"). With less than the least of pids, files
# and inodes no test would begin: found by trying (2, 14 and 4), with room for plugins and for other kernels' overlays.
OPTIONS: Final[tuple[Option, ...]] = (
    Option("scope", _choice(Scope), Scope.TEST, "tests that share a sandbox: test, class, module, package, session", "SCOPE"),
    Option("network", _choice(Network), _S.network, "network inside: auto, loopback, none, shared, host", "NETWORK"),
    Option("memory", _size(MIB), _L.memory, "most memory, page cache included", "SIZE"),
    Option("memory_high", _size(MIB), _L.memory_high, "memory above which it is slowed down to give some back", "SIZE"),
    Option("swap", _size(0), _L.swap, "most swap space", "SIZE"),
    Option("hugetlb", _size(0), _L.hugetlb, "most memory in huge pages, of each size of them", "SIZE"),
    Option(
        "pids",
        _count(3, "as two helpers that fork the test's process may count for a moment"),
        _L.pids,
        "most processes and threads",
        "COUNT",
    ),
    Option("cpus", units.parse_fraction, _L.cpus, "most CPUs at a time, such as 0.5", "CPUS"),
    Option("cpuset", units.parse_cpus, _L.cpuset, "the CPUs to run on, such as 0-3,8", "LIST"),
    Option("cpu_time", units.parse_seconds, _L.cpu_time, "most CPU time, all processes together", "SECONDS"),
    Option("timeout", units.parse_seconds, _L.timeout, "most wall time of a test, and of each wider fixture's set-up", "SECONDS"),
    Option("disk", _size(4096), _L.disk, "most bytes written to files and still there", "SIZE"),
    Option(
        "inodes",
        _count(8, "as making the sandbox's overlays takes some for a moment"),
        _L.inodes,
        "most files and directories written",
        "COUNT",
    ),
    Option(
        "files",
        _count(24, "as pytest and the sandbox keep about 15 open themselves"),
        _L.files,
        "most open file descriptors in a process",
        "COUNT",
    ),
    Option("output", _size(1), _L.output, "most bytes of output", "SIZE"),
    Option("io_read", _size(4096), _L.io_read, "most bytes a second read from each disk", "SIZE"),
    Option("io_write", _size(4096), _L.io_write, "most bytes a second written to each disk", "SIZE"),
    Option("io_read_ops", units.parse_count, _L.io_read_ops, "most reads a second from each disk", "COUNT"),
    Option("io_write_ops", units.parse_count, _L.io_write_ops, "most writes a second to each disk", "COUNT"),
    Option("bandwidth", _size(1024), _L.bandwidth, "most bytes a second over the sandbox's own network", "SIZE"),
    Option("writable", _path, (), "path that tests may really change; repeatable", "PATH", Kind.LIST),
    Option("hide", _path, (), "path that is empty inside; repeatable", "PATH", Kind.LIST),
    Option("scratch", _scratch, None, "directory for what tests write, in place of a tmpfs ('none')", "DIR"),
    Option("keep", _choice(Keep), _S.keep, "save what a sandbox wrote: never, failed, always", "WHEN"),
    Option(
        "require",
        _names,
        frozenset(),
        "capabilities without which the run must not start: names from --sandbox-doctor, or all; repeatable",
        "NAMES",
        Kind.LIST,
        Where.RUN,
    ),
    Option("degrade", _yes, False, "run with what this machine has, and say what is missing", "", Kind.FLAG, Where.RUN),
    Option("jobs", _jobs, 1, "how many tests run at once, or auto", "COUNT", Kind.VALUE, Where.RUN),
    Option("usage", _yes, False, "show a table of what tests consumed", "", Kind.FLAG, Where.RUN),
    Option("doctor", _yes, False, "say what this machine can do, why not and the fix, and exit", "", Kind.FLAG, Where.CLI),
    Option("enabled", _yes, True, "False runs the test in the controller, without a sandbox", "", Kind.VALUE, Where.MARKER),
    Option("group", _group, None, "tests of one group share a sandbox", "", Kind.VALUE, Where.MARKER),
)

BY_NAME: Final = {option.name: option for option in OPTIONS}
MARKER_NAMES: Final = tuple(option.name for option in OPTIONS if Where.MARKER in option.where)
# The line for pytest_configure: config.addinivalue_line("markers", MARKER_HELP).
MARKER_HELP: Final = (
    f"sandbox({', '.join(f'{name}=...' for name in MARKER_NAMES)}): "
    "with --sandbox, what the sandbox of this test is, and what it may use."
)


def add_options(parser: pytest.Parser) -> None:
    """Add every option and ini key of the table to pytest's parser, in a group of their own."""
    group = parser.getgroup("sandbox", "each test in a sandbox of its own (pytest-sandbox)")
    # Both leave None where neither is given, so that the ini file can speak.
    group.addoption("--sandbox", dest="sandbox", action="store_true", default=None, help="run each test in a sandbox")
    group.addoption("--no-sandbox", dest="sandbox", action="store_false", default=None, help="do not, whatever the ini file says")
    parser.addini("sandbox", "run each test in a sandbox", type="bool", default=None)
    for option in OPTIONS:
        if Where.CLI in option.where:
            _add_to_command_line(group, option)
        if Where.INI in option.where:
            _add_to_ini(parser, option)


def _add_to_command_line(group: pytest.OptionGroup, option: Option) -> None:
    text = option.help + _default_text(option)
    if option.kind is Kind.FLAG:
        group.addoption(option.flag, dest=option.key, action="store_true", default=None, help=text)
        return
    group.addoption(
        option.flag,
        dest=option.key,
        action="append" if option.kind is Kind.LIST else "store",
        default=None,
        type=_checked(option),
        metavar=option.metavar,
        help=text,
    )


def _add_to_ini(parser: pytest.Parser, option: Option) -> None:
    types = {Kind.FLAG: "bool", Kind.LIST: "linelist", Kind.VALUE: "string"}
    # None, where pytest's own default would be "" or []: whether a limit was asked for must be known.
    parser.addini(option.key, option.help, type=types[option.kind], default=None)  # type: ignore[arg-type]


def _checked(option: Option) -> Callable[[str], str]:
    """A `type=` for argparse that rejects what cannot be parsed and otherwise gives the text back.

    The text and not the value, as pytest-xdist sends `config.option` to its workers, and can send plain types only.
    """

    def check(text: str) -> str:
        try:
            option.parse(text)
        except SpecError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    return check


def _default_text(option: Option) -> str:
    default = option.default
    if option.kind is not Kind.VALUE or option.name == "scratch":
        return ""
    if isinstance(default, enum.Enum):
        return f" (default: {default.value})"
    if isinstance(default, int) and option.metavar == "SIZE":
        return f" (default: {units.format_size(default)})"
    return f" (default: {'no limit' if default is None else default})"


def check_unknown(parser: pytest.Parser, args: list[str]) -> None:
    """Raise UsageError for an option `--sandbox-...` that nobody knows, with the closest that there is.

    pytest's own error does not guess. To be called once every conftest has had its chance to add options, which is
    after the other implementations of `pytest_load_initial_conftests`. Costs nothing where no name is unknown.
    """
    known = [option.flag for option in OPTIONS if Where.CLI in option.where] + ["--sandbox", "--no-sandbox"]
    if not any(_looks_unknown(arg, known) for arg in args):
        return
    _, unknown = parser.parse_known_and_unknown_args(args)
    for arg in unknown:
        if _looks_unknown(arg, known):
            flag = arg.partition("=")[0]
            hint = elsewhere(flag, Where.CLI) or f"{closest(flag, known)} (pytest --help lists all of them)"
            raise pytest.UsageError(f"unknown option {flag}{hint}")


def _looks_unknown(arg: str, known: list[str]) -> bool:
    return arg.startswith(("--sandbox", "--no-sandbox")) and arg.partition("=")[0] not in known


def elsewhere(written: str, here: Where) -> str:
    """The end of an error's sentence for an option or ini key whose name is one at other levels only; "" for any other."""
    option = BY_NAME.get(written.lstrip("-").removeprefix("sandbox")[1:].replace("-", "_"))
    if option is None or here in option.where:
        return ""
    place = f"the marker only: use @pytest.mark.sandbox({option.name}=...)"
    if Where.CLI in option.where:
        place = f"the command line only: use {option.flag}"
    return f": {option.name} is for {place}"


def closest(name: object, known: list[str] | tuple[str, ...]) -> str:
    """The end of an error's sentence: ": did you mean 'memory'?" for the known name that is nearest, or ""."""
    # Only ever needed on the way to an error.
    import difflib

    # By what is not the same in all of them.
    bare = {re.sub(r"^(--(no-)?)?sandbox[-_]", "", one): one for one in known}
    found = difflib.get_close_matches(re.sub(r"^(--(no-)?)?sandbox[-_]", "", str(name)), bare, n=1, cutoff=0.6)
    return f": did you mean {bare[found[0]]!r}?" if found else ""
