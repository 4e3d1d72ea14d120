"""FedMD: parties with models of their own learn from what all of them say of public rows. Client and server halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Bound, Client, Server, State
from fedfm.efficiency.training.local import Local, descend
from fedfm.tasks.bound import evaluating
from fedfm.vectors.layout import Layout

CHUNK = 64  # public rows scored at once


@method(
    "fedmd",
    slot="client",
    section="IV.A",
    paper="Li, Wang, FedMD: Heterogenous Federated Learning via Model Distillation, 2019",
    departs="the cut between rounds lies behind `communicate`, so T rounds hold T - 1 digests; transfer learning takes a "
    "given number of steps, not those to convergence",
)
@dataclass(frozen=True)
class FedMD(Client):
    """Digest the consensus of the last round, revisit the own rows, send class scores of this round's public rows.

    digest: steps on mean |f_k(x) - c(x)| over the public rows whose consensus c came with the brief; revisit: steps on
    the own rows; then x = f_k of `rows` public rows (logits, rows x classes), drawn anew each round by all alike. In
    its first round a party takes `transfer` steps on the public rows with their labels, and as many on its own.
    What it uses is its own model, which never leaves it. Needs `task=task-by-client`, public rows, and
    `server=fedmd-server` (its own half).
    """

    local: Local = knob(factory=Local, doc="revisit: the steps on the own rows")
    digest: Local = knob(factory=Local, doc="the steps towards the consensus")
    rows: int = knob(64, "public rows that are scored in a round", low=1)
    transfer: int = knob(0, "steps before the first round, on labelled public rows and on own ones", low=0)

    needs = frozenset({"public rows"})
    mixed = True
    remembers = True  # its own model

    def __post_init__(self) -> None:
        if any(part.send != "delta" or part.keep_optimizer for part in (self.local, self.digest)):
            raise ValueError(
                "fedmd sends class scores: leave send=delta, keep_optimizer=false in local and digest"
            )

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"consensus on {self.rows} public rows"

    @property
    def makes(self) -> str:
        return "logits"

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def server_half(self) -> Server:
        return FedMDServer(rows=self.rows)

    def alone(self) -> Client:
        return Transferred(self.local, self.transfer)

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows) + self.digest.steps_for(self.rows)

    def gives(self, layout: Layout) -> Layout:
        return _scores(layout, self.rows)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        public, known = ctx.public(), int(brief.info["round"])
        if "w" not in state:
            transferred(self.local, self.transfer, bound.init, data, ctx, bound)
        else:
            bound.load(state["w"])
        if known >= 0:
            _digest(
                self.digest, brief.x, drawn(self.rows, len(public), ctx.at(round=known)), public, ctx, bound
            )
        done = descend(self.local, bound.read(), data, ctx, bound)
        x = scored(bound, public, drawn(self.rows, len(public), ctx)).reshape(-1)
        facts = {"loss_first": done.first, "loss_last": done.last}
        packed = self.gives(Layout.of({"scores": (bound.objective.classes,)})).pack(
            {"logits": x.view(self.rows, -1)}
        )
        return Message(packed, "logits", float(len(data)), info={"facts": facts}), state | {"w": bound.read()}

    def own(self, brief: Message, state: State, ctx: Ctx, bound: Bound) -> Tensor:
        mine: Tensor = state.get("w", bound.init)
        return mine


@dataclass(frozen=True)
class Transferred(Client):
    """What a party reaches without the others: transfer learning on the public rows, then its own rows."""

    local: Local
    transfer: int = 0

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def feasible(self, parties: int, bound: Bound) -> str:
        return self.local.feasible(parties, bound)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        transferred(self.local, self.transfer, brief.x, data, ctx, bound)
        return self.local.work(Message(bound.read(), "weights"), data, {}, ctx, bound)


def transferred(local: Local, steps: int, start: Tensor, data: Any, ctx: Ctx, bound: Bound) -> None:
    """Take so many steps on the public rows with their labels, then as many on the own ones."""
    bound.load(start)
    for name, rows in (("public", ctx.public() if steps else ()), ("own", data)) if steps else ():
        terms = Terms(steps=steps, batch=ctx.terms.batch)
        descend(local, bound.read(), rows, ctx.within(f"transfer {name}").at(terms=terms), bound)


def drawn(rows: int, public: int, ctx: Ctx) -> Tensor:
    """The public rows of a round (rows,), the same for all; where there are fewer, some stand twice."""
    order = torch.randperm(public, generator=ctx.at(path="").shared("fedmd"))
    return order[torch.arange(rows) % public]


def scored(bound: Bound, encoded: Any, index: Tensor) -> Tensor:
    """Class scores (n, classes) of these rows at the present parameters, in evaluation mode."""
    with evaluating(bound.module):
        parts = [
            bound.objective.logits(bound.module, bound.batch(encoded, i)) for i in torch.split(index, CHUNK)
        ]
        return torch.cat(parts).float().cpu()


def _digest(local: Local, consensus: Tensor, index: Tensor, public: Any, ctx: Ctx, bound: Bound) -> None:
    """Steps on mean |f(x) - c(x)| from the present parameters."""
    classes = bound.objective.classes
    wanted = consensus[: len(index) * classes].view(len(index), classes)

    def gradient(some: Tensor) -> float:
        batch, target = bound.batch(public, index[some]), wanted[some].to(bound.device)
        return bound.gradient(
            batch, lambda module, b: (bound.objective.logits(module, b) - target).abs().mean()
        )

    descend(local, bound.read(), index, ctx.within("digest").at(terms=Terms()), bound, gradient=gradient)


def _scores(layout: Layout, rows: int) -> Layout:
    """The layout of a round's class scores, from that of one row's; another layout (of weights) stays as it is."""
    only = layout.entries[0] if len(layout.entries) == 1 else None
    return Layout.of({"logits": (rows, only.size)}) if only is not None and only.name == "scores" else layout


@method(
    "fedmd-server",
    slot="server",
    section="IV.A",
    paper="Li, Wang, FedMD: Heterogenous Federated Learning via Model Distillation, 2019",
)
@dataclass(frozen=True)
class FedMDServer(Server):
    """consensus = mean of the parties' class scores on this round's public rows; it has no model."""

    rows: int = knob(64, "public rows that are scored in a round", low=1)

    takes = "logits"
    whole = False
    counts = False

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"consensus on {self.rows} public rows"

    def gives(self, layout: Layout) -> Layout:
        return _scores(layout, self.rows)

    def init(self, bound: Bound, ctx: Ctx) -> State:
        return {"w": torch.zeros(self.gives(bound.layout).size), "round": -1}

    def brief(self, state: State, terms: Terms) -> Message:
        return Message(state["w"], "logits", info={"round": state["round"]})

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return {"w": agg.x.float(), "round": ctx.round}
