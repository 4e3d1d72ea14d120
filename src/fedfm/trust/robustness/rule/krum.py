"""Krum and multi-Krum."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, State
from fedfm.ledger.events import Event, Line

CHUNK = 1 << 14  # coordinates at a time: n rows of fp64 stay in cache


@dataclass(frozen=True)
class Nearest(Event):
    """Whose messages were taken, and the score of every message."""

    selected: list[str]
    scores: list[float]
    kind = "krum"
    server = True

    @classmethod
    def counted(cls, line: Line) -> Collection[str]:
        return tuple(line["selected"])


@method(
    "krum",
    slot="aggregate",
    section="V.A",
    survey=(86,),
    paper="Blanchard et al., Machine learning with adversaries: Byzantine tolerant gradient descent, NeurIPS 2017",
    departs="multi-Krum in one pass: the m best scores, without scoring the rest anew after each choice",
    atlas=("krum",),
    also=("multi-krum",),
)
@dataclass(frozen=True)
class Krum(Aggregator):
    """The message with the least score, the sum of squared distances to its n - f - 2 nearest others; or the mean of m.

    Withstands f arbitrary messages of n >= 2f + 3 and n >= m + f (fewer: the round fails; f is never lowered in silence).
    m = 1 gives one of the messages, bit for bit; m = n - f is the usual multi-Krum; f = 0 with m = n is the unweighted mean. Ties
    go to the first in plan order. Weights are ignored. Distances are over all coordinates, running statistics among
    them, and the chosen messages bring their own statistics. Notes the ids chosen and all scores, in plan order.
    """

    f: int = knob(1, "malicious messages to withstand", low=0)
    m: int = knob(1, "messages to average", low=1)

    form = "all"

    @property
    def least(self) -> int:  # type: ignore[override]
        return max(2 * self.f + 3, self.m + self.f)  # more than n - f would take malicious ones in

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        n = len(messages)
        if n < self.least:
            raise RoundFailed(
                f"krum: {n} messages; f={self.f} and m={self.m} need at least {self.least}: take more "
                "parties a round or lower f"
            )
        rows = [m.x for m in messages]
        score = scores(distances(rows), n - self.f - 2)
        best: list[int] = torch.sort(score, stable=True).indices[: self.m].sort().values.tolist()
        ctx.note(Nearest([messages[i].sender for i in best], score.tolist()))
        if self.m == 1:
            return rows[best[0]].float().clone(), state
        out = torch.empty(rows[0].numel())
        for at in range(0, out.numel(), CHUNK):
            out[at : at + CHUNK] = torch.stack([rows[i][at : at + CHUNK] for i in best]).double().mean(0)
        return out, state


def distances(rows: Sequence[Tensor]) -> Tensor:
    """Squared Euclidean distances (n, n) between vectors (d,), by a Gram matrix summed over chunks.

    ||a - b||^2 = aa + bb - 2ab cancels when the vectors are long and near each other (weights instead of updates), and
    fp32 then loses all digits; fp64 products cost 1.6 times as much and keep nine more.
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for at in range(0, rows[0].numel(), CHUNK):
        u = torch.stack([r[at : at + CHUNK] for r in rows]).double()
        gram += u @ u.T
    square = gram.diagonal()
    squared: Tensor = square[:, None] + square[None, :] - 2 * gram
    return squared.clamp_(min=0)


def scores(squared: Tensor, nearest: int) -> Tensor:
    """Per row the sum of its `nearest` smallest squared distances to *other* rows (n, n) -> (n,)."""
    others = squared.clone().fill_diagonal_(float("inf"))
    return others.sort(dim=1).values[:, :nearest].sum(1)
