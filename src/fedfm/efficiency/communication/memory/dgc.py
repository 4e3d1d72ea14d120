"""Deep gradient compression: momentum for what waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.efficiency.communication.codec.topk import TopK, kept, largest, packed


@method(
    "dgc",
    slot="wire",
    section="IV.C",
    survey=(242,),
    paper="Lin et al., Deep gradient compression: reducing the communication bandwidth for distributed training, "
    "ICLR 2018",
    departs="The update of a round takes the gradient's place; exact top-k instead of a sampled threshold; "
    "a warm-up in rounds, not epochs.",
    atlas=("sparsify",),
)
@dataclass(frozen=True)
class DGC(Wire):
    """u <- m u + x; v <- v + u; the k largest of v travel; where they did, u and v begin again at 0.

    m = 0 is top-k under error feedback. What waits gathers momentum as it would have at the server, so a server's own
    momentum beside it counts twice: set it to 0. In a warm-up of w rounds the share goes down geometrically from 1/4,
    1/4^(j+1) in round j, to `fraction`. Both vectors stay with the party and move when the server accepted the message.
    Neither before secure aggregation nor with sub-models whose size changes. Bytes: those of top-k.
    """

    fraction: float = knob(0.01, "share of the entries that travel, at least one", above=0.0, high=1.0)
    momentum: float = knob(0.9, "m of what waits", low=0.0, below=1.0)
    warmup: int = knob(0, "rounds in which more travels: 1/4, 1/16, ... until the fraction is reached", low=0)

    remembers = True

    def __post_init__(self) -> None:
        if self.momentum >= 1:
            raise ValueError("momentum must be below 1: at 1 what waits grows without bound")

    def _share(self, ctx: Ctx) -> float:
        t = ctx.round - ctx.since
        return max(self.fraction, 0.25 ** (t + 1)) if t < self.warmup else self.fraction

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        fresh = length.real(finite(x, "dgc"), ctx).float()
        if "v" in state and state["v"].shape != fresh.shape:
            raise ClientFailed(
                f"dgc: {state['v'].numel()} values wait and the update has {fresh.numel()}; updates must keep one "
                "size, so do not vary the sub-model between rounds"
            )
        u = self.momentum * state.get("u", torch.zeros_like(fresh)) + fresh
        v = state.get("v", torch.zeros_like(fresh)) + u
        d = v.numel()
        index = largest(v, kept(self._share(ctx), None, d))
        payload = v[index]
        u[index], v[index] = 0.0, 0.0
        side = {"index": packed(index, d), **length.tell(x.numel(), ctx)}
        return payload, side, {"u": u, "v": v}

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return TopK(self._share(ctx)).decode(x, side, state, ctx)
