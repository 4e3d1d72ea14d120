"""One bit a value: signs, and one length for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import bits, length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.vectors.layout import Layout


@method(
    "sign",
    slot="wire",
    section="IV.C",
    survey=(242,),
    paper="Bernstein et al., signSGD: compressed optimisation for non-convex problems, ICML 2018; "
    "the scale: Karimireddy et al., Error feedback fixes SignSGD, ICML 2019",
    also=("signsgd", "sign-sgd"),
)
@dataclass(frozen=True)
class Sign(Wire):
    """C(x) = (||x||_1 / d) sign(x), with sign(0) = +1: a bit a value and one number.

    ||x - C(x)||^2 = ||x||^2 - ||x||_1^2 / d, a contraction. It is biased: wrap it in `error-feedback`, or count
    votes with `aggregate=majority-vote`, which reads the signs alone. Not before secure aggregation (signs do not
    add up to the sign of a sum). Bytes: 4 + ceil(d/8).
    """

    makes = "codes"
    contracts = True

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(bits.length(layout.numbers, 1))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = length.real(finite(x, "sign"), ctx).float()
        scale = u.double().abs().mean().float() if u.numel() else torch.zeros(())
        side = {"scale": scale.reshape(1), **length.tell(x.numel(), ctx)}
        return bits.pack((u >= 0).to(torch.int32), 1), side, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        scale = length.one(side, "scale", "sign").float()
        if scale.shape != (1,) or bool(scale < 0):
            raise MessageRefused(f"sign: one scale from 0 up was agreed, {scale.tolist()[:3]} came")
        n = length.told(side, ctx, x.nbytes)
        up = bits.unpack(x, length.count(n, ctx), 1).float()
        return length.spread((2.0 * up - 1.0) * scale, n, ctx), state
