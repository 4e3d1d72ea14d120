"""Uniform stochastic quantisation between the least and the greatest value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import bits, length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.vectors.layout import Layout


@method(
    "quantise",
    slot="wire",
    section="IV.C",
    survey=(30,),
    paper="Konecny et al., Federated learning: strategies for improving communication efficiency, 2016",
    also=("quantize", "quantization", "int8", "uint8"),
)
@dataclass(frozen=True)
class Quantise(Wire):
    """2^b evenly spaced points from min(x) to max(x); each value goes to a neighbour at random so that E Q = x.

    The range is that of the weights; the zeros of the padding between tensors are not among them. One bit is the
    binary rule: max with probability (x - min)/(max - min), else min. |Q_i - x_i| is at most
    (max - min)/(2^b - 1). Bytes: 8 + ceil(d b / 8).
    """

    bits: int = knob(8, "bits a value", low=1, high=16)

    makes = "codes"
    unbiased = True

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(bits.length(layout.numbers, self.bits))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = length.real(finite(x, "quantise"), ctx).float()
        low, high = u.aminmax() if u.numel() else (torch.zeros(()), torch.zeros(()))
        span, top = high - low, 2**self.bits - 1
        if not bool(span.isfinite()):
            raise ClientFailed("quantise: the range of the update is beyond fp32; lower the learning rate")
        level = (u - low) / (span if span > 0 else torch.ones(())) * top
        lower = level.floor()
        up = torch.rand(u.shape, generator=ctx.rng("quantise")) < level.sub_(lower)
        q = lower.add_(up).clamp_(0, top)
        side = {"range": torch.stack([low, high]), **length.tell(x.numel(), ctx)}
        return bits.pack(q.to(torch.int32), self.bits), side, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        ends = length.one(side, "range", "quantise").float()
        if ends.shape != (2,) or not bool((ends[1] >= ends[0]) & (ends[1] - ends[0]).isfinite()):
            raise MessageRefused(f"quantise: a range has two ends in order, {ends.tolist()[:3]} came")
        low, high = ends
        n = length.told(side, ctx, x.nbytes)
        q = bits.unpack(x, length.count(n, ctx), self.bits).float()
        return length.spread(q * ((high - low) / (2**self.bits - 1)) + low, n, ctx), state
