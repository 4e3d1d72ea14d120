"""Coordinate-wise median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, State
from fedfm.trust.robustness.rule.order import per_coordinate


@method(
    "coordinate-median",
    slot="aggregate",
    section="V.A",
    survey=(87,),
    paper="Yin et al., Byzantine-robust distributed learning: towards optimal statistical rates, ICML 2018",
    atlas=("coordinate-wise",),
    also=("median",),
)
@dataclass(frozen=True)
class CoordinateMedian(Aggregator):
    """The middle value of each coordinate; the mean of the two middle ones when the number of messages is even.

    Bounded by honest values while fewer than half of the messages are malicious. The claimed weights are ignored,
    because an attacker would claim much. Coordinates that most parties leave at 0 become 0. Running statistics are
    coordinates like all others.
    """

    form = "all"

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        if not messages:
            raise RoundFailed("coordinate-median: no messages")
        return per_coordinate([m.x for m in messages], _middle), state


def _middle(rows: list[Tensor]) -> Tensor:
    n = len(rows)
    return rows[n // 2] if n % 2 else rows[n // 2 - 1] * 0.5 + rows[n // 2] * 0.5  # halves first: no overflow
