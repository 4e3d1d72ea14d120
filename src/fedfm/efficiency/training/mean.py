"""The weighted mean, in sum form: FedAvg's aggregator."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import Problem, RoundFailed, nearest
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Lift
from fedfm.core.registry import knob, method
from fedfm.core.tree import cut


@method(
    "mean",
    slot="aggregate",
    section="IV.A",
    survey=(25,),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
    atlas=("fedavg",),
)
@dataclass(frozen=True)
class Mean(Aggregator):
    """sum_i m_i x_i / sum_i m_i over those who delivered; m_i = local examples, or 1, times the party's own factor.

    A sub-model's message counts only where it has the coordinate; where nobody has it the result is 0. When all weights
    are 0 the round fails. `factors` count a party more or less: with weights=equal they are the weights. The first
    pattern that matches a party's name holds, others have 1; a name that no party has is refused. Under central noise
    one message moves the sum by at most the largest factor times the clip norm, so factors other than 1 are refused.
    """

    weights: str = knob("examples", "weight of a client", choices=("examples", "equal"))
    factors: Mapping[str, float] = knob(
        factory=dict,
        doc="own weights: party or pattern -> factor on its weight, {hospital-a: 2.0, 'clinic-*': 0.5}",
    )
    denominator: float = knob(
        0.0,
        "divide by this public number instead of the weights' sum (needed by DP under Poisson "
        "sampling: rate times parties); 0: the sum",
        low=0.0,
    )

    form = "sum"
    shares = True

    def __post_init__(self) -> None:
        for name, factor in self.factors.items():
            if not 0.0 <= factor < math.inf:
                raise ValueError(f"the factor of '{name}' is {factor:g}: give a number from 0 up")

    @property
    def plain(self) -> bool:  # type: ignore[override]
        """A factor above 1 would let a clipped message weigh more than its clip norm."""
        return all(factor == 1.0 for factor in self.factors.values())

    @property
    def alpha_max(self) -> float | None:
        """The largest coefficient of one message; None: a party chooses it."""
        return max([1.0, *self.factors.values()]) if self.weights == "equal" else None

    def feasible(self, fed: Federation, parties: Any, bound: Any) -> list[Problem]:
        """Names and patterns of `factors` that no party has."""
        return [
            Problem(
                f"aggregate.factors.{name}",
                f"no party is called '{name}'",
                nearest(name, parties.ids),
                "correct the name, or remove it",
            )
            for name in self.factors
            if not fnmatch.filter(parties.ids, name)
        ]

    def _factor(self, party: str) -> float:
        return next((f for name, f in self.factors.items() if fnmatch.fnmatchcase(party, name)), 1.0)

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        alpha = m.mass if self.weights == "examples" else 1.0
        if self.factors:
            alpha *= self._factor(m.sender or ctx.client)
        if ctx.layout is not None and (c := cut(ctx.layout, *ctx.terms.shape)) is not None:
            return Lift(c.widen(m.x), alpha, c.coverage() * alpha)
        return Lift(m.x, alpha, alpha)

    def share(self, m: Message, ctx: Ctx) -> Lift:
        return self.lift(m, ctx)

    def finish(self, x: Tensor, mass: float | Tensor, count: int, ctx: Ctx) -> Tensor:
        if self.denominator:
            return x.div_(self.denominator)
        if isinstance(mass, Tensor):
            return x / mass.clamp(min=1e-30) * (mass > 0)
        if mass <= 0:
            raise RoundFailed("the weights of all contributions sum to zero")
        return x.div_(mass)
