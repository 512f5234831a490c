"""From options, ini file and markers to `Settings` and `Plan`: marker > command line > ini > default.

The single place that reads pytest's config and markers, and the only one that knows the precedence. Imports `model`,
`options`, `marks` and `paths`. What makes no sense is a `pytest.UsageError` that names where it was said, what and the
fix; whether this machine can enforce what was asked for is not decided here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_sandbox.model.errors import SpecError
from pytest_sandbox.model.spec import LIMIT_NAMES, Network, Spec

from . import paths
from .marks import closest_first
from .options import BY_NAME, MARKER_NAMES, OPTIONS, Kind, Option, Scope, Where, closest, elsewhere

__all__ = ["Plan", "Scope", "Settings", "enabled", "origin", "plan", "plans", "settings"]


@dataclass(frozen=True)
class Plan:
    """What is to be done with one item: whether to sandbox it, with whom, and in what.

    Items of one `group` (its name, over all files) share a sandbox; `scope` means nothing then, and is TEST. Otherwise
    items share it with all others of `scope`. Items without a marker have the very same object, `Settings.base`.
    """

    enabled: bool
    scope: Scope
    group: str | None
    spec: Spec

    @property
    def is_alone(self) -> bool:
        """Whether an item with this plan has a sandbox that it shares with no other."""
        return self.enabled and self.scope is Scope.TEST and self.group is None


@dataclass(frozen=True)
class Settings:
    """What holds for the whole run. `base` is the plan of every item that has no marker."""

    enabled: bool
    degrade: bool
    require: frozenset[str]
    jobs: int
    usage: bool
    base: Plan


_PATHS: Final = {"writable": paths.writable, "hide": paths.hidden}
_SETTINGS: Final = pytest.StashKey[Settings]()
# The marks are kept beside the plan that they make, as their id() is the key.
_Plans = dict[tuple[object, ...], tuple[Plan, list[pytest.Mark]]]
_PLANS: Final = pytest.StashKey[_Plans]()
# A wrong argument in a pytestmark is wrong for each of its thousand tests; nobody reads the thousandth.
_ERRORS_SHOWN: Final = 10


def enabled(config: pytest.Config) -> bool:
    """Whether this run is sandboxed: cheap, and the one thing to ask before anything else is imported.

    Raises UsageError for an option such as `--sandbox-memory` in a run that is not: it would have no effect.
    """
    given: bool | None = config.getoption("sandbox")
    if given is None:
        given = bool(_ini(config, "sandbox"))
        alone = [option.flag for option in OPTIONS if Where.CLI in option.where and config.getoption(option.key) is not None]
        if alone and not given and "--sandbox-doctor" not in alone:
            raise pytest.UsageError(
                f"{', '.join(alone)} without a sandbox would have no effect: "
                "add --sandbox, or --no-sandbox if that is meant, or set the ini key sandbox = true"
            )
    return given


def settings(config: pytest.Config) -> Settings:
    """What the command line and the ini file say about the run, read once.

    Raises UsageError for a value that makes no sense and for an unknown ini key `sandbox_...`.
    """
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = _settings(config)
    return config.stash[_SETTINGS]


def plan(item: pytest.Item, settings: Settings) -> Plan:
    """What the item's markers say over the run's settings; the closest marker wins, argument by argument.

    Raises UsageError, which names the item, for an unknown argument and for a value that makes no sense.
    """
    if not settings.enabled:
        return settings.base
    marks = closest_first(item)
    if not marks:
        return settings.base
    known = item.config.stash.setdefault(_PLANS, {})
    # Relative paths mean another file in another directory, though a base class may lend its marks to both.
    key = (item.path.parent, id(settings), *map(id, marks))
    if key not in known:
        try:
            known[key] = (_marked(marks, item.path.parent, settings.base), marks)
        except SpecError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from error
    return known[key][0]


def plans(items: Iterable[pytest.Item], settings: Settings) -> list[Plan]:
    """The plan of each item, in order. Raises one UsageError that lists what is wrong with all of them."""
    found: list[Plan] = []
    errors: list[str] = []
    for item in items:
        try:
            found.append(plan(item, settings))
        except pytest.UsageError as error:  # noqa: PERF203  # to go on after an error is the point
            errors.append(str(error))
    if errors:
        more = len(errors) - _ERRORS_SHOWN
        raise pytest.UsageError("\n".join(errors[:_ERRORS_SHOWN] + ([f"... and {more} more like these"] if more > 0 else [])))
    return found


def origin(item: pytest.Item, name: str) -> str:
    """Where it was said which value of an option holds for an item, as it is written there; empty where nobody did."""
    if any(name in mark.kwargs for mark in closest_first(item)):
        return f"@pytest.mark.sandbox({name}=...)"
    return origin_in_run(item.config, name)


def origin_in_run(config: pytest.Config, name: str) -> str:
    """The same, for the whole run."""
    option = BY_NAME[name]
    if config.getoption(option.key) is not None:
        return option.flag
    return "" if _ini(config, option.key) is None else f"ini key {option.key}"


def _settings(config: pytest.Config) -> Settings:
    _refuse_unknown_keys(config)
    given: dict[str, Any] = {}
    for option in OPTIONS:
        if Where.CLI in option.where:
            given |= _given_for_run(config, option)
    on = enabled(config)
    try:
        base = _over(Plan(on, Scope.TEST, None, Spec()), given)
    except SpecError as error:
        raise pytest.UsageError(str(error)) from error
    run = {name: given.get(name, BY_NAME[name].default) for name in ("degrade", "require", "jobs", "usage")}
    return Settings(enabled=on, base=base, **run)


def _given_for_run(config: pytest.Config, option: Option) -> dict[str, Any]:
    """The option's value where the run has one: the command line's, or the ini file's; of a list, both."""
    written: list[tuple[str, Any, Path]] = []
    if Where.INI in option.where:
        written.append((f"ini key {option.key}", _ini(config, option.key), config.rootpath))
    written.append((option.flag, config.getoption(option.key), config.invocation_params.dir))
    found: dict[str, Any] = {}
    for source, value, directory in written:
        if value is None:
            continue
        try:
            new: Any = _value(option, value, directory)
            if source == "--sandbox-hide":
                paths.refuse_absent(new)
        except SpecError as error:
            raise pytest.UsageError(f"{source}: {error}") from error
        found[option.name] = _joined(found.get(option.name), new) if option.kind is Kind.LIST else new
    return found


def _ini(config: pytest.Config, key: str) -> object:
    """The ini file's value, None where it has none. pytest's own errors (a TOML list for text) gain the key."""
    # pytest 9 reads TOML with its types, and would refuse a number where text is taken too: "64M", but 512.
    native = getattr(getattr(config, "_inicfg", {}).get(key), "value", None)
    if type(native) in (int, float) and key != "sandbox":
        return native
    try:
        value: object = config.getini(key)
    # pytest before 9.2 lets the converter's own error out.
    except (pytest.UsageError, TypeError, ValueError) as error:
        raise pytest.UsageError(f"ini key {key}: {error}") from error
    return value


def _refuse_unknown_keys(config: pytest.Config) -> None:
    """Raise UsageError for a misspelled `sandbox_...`: pytest itself only warns, and the run would be weaker than asked."""
    # No public name lists the keys of the file: `inicfg` is deprecated from pytest 9.1 and has no successor.
    keys = list(config._inicfg if hasattr(config, "_inicfg") else config.inicfg)
    # pytest before 9 keeps what `-o key=value` sets apart from the file's.
    keys += [override.partition("=")[0] for override in config.getoption("override_ini") or ()]
    known = ["sandbox"] + [option.key for option in OPTIONS if Where.INI in option.where]
    for key in keys:
        if key.replace("-", "_").startswith("sandbox_") and key not in known and not _is_registered(config, key):
            hint = elsewhere(key, Where.INI) or f"{closest(key, known)} (pytest --help lists all of them)"
            raise pytest.UsageError(f"ini key {key} is not known{hint}")


def _is_registered(config: pytest.Config, key: str) -> bool:
    """Whether some other plugin has a key of this name."""
    try:
        config.getini(key)
    except ValueError:
        return False
    except (pytest.UsageError, TypeError):
        return True
    return True


def _marked(marks: Sequence[pytest.Mark], directory: Path, base: Plan) -> Plan:
    given: dict[str, Any] = {}
    idle: list[str] = []
    # Farthest first: what comes later wins.
    for mark in reversed(marks):
        new = _arguments(mark, directory)
        # What a class says is not said for its test that says enabled=False; and the machine's network that one has anyway.
        said = [name for name, value in new.items() if name != "enabled" and value is not Network.HOST]
        idle = said if "enabled" in new else [*idle, *said]
        for name in new.keys() & {"writable", "hide"}:
            new[name] = _joined(given.get(name), new[name])
        if new.keys() & {"scope", "group"}:
            given.pop("scope", None)
            given.pop("group", None)
        given |= new
    made = _over(base, given)
    if idle and not given.get("enabled", True):
        raise SpecError(
            f"@pytest.mark.sandbox(enabled=False): {', '.join(idle)} would have no effect on a test without a sandbox: "
            "leave out one or the other"
        )
    if made.enabled and made.spec.network is Network.HOST and base.spec.network is not Network.HOST:
        raise SpecError(
            "@pytest.mark.sandbox(network='host'): the machine's own network is for a whole run only: "
            "use --sandbox-network=host or the ini key sandbox_network, or enabled=False on this test"
        )
    return made


def _arguments(mark: pytest.Mark, directory: Path) -> dict[str, Any]:
    """One marker's arguments, parsed."""
    if mark.args:
        raise SpecError(
            f"@pytest.mark.sandbox({', '.join(map(repr, mark.args))}): arguments must have names, such as memory='64M'"
        )
    given = {name: _argument(name, value, directory) for name, value in mark.kwargs.items()}
    if "scope" in given and "group" in given:
        raise SpecError(
            f"@pytest.mark.sandbox(scope={mark.kwargs['scope']!r}, group={given['group']!r}): "
            "a test shares its sandbox either with a scope or with a group: leave out one of them"
        )
    return given


def _argument(name: str, value: object, directory: Path) -> object:
    option = BY_NAME.get(name)
    if option is None:
        guess = closest(name, MARKER_NAMES)
        raise SpecError(f"@pytest.mark.sandbox has no argument {name!r}{guess} (there are {', '.join(MARKER_NAMES)})")
    if Where.MARKER not in option.where:
        ini = f" or the ini key {option.key}" if Where.INI in option.where else ""
        raise SpecError(f"@pytest.mark.sandbox({name}=...): {name} is for a whole run only: use {option.flag}{ini}")
    try:
        return _value(option, value, directory)
    except SpecError as error:
        raise SpecError(f"@pytest.mark.sandbox({name}={value!r}): {error}") from error


def _over(base: Plan, given: Mapping[str, Any]) -> Plan:
    """The plan with everything given put in the place of what `base` has; lists are joined."""
    limits = {name: value for name, value in given.items() if name in LIMIT_NAMES}
    spec = dataclasses.replace(
        base.spec,
        limits=dataclasses.replace(base.spec.limits, **limits),
        # A limit that was lifted needs nothing of the machine.
        asked=base.spec.asked.difference(limits).union(name for name, value in limits.items() if value is not None)
        | ({"scratch"} & given.keys()),
        writable=_joined(base.spec.writable, given.get("writable", ())),
        hide=_joined(base.spec.hide, given.get("hide", ())),
        **{name: given[name] for name in ("network", "scratch", "keep") if name in given},
    )
    scope, group = base.scope, base.group
    if "scope" in given or "group" in given:
        scope, group = given.get("scope", Scope.TEST), given.get("group")
    return Plan(given.get("enabled", True) and base.enabled, scope, group, spec)


def _value(option: Option, value: object, directory: Path) -> object:
    """A value as it was written at some level, parsed; paths absolute from `directory`."""
    if option.kind is Kind.LIST:
        parsed = [option.parse(part) for part in (value if isinstance(value, (list, tuple, set, frozenset)) else [value])]
        if option.name == "require":
            return frozenset().union(*(names for names in parsed if isinstance(names, frozenset)))
        return _joined((), tuple(_PATHS[option.name](str(path), directory) for path in parsed))
    parsed_value = option.parse(value)
    if option.name == "scratch" and isinstance(parsed_value, str):
        return paths.scratch(parsed_value, directory)
    return parsed_value


def _joined(first: Any, second: Any) -> Any:  # noqa: ANN401  # sets of names, or tuples of paths
    """Both, without duplicates, in order."""
    if first is None:
        return second
    return first | second if isinstance(second, frozenset) else tuple(dict.fromkeys((*first, *second)))
