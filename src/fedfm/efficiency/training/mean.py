"""The weighted mean, in sum form: FedAvg's aggregator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError, Problem, RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Lift, State
from fedfm.text import nearest
from fedfm.vectors.cut import cut
from fedfm.vectors.patterns import matches

MOST_FACTOR = 1e6  # beyond that nobody else counts, and a float32 sum overflows


@method(
    "mean",
    slot="aggregate",
    section="IV.A",
    survey=(25,),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
    atlas=("fedavg",),
    also=("fedavg", "average", "weighted-mean", "weighted-average"),
)
@dataclass(frozen=True)
class Mean(Aggregator):
    """sum_i m_i x_i / sum_i m_i over those who delivered; m_i = local examples, or 1, times the party's own factor.

    A sub-model's message counts only where it has the coordinate; where nobody has it the result is 0. When all weights
    are 0 the round fails. `factors` count a party more or less: with weights=equal they are the weights. The first
    pattern that matches a party's name holds, others have 1; a name that no party has is refused. Under central noise
    one message moves the sum by at most the largest factor times the clip norm, so factors above 1 are refused.
    """

    weights: str = knob("examples", "weight of a client", choices=("examples", "equal"))
    denominator: float = knob(
        0.0,
        "divide by this public number instead of the weights' sum (needed by DP under Poisson "
        "sampling: rate times parties); 0: the sum",
        low=0.0,
    )
    cap: float = knob(
        0.0,
        "rows from which on a party weighs 1, with fewer rows / cap (public, for DP); 0: rows as they are",
        low=0.0,
    )
    factors: Mapping[str, float] = knob(
        factory=dict,
        doc="own weights: party or pattern -> factor on its weight, {hospital-a: 2.0, 'clinic-*': 0.5}",
        names=("some parties", ""),
    )

    form = "sum"
    shares = True
    plain = True
    widens = True

    def __post_init__(self) -> None:
        for name, factor in self.factors.items():
            if not isinstance(factor, int | float) or not 0.0 <= factor <= MOST_FACTOR:
                raise ValueError(
                    f"the factor of '{name}' is {factor!r}: give a number from 0 to {MOST_FACTOR:g}"
                )

    @property
    def alpha_max(self) -> float | None:
        """1 with equal or capped weights and no factor above 1; else None: one message may move the sum farther."""
        bounded = self.weights == "equal" or self.cap
        return 1.0 if bounded and max(self.factors.values(), default=1.0) <= 1.0 else None

    @property
    def alike(self) -> bool:
        return self.weights == "equal" and not self.factors

    @property
    def averages(self) -> bool:  # type: ignore[override]
        return not self.factors and not self.denominator

    @property
    def rescales(self) -> bool:  # type: ignore[override]
        """By a number that was agreed beforehand a sum of fewer comes back shorter, and one of more longer."""
        return bool(self.denominator)

    @property
    def divisor(self) -> str:
        if self.denominator:
            return "public"
        return "count" if self.weights == "equal" and not self.factors else "mass"

    def init(self, parties: Sequence[str], ctx: Ctx) -> State:
        """Raises ConfigError for each name or pattern of `factors` that no party has."""
        strangers = [name for name in self.factors if not any(matches(name, party) for party in parties)]
        if strangers:
            raise ConfigError(
                Problem(
                    f"aggregate.factors.{name}",
                    f"no party is called '{name}'",
                    nearest(name, parties),
                    "correct the name, or remove it",
                )
                for name in strangers
            )
        if parties and not any(map(self._factor, parties)):
            what, why = "every party's factor is 0", "a mean of nothing fails every round"
            raise ConfigError(
                [Problem("aggregate.factors", what, why, "a factor above 0 for those that count")]
            )
        return {}

    def _factor(self, party: str) -> float:
        return next((f for name, f in self.factors.items() if matches(name, party)), 1.0)

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        alpha = m.mass if self.weights == "examples" else 1.0
        if self.cap and self.weights == "examples":
            alpha = min(alpha, self.cap) / self.cap
        if self.factors:
            alpha *= self._factor(m.sender or ctx.client)
        if ctx.layout is not None and (c := cut(ctx.layout, *ctx.terms.shape)) is not None:
            return Lift(c.widen(m.x), alpha, c.coverage() * alpha)
        return Lift(m.x, alpha, alpha)

    def share(self, m: Message, ctx: Ctx) -> Lift:
        return self.lift(m, ctx)

    def finish(
        self, x: Tensor, mass: float | Tensor, count: int, state: State, ctx: Ctx
    ) -> tuple[Tensor, State]:
        if self.denominator:
            return x.div_(self.denominator), state
        if not (bool((mass > 0).any()) if isinstance(mass, Tensor) else mass > 0):
            raise RoundFailed("the weights of all contributions sum to zero")
        if isinstance(mass, Tensor):
            return x / mass.clamp(min=1e-30) * (mass > 0), state
        return x.div_(mass), state
