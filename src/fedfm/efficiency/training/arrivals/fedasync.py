"""FedAsync: the server mixes each arriving model into its own, less the older the model that it began from."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.protocols import Aggregate, Server, State
from fedfm.efficiency.training.servers import apart, together


@method(
    "fedasync",
    slot="server",
    section="IV.A",
    survey=(215, 229),
    paper="Xie et al., Asynchronous Federated Optimization, 2019",
    departs="several models at once are mixed as their mean, with the mean of their weights; buffers are replaced",
    reduces_to="fedasync(mix=1, decay=constant) is apply(takes=weights)",
    atlas=("async",),
)
@dataclass(frozen=True)
class FedAsync(Server):
    """theta = (1 - a) theta + a theta_new with a = mix * s(tau), tau = versions made since that party began.

    s is 1 (constant), (1 + tau)^-power (polynomial), or 1 up to `grace` and 1 / (slope (tau - grace) + 1) beyond
    (hinge). Made for `pace=buffered(size=1)`: the server steps at every arrival. Clients send weights.
    """

    mix: float = knob(0.6, "weight of a fresh model, alpha", above=0.0, high=1.0)
    decay: str = knob("polynomial", "how age counts", choices=("constant", "polynomial", "hinge"))
    power: float = knob(0.5, "exponent of the polynomial decay", low=0.0, only=("decay", "polynomial"))
    slope: float = knob(10.0, "slope a of the hinge", above=0.0, only=("decay", "hinge"))
    grace: int = knob(4, "age b up to which the hinge does not act", low=0, only=("decay", "hinge"))

    takes = "weights"
    counts = False

    def weight(self, tau: int) -> float:
        """alpha s(tau) of a model that began `tau` versions ago."""
        if self.decay == "polynomial":
            return float(self.mix * (1.0 + tau) ** -self.power)
        late = max(0, tau - self.grace) if self.decay == "hinge" else 0
        return self.mix / (self.slope * late + 1.0)

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        a = sum(self.weight(max(0, ctx.round - v)) for v in agg.versions) / len(agg.versions)
        (w, _), (new, news) = apart(state["w"], ctx.layout), apart(agg.x, ctx.layout)
        return state | {"w": together(new if a == 1.0 else w + a * (new - w), news, ctx.layout)}
