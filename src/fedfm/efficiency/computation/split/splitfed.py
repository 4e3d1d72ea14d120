"""SplitFed: the model is cut in two; activations go up, gradients come down. Client and server halves."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import MessageRefused
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Bound, Client, Replies, Say, Server, State
from fedfm.efficiency.training.local import Local, batches, plain_sgd
from fedfm.vectors.layout import Layout

FRONT = "front.*"  # the client's tensors; the rest is the server's


@method(
    "splitfed",
    slot="client",
    section="IV.B",
    survey=(207,),
    paper="Thapa et al., SplitFed: When Federated Learning Meets Split Learning, 2022",
    reduces_to="splitfed is local on the whole model (one server copy a client, plain SGD)",
    departs="Version 1 (a server copy per client); averages are weighted by examples; the last layer's labels travel.",
    atlas=("splitfed",),
)
@dataclass(frozen=True)
class SplitFed(Client):
    """Each step: activations and labels up, their gradient down, one SGD step on the front half.

    Gives the front's difference. Wire per round and client: 2 n E q values (q an example's activation) + 2 |front|.
    Needs `server=splitfed-server` with the same learning rate.
    """

    local: Local = knob(factory=Local, doc="rate, steps and batch; plain SGD")

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"split, lr={self.local.lr!r}"  # one rate on both halves of one network

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def server_half(self) -> Server:
        return SplitFedServer(lr=self.local.lr)

    def __post_init__(self) -> None:
        plain_sgd(self.local, "SplitFed", itself=True)

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def feasible(self, parties: int, bound: Bound) -> str:
        lacking = {"front", "back"} - set(bound.objective.parts)
        why = f"this task's model is not cut: it has no part {', '.join(sorted(lacking))}"
        return f"{why}; a task whose model is (task=image-classification, task.cut)" if lacking else ""

    def gives(self, layout: Layout) -> Layout:
        return layout.sub(FRONT)[0]

    def work(
        self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound
    ) -> Generator[Say, Message, tuple[Message, State]]:
        front, start = bound.layout.sub(FRONT)[0], brief.x.to(bound.device)
        leaf = (
            start.clone().requires_grad_()
        )  # a live graph waits for the server: it needs a buffer of its own
        first = last = 0.0
        for k, index in enumerate(batches(len(data), self.local, ctx)):
            batch = bound.batch(data, index)
            acts = bound.part("front", front.views(leaf), batch)
            up = Message(
                acts.detach().reshape(-1).cpu(),
                "activations",
                float(len(data)),
                side={"target": bound.objective.target(batch).cpu()},
                info={"shape": list(acts.shape)},
            )
            down = yield Say("acts", up)
            leaf.grad = None
            acts.backward(down.x.view(acts.shape).to(bound.device))  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            with torch.no_grad():
                leaf.sub_(leaf.grad, alpha=self.local.lr)
            last = float(down.info["loss"])
            first = last if k == 0 else first
        facts = {"loss_first": first, "loss_last": last}
        return Message((leaf.detach() - start).cpu(), "delta", float(len(data)), info={"facts": facts}), state


@method(
    "splitfed-server",
    slot="server",
    section="IV.B",
    survey=(207,),
    paper="Thapa et al., SplitFed: When Federated Learning Meets Split Learning, 2022",
    atlas=("splitfed",),
)
@dataclass(frozen=True)
class SplitFedServer(Server):
    """Holds the back half: one copy per client in a round, averaged over those who contributed."""

    lr: float = knob(0.01, "learning rate of the back half", low=0.0)

    @property
    def dialect(self) -> str:  # type: ignore[override]
        return f"split, lr={self.lr!r}"

    phases = {"acts": "each"}  # an answer touches this client's copy only, so arrival order cannot matter

    def gives(self, layout: Layout) -> Layout:
        return layout.sub(FRONT)[0]

    def init(self, bound: Bound, ctx: Ctx) -> State:
        return {
            "w": bound.init.clone(),
            "front": bound.layout.sub(FRONT)[1],
            "back": bound.layout.sub(FRONT, rest=True)[1],
            "copies": {},
        }

    def brief(self, state: State, terms: Terms) -> Message:
        return Message(state["w"][state["front"]], "weights")

    def serve(
        self, state: State, phase: str, messages: Mapping[str, Message], ctx: Ctx, bound: Bound
    ) -> tuple[Replies, State]:
        back, replies, copies = bound.layout.sub(FRONT, rest=True)[0], {}, dict(state["copies"])
        for client, m in messages.items():
            mine = copies.get(client, {"w": state["w"][state["back"]]})
            leaf = mine["w"].detach().to(bound.device, copy=True).requires_grad_()
            acts = m.x.view(m.info["shape"]).to(bound.device).requires_grad_()
            with torch.enable_grad():
                loss = bound.part("back", back.views(leaf), acts, m.side["target"].to(bound.device))
                g_acts, g_leaf = torch.autograd.grad(loss, (acts, leaf))
            if not bool(loss.isfinite()):
                raise MessageRefused(
                    f"the loss of {client} is {loss.item()}; lower the rates, or look at its data"
                )
            copies[client] = {"w": (leaf.detach() - self.lr * g_leaf).cpu(), "mass": m.mass}
            replies[client] = Message(
                g_acts.reshape(-1).cpu(), "gradients", info={"loss": float(loss.detach())}
            )
        return replies, state | {"copies": copies}

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        w = state["w"].clone()
        w[state["front"]] += agg.x
        there = [state["copies"][i] for i in agg.ids if i in state["copies"]]
        if there:
            w[state["back"]] = sum(c["w"] * c["mass"] for c in there) / sum(c["mass"] for c in there)
        return state | {"w": w, "copies": {}}
