"""FedBuff: a mean that trusts a contribution less the older the model that it began from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Lift, State
from fedfm.ledger.events import Event, Line
from fedfm.vectors.cut import cut


@dataclass(frozen=True)
class Stale(Event):
    """A message that started from a model so many rounds old, and its weight."""

    staleness: int
    weight: float
    server = True

    @classmethod
    def counted(cls, line: Line) -> Collection[str]:
        return (line["client"],) if line["weight"] else ()


@method(
    "fedbuff",
    slot="aggregate",
    section="IV.A",
    survey=(215, 229),
    paper="Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, 2022",
    reduces_to="fedbuff(power=0) is mean(weights=equal)",
    atlas=("async",),
)
@dataclass(frozen=True)
class FedBuff(Aggregator):
    """(1/K) sum_i (1 + tau_i)^-power x_i over K differences, tau_i = versions made since i began.

    Every contribution counts 1 in K, so a stale buffer takes a smaller step. One beyond `max_staleness`
    counts neither in the sum nor in K; when all are, the result is 0. A sub-model's message counts where it
    has the coordinate. Notes "stale" with tau and the weight (0: refused as too old) for every tau > 0.
    """

    power: float = knob(0.5, "exponent of the discount; 0: none", low=0.0)
    max_staleness: int | None = knob(None, "oldest contribution that counts, in versions; none: any", low=0)

    form = "sum"
    takes = ("delta",)
    plain = True
    widens = True
    alpha_max = 1.0
    divisor = "count"

    @property
    def alike(self) -> bool:
        return self.power == 0 and self.max_staleness is None

    @property
    def averages(self) -> bool:  # type: ignore[override]
        return self.alike

    @property
    def rescales(self) -> bool:  # type: ignore[override]
        """What all agree on comes back shorter when some of it is stale."""
        return not self.alike

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        tau = max(0, ctx.round - m.version)
        counts = float(self.max_staleness is None or tau <= self.max_staleness)
        alpha = counts * (1.0 + tau) ** -self.power
        if tau:
            ctx.note(Stale(tau, alpha))
        if ctx.layout is not None and (c := cut(ctx.layout, *ctx.terms.shape)) is not None:
            return Lift(c.widen(m.x), alpha, c.coverage() * counts)
        return Lift(m.x, alpha, counts)

    def finish(
        self, x: Tensor, mass: float | Tensor, count: int, state: State, ctx: Ctx
    ) -> tuple[Tensor, State]:
        return x / (mass.clamp(min=1.0) if isinstance(mass, Tensor) else max(mass, 1.0)), state
