"""The Shapley value by full enumeration: the reference for every estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, fsum

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError, Problem
from fedfm.core.protocols import Bound, State, Valuer


@method(
    "shapley-exact",
    slot="value",
    section="VI.D",
    survey=(130,),
    paper="Shapley, A Value for n-Person Games, 1953",
    atlas=("shapley-exact",),
    also=("shapley",),
)
@dataclass(frozen=True)
class ShapleyExact(Valuer):
    """phi_i = sum over S without i of [v(S + i) - v(S)] / (n C(n - 1, |S|)): 2^n evaluations.

    The values sum to v(N) - v(empty), where v(empty) is the model that the round began with. Under an
    aggregator that renormalises the weights of a coalition (the mean) an update of zero still gets a value,
    because it dilutes the others'; with `mean(denominator=...)` it gets exactly 0. ConfigError above
    `max_players`.
    """

    max_players: int = knob(12, "most parties of one round; each one more doubles the work", low=1, high=20)

    reads = True
    needs = frozenset({"server rows"})
    exact = True

    def feasible(self, parties: int, bound: Bound) -> str:
        if parties <= self.max_players:
            return ""
        return (
            f"{parties} parties may contribute to a round, and it takes {self.max_players}, for 2^n scores; "
            "value=shapley-permutation, a larger value.max_players, or fewer parties a round (select.count)"
        )

    def evaluations(self, n: int) -> int:
        return 1 << n

    def value(self, ids: Sequence[str], state: State, ctx: Ctx) -> tuple[dict[str, float], State]:
        n = len(ids)
        if n > self.max_players:
            raise ConfigError(
                [
                    Problem(
                        "value.max_players",
                        f"{n} parties contributed to one round, {self.max_players} are allowed",
                        f"exact Shapley values of {n} parties need {2**n} evaluations of the model a round",
                        "use value=shapley-permutation, plan fewer parties, or raise it (20 at most)",
                    )
                ]
            )
        worth = [
            ctx.house.game(frozenset(i for k, i in enumerate(ids) if mask >> k & 1)) for mask in range(2**n)
        ]
        weight = [1 / (n * comb(n - 1, size)) for size in range(n)]
        return {
            i: fsum(
                (worth[mask | 1 << k] - worth[mask]) * weight[mask.bit_count()]
                for mask in range(2**n)
                if not mask >> k & 1
            )
            for k, i in enumerate(ids)
        }, state
