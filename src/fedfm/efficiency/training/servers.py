"""What the server does with the aggregate: add it, or replace by it; weights are stepped, buffers become their mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import MethodFault
from fedfm.core.protocols import Aggregate, Server, State
from fedfm.efficiency.training.schedule import Constant, Schedule
from fedfm.vectors.layout import Layout


@method(
    "apply",
    slot="server",
    section="IV.A",
    survey=(25,),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017; "
    "with momentum Hsu et al., Measuring the effects of non-identical data distribution, 2019 (FedAvgM)",
    atlas=("fedavg", "fedopt"),
    also=("fedavg", "fedavgm", "sgd", "fedopt"),
)
@dataclass(frozen=True)
class Apply(Server):
    """theta += lr * mean(delta), with momentum if asked (FedAvgM: m = beta m + delta); or theta = mean(weights).

    The momentum is the heavy ball without dampening: m grows to delta / (1 - beta), so lower `lr` by 1 - beta to keep
    the length of a step; `nesterov` steps along delta + beta m instead. With weights, delta is mean(weights) - theta.
    Running statistics and other buffers become their mean: neither rate nor momentum acts on them.
    """

    lr: float = knob(1.0, "server rate eta_s", low=0.0)
    momentum: float = knob(0.0, "beta of FedAvgM", low=0.0, below=1.0)
    nesterov: bool = knob(False, "look ahead along the momentum (the outer optimiser of DiLoCo)")
    schedule: Schedule = knob(factory=Constant, doc="how the rate changes over the run")
    takes: str = knob("delta", "what the clients send", choices=("delta", "weights"))

    counts = False
    elastic = True

    def __post_init__(self) -> None:
        if self.momentum >= 1.0:
            raise ValueError("momentum must be below 1: at 1 no update is ever forgotten")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov looks ahead along the momentum: set momentum, or nesterov=false")

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        if ctx.layout is not None and agg.x.numel() != (size := ctx.layout.size):
            what = (
                f"it gives {agg.x.numel()} values where the model has {size}; padding between tensors counts"
            )
            raise MethodFault("aggregate", what)
        rate = self.schedule.rate(self.lr, ctx)
        if self.takes == "weights" and rate == 1.0 and not self.momentum:
            return state | {"w": agg.x}
        (w, still), (x, news) = apart(state["w"], ctx.layout), apart(agg.x, ctx.layout)
        delta, news = (x, still + news) if self.takes == "delta" else (x - w, news)
        if self.momentum:
            m = self.momentum * state.get("m", torch.zeros_like(delta)) + delta
            state = state | {"m": m}
            delta = delta + self.momentum * m if self.nesterov else m
        return state | {"w": together(w + rate * delta, news, ctx.layout)}


def apart(x: Tensor, layout: Layout | None) -> tuple[Tensor, Tensor]:
    """Weights and buffers of `x` (size,); all are weights where no layout says otherwise."""
    if layout is None or not layout.mixed:
        return x, x[:0]
    return layout.weights(x), layout.buffers(x)


def together(weights: Tensor, buffers: Tensor, layout: Layout | None) -> Tensor:
    """The inverse of `apart`."""
    return weights if layout is None or not layout.mixed else layout.whole(weights, buffers)
