"""Three values: minus the largest, nothing, plus the largest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import bits, length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.vectors.layout import Layout

POWERS = torch.tensor([1, 3, 9, 27, 81], dtype=torch.int32)  # five of three values fit into a byte: 3^5 = 243


@method(
    "terngrad",
    slot="wire",
    section="IV.C",
    survey=(30,),
    paper="Wen et al., TernGrad: ternary gradients to reduce communication in distributed deep learning, NeurIPS 2017",
    departs="One scale for the whole vector (one a tensor: by-path); a party's own scale, not the cohort's largest.",
)
@dataclass(frozen=True)
class TernGrad(Wire):
    """C_i = s sign(x_i) b_i, with s = max |x| and b_i = 1 with probability |x_i| / s: E C = x.

    Var C_i = |x_i| (s - |x_i|), so one large value makes all others noisy: `clip` cuts values beyond so many root mean
    squares first, which biases the code (the paper takes 2.5). Not before secure aggregation. Bytes: 4 + ceil(d/5).
    """

    clip: float = knob(0.0, "cut values beyond so many root mean squares; 0: none", low=0.0)

    makes = "codes"

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        return not self.clip

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(-(-layout.numbers // 5))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = length.real(finite(x, "terngrad"), ctx).float()
        if self.clip and u.numel():
            most = self.clip * float(u.double().square().mean().sqrt())
            u = u.clamp(-most, most)
        scale = u.abs().max() if u.numel() else torch.zeros(())
        share = u.abs() / (scale if scale > 0 else torch.ones(()))
        here = torch.rand(u.shape, generator=ctx.rng("terngrad")) < share
        trits = torch.where(here, torch.where(u < 0, 2, 1), 0).to(torch.int32)
        fives = torch.nn.functional.pad(trits, (0, -trits.numel() % 5)).view(-1, 5)
        packed = bits.pack((fives * POWERS).sum(1).to(torch.int32), 8)
        return packed, {"scale": scale.reshape(1), **length.tell(x.numel(), ctx)}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        n = length.told(side, ctx, x.nbytes)
        d = length.count(n, ctx)
        bytes_ = bits.unpack(x, -(-d // 5), 8)
        scale = length.one(side, "scale", "terngrad").float()
        if scale.shape != (1,) or bool(scale < 0) or bool((bytes_ >= 243).any()):
            raise MessageRefused("terngrad: one scale and bytes below 243 were agreed")
        trits = (bytes_[:, None] // POWERS % 3).reshape(-1)[:d]
        value = torch.tensor([0.0, 1.0, -1.0])[trits.long()]
        return length.spread(value * scale, n, ctx), state
