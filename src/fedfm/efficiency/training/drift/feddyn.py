"""FedDyn: a dynamic regulariser makes the parties' optima meet at the federation's. Client and server halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Bound, Client, Server, State
from fedfm.efficiency.training.local import Local, descend, outcome, weights
from fedfm.efficiency.training.servers import apart, together


@method(
    "feddyn",
    slot="client",
    section="IV.A",
    survey=(28, 29),
    paper="Acar et al., Federated learning based on dynamic regularization, ICLR 2021",
    departs="Local steps instead of an exact minimisation; parties count equally.",
)
@dataclass(frozen=True)
class FedDyn(Client):
    """Minimise F_i(w) - <h_i, w> + alpha/2 ||w - theta||^2; then h_i <- h_i - alpha (theta_i - theta).

    The gradient gains alpha (w - theta) - h_i. Where it settles h_i is the party's own gradient at the common optimum,
    which every party's objective then shares. Equal weights (mass 1).
    FedAvg's bytes; h_i stays with the party and is over weights alone. It suits parties that come back.
    """

    alpha: float = knob(0.1, "strength of the pull, the paper tunes it in 0.001 .. 0.1", above=0.0)
    local: Local = knob(factory=Local, doc="the local steps")

    remembers = True

    def __post_init__(self) -> None:
        _positive(self.alpha)

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"dynamic regularisation with alpha={self.alpha:g}"

    @property
    def makes(self) -> str:
        return self.local.makes

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def server_half(self) -> Server:
        return FedDynServer(self.alpha)

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        theta = weights(brief.x, bound)
        h = state.get("h", torch.zeros_like(theta))
        anchor, there = theta.to(bound.device), h.to(bound.device)

        def regularise(w: Tensor, g: Tensor) -> None:
            g.add_(w - anchor, alpha=self.alpha).sub_(there)

        done = descend(self.local, brief.x, data, ctx, bound, regularise, state=state)
        m = outcome(self.local, brief.x, data, bound, done)
        moved = weights(bound.params, bound).detach().cpu() - theta
        return Message(m.x, m.kind, 1.0, info=m.info), done.state | {"h": h - self.alpha * moved}


@method(
    "feddyn-server",
    slot="server",
    section="IV.A",
    survey=(28, 29),
    paper="Acar et al., Federated learning based on dynamic regularization, ICLR 2021",
)
@dataclass(frozen=True)
class FedDynServer(Server):
    """h <- h - alpha |S|/N mean(delta); theta <- theta + mean(delta) - h / alpha. Buffers become their mean."""

    alpha: float = knob(0.1, "the clients' alpha", above=0.0)

    sums_up = True

    def __post_init__(self) -> None:
        _positive(self.alpha)

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"dynamic regularisation with alpha={self.alpha:g}"

    def init(self, bound: Bound, ctx: Ctx) -> State:
        return {"w": bound.init.clone(), "h": torch.zeros(bound.layout.trained.size)}

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        (w, still), (delta, news) = apart(state["w"], ctx.layout), apart(agg.x, ctx.layout)
        h = state["h"] - self.alpha * agg.count / agg.population * delta
        return {"w": together(w + delta - h / self.alpha, still + news, ctx.layout), "h": h}


def _positive(alpha: float) -> None:
    if alpha <= 0:
        raise ValueError("alpha must be above 0: the server divides by it (alpha = 0 is client=local)")
