"""A round's budget, shared out by contribution and settled to the last cent."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.protocols import Plan, Reward, State
from fedfm.incentives.money import largest_remainder, units_down


@method(
    "budget-split",
    slot="reward",
    section="VI.E",
    survey=(154,),
    paper="Liu et al., FedCoin: A Peer-to-Peer Payment System for Federated Learning, 2020",
)
@dataclass(frozen=True)
class BudgetSplit(Reward):
    """Share `budget` among those who delivered, by the positive part of their contribution phi.

    linear: in proportion to phi; softmax: to exp(phi / temperature); rank: to k, k - 1, ..., 1 (equal phi
    share the mean of their ranks); equal: alike to all who delivered, whatever phi. Without a positive phi
    (equal apart) nobody is paid, or all alike: `fallback` says which. In the other policies phi <= 0 (or not
    finite, or unknown) gets exactly 0. The payments sum to the budget in minor units exactly (largest
    remainder; ties to the larger phi, then by name): a larger phi never gets less, and an equal phi at most
    one unit less.
    """

    budget: float = knob(100.0, "money for one round", low=0.0)
    policy: str = knob("linear", "how phi becomes a share", choices=("linear", "softmax", "equal", "rank"))
    temperature: float = knob(1.0, "of softmax, in units of phi; small: the best takes all", low=1e-12)
    fallback: str = knob("none", "when nobody has a positive phi", choices=("none", "equal"))
    decimals: int = knob(2, "digits of money after the point", low=0, high=9)

    @property
    def needs_values(self) -> bool:
        return self.policy != "equal"

    def pay(
        self, plan: Plan, delivered: Sequence[str], values: Mapping[str, float], state: State, ctx: Ctx
    ) -> tuple[dict[str, float], State]:
        phi = {i: v if math.isfinite(v := float(values.get(i, 0.0))) else 0.0 for i in delivered}
        order = sorted(phi, key=lambda i: (-phi[i], i))
        weights = self._weights([phi[i] for i in order])
        units = largest_remainder(weights, units_down(self.budget, self.decimals))
        paid = {i: u / 10**self.decimals for i, u in zip(order, units, strict=True)}
        return {i: paid[i] for i in delivered}, state

    def _weights(self, phi: Sequence[float]) -> list[Fraction]:
        """The weight of each, from falling values."""
        gains = [max(v, 0.0) for v in phi]
        top = max(gains, default=0.0)
        if self.policy == "equal" or (top <= 0 and self.fallback == "equal"):
            return [Fraction(1)] * len(gains)
        if self.policy == "softmax":
            return [Fraction(math.exp((g - top) / self.temperature)) if g > 0 else Fraction(0) for g in gains]
        if self.policy == "rank":
            rising = sorted(g for g in gains if g > 0)
            twice = [bisect_left(rising, g) + bisect_right(rising, g) + 1 for g in gains]
            return [Fraction(r, 2) if g > 0 else Fraction(0) for r, g in zip(twice, gains, strict=True)]
        return [Fraction(g) for g in gains]
