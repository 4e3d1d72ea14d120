"""Power-of-choice: ask a few candidates for their loss, take those that the model serves worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import ClientFailed
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Bound, Plan, Selector, State
from fedfm.incentives.answers import numbers
from fedfm.ledger.events import Event


@dataclass(frozen=True)
class LocalLoss(Event):
    """The loss that a party told of the model at hand."""

    loss: float
    server = True


@method(
    "power-of-choice",
    slot="select",
    section="VI.C",
    paper="Cho et al., Towards Understanding Biased Client Selection in Federated Learning, 2022",
    departs="The loss is taken on at most `rows` random local examples, the paper's cheaper variant.",
)
@dataclass(frozen=True)
class PowerOfChoice(Selector):
    """Draw d = `asked` candidates by their number of examples, ask their loss, take the m = `count` largest.

    d = m is random selection; a larger d learns faster and leans more towards parties with a high loss, those
    with noisy labels among them. Candidates that do not answer are passed over. The plan is in order of
    falling loss, ties by name. ValueError when d < m.
    """

    count: int = knob(5, "parties a round, m", low=1)
    asked: int = knob(10, "candidates that are asked for their loss, d", low=1)
    rows: int = knob(64, "local examples that the loss is taken on; 0: all", low=0)
    batch: int = knob(16, "examples of one forward pass", low=1)

    asks = True
    needs_model = True

    def __post_init__(self) -> None:
        if self.asked < self.count:
            raise ValueError(
                f"power-of-choice asks {self.asked} candidates to find {self.count} parties: "
                "asked must be at least count"
            )

    def most(self, parties: int) -> int:
        return min(parties, self.count)

    def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> Sequence[str]:
        """At most d parties that hold examples, drawn without replacement; in pool order."""
        able = [i for i, n in pool.items() if n > 0]
        weights = torch.tensor([pool[i] for i in able], dtype=torch.float64)
        # The d smallest of Exp(1)/w are a draw in proportion to w without replacement (Efraimidis, Spirakis).
        keys = torch.empty_like(weights).exponential_(generator=ctx.shared("candidates")) / weights
        return [able[k] for k in sorted(keys.argsort(stable=True)[: self.asked].tolist())]

    def answer(self, brief: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
        """The mean loss of the brief's model on a random part of `data`, in evaluation mode."""
        n, size = len(data), bound.layout.size
        if n == 0:
            raise ClientFailed(f"{ctx.client} has no examples to take a loss on")
        if brief.x.numel() != size or not brief.x.is_floating_point():
            raise ClientFailed(
                f"power-of-choice needs the bare model as brief: {size} values, got "
                f"{brief.x.numel()} of type {brief.x.dtype}; use no downlink codec and a "
                "server that sends the model alone"
            )
        take = min(n, self.rows or n)
        index = torch.randperm(n, generator=ctx.rng("loss"))[:take].sort().values
        parts = [index[at : at + self.batch] for at in range(0, take, self.batch)]
        bound.load(brief.x)
        training = bound.module.training
        bound.module.eval()
        try:
            with ctx.ambient():
                total = math.fsum(bound.loss(bound.batch(data, part)) * len(part) for part in parts)
        finally:
            bound.module.train(training)
        if not math.isfinite(total):
            raise ClientFailed(
                f"the loss of {ctx.client} is {total}; the model that it was asked about is broken"
            )
        return nothing(loss=total / take)

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        losses = {i: v for i, v in numbers(answers, "loss").items() if i in pool}
        for i, v in losses.items():
            ctx.at(client=i).note(LocalLoss(v))
        ids = sorted(losses, key=lambda i: (-losses[i], i))[: self.count]
        sampling = {"kind": "by-loss", "count": len(ids), "asked": len(answers), "of": len(pool)}
        return Plan(tuple((i, Terms()) for i in ids), sampling=sampling), state
