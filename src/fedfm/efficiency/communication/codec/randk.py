"""Random-k sparsification with a mask that the cohort shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.efficiency.communication.codec.topk import kept
from fedfm.vectors.layout import Layout


@method(
    "randk",
    slot="wire",
    section="IV.C",
    survey=(213,),
    paper="Konecny et al., Federated learning: strategies for improving communication efficiency, 2016",
    departs="one mask a round for the whole cohort, so payloads can be summed",
    atlas=("sparsify",),
    also=("random-k", "rand-k"),
)
@dataclass(frozen=True)
class RandK(Wire):
    """k coordinates drawn anew each round from a seed that all share: no index travels (random mask of a sketch).

    decode puts the values back, times d/k when `unbiased`: then E C(x) = x and E||C(x) - x||^2 = (d/k - 1) ||x||^2.
    Under `error-feedback` set unbiased=False: a scaled mask is no contraction. decode commutes with the sum, so this
    stage may stand before secure aggregation. fraction=1 is the identity; k is rounded up and counts weights, not the
    padding between tensors. Bytes of an fp32 vector: 4k.
    """

    fraction: float = knob(0.1, "share of the coordinates that travel, at least one", above=0.0, high=1.0)
    unbiased: bool = knob(True, "scale by d/k on arrival")  # type: ignore[misc]

    linear = True
    separate = True

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(kept(self.fraction, None, layout.numbers))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = length.real(finite(x, "randk"), ctx)
        return u[self._mask(u.numel(), ctx)], length.tell(x.numel(), ctx), state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        n = length.told(side, ctx, x.nbytes)
        d = length.count(n, ctx)
        if x.numel() != (k := kept(self.fraction, None, d)):
            raise MessageRefused(f"randk: {x.numel()} values came where {k} of {d} were agreed")
        out = torch.zeros(d)
        out[self._mask(d, ctx)] = x.float() * (d / k if self.unbiased and d else 1.0)
        return length.spread(out, n, ctx), state

    def _mask(self, d: int, ctx: Ctx) -> Tensor:
        k = kept(self.fraction, None, d)
        return torch.randperm(d, generator=ctx.shared("randk"))[:k].sort().values
