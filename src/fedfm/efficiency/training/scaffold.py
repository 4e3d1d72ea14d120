"""SCAFFOLD: control variates correct the drift of local steps. Client and server halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Bound, Client, Server, State
from fedfm.efficiency.training.local import Local, descend, outcome, plain_sgd, weights
from fedfm.efficiency.training.schedule import Constant, Schedule
from fedfm.efficiency.training.servers import apart, together
from fedfm.vectors.layout import Layout


@method(
    "scaffold",
    slot="client",
    section="IV.A",
    survey=(29,),
    paper="Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, 2020",
    departs="Option II only; the local optimiser must be plain SGD.",
    atlas=("scaffold",),
)
@dataclass(frozen=True)
class Scaffold(Client):
    """y <- y - lr (g_i(y) - c_i + c); then c_i+ = c_i - c + (theta - y) / (K lr). Gives {delta, dc}: twice FedAvg's bytes.

    Needs `server=scaffold-server`, which sends {w, c}. Equal client weights (mass 1). Control variates are of weights
    alone; K lr is the sum of the steps' rates, whatever their schedule.
    """

    local: Local = knob(factory=Local, doc="the local steps, with sgd and no momentum")

    dialect = "control variates"
    remembers = True
    units = ("delta", "dc")

    def __post_init__(self) -> None:
        plain_sgd(self.local, "SCAFFOLD")

    @property
    def makes(self) -> str:
        return self.local.makes

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def server_half(self) -> Server:
        return ScaffoldServer()

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def gives(self, layout: Layout) -> Layout:
        return Layout.join(delta=layout, dc=layout.trained)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        d = bound.layout.size
        theta, c = brief.x[:d], brief.x[d:]
        ci = state.get("c", torch.zeros_like(c))
        drift = (c - ci).to(bound.device)

        def control(w: Tensor, g: Tensor) -> None:
            g.add_(drift)

        done = descend(self.local, theta, data, ctx, bound, control, state=state)
        m = outcome(self.local, theta, data, bound, done)
        new = ci - c - weights(m.x, bound) / done.rates if done.rates else ci
        return Message(torch.cat([m.x, new - ci]), "delta", 1.0, info=m.info), done.state | {"c": new}


@method(
    "scaffold-server",
    slot="server",
    section="IV.A",
    survey=(29,),
    paper="Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, 2020",
    atlas=("scaffold",),
)
@dataclass(frozen=True)
class ScaffoldServer(Server):
    """theta += lr mean(delta); c += |S|/N mean(dc), with S those who contributed and N all parties.

    Buffers become their mean, whatever the rate.
    """

    lr: float = knob(1.0, "server rate eta_s", low=0.0)
    schedule: Schedule = knob(factory=Constant, doc="how the rate changes over the run")

    dialect = "control variates"
    sums_up = True

    def gives(self, layout: Layout) -> Layout:
        return Layout.join(w=layout, c=layout.trained)

    def init(self, bound: Bound, ctx: Ctx) -> State:
        return {"w": bound.init.clone(), "c": torch.zeros(bound.layout.trained.size)}

    def brief(self, state: State, terms: Terms) -> Message:
        return Message(torch.cat([state["w"], state["c"]]), "weights")

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        d, rate = state["w"].numel(), self.schedule.rate(self.lr, ctx)
        layout = ctx.layout.sub("delta/*")[0] if ctx.layout is not None else None  # the model's own
        (w, still), (delta, news) = apart(state["w"], layout), apart(agg.x[:d], layout)
        return {
            "w": together(w + rate * delta, still + news, layout),
            "c": state["c"] + agg.count / agg.population * agg.x[d:],
        }
