"""Local differential privacy: every party perturbs its own update before anybody else sees it."""

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
    "local-gaussian",
    slot="wire",
    section="V.B",
    survey=(105, 107),
    paper="Wei et al.: Federated learning with differential privacy, algorithms and performance "
    "analysis, IEEE TIFS 2020",
    departs="noise on the uplink only, calibrated to the whole update",
    atlas=("dp-noise",),
)
@dataclass(frozen=True)
class LocalGaussian(Wire):
    """Clip the update to C and add N(0, (z C)^2) on the client: the server needs no trust.

    Any two updates lie 2C apart, so this is accounted under replace-one with sensitivity 2C and without
    amplification by sampling: the server knows who took part. The mean of n updates keeps noise of standard deviation
    z C / sqrt(n). With z = 0 it only clips: no event, no guarantee.
    """

    clip_norm: float = knob(1.0, "largest L2 norm C of the update", low=1e-30)
    noise_multiplier: float = knob(4.0, "z: standard deviation of each party's noise, in units of C", low=0.0)

    linear: ClassVar[bool] = True
    perturbs: ClassVar[bool] = True
    covers: ClassVar[frozenset[str]] = frozenset({"x"})

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        """Clip and perturb; raises ClientFailed on NaN or Inf."""
        y = clip(x, self.clip_norm, ctx.client)
        if self.noise_multiplier == 0:
            return y, {}, state
        ctx.note(
            "privacy",
            mechanism="local-gaussian",
            noise_multiplier=self.noise_multiplier,
            clip_norm=self.clip_norm,
            simulated=ctx.simulated,
        )
        return (
            perturb(y, self.noise_multiplier * self.clip_norm, ctx.noise("local-gaussian"), ctx.layout),
            {},
            state,
        )

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return x, state
