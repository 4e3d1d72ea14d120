"""The geometric median, also called RFA (robust federated aggregation)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, State
from fedfm.trust.robustness.rule.krum import CHUNK, distances

NEAR, FAR = 1e-6, 1e3  # of the typical distance: what stands on a message; what pulls by its direction alone
SETTLED = 1e-9  # the largest change of a share at which the iteration ends


@method(
    "geometric-median",
    slot="aggregate",
    section="V.A",
    paper="Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, IEEE Transactions on Signal Processing 2022",
    departs="Smoothing relative to the distances, and Weiszfeld's steps on the n weights instead of the model's coordinates",
    also=("rfa",),
)
@dataclass(frozen=True)
class GeometricMedian(Aggregator):
    """The point y with the least sum of distances, min_y sum_i a_i ||y - u_i||, by Weiszfeld's steps.

    y = sum_i l_i u_i is always a convex combination, l_i proportional to a_i / ||y - u_i||, begun at the mean; the steps
    are taken on the n shares, so one costs n^2 whatever the model's size. While less than half of the weight is
    malicious, y stays within a bounded distance of the honest messages; unlike the coordinate-wise median it turns with
    the coordinates. A message a thousand typical distances away counts as one there in its direction. Weights are equal
    by default, for an attacker would claim much. Running statistics are coordinates like all others.
    """

    weights: str = knob("equal", "weight a_i of a message", choices=("equal", "examples"))
    steps: int = knob(100, "Weiszfeld's steps at most", low=1)

    form = "all"

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        if not messages:
            raise RoundFailed("geometric-median: no messages")
        rows = [m.x for m in messages]
        given = torch.tensor(
            [m.mass if self.weights == "examples" else 1.0 for m in messages], dtype=torch.float64
        )
        if float(given.sum()) <= 0:
            raise RoundFailed("geometric-median: all weights are 0")
        nearest, scale = _tamed(distances(rows).sqrt_(), given)
        first, gram = rows[nearest], torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for v in _apart(rows, first, scale):
            gram += v @ v.T
        share = centre(gram, given / given.sum(), self.steps)
        out = [
            u.double() + share @ v
            for u, v in zip(torch.split(first, CHUNK), _apart(rows, first, scale), strict=True)
        ]
        return torch.cat(out).float(), state


def centre(gram: Tensor, a: Tensor, steps: int) -> Tensor:
    """The shares (n,) of points in their geometric median, from their Gram matrix (n, n) and weights a (n,) of sum 1."""
    square = gram.diagonal()
    squared = (square[:, None] + square[None, :] - 2 * gram).clamp_(min=0)
    if not bool((apart := squared[squared > 0]).numel()):
        return a
    share, near = a, NEAR * float(apart.sqrt().median())
    for _ in range(steps):
        far = squared @ share  # for shares that sum to 1, ||y - u_i||^2 = (D l)_i - l^T D l / 2
        new = a / (far - share @ far / 2).clamp_(min=0).sqrt_().clamp_(min=near)
        new /= new.sum()
        if float((new - share).abs().max()) <= SETTLED:
            return new
        share = new
    return share


def _tamed(distance: Tensor, a: Tensor) -> tuple[int, Tensor]:
    """The message with the least sum of distances, and by what to scale the others' distance from it, (n,).

    Whoever is a thousand typical distances away pulls in the same direction from there as from anywhere beyond; as it
    stands, its square would leave no digit of the others.
    """
    nearest = int((distance @ a).argmin())
    r = distance[nearest]
    return nearest, torch.where(r > 0, FAR * r.median() / r.clamp(min=1e-300), 1.0).clamp_(max=1.0)


def _apart(rows: Sequence[Tensor], first: Tensor, scale: Tensor) -> Iterator[Tensor]:
    """The messages as seen from the first one, scaled: (n, at most CHUNK) in fp64, piece by piece."""
    for at in range(0, first.numel(), CHUNK):
        here = torch.stack([r[at : at + CHUNK] for r in rows]).double()
        yield (here - first[at : at + CHUNK].double()) * scale[:, None]
