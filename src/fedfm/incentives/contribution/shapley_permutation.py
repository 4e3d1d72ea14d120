"""The Shapley value by random orders of arrival, cut off where the rest no longer matters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.protocols import State, Valuer
from fedfm.ledger.events import Event


@dataclass(frozen=True)
class Valuation(Event):
    """How many coalitions were asked and orders drawn; the largest standard error of a value, None of one draw."""

    coalitions: int
    orders: int
    stderr: float | None
    server = True


@method(
    "shapley-permutation",
    slot="value",
    section="VI.D",
    survey=(163, 166),
    paper="Castro et al., Polynomial Calculation of the Shapley Value Based on Sampling, 2009; "
    "Ghorbani and Zou, Data Shapley, 2019; "
    "Mitchell et al., Sampling Permutations for Shapley Value Estimation, 2022",
    atlas=("shapley-permutation",),
    also=("shapley", "gtg-shapley"),
)
@dataclass(frozen=True)
class ShapleyPermutation(Valuer):
    """phi_i = mean over random orders of v(those before i, and i) - v(those before i): unbiased.

    With `tolerance` 0 each order's gains sum to v(N) - v(empty), hence so do the values. With a tolerance an
    order ends where |v(N) - v(prefix)| <= tolerance, and whoever comes later gains 0 in it: the sum is off by
    at most the tolerance. `antithetic` follows every order by its reverse, which is exact (one pair suffices)
    where utility has no interactions of three or more parties. Notes the number of coalitions asked for and
    the largest standard error.
    """

    permutations: int = knob(32, "orders of arrival a round", low=1)
    tolerance: float = knob(0.0, "end an order this near to v(N); 0: never", low=0.0)
    antithetic: bool = knob(True, "follow every order by its reverse")

    reads = True
    needs = frozenset({"server rows"})

    @property
    def exact(self) -> bool:  # type: ignore[override]
        return not self.tolerance

    def evaluations(self, n: int) -> int:
        return min(1 << n, self.permutations * n)

    def value(self, ids: Sequence[str], state: State, ctx: Ctx) -> tuple[dict[str, float], State]:
        if not ids:
            return {}, state
        game = ctx.house.game
        nobody, everybody = game(frozenset()), game(frozenset(ids))
        gains: dict[str, list[float]] = {i: [] for i in ids}
        asked = {frozenset[str](), frozenset(ids)}
        for order in self._orders(ids, ctx):
            prefix, before = frozenset[str](), nobody
            for i in order:
                prefix, after = prefix | {i}, before
                if not (self.tolerance and abs(everybody - before) <= self.tolerance):
                    after = game(prefix)
                    asked.add(prefix)
                gains[i].append(after - before)
                before = after
        values = {i: math.fsum(g) / len(g) for i, g in gains.items()}
        draws = -(-self.permutations // self._draw)
        stderr = max(self._stderr(g) for g in gains.values()) if draws > 1 else None
        ctx.note(Valuation(len(asked), self.permutations, stderr))
        return values, state

    def _orders(self, ids: Sequence[str], ctx: Ctx) -> Iterator[list[str]]:
        rng = ctx.shared("permutations")
        order: list[str] = []
        for k in range(self.permutations):
            if self.antithetic and k % 2:
                order = order[::-1]
            else:
                order = [ids[j] for j in torch.randperm(len(ids), generator=rng).tolist()]
            yield order

    @property
    def _draw(self) -> int:
        """Orders of one independent draw: an order and its reverse are one."""
        return 2 if self.antithetic else 1

    def _stderr(self, gains: list[float]) -> float:
        """Standard error of the mean of `gains`, one an order."""
        parts = [gains[k : k + self._draw] for k in range(0, len(gains), self._draw)]
        draws = [math.fsum(part) / len(part) for part in parts]
        mean = math.fsum(draws) / len(draws)
        return math.sqrt(math.fsum((d - mean) ** 2 for d in draws) / (len(draws) - 1) / len(draws))
