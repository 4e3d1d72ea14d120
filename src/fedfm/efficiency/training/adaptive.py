"""FedOpt: an adaptive optimiser at the server, fed with the mean update (FedAdam, FedYogi, FedAdagrad)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.protocols import Aggregate, Bound, Server, State
from fedfm.efficiency.training.schedule import Constant, Schedule
from fedfm.efficiency.training.servers import apart, together
from fedfm.ledger.events import Event

SUDDEN = 100.0  # growth of the largest divisor in one round that is noted


class Adaptive(Server):
    """theta += lr m / (sqrt(v) + tau) with m = beta1 m + (1 - beta1) delta; `second` says what becomes of v.

    The moments are over weights alone; buffers become their mean. An update so large that its square is beyond fp32
    fails the round, before it makes v infinite and the model deaf for ever. One below that which makes the largest
    divisor grow a hundredfold is noted as "stalled", with the share of the coordinates that will move a hundred times
    less from now on: v forgets it slowly.
    """

    lr: float
    beta1: float
    tau: float
    schedule: Schedule

    counts = False
    elastic = True

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        raise NotImplementedError

    def init(self, bound: Bound, ctx: Ctx) -> State:
        zero = torch.zeros(bound.layout.trained.size)
        return {"w": bound.init.clone(), "m": zero, "v": zero.clone()}

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        (w, still), (delta, news) = apart(state["w"], ctx.layout), apart(agg.x, ctx.layout)
        m = self.beta1 * state["m"] + (1 - self.beta1) * delta
        v = self.second(state["v"], delta.square())
        if not bool(v.isfinite().all()):
            raise RoundFailed(
                f"the mean update has values up to {float(delta.abs().max()):g}, whose squares are beyond fp32; clip "
                "updates, refuse outliers (detect=norm-outliers), or lower the clients' rate"
            )
        divisor, before = v.sqrt() + self.tau, state["v"].sqrt() + self.tau
        if bool(state["v"].any()) and float(divisor.max()) > SUDDEN * float(before.max()):
            share = float((divisor > SUDDEN * before).float().mean())
            ctx.note(Stalled(share, float(delta.abs().max())))
        step = self.schedule.rate(self.lr, ctx) * m / divisor
        return {"w": together(w + step, still + news, ctx.layout), "m": m, "v": v}


def _open(**knobs: float) -> None:
    """Raises ValueError for a value at the open end of its range."""
    for name, value in knobs.items():
        if name == "tau" and value <= 0:
            raise ValueError("tau must be above 0: where nothing moved, the step would be 0/0")
        if name != "tau" and value >= 1:
            raise ValueError(f"{name} must be below 1: at 1 the moment never hears of an update")


@dataclass(frozen=True)
class Stalled(Event):
    """A sudden large update: for this share of the coordinates the step's divisor grew so much that they stand still."""

    share: float
    largest: float
    server = True


@method(
    "fedadam",
    slot="server",
    section="IV.A",
    survey=(13, 52),
    paper="Reddi et al., Adaptive Federated Optimization, 2021",
    atlas=("fedopt",),
    departs="v begins at 0; in the paper at tau^2 or above.",
    also=("fedopt", "adam"),
)
@dataclass(frozen=True)
class FedAdam(Adaptive):
    """The server's Adam on the pseudo-gradient: m, v from mean(delta); theta += lr m / (sqrt(v) + tau).

    v = beta2 v + (1 - beta2) delta^2. m and v begin at 0 and are not corrected for it (the paper's algorithm; other
    tools divide by 1 - beta^t), and tau stands outside the root. Buffers become their mean.
    """

    lr: float = knob(0.01, "server rate eta_s", low=0.0)
    beta1: float = knob(0.9, "decay of the first moment", low=0.0, below=1.0)
    beta2: float = knob(0.99, "decay of the second moment", low=0.0, below=1.0)
    tau: float = knob(1e-3, "degree of adaptivity, added to sqrt(v)", above=0.0)
    schedule: Schedule = knob(factory=Constant, doc="how the rate changes over the run")

    def __post_init__(self) -> None:
        _open(beta1=self.beta1, beta2=self.beta2, tau=self.tau)

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * square


@method(
    "fedyogi",
    slot="server",
    section="IV.A",
    survey=(13, 52),
    paper="Reddi et al., Adaptive Federated Optimization, 2021",
    atlas=("fedopt",),
    departs="v begins at 0; in the paper at tau^2 or above.",
    also=("yogi",),
)
@dataclass(frozen=True)
class FedYogi(Adaptive):
    """FedAdam whose second moment moves additively: v -= (1 - beta2) delta^2 sign(v - delta^2).

    v forgets a large update in steps of (1 - beta2) delta^2 instead of by a factor, so it never falls fast; where
    v = delta^2 it is FedAdam's. theta += lr m / (sqrt(v) + tau). Buffers become their mean.
    """

    lr: float = knob(0.01, "server rate eta_s", low=0.0)
    beta1: float = knob(0.9, "decay of the first moment", low=0.0, below=1.0)
    beta2: float = knob(0.99, "decay of the second moment", low=0.0, below=1.0)
    tau: float = knob(1e-3, "degree of adaptivity, added to sqrt(v)", above=0.0)
    schedule: Schedule = knob(factory=Constant, doc="how the rate changes over the run")

    def __post_init__(self) -> None:
        _open(beta1=self.beta1, beta2=self.beta2, tau=self.tau)

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        return v - (1 - self.beta2) * square * torch.sign(v - square)


@method(
    "fedadagrad",
    slot="server",
    section="IV.A",
    survey=(13, 52),
    paper="Reddi et al., Adaptive Federated Optimization, 2021",
    atlas=("fedopt",),
    departs="v begins at 0; in the paper at tau^2 or above.",
    also=("adagrad",),
)
@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """The server's Adagrad on the pseudo-gradient: v += delta^2; theta += lr m / (sqrt(v) + tau).

    v never falls, so steps shrink like 1/sqrt(rounds). beta1 = 0 (m = delta) is the paper's. Buffers become their mean.
    """

    lr: float = knob(0.03, "server rate eta_s", low=0.0)
    beta1: float = knob(0.0, "decay of the first moment", low=0.0, below=1.0)
    tau: float = knob(1e-3, "degree of adaptivity, added to sqrt(v)", above=0.0)
    schedule: Schedule = knob(factory=Constant, doc="how the rate changes over the run")

    def __post_init__(self) -> None:
        _open(beta1=self.beta1, tau=self.tau)

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        return v + square
