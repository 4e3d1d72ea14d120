"""Structured random rotation: what one coordinate held is spread over all of them before a coarse code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.vectors.layout import Layout


@method(
    "rotation",
    slot="wire",
    section="IV.C",
    survey=(30,),
    paper="Konecny et al., Federated learning: strategies for improving communication efficiency, 2016; "
    "Suresh et al., Distributed mean estimation with limited communication, ICML 2017",
)
@dataclass(frozen=True)
class Rotation(Wire):
    """y = H D x / sqrt(n): D random signs that the cohort shares in a round, H Walsh-Hadamard, n the next power of two.

    Norms are kept and decode inverts to rounding, so it loses nothing by itself; values come close to a Gaussian, and
    a quantiser behind it (`[rotation, {name: quantise, bits: 1}]`) errs by its range sqrt(2 log d / d) instead of by the
    largest value. Linear: it may stand before secure aggregation. Up to twice as many values go to the next stage.
    """

    linear = True
    unbiased = True

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(_power(layout.numbers))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = length.real(finite(x, "rotation"), ctx).float()
        wide = torch.nn.functional.pad(u, (0, _power(u.numel()) - u.numel()))
        return hadamard(wide * _signs(wide.numel(), ctx)), length.tell(x.numel(), ctx), state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        n = length.told(side, ctx, x.nbytes)
        d = length.count(n, ctx)
        if x.numel() != _power(d):
            raise MessageRefused(f"rotation: {x.numel()} values came where {_power(d)} were agreed")
        return length.spread((hadamard(x.float()) * _signs(x.numel(), ctx))[:d], n, ctx), state


def hadamard(x: Tensor) -> Tensor:
    """The Walsh-Hadamard transform of 2^k values over sqrt(2^k): its own inverse, in k 2^k additions."""
    n, half = x.numel(), 1
    y = x.clone()
    while half < n:
        pairs = y.view(-1, 2, half)
        y = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        half *= 2
    return y / n**0.5 if n else y


def _power(d: int) -> int:
    """The least power of two that is not below d; 0 of 0."""
    return 1 << (d - 1).bit_length() if d else 0


def _signs(n: int, ctx: Ctx) -> Tensor:
    return torch.randint(0, 2, (n,), generator=ctx.shared("rotation")).float().mul_(2).sub_(1)
