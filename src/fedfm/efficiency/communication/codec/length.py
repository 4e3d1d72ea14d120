"""How many numbers a stage encoded: both ends know it from the layout, else it travels beside.

The elements between the tensors of a layout are no numbers: they are taken out before a code is made of a vector, and
put back as zeros after it, so no fraction counts them, no range holds them and no byte is spent on them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused
from fedfm.core.message import finite
from fedfm.vectors.layout import Layout

FREE = 4096  # bytes that anybody may claim
MOST = 16  # bytes that a stage makes of one value at most: masked integers with a weight a coordinate
TALK = 1 << 20  # bytes that a message without a layout may claim,
RATIO = 1024  # and as many again for each byte that it brings


@functools.lru_cache(maxsize=64)
def _places(layout: Layout) -> Tensor | None:
    """Where the numbers of a layout lie; None: everywhere, or it names no tensors."""
    if not layout.entries or layout.numbers == layout.size:
        return None
    return torch.cat([torch.arange(e.offset, e.offset + e.size) for e in layout.entries])


def real(x: Tensor, ctx: Ctx) -> Tensor:
    """The numbers of `x` in order: all of it, but for the padding when it is a vector of the context's layout."""
    if ctx.layout is None or x.numel() != ctx.layout.size or (at := _places(ctx.layout)) is None:
        return x
    return x[at.to(x.device)]


def count(n: int, ctx: Ctx) -> int:
    """How many numbers a vector of `n` elements has (what `real` leaves of it)."""
    if ctx.layout is None or n != ctx.layout.size or not ctx.layout.entries:
        return n
    return ctx.layout.numbers


def spread(u: Tensor, n: int, ctx: Ctx) -> Tensor:
    """The vector of `n` elements of which `u` are the numbers."""
    if u.numel() == n:
        return u
    assert ctx.layout is not None and (at := _places(ctx.layout)) is not None
    out = u.new_zeros(n)
    out[at] = u
    return out


def tell(n: int, ctx: Ctx) -> dict[str, Tensor]:
    """What must travel so that `told` gives `n`: nothing, or one int64."""
    return {} if ctx.layout is not None and ctx.layout.size == n else {"length": torch.tensor([n])}


def told(side: Mapping[str, Tensor], ctx: Ctx, paid: int) -> int:
    """The length of an fp32 vector of which `paid` bytes came; raises MessageRefused when it is missing or too large."""
    if "length" not in side:
        if ctx.layout is None:
            raise MessageRefused("the message does not say how long its vector is")
        return ctx.layout.size
    if side["length"].dtype != torch.int64 or side["length"].numel() != 1:
        raise MessageRefused("the length of a vector is one int64")
    n = int(side["length"])
    if n < 0 or not honest(4 * n, ctx, paid):
        raise MessageRefused(f"the message of {paid} bytes claims a vector of {n} elements")
    return n


def honest(size: int, ctx: Ctx, paid: int) -> bool:
    """May a message of `paid` bytes claim a vector of `size` bytes? Asked before memory or time is spent on it.

    Where the layout is known, no stage makes more than MOST bytes of each of its values. A conversation has none:
    there what a party can make the other side do is bounded by what it sends.
    """
    return size <= (FREE + MOST * ctx.layout.size if ctx.layout is not None else TALK + RATIO * paid)


def one(side: Mapping[str, Tensor], name: str, codec: str) -> Tensor:
    """The side tensor `name`, in its own type; raises MessageRefused when it is missing or not finite."""
    t = side.get(name)
    if t is None or not finite(t):
        raise MessageRefused(f"{codec}: '{name}' is missing or not finite")
    return t
