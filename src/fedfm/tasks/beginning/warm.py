"""A warm start: what a stage leaves behind, and where the next one, which may train other tensors, begins from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.core.errors import ModelError
from fedfm.core.protocols import Bound


@dataclass(frozen=True)
class Trail:
    """What a stage has trained. `moved`: by how much each parameter of the base network has moved, by its name there
    (fp32, its shape); `values`: every other trained tensor, by its name in the module; `base`: digest of the network."""

    values: Mapping[str, Tensor]
    moved: Mapping[str, Tensor]
    base: str = ""


def trail(bound: Bound, model: Tensor) -> Trail:
    """What the stage that trained `bound` up to `model` (layout.size,) leaves. Raises ModelError."""
    end, start = bound.layout.views(model), bound.layout.views(bound.init)
    if (tuned := bound.objective.tuned(bound.module)) is None:
        return Trail({n: t.clone() for n, t in end.items()}, {})
    tuning, network, prefix = tuned
    values = {n: t.clone() for n, t in end.items() if not n.startswith(prefix)}
    moved = tuning.moved(network, _inside(start, prefix), _inside(end, prefix))
    return Trail(values, moved, bound.objective.base.weights)


def begin(bound: Bound, before: Trail) -> tuple[Tensor, float]:
    """The vector from which `bound` goes on from `before`, and the share of the movement's energy that it keeps.

    The share is 1 - ||U - U'||^2 / ||U||^2, with U' what the new tuning can say of the movement U of the base. Raises
    ModelError where something trained has no counterpart.
    """
    views = bound.layout.views(bound.init)
    tuned = bound.objective.tuned(bound.module)
    tuning, network, prefix = tuned if tuned is not None else (None, None, "\0")
    own = {n: t for n, t in views.items() if not n.startswith(prefix)}
    if before.base != (bound.objective.base.weights if tuning is not None else ""):
        raise ModelError(
            "the stages tune other base models\n    why: by how much one has moved says nothing of the other\n"
            "    fix: the same task.model in all stages, of the first: stages.0.task.model=MODEL"
        )
    if odd := [n for n in {*own, *before.values} if _shape(own, n) != _shape(before.values, n)]:
        raise ModelError(
            f"the stages train other tensors: {', '.join(sorted(odd)[:3])}\n    why: what the stage before has "
            "learned there has no place in the next one, or nothing to begin from\n    fix: one task for all stages, "
            "with other tunings"
        )
    if tuning is None:
        return bound.layout.pack(before.values), 1.0
    start = _inside(views, prefix)
    found = {**start, **tuning.begin(network, start, before.moved)}
    said = tuning.moved(network, start, found)
    lost = _energy(
        {n: _of(before.moved, said, n) - _of(said, before.moved, n) for n in {*said, *before.moved}}
    )
    total = _energy(before.moved)
    x = bound.layout.pack({**before.values, **{prefix + n: t for n, t in found.items()}})
    return x, 1.0 - lost / total if total else 1.0


def _inside(views: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in views.items() if n.startswith(prefix)}


def _shape(tensors: Mapping[str, Tensor], name: str) -> Any:
    return tensors[name].shape if name in tensors else None


def _of(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], name: str) -> Tensor:
    return tensors[name].double() if name in tensors else torch.zeros_like(like[name]).double()


def _energy(tensors: Mapping[str, Tensor]) -> float:
    return math.fsum(float(t.double().square().sum()) for t in tensors.values())
