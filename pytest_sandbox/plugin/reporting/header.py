"""The header's lines: what a sandbox is in this run, and what of it this machine cannot do. Imports `options`, `host`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pytest_sandbox.model.capability import Capability
from pytest_sandbox.model.spec import Spec
from pytest_sandbox.model.units import format_seconds, format_size
from pytest_sandbox.plugin.planning.options import BY_NAME
from pytest_sandbox.sandbox.machine import host


def header(spec: Spec, known: Mapping[str, Capability]) -> list[str]:
    """One line of what a sandbox is here, and one for each thing that this machine cannot do."""
    missing = host.unenforced(spec, known)
    names = {capability.name for capability in missing}
    limits = [
        f"{name} {shown_limit(name, value)}"
        for name, value in dataclasses.asdict(spec.limits).items()
        if value is not None and name not in names
    ]
    lines = [f"sandbox: {', '.join([f'network {spec.network.value}', *limits])}"]
    lines.extend(not_enforced(missing, spec.asked))
    attributes = known.get("xattr")
    if attributes is not None and not attributes.available:
        lines.append(_where_layers_are(spec, attributes))
    return lines


def not_enforced(missing: Sequence[Capability], asked: Collection[str]) -> Iterator[str]:
    """Each reason once, with its limits; what stands in parentheses, such as which cgroup it is, the doctor says."""
    limits: dict[str, list[str]] = {}
    for one in missing:
        reason, _, _ = one.reason.partition(" (")
        words = " (asked for, but --sandbox-degrade)" if one.name in asked else ""
        limits.setdefault(reason, []).append(f"{one.name}{words}")
    for reason, names in limits.items():
        yield f"sandbox: NOT ENFORCED: {', '.join(names)}: {reason}"


def _where_layers_are(spec: Spec, attributes: Capability) -> str:
    """The header's line on a kernel whose tmpfs has no user attributes."""
    if spec.scratch is None:
        return f"sandbox: NOT COMPLETE: {attributes.reason}. Fix: {attributes.fix}"
    line = f"sandbox: NOT COMPLETE: tests write to {spec.scratch}, wider fixtures to a tmpfs: {attributes.reason}"
    return line if "scratch" in spec.asked else f"{line}. --sandbox-scratch=none keeps tests on the tmpfs, with limits of disk"


def shown_limit(name: str, value: Any) -> str:  # noqa: ANN401  # a number, or a list of CPUs
    """A limit's value as it is told: also in the sentence on an ending by it."""
    form = BY_NAME[name].metavar
    if form == "SIZE":
        return format_size(value)
    return format_seconds(value) if form == "SECONDS" else f"{value:g}" if isinstance(value, float) else str(value)
