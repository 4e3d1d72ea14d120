"""FedSAM: sharpness-aware local steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Client, State
from fedfm.efficiency.training.local import Local, descend, loss_and_gradient, outcome, weights


@method(
    "fedsam",
    slot="client",
    section="IV.A",
    survey=(28,),
    paper="Qu et al., Generalized federated learning via sharpness aware minimization, ICML 2022; "
    "Foret et al., Sharpness-aware minimization for efficiently improving generalization, ICLR 2021",
    reduces_to="fedsam(rho=0) is local",
)
@dataclass(frozen=True)
class FedSAM(Client):
    """Each step follows the gradient at w + rho g/||g||, where the loss near w is worst to first order.

    Two gradients a step: twice the time of `local`, one vector more of memory, the same bytes. Both passes feed the
    running statistics of a module. The loss noted is that at w.
    """

    rho: float = knob(0.05, "how far away the gradient is taken", low=0.0, high=1e6)
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

    def alone(self) -> Client:
        return self.local

    def steps_for(self, rows: int) -> int:
        return self.local.steps_for(rows)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Bound) -> tuple[Message, State]:
        plain = loss_and_gradient(self.local, data, bound)
        w, g = weights(bound.params, bound), weights(bound.grads, bound)

        def sharp(index: Tensor) -> float:
            loss, here = plain(index), w.clone()
            w.add_(g, alpha=self.rho / (float(g.norm()) + 1e-12))
            plain(index)
            w.copy_(here)
            return loss

        done = descend(
            self.local, brief.x, data, ctx, bound, state=state, gradient=sharp if self.rho else None
        )
        return outcome(self.local, brief.x, data, bound, done), done.state
