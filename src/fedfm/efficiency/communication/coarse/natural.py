"""Natural compression: powers of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import bits, length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.vectors.layout import Layout

LEAST = -126  # the exponent of the smallest normal number in fp32; code 1
TOP = 127 - LEAST + 1  # the code of 2^127


@method(
    "natural",
    slot="wire",
    section="IV.C",
    survey=(30,),
    paper="Horvath et al., Natural compression for distributed deep learning, 2019",
)
@dataclass(frozen=True)
class Natural(Wire):
    """Each value goes to a neighbouring power of two, at random so that E C = x: a sign and an exponent, 9 bits.

    2^e <= |x| < 2^(e+1) becomes 2^(e+1) with probability |x|/2^e - 1. E||C - x||^2 <= ||x||^2 / 8 whatever the
    spread of the values, where quantisers to a common range lose the small ones. What is smaller than 2^-126 becomes
    that or 0. Not before secure aggregation. Bytes: ceil(9 d / 8).
    """

    makes = "codes"
    unbiased = True
    separate = True

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(bits.length(layout.numbers, 9))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = length.real(finite(x, "natural"), ctx).float()
        if bool((u.abs() > 2.0**127).any()):
            raise ClientFailed("natural: a value is beyond 2^127; lower the learning rate")
        mantissa, exponent = torch.frexp(u.abs())  # |x| = mantissa 2^exponent, 1/2 <= mantissa < 1
        tiny = (exponent - 1 < LEAST) | (u == 0)  # from 0 to 2^-126
        up = torch.where(tiny, torch.ldexp(u.abs(), torch.tensor(-LEAST)), 2 * mantissa - 1)
        below = torch.where(tiny, 0, exponent - 1 - LEAST + 1)
        code = below + (torch.rand(u.shape, generator=ctx.rng("natural")) < up)
        codes = (code + (u < 0) * 256).to(torch.int32)
        return bits.pack(codes, 9), length.tell(x.numel(), ctx), state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        n = length.told(side, ctx, x.nbytes)
        codes = bits.unpack(x, length.count(n, ctx), 9)
        code = codes & 255
        if bool((code > TOP).any()):
            raise MessageRefused("natural: an exponent beyond 127 came")
        size = torch.where(code > 0, torch.ldexp(torch.ones(code.shape), code + LEAST - 1), torch.zeros(()))
        return length.spread(torch.where(codes >= 256, -size, size), n, ctx), state
