"""Central differential privacy for whole parties: clip each update, add noise once, to the sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.protocols import State
from fedfm.trust.privacy.mechanism.clipping import clip, perturb
from fedfm.trust.privacy.mechanism.promise import Promise


@method(
    "gaussian",
    slot="wire",
    section="V.B",
    survey=(105, 107),
    paper="McMahan, Ramage, Talwar, Zhang: Learning differentially private recurrent language models, "
    "ICLR 2018",
    departs="one flat clip over all trainable tensors; the aggregate's own denominator, not q*N",
    atlas=("dp-noise",),
    also=("dp", "dp-sgd", "central-dp", "differential-privacy"),
)
@dataclass(frozen=True)
class ClipNoise(Promise):
    """Party-level central DP (DP-FedAvg): clip every update to C, add N(0, (z C)^2) once to their sum.

    One party moves the sum by at most C (its contribution set to zero, or the party added or removed) or 2C (replaced),
    provided that the aggregate gives no party a weight above 1 and divides by a public number. The server is trusted:
    it sees the sum before the noise, and each update too unless `secagg` stands to the right. `epsilon` is turned into
    z for the planned rounds and draws. The accountant reads the `privacy` event of each release.
    """

    linear: ClassVar[bool] = True
    after_sum: ClassVar[bool] = True
    covers: ClassVar[frozenset[str]] = frozenset({"x"})
    event = Promise.event

    @property
    def against(self) -> str:  # type: ignore[override]
        return "recipients" if self.promises else ""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        """Clip; raises ClientFailed on NaN or Inf."""
        return clip(x, self.clip_norm, ctx.client), {}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return x, state

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        """The sum with its noise (of no message: noise alone); `x` holds the payload alone, without weights."""
        if self.noise == 0:
            return x
        self.announce(ctx)
        return perturb(x, self.std, ctx.noise("gaussian", self.real_noise), ctx.layout)
