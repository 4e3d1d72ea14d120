"""MimeLite: local steps with the server's momentum, so that a party moves as the federation would. Both halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Bound, Client, Server, State
from fedfm.efficiency.training.local import Local, descend, loss_and_gradient, outcome, plain_sgd, weights
from fedfm.efficiency.training.schedule import Constant, Schedule
from fedfm.efficiency.training.servers import apart, together
from fedfm.vectors.layout import Layout


@method(
    "mimelite",
    slot="client",
    section="IV.A",
    survey=(29,),
    paper="Karimireddy et al., Breaking the centralized barrier for cross-device federated learning (MIME), NeurIPS 2021",
    departs="SGD with momentum as the base optimiser; the full local gradient is taken in batches.",
)
@dataclass(frozen=True)
class MimeLite(Client):
    """y <- y - lr ((1 - beta) g_i(y) + beta s), s the server's momentum, kept still for the round.

    Gives {delta, gradient}: the mean gradient of all local examples at theta, of which the server makes its momentum:
    twice FedAvg's bytes and one pass over the data more. Nothing is
    kept at the parties, so it suits those that come once.
    """

    beta: float = knob(0.9, "share of the server's momentum in a step", low=0.0, below=1.0)
    local: Local = knob(factory=Local, doc="the local steps, with sgd and no momentum")

    def __post_init__(self) -> None:
        plain_sgd(self.local, "MimeLite")
        _below_one(self.beta)

    units = ("delta", "gradient")

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"server momentum with beta={self.beta:g}"

    @property
    def makes(self) -> str:
        return self.local.makes

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def server_half(self) -> Server:
        return MimeLiteServer(beta=self.beta)

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def gives(self, layout: Layout) -> Layout:
        return Layout.join(delta=layout, gradient=layout.trained)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        d = bound.layout.size
        theta, momentum = brief.x[:d], brief.x[d:].to(bound.device)
        full = self._gradient(theta, data, bound)

        def mimic(w: Tensor, g: Tensor) -> None:
            g.mul_(1 - self.beta).add_(momentum, alpha=self.beta)

        done = descend(self.local, theta, data, ctx, bound, mimic, state=state)
        m = outcome(self.local, theta, data, bound, done)
        return Message(torch.cat([m.x, full]), m.kind, m.mass, info=m.info), done.state

    def _gradient(self, theta: Tensor, data: Any, bound: Bound) -> Tensor:
        """The mean over all local examples at theta; statistics that this pass moved are loaded anew by the next."""
        bound.load(theta)
        bound.module.train()
        plain, n = loss_and_gradient(self.local, data, bound), len(data)
        total = torch.zeros_like(weights(bound.grads, bound))
        for index in torch.arange(n).split(self.local.batch or max(1, n)) if n else ():  # type: ignore[no-untyped-call]
            plain(index)
            total.add_(weights(bound.grads, bound), alpha=len(index) / n)
        return total.cpu()


@method(
    "mimelite-server",
    slot="server",
    section="IV.A",
    survey=(29,),
    paper="Karimireddy et al., Breaking the centralized barrier for cross-device federated learning (MIME), NeurIPS 2021",
)
@dataclass(frozen=True)
class MimeLiteServer(Server):
    """theta += lr mean(delta); s <- (1 - beta) mean(gradient) + beta s. Buffers become their mean."""

    lr: float = knob(1.0, "server rate", low=0.0)
    beta: float = knob(0.9, "decay of the momentum, the clients' beta", low=0.0, below=1.0)
    schedule: Schedule = knob(factory=Constant, doc="how the rate changes over the run")

    counts = False

    def __post_init__(self) -> None:
        _below_one(self.beta)

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"server momentum with beta={self.beta:g}"

    def gives(self, layout: Layout) -> Layout:
        return Layout.join(w=layout, momentum=layout.trained)

    def init(self, bound: Bound, ctx: Ctx) -> State:
        return {"w": bound.init.clone(), "s": torch.zeros(bound.layout.trained.size)}

    def brief(self, state: State, terms: Terms) -> Message:
        return Message(torch.cat([state["w"], state["s"]]), "weights")

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        d, rate = state["w"].numel(), self.schedule.rate(self.lr, ctx)
        layout = ctx.layout.sub("delta/*")[0] if ctx.layout is not None else None  # the model's own
        (w, still), (delta, news) = apart(state["w"], layout), apart(agg.x[:d], layout)
        return {
            "w": together(w + rate * delta, still + news, layout),
            "s": (1 - self.beta) * agg.x[d:] + self.beta * state["s"],
        }


def _below_one(beta: float) -> None:
    if beta >= 1:
        raise ValueError("beta must be below 1: at 1 no step follows a gradient")
