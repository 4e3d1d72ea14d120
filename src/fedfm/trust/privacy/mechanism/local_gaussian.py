"""Local differential privacy: every party perturbs its own update before anybody else sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.protocols import State
from fedfm.trust.privacy.mechanism.clipping import clip, perturb
from fedfm.trust.privacy.mechanism.promise import Promise


@method(
    "local-gaussian",
    slot="wire",
    section="V.B",
    survey=(105, 107),
    paper="Wei et al.: Federated learning with differential privacy, algorithms and performance "
    "analysis, IEEE TIFS 2020",
    departs="noise on the uplink only, calibrated to the whole update",
    atlas=("dp-noise",),
    also=("ldp", "local-dp"),
)
@dataclass(frozen=True)
class LocalGaussian(Promise):
    """Clip the update to C and add N(0, (z C)^2) on the client: the server needs no trust.

    Any two updates lie 2C apart, so this is accounted under replace-one with sensitivity 2C and without amplification by
    sampling: the server knows who took part. Under zero-out (an update against no update at all) C counts. The mean of n
    updates keeps noise of standard deviation z C / sqrt(n). Codes stand behind it, never in front.
    """

    relation: str = knob(
        "replace-one", "what the guarantee hides of a party", choices=("replace-one", "zero-out")
    )

    linear: ClassVar[bool] = True
    usual: ClassVar[float] = 4.0
    covers: ClassVar[frozenset[str]] = frozenset({"x"})
    event = Promise.event

    @property
    def against(self) -> str:  # type: ignore[override]
        return "server" if self.promises else ""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        """Clip and perturb; raises ClientFailed on NaN or Inf."""
        y = clip(x, self.clip_norm, ctx.client)
        if self.noise == 0:
            return y, {}, state
        self.announce(ctx)
        return perturb(y, self.std, ctx.noise("local-gaussian", self.real_noise), ctx.layout), {}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return x, state
