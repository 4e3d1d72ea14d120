"""FedNova: normalised averaging of parties that take unequal numbers of steps. Client and server halves."""

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
from fedfm.efficiency.training.schedule import Constant, Schedule
from fedfm.efficiency.training.servers import apart, together
from fedfm.vectors.layout import Layout


@method(
    "fednova",
    slot="client",
    section="IV.A",
    survey=(28, 29),
    paper="Wang et al., Tackling the objective inconsistency problem in heterogeneous federated optimization, 2020",
)
@dataclass(frozen=True)
class FedNova(Client):
    """Gives {delta / tau, tau}: the update a step, and how many steps of the plain rate it stands for.

    tau = ||a||_1 with a_k the share of gradient k in delta: K for SGD, sum_k (1 - rho^(K - k))/(1 - rho) with momentum
    rho. Plain FedAvg of parties with K_i steps minimises sum p_i K_i F_i instead of
    sum p_i F_i; with equal K it is FedAvg. SGD only, with or without momentum (Adam's step is no sum of gradients).
    A lossy code must leave tau alone: `by-path` with `{"tau/*": null, "*": ...}`. One value more than FedAvg's bytes.
    """

    local: Local = knob(factory=lambda: Local(epochs=1.0), doc="the local steps: sgd, usually in epochs")

    dialect = "normalised updates"
    exact = ("tau/steps",)

    def __post_init__(self) -> None:
        if self.local.optimizer != "sgd" or self.local.keep_optimizer:
            raise ValueError("FedNova needs fresh sgd, whose update is a sum of gradients: set optimizer=sgd")

    @property
    def makes(self) -> str:
        return self.local.makes

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def server_half(self) -> Server:
        return FedNovaServer()

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def gives(self, layout: Layout) -> Layout:
        return Layout.join(delta=layout, tau=Layout.of({"steps": (1,)}))

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        done = descend(self.local, brief.x, data, ctx, bound, state=state)
        m, rho = outcome(self.local, brief.x, data, bound, done), self.local.momentum
        tau = sum((1 - rho ** (done.steps - k)) / (1 - rho) for k in range(done.steps))
        if tau:
            weights(m.x, bound).div_(tau)
        behind = torch.zeros(Layout.of({"steps": (1,)}).size)
        behind[0] = tau
        return Message(torch.cat([m.x, behind]), m.kind, m.mass, info=m.info), done.state


@method(
    "fednova-server",
    slot="server",
    section="IV.A",
    survey=(28, 29),
    paper="Wang et al., Tackling the objective inconsistency problem in heterogeneous federated optimization, 2020",
)
@dataclass(frozen=True)
class FedNovaServer(Server):
    """theta += lr tau_eff mean(delta / tau), with tau_eff = mean(tau), both by the aggregate's weights.

    Buffers become their mean, whatever the rate.
    """

    lr: float = knob(1.0, "server rate", low=0.0)
    schedule: Schedule = knob(factory=Constant, doc="how the rate changes over the run")

    counts = False

    dialect = "normalised updates"

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        d = state["w"].numel()
        layout = ctx.layout.sub("delta/*")[0] if ctx.layout is not None else None  # the model's own
        (w, still), (a_step, news) = apart(state["w"], layout), apart(agg.x[:d], layout)
        taken: Tensor = self.schedule.rate(self.lr, ctx) * agg.x[d]
        return state | {"w": together(w + taken * a_step, still + news, layout)}
