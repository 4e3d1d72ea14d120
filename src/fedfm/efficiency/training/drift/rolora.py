"""RoLoRA: the two factors of LoRA are trained in turn, so that their average is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.efficiency.training.local import Local, descend, outcome, weights
from fedfm.vectors.layout import Layout


@method(
    "rolora",
    slot="client",
    section="IV.A",
    survey=(63,),
    paper="Chen et al., Robust federated finetuning of LoRA via alternating optimization (RoLoRA), 2024",
)
@dataclass(frozen=True)
class RoLoRA(Client):
    """In even rounds B is trained and A stays, in odd rounds the other way round; all else is trained in both.

    All parties of a round share the factor that stays, so mean(B_i A) = mean(B_i) A: plain averaging loses nothing
    (of both factors at once it loses sum_ij p_i p_j (B_i - B_j)(A_i - A_j)/2). The factor that stays comes back as zeros,
    which an entropy stage makes nearly free. Rounds must not overlap (asynchronous paces mix both kinds), and both kinds
    must occur: at least two rounds. Needs a tuning with lora_A and lora_B.
    """

    local: Local = knob(factory=Local, doc="the local steps")

    alternates = True

    def __post_init__(self) -> None:
        if self.local.keep_optimizer:
            raise ValueError("RoLoRA changes what it trains every round: set keep_optimizer=false")

    @property
    def makes(self) -> str:
        return self.local.makes

    @property
    def per_step(self) -> int:
        return self.local.per_step

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def feasible(self, parties: int, bound: Bound) -> str:
        names = " ".join(e.name for e in bound.layout.entries if e.trainable)
        if "lora_A" in names and "lora_B" in names:
            return self.local.feasible(parties, bound)
        return "the model has no lora_A and lora_B that are trained; use task.tuning=lora with train=both"

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        stays = _still(bound.layout, "lora_B" if ctx.round % 2 else "lora_A")
        w, fixed = weights(bound.params, bound), weights(brief.x, bound)[stays].to(bound.device)
        here = stays.to(bound.device)

        def hold(_: Tensor, g: Tensor) -> None:
            w[here] = fixed  # whatever the last step's weight decay made of it
            g[here] = 0.0

        done = descend(self.local, brief.x, data, ctx, bound, hold, state=state)
        w[here] = fixed
        return outcome(self.local, brief.x, data, bound, done), done.state


def _still(layout: Layout, factor: str) -> Tensor:
    """Where the factor lies among the weights."""
    return torch.cat(
        [torch.arange(e.offset, e.offset + e.size) for e in layout.trained.entries if factor in e.name]
    )
