"""Leave-one-out: what the round would have lost without a party."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.protocols import State, Valuer


@method(
    "leave-one-out",
    slot="value",
    section="VI.D",
    survey=(172,),
    paper="Wang et al., Measure Contribution of Participants in Federated Learning, 2019",
    atlas=("shapley-exact",),
    also=("loo",),
)
@dataclass(frozen=True)
class LeaveOneOut(Valuer):
    """phi_i = v(N) - v(N without i): n + 1 evaluations. Two parties with the same data both get 0."""

    reads = True
    needs = frozenset({"server rows"})

    def evaluations(self, n: int) -> int:
        return n + 1

    def value(self, ids: Sequence[str], state: State, ctx: Ctx) -> tuple[dict[str, float], State]:
        game, everybody = ctx.house.game, frozenset(ids)
        return {i: game(everybody) - game(everybody - {i}) for i in ids}, state
