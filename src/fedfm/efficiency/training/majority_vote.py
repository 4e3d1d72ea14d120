"""signSGD with majority vote: every party has one vote a coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Lift, State
from fedfm.vectors.layout import Layout


@method(
    "majority-vote",
    slot="aggregate",
    section="IV.A",
    survey=(242,),
    paper="Bernstein et al., signSGD with majority vote is communication efficient and fault tolerant, ICLR 2019",
)
@dataclass(frozen=True)
class MajorityVote(Aggregator):
    """The sign of sum_i sign(x_i): +1, -1, or 0 where the votes are even.

    The length of a step is the server's rate alone (`server.lr`, to be lowered towards the end by a schedule). Sizes and
    weights are ignored: an arbitrary message moves each count by one vote, so fewer than half of the parties, each
    against all others, turn nothing that the rest agrees on. Sums of signs may run under masks. Buffers (running
    statistics) do not vote: they become their mean, each party counting 1. Not with sub-models.
    """

    form = "sum"
    shares = True
    takes = ("delta",)
    rescales = True
    alpha_max = 1.0
    divisor = "public"

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        return Lift(_apart(m.x.float(), 1.0, ctx.layout), 1.0, 1.0)

    def share(self, m: Message, ctx: Ctx) -> Lift:
        return self.lift(m, ctx)

    def finish(
        self, x: Tensor, mass: float | Tensor, count: int, state: State, ctx: Ctx
    ) -> tuple[Tensor, State]:
        return _apart(x, max(float(torch.as_tensor(mass).max()), 1.0), ctx.layout), state


def _apart(x: Tensor, count: float, layout: Layout | None) -> Tensor:
    """The signs of the weights, and the mean of the buffers."""
    if layout is None or not layout.mixed:
        return x.sign()
    return layout.whole(layout.weights(x).sign(), layout.buffers(x) / count)
