"""FedRep: one representation for all, a head for each. Client and server halves."""

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
from fedfm.vectors.layout import Layout


@method(
    "fedrep",
    slot="client",
    section="IV.A",
    paper="Collins, Hassani, Mokhtari, Shakkottai, Exploiting Shared Representations for Personalized FL, ICML 2021",
    departs="the number of head steps is a knob of its own; both phases draw their own batches",
)
@dataclass(frozen=True)
class FedRep(Client):
    """Train the own head over the fixed body, then the body under the fixed head; only the body's change travels.

    The head (tensors that match `head`) never leaves its party. What a party uses is the shared body under its own
    head, and that is what its scores are of; there is no single model. Needs `server=fedrep-server` (its own half).
    """

    local: Local = knob(factory=Local, doc="the steps on the body, and the rate of both")
    head_steps: int = knob(8, "steps on the head before", low=1)
    head: str = knob("head*", "names of the tensors that stay, as a pattern")

    remembers = True

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"representation without {self.head}"

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def __post_init__(self) -> None:
        if self.local.weight_decay or self.local.send != "delta":
            raise ValueError(
                "fedrep freezes half of the model: set local.weight_decay=0 and local.send=delta"
            )
        if self.local.keep_optimizer:
            raise ValueError("fedrep trains two halves one after the other: set local.keep_optimizer=false")

    def server_half(self) -> Server:
        return FedRepServer(head=self.head)

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows) + self.head_steps

    def gives(self, layout: Layout) -> Layout:
        return layout.sub(self.head, rest=True)[0]

    def feasible(self, parties: int, bound: Bound) -> str:
        body, head = (bound.layout.sub(self.head, rest=rest)[0] for rest in (True, False))
        if body.entries and head.entries:
            return self.local.feasible(parties, bound)
        names = ", ".join(e.name for e in bound.layout.entries[:6])
        return f"no tensor matches head='{self.head}', or all do; the trained tensors are {names}, ..."

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        body = bound.layout.sub(self.head, rest=True)[1]
        head = bound.layout.sub(self.head)[1]
        start = self.own(brief, state, ctx, bound)

        def hold(what: Tensor) -> Any:
            return lambda w, g: bound.grads.index_fill_(0, what.to(g.device), 0.0)  # g is its weights' part

        steps = Terms(steps=self.head_steps, batch=ctx.terms.batch)
        before = descend(self.local, start, data, ctx.within("head").at(terms=steps), bound, hold(body))
        tuned = start.clone()
        tuned[head] = bound.read()[head]
        after = descend(self.local, tuned, data, ctx, bound, hold(head))
        x = bound.read()[body] - start[body]
        facts = {"loss_first": before.first, "loss_last": after.last}
        return Message(x, "delta", float(len(data)), info={"facts": facts}), state | {"head": tuned[head]}

    def own(self, brief: Message, state: State, ctx: Ctx, bound: Bound) -> Tensor:
        model = bound.init.clone()
        model[bound.layout.sub(self.head, rest=True)[1]] = brief.x
        if "head" in state:
            model[bound.layout.sub(self.head)[1]] = state["head"]
        return model


@method(
    "fedrep-server",
    slot="server",
    section="IV.A",
    paper="Collins, Hassani, Mokhtari, Shakkottai, Exploiting Shared Representations for Personalized FL, ICML 2021",
)
@dataclass(frozen=True)
class FedRepServer(Server):
    """body += mean of the bodies' changes; the heads are not its business."""

    head: str = knob("head*", "names of the tensors that stay with the parties, as a pattern")

    whole = False
    counts = False
    elastic = True

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"representation without {self.head}"

    def gives(self, layout: Layout) -> Layout:
        return layout.sub(self.head, rest=True)[0]

    def init(self, bound: Bound, ctx: Ctx) -> State:
        return {"w": bound.init.clone(), "body": bound.layout.sub(self.head, rest=True)[1]}

    def brief(self, state: State, terms: Terms) -> Message:
        return Message(state["w"][state["body"]], "weights")

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        w = state["w"].clone()
        w[state["body"]] += agg.x.to(torch.float32)
        return state | {"w": w}
