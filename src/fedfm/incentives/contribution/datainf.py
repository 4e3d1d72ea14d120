"""DataInf: what a little more of a party would do to the loss, by gradients that parties are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, State, Valuer
from fedfm.tasks.bound import evaluating
from fedfm.vectors.layout import Layout

ROWS = 64  # of one pass


def influences(
    layout: Layout, gradients: Mapping[str, Tensor], v: Tensor, damping: float
) -> dict[str, float]:
    """By party, sum over tensors l of g_l . H_l^-1 v_l: how fast a step along its gradient lowers the loss of v.

    H_l = mean_i (g_i,l g_i,l^T) + lam_l I is inverted as the mean of the inverses (Sherman-Morrison), with lam_l =
    damping * mean_i mean(g_i,l^2). gradients and v: (layout.size,).
    """
    views = {i: layout.views(g.double()) for i, g in gradients.items()}
    target, total = layout.views(v.double()), dict.fromkeys(gradients, 0.0)
    for e in layout.entries:
        if not e.trainable:
            continue
        rows = torch.stack([w[e.name].reshape(-1) for w in views.values()])
        goal, lam = target[e.name].reshape(-1), damping * float(rows.square().mean())
        if lam <= 0:
            continue
        inner = rows @ goal
        weight = inner / (lam + rows.square().sum(1))
        solved = (goal - (weight[:, None] * rows).mean(0)) / lam
        for i, value in zip(total, (rows @ solved).tolist(), strict=True):
            total[i] += value
    return total


@method(
    "datainf",
    slot="value",
    section="VI.D",
    survey=(179,),
    paper="Kwon, Wu, Wu, Zou, DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and Diffusion Models, 2024",
    departs="a party's mean gradient stands where the paper has a sample's",
    atlas=("datainf",),
)
@dataclass(frozen=True)
class DataInf(Valuer):
    """Ask every contributor for its mean gradient at the round's model; value it against that of the server's rows.

    Positive: more of this party lowers the loss on the server's rows (`data.server_rows`). The gradients are as private
    as the updates, hence refused beside noise and masks. One model down and one gradient up a party and round.
    """

    damping: float = knob(0.1, "of lam, in units of the mean squared gradient", low=1e-9)

    asks = True
    needs = frozenset({"server rows"})

    def answer(self, question: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
        bound.load(question.x)
        total = torch.zeros_like(bound.init)
        with evaluating(bound.module), torch.enable_grad(), ctx.ambient("datainf"):
            for part in torch.split(torch.arange(len(data)), ROWS):
                bound.gradient(bound.batch(data, part))
                total += bound.grads.cpu() * (len(part) / len(data))
        return Message(total, "gradients")

    def evaluations(self, n: int) -> int:
        return 0  # gradients alone

    def value(self, ids: Sequence[str], state: State, ctx: Ctx) -> tuple[dict[str, float], State]:
        house = ctx.house
        told = house.ask("value", ids, Message(house.model, "weights", sender="server"))
        layout = house.bound.layout
        fit = {i: m.x for i, m in told.items() if m.x.shape == (layout.size,) and bool(m.x.isfinite().all())}
        found = influences(layout, fit, house.gradient(house.model), self.damping) if fit else {}
        return {i: found.get(i, 0.0) for i in ids}, state
