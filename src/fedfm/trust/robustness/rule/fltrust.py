"""FLTrust: the server trains on a few rows of its own, and trusts updates as far as they point the same way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, State
from fedfm.ledger.events import Event, Line


@dataclass(frozen=True)
class Trusted(Event):
    """The trust in each party's message, in the order of `clients`."""

    trust: list[float]
    clients: list[str]
    kind = "fltrust"
    server = True

    @classmethod
    def counted(cls, line: Line) -> Collection[str]:
        return [i for i, t in zip(line["clients"], line["trust"], strict=True) if t]


@method(
    "fltrust",
    slot="aggregate",
    section="V.A",
    survey=(92,),
    paper="Cao, Fang, Liu, Gong, FLTrust: Byzantine-robust federated learning via trust bootstrapping, NDSS 2021",
    departs="buffers (running statistics) are averaged with the same trust and neither measured nor rescaled",
    atlas=("fltrust",),
)
@dataclass(frozen=True)
class FLTrust(Aggregator):
    """sum_i t_i ||g|| u_i / ||u_i|| / sum_i t_i with t_i = max(0, cos(u_i, g)), g the server's own update.

    g is what the federation's own client makes of the server's rows (`data.server_rows`), from the same brief. No
    update counts for more than g is long, so any number of attackers is bounded; if nobody is trusted the result is
    g. Claimed weights are ignored. Notes the trust in each party, in plan order. The server's rows must resemble the
    parties': a root set of one task distrusts those who hold another.
    """

    form = "all"
    takes = ("delta",)
    rescales = True  # to the length of the server's own update
    needs = frozenset({"server rows"})

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        if not messages:
            raise RoundFailed("fltrust: no messages")
        assert ctx.layout is not None
        layout, guide = ctx.layout, ctx.house.learn().x
        g = layout.weights(guide).double()
        trust, total = [], torch.zeros_like(g)
        still = torch.zeros(layout.still.size, dtype=torch.float64) if layout.mixed else None
        for m in messages:
            u = layout.weights(m.x).double()
            length = float(u.norm() * g.norm())
            t = max(0.0, float(u @ g) / length) if length > 0 else 0.0
            trust.append(t)
            if t:
                total.add_(u, alpha=t * float(g.norm() / u.norm()))
            if still is not None:
                still.add_(layout.buffers(m.x).double(), alpha=t)
        ctx.note(Trusted(trust, [m.sender for m in messages]))
        whole = sum(trust)
        if not whole:
            return guide.float().clone(), state
        x = (total / whole).float()
        return (x if still is None else layout.whole(x, (still / whole).float())), state
