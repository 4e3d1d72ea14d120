"""What the server does with the aggregate: add it, replace by it, or feed it to an optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedfm.core.context import Ctx
from fedfm.core.protocols import Aggregate, Bound, Server, State
from fedfm.core.registry import knob, method


@method(
    "apply",
    slot="server",
    section="IV.A",
    survey=(25,),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
    atlas=("fedavg",),
)
@dataclass(frozen=True)
class Apply(Server):
    """theta += lr * mean(delta), with momentum if asked (FedAvgM: m = beta m + delta); or theta = mean(weights)."""

    lr: float = knob(1.0, "server rate eta_s", low=0.0)
    momentum: float = knob(0.0, "beta of FedAvgM", low=0.0, high=1.0)
    takes: str = knob("delta", "what the clients send", choices=("delta", "weights"))

    counts = False

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        delta = agg.x if self.takes == "delta" else agg.x - state["w"]
        if self.takes == "weights" and self.lr == 1.0 and not self.momentum:
            return state | {"w": agg.x}
        if self.momentum:
            delta = self.momentum * state.get("m", torch.zeros_like(delta)) + delta
            state = state | {"m": delta}
        return state | {"w": state["w"] + self.lr * delta}


@method(
    "fedadam",
    slot="server",
    section="IV.A",
    survey=(13, 52),
    paper="Reddi et al., Adaptive Federated Optimization, 2021",
    atlas=("fedopt",),
    departs="No bias correction, as in the paper's algorithm.",
)
@dataclass(frozen=True)
class FedAdam(Server):
    """The server's Adam on the pseudo-gradient: m, v from mean(delta); theta += lr m / (sqrt(v) + tau)."""

    lr: float = knob(0.01, "server rate eta_s", low=0.0)
    beta1: float = knob(0.9, "decay of the first moment", low=0.0, high=1.0)
    beta2: float = knob(0.99, "decay of the second moment", low=0.0, high=1.0)
    tau: float = knob(1e-3, "degree of adaptivity, added to sqrt(v)", low=0.0)

    counts = False

    def init(self, bound: Bound, ctx: Ctx) -> State:
        zero = torch.zeros_like(bound.init)
        return {"w": bound.init.clone(), "m": zero, "v": zero.clone()}

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        m = self.beta1 * state["m"] + (1 - self.beta1) * agg.x
        v = self.beta2 * state["v"] + (1 - self.beta2) * agg.x.square()
        return {"w": state["w"] + self.lr * m / (v.sqrt() + self.tau), "m": m, "v": v}
