"""The weighted mean, in sum form: FedAvg's aggregator."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Lift, State
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
    """sum_i m_i x_i / sum_i m_i over those who delivered; m_i = local examples, or 1.

    A sub-model's message counts only where it has the coordinate; where nobody has it the result is 0.
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

    form = "sum"
    shares = True
    plain = True
    widens = True

    @property
    def alpha_max(self) -> float | None:
        return 1.0 if self.weights == "equal" or self.cap else None

    @property
    def alike(self) -> bool:
        return self.weights == "equal"

    @property
    def divisor(self) -> str:
        return "public" if self.denominator else "count" if self.weights == "equal" else "mass"

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        alpha = m.mass if self.weights == "examples" else 1.0
        if self.cap and self.weights == "examples":
            alpha = min(alpha, self.cap) / self.cap
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
        if isinstance(mass, Tensor):
            return x / mass.clamp(min=1e-30) * (mass > 0), state
        if mass <= 0:
            raise RoundFailed("the weights of all contributions sum to zero")
        return x.div_(mass), state
