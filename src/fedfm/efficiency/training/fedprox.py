"""FedProx: a proximal term keeps local work near the global model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.efficiency.training.local import Local, descend, outcome, weights


@method(
    "fedprox",
    slot="client",
    section="IV.A",
    survey=(28,),
    paper="Li et al., Federated Optimization in Heterogeneous Networks, 2020",
    reduces_to="fedprox(mu=0) is local",
    departs="The average is weighted by examples; the paper samples by weight and averages plainly.",
    atlas=("fedprox",),
)
@dataclass(frozen=True)
class FedProx(Client):
    """Minimise F_i(w) + mu/2 ||w - theta||^2: the gradient gains mu (w - theta). Any number of local steps is accepted.

    theta are the weights that the round began with; running statistics are not pulled back.
    """

    mu: float = knob(0.01, "strength of the pull; the paper tunes it in 0.001 .. 1", low=0.0)
    local: Local = knob(factory=Local, doc="the local steps")

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.local.remembers

    @property
    def makes(self) -> str:
        return self.local.makes

    @property
    def per_step(self) -> int:
        return self.local.per_step

    @property
    def least_steps(self) -> int:
        """Local steps from which on it differs from plain descent: at the first one there is nothing to pull back."""
        return 2 if self.mu else 1

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        anchor = weights(brief.x, bound).to(bound.device)

        def pull(w: Tensor, g: Tensor) -> None:
            g.add_(w - anchor, alpha=self.mu)

        done = descend(self.local, brief.x, data, ctx, bound, pull if self.mu else None, state=state)
        return outcome(self.local, brief.x, data, bound, done), done.state
