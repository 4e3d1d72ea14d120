"""Coordinate-wise trimmed mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, State
from fedfm.trust.robustness.rule.order import per_coordinate


@method(
    "trimmed-mean",
    slot="aggregate",
    section="V.A",
    survey=(87,),
    paper="Yin et al., Byzantine-robust distributed learning: towards optimal statistical rates, ICML 2018",
    atlas=("coordinate-wise",),
    also=("trimmed",),
)
@dataclass(frozen=True)
class TrimmedMean(Aggregator):
    """The mean of each coordinate without its b smallest and b largest values, b = ceil(fraction * messages).

    Withstands as many malicious messages as b; needs 2b < messages. fraction=0 is the unweighted mean. The claimed
    weights are ignored, because an attacker would claim much. Running statistics are coordinates like all others.
    """

    fraction: float | None = knob(
        0.2,
        "share of the messages cut off at each end; at least the attackers' share",
        low=0.0,
        high=0.499,
        alternative="size",
    )
    count: int | None = knob(None, "b itself, instead of a share of those present", low=1, alternative="size")

    form = "all"

    @property
    def least(self) -> int:  # type: ignore[override]
        return next(n for n in range(1, 10_000_000) if 2 * self._cut(n) < n)

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        n = len(messages)
        b = self._cut(n)
        if 2 * b >= n:
            raise RoundFailed(
                f"trimmed-mean: cutting {b} of {n} messages at each end leaves none; take more parties a "
                "round or cut less"
            )

        def rule(rows: list[Tensor]) -> Tensor:
            total = rows[b].double()
            for row in rows[b + 1 : n - b]:
                total += row
            return total.div_(n - 2 * b).float()

        return per_coordinate([m.x for m in messages], rule), state

    def _cut(self, n: int) -> int:
        return self.count or math.ceil((self.fraction or 0.0) * n - 1e-9)
