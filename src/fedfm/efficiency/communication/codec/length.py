"""The length of the vector that a stage encoded: both ends know it from the layout, else it travels beside."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused

SLACK = 16  # no stage makes more elements than this many times the layout's


def tell(n: int, ctx: Ctx) -> dict[str, Tensor]:
    """What must travel so that `told` gives `n`: nothing, or one int64."""
    return {} if ctx.layout is not None and ctx.layout.size == n else {"length": torch.tensor([n])}


def told(side: Mapping[str, Tensor], ctx: Ctx) -> int:
    """The length; raises MessageRefused when it is missing or beyond what the layout allows."""
    if "length" not in side:
        if ctx.layout is None:
            raise MessageRefused("the message does not say how long its vector is")
        return ctx.layout.size
    if side["length"].dtype != torch.int64 or side["length"].numel() != 1:
        raise MessageRefused("the length of a vector is one int64")
    n = int(side["length"])
    bounded(n, ctx)
    return n


def bounded(n: int, ctx: Ctx) -> None:
    """Refuse a length that no honest stage produces, before memory is taken for it."""
    if n < 0 or (ctx.layout is not None and n > SLACK * ctx.layout.size + 4096):
        raise MessageRefused(f"the message claims a vector of {n} elements")
