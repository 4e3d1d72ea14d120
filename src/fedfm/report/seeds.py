"""Runs that differ in nothing but their seed, as one result: mean and spread."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from fedfm.report import matching, outline
from fedfm.report.numbers import fixed
from fedfm.report.rundir import Run

SEEDS = ("seed",)  # keys of a config, and of its slots, that only choose the randomness


@dataclass(frozen=True)
class Group:
    """Runs of one config on several seeds; `label` names what sets the group apart from the others."""

    label: str
    runs: tuple[Run, ...]

    def values(self, of: Callable[[Run], float | None]) -> list[float]:
        """What is known of a figure, run by run."""
        return [v for run in self.runs if (v := of(run)) is not None]

    def curve(self) -> tuple[list[float], list[float], list[tuple[float, float]]]:
        """Rounds that all runs scored, the mean of their metric, and its lowest and highest."""
        seen: dict[float, list[float]] = {}
        for run in self.runs:
            for x, y in zip(*outline.series(run, "metrics", outline.metric_name(run)), strict=True):
                if y is not None:
                    seen.setdefault(x, []).append(y)
        xs = sorted(x for x, ys in seen.items() if len(ys) == len(self.runs))
        return xs, [fmean(seen[x]) for x in xs], [(min(seen[x]), max(seen[x])) for x in xs]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs by config without its seeds, in order of appearance; a run without a config stands alone."""
    found: dict[str, list[Run]] = {}
    plain: dict[str, dict[str, Any]] = {}
    for i, run in enumerate(runs):
        leaves = _leaves(matching.parsed(run.config))
        key = json.dumps(leaves, sort_keys=True, default=str) if leaves else f"run {i}"
        found.setdefault(key, []).append(run)
        plain[key] = leaves
    return [Group(_label(key, of, plain), tuple(of)) for key, of in found.items()]


def averaged(values: Iterable[float]) -> tuple[float | None, float | None]:
    """Mean and sample deviation; None where there are too few values for one."""
    known = list(values)
    return fmean(known) if known else None, stdev(known) if len(known) > 1 else None


def shown(mean: float | None, deviation: float | None, digits: int, sign: bool = False) -> str:
    """A mean with its deviation; without one it stands alone."""
    if mean is None:
        return "–"
    said = fixed(mean, digits, sign)
    return said if deviation is None else f"{said} ± {fixed(deviation, digits)}"


def spread(values: Iterable[float], digits: int, sign: bool = False) -> str:
    """Mean and standard deviation over seeds; one value stands alone."""
    return shown(*averaged(values), digits, sign)


def reach(values: Iterable[float], show: Callable[[float], str]) -> str:
    """Lowest and highest; nothing when they are printed alike."""
    known = list(values)
    ends = [show(min(known)), show(max(known))] if known else ["", ""]
    return f"{ends[0]} to {ends[1]}" if ends[0] != ends[1] else ""


def _label(key: str, of: Sequence[Run], plain: dict[str, dict[str, Any]]) -> str:
    """The settings in which this group differs from another one, else the recipe."""
    own, name = plain[key], outline.recipe(of[0])
    others = [leaves for k, leaves in plain.items() if k != key]
    apart = [k for k in own if any(other.get(k) != own[k] for other in others) and k != "recipe"]
    told = ", ".join(f"{k}={own[k]}" for k in apart[:4])
    if not own or not others:
        return of[0].label if len(of) == 1 else name
    return f"{name} {told}" if told and len({outline.recipe(r) for r in of}) == 1 else told or name


def _leaves(node: Any, path: str = "") -> dict[str, Any]:
    """A config as dotted paths, without the seeds."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        return {path: node}
    found: dict[str, Any] = {}
    for k, v in items:
        if k not in SEEDS:
            found |= _leaves(v, f"{path}.{k}" if path else str(k))
    return found
