"""Central differential privacy for whole parties: clip each update, add noise once, to the sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.protocols import State, Wire
from fedfm.core.registry import knob, method
from fedfm.trust.privacy.mechanism.clipping import clip, perturb


@method(
    "gaussian",
    slot="wire",
    section="V.B",
    survey=(105, 107),
    paper="McMahan, Ramage, Talwar, Zhang: Learning differentially private recurrent language models, "
    "ICLR 2018",
    departs="one flat clip over all trainable tensors; the aggregate's own denominator, not q*N",
    atlas=("dp-noise",),
)
@dataclass(frozen=True)
class ClipNoise(Wire):
    """Party-level central DP (DP-FedAvg): clip every update to C, add N(0, (z C)^2) once to their sum.

    One party moves the sum by at most C (add or remove) or 2C (replace), provided that the aggregate gives no party
    a weight above 1. The server is trusted: it sees the sum before the noise, and each update too unless `secagg`
    stands to the right. The accountant reads the `privacy` event of each release. With z = 0 it only clips:
    no event, no guarantee.
    """

    clip_norm: float = knob(1.0, "largest L2 norm C of one party's update", low=1e-30)
    noise_multiplier: float = knob(
        1.0, "z: standard deviation of the noise on the sum, in units of C", low=0.0
    )

    linear: ClassVar[bool] = True
    perturbs: ClassVar[bool] = True
    covers: ClassVar[frozenset[str]] = frozenset({"x"})
    after_sum: ClassVar[bool] = True

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        """Clip; raises ClientFailed on NaN or Inf."""
        return clip(x, self.clip_norm, ctx.client), {}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return x, state

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        """The sum with its noise; `x` holds the payload alone, without weights."""
        if self.noise_multiplier == 0:
            return x
        ctx.note(
            "privacy",
            mechanism="gaussian",
            noise_multiplier=self.noise_multiplier,
            clip_norm=self.clip_norm,
            simulated=ctx.simulated,
        )
        return perturb(x, self.noise_multiplier * self.clip_norm, ctx.noise("gaussian"), ctx.layout)
