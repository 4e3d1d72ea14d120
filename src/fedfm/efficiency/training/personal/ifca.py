"""IFCA: several models, and every party trains the one that suits it best. Client, aggregator and server."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import MessageRefused
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Aggregator, Bound, Client, Lift, Server, State
from fedfm.efficiency.training.local import Local, descend, outcome
from fedfm.vectors.layout import Layout

ROWS = 64  # of one pass when the losses are compared


@method(
    "ifca",
    slot="client",
    section="IV.A",
    survey=(155,),
    paper="Ghosh, Chung, Yin, Ramchandran, An Efficient Framework for Clustered Federated Learning, NeurIPS 2020",
    departs="the losses are taken on all local rows; no weight sharing between clusters",
    atlas=("ifca",),
)
@dataclass(frozen=True)
class IFCA(Client):
    """Choose the model of least loss on the own rows, train it, send its change and which it was.

    The number of the cluster says something about the party's rows: it travels in `info`, and is refused under noise
    and masks. What a party uses is the model of its cluster. Needs `aggregate=ifca-mean` and `server=ifca-server`
    (its own half) with the same number of clusters.
    """

    clusters: int = knob(2, "models, k", low=1)
    spread: float = knob(0.1, "standard deviation by which the models differ at the start", low=0.0)
    local: Local = knob(factory=Local, doc="the local steps")

    info = frozenset({"cluster"})

    def __post_init__(self) -> None:
        if self.local.keep_optimizer:
            raise ValueError("a party of IFCA may train another model each round: set keep_optimizer=false")
        if self.local.send != "delta":
            raise ValueError("IFCA sends the change of one model: set local.send=delta")

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"{self.clusters} models, {self.spread!r} apart"

    @property
    def makes(self) -> str:
        return _kind(self.clusters)

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def server_half(self) -> Server:
        return IFCAServer(clusters=self.clusters, spread=self.spread)

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        models = brief.x.view(self.clusters, -1)
        losses = [_risk(m, data, bound) for m in models]
        mine = min(range(self.clusters), key=lambda j: losses[j])
        done = descend(self.local, models[mine], data, ctx, bound)
        m = outcome(self.local, models[mine], data, bound, done)
        told = Message(m.x, self.makes, m.mass, info={**m.info, "cluster": mine})
        return told, state | {"cluster": mine}

    def own(self, brief: Message, state: State, ctx: Ctx, bound: Bound) -> Tensor:
        found: Tensor = brief.x.view(self.clusters, -1)[int(state.get("cluster", 0))]
        return found


def _kind(clusters: int) -> str:
    """Both halves and the aggregator count the same models, or `check` refuses them."""
    return f"delta of one of {clusters} models"


def _risk(model: Tensor, data: Any, bound: Bound) -> float:
    """The mean loss on the own rows, in evaluation mode."""
    bound.load(model)
    training = bound.module.training
    bound.module.eval()
    try:
        parts = torch.split(torch.arange(len(data)), ROWS)
        return math.fsum(bound.loss(bound.batch(data, p)) * len(p) for p in parts) / max(1, len(data))
    finally:
        bound.module.train(training)


@method(
    "ifca-mean",
    slot="aggregate",
    section="IV.A",
    survey=(155,),
    paper="Ghosh, Chung, Yin, Ramchandran, An Efficient Framework for Clustered Federated Learning, NeurIPS 2020",
    atlas=("ifca",),
)
@dataclass(frozen=True)
class ClusterMean(Aggregator):
    """The weighted mean of each cluster's changes, behind each other; of an empty cluster it is 0."""

    clusters: int = knob(2, "models, k", low=1)

    @property
    def takes(self) -> tuple[str, ...]:  # type: ignore[override]
        return (_kind(self.clusters),)

    def lifted(self, layout: Layout) -> int:
        return self.clusters * layout.size

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        j, d = m.info.get("cluster", 0), m.x.numel()
        if type(j) is not int or not 0 <= j < self.clusters:
            raise MessageRefused(f"{m.sender} names cluster {j!r} of {self.clusters}")
        x, mass = torch.zeros(self.clusters, d), torch.zeros(self.clusters, d)
        x[j], mass[j] = m.x, m.mass
        return Lift(x.view(-1), m.mass, mass.view(-1))

    def finish(
        self, x: Tensor, mass: float | Tensor, count: int, state: State, ctx: Ctx
    ) -> tuple[Tensor, State]:
        weight = torch.as_tensor(mass)
        return x / weight.clamp(min=1e-30) * (weight > 0), state


@method(
    "ifca-server",
    slot="server",
    section="IV.A",
    survey=(155,),
    paper="Ghosh, Chung, Yin, Ramchandran, An Efficient Framework for Clustered Federated Learning, NeurIPS 2020",
    atlas=("ifca",),
)
@dataclass(frozen=True)
class IFCAServer(Server):
    """theta_j += mean of cluster j's changes; the first model begins where the task does, the others near it."""

    clusters: int = knob(2, "models, k", low=1)
    spread: float = knob(0.1, "standard deviation by which the models differ at the start", low=0.0)

    whole = False
    counts = False

    @property
    def takes(self) -> str:  # type: ignore[override]
        return _kind(self.clusters)

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"{self.clusters} models, {self.spread!r} apart"

    def gives(self, layout: Layout) -> Layout:
        return Layout.join(**{f"model-{j}": layout for j in range(self.clusters)})

    def init(self, bound: Bound, ctx: Ctx) -> State:
        models = bound.init.repeat(self.clusters, 1)
        noise = torch.randn(models.shape, generator=ctx.shared("ifca")) * self.spread
        noise[0] = 0.0
        ones = bound.layout.pack({e.name: torch.ones(e.shape) * e.trainable for e in bound.layout.entries})
        return {"w": models + noise * ones}

    def brief(self, state: State, terms: Terms) -> Message:
        return Message(state["w"].reshape(-1), "weights")

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return {"w": state["w"] + agg.x.view_as(state["w"])}

    def model(self, state: State) -> Tensor:
        w: Tensor = state["w"][0]
        return w
