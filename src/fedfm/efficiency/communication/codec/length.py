"""The length of the vector that a stage encoded: both ends know it from the layout, else it travels beside."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused
from fedfm.core.message import finite

FREE = 4096  # bytes that anybody may claim
MOST = 16  # bytes that a stage makes of one value at most: masked integers with a weight a coordinate
TALK = 1 << 20  # bytes that a message without a layout may claim,
RATIO = 1024  # and as many again for each byte that it brings


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
