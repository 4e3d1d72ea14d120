"""Bound an update's norm, and hide it in Gaussian noise: the two steps of every Gaussian mechanism."""

from __future__ import annotations

import torch
from torch import Tensor

from fedfm.core.context import Noise
from fedfm.core.errors import ClientFailed
from fedfm.vectors.layout import Layout

CHUNK = 1 << 16  # elements: the fp64 temporaries stay in cache
MARGIN = (
    1.0 - 2.0**-22
)  # rounding to fp32 adds at most 2^-24 to each value: what is clipped never exceeds the bound


def clip(x: Tensor, bound: float, who: str = "") -> Tensor:
    """`x` scaled to an L2 norm of at most `bound`, over the whole vector; the input is left as it is.

    x: (n,) floating point; other types than fp64 come back as fp32. The norm is taken in fp64, so no finite fp32 value
    overflows it. Raises ClientFailed on NaN or Inf.
    """
    y = x if x.dtype == torch.float64 else x.float()
    if not y.numel():
        return y
    peak = float(y.abs().max())
    if not peak < float("inf"):
        raise ClientFailed(
            f"the update of {who or 'a party'} holds NaN or Inf and cannot be clipped; "
            "lower its learning rate or look at its data"
        )
    unit = (
        peak if y.dtype == torch.float64 and not 1e-100 < peak < 1e100 else 1.0
    )  # squares outside fp64's range
    norm = (
        float(torch.linalg.vector_norm(y / unit if unit and unit != 1.0 else y, dtype=torch.float64)) * unit
    )
    if norm <= bound:
        return y
    out = torch.empty_like(y)
    for at in range(0, y.numel(), CHUNK):
        out[at : at + CHUNK] = (y[at : at + CHUNK].double() / norm).mul_(bound * MARGIN)
    return out


def perturb(x: Tensor, std: float, noise: Noise, layout: Layout | None = None) -> Tensor:
    """`x` + N(0, std^2) in every coordinate; the padding of `layout`, if it is the layout of `x`, stays zero.

    Drawn in fp64 and added in the type of `x`. Finite precision is not covered: the low bits of a floating-point sum
    can say more than the ideal mechanism would (Mironov 2012).
    """
    out = x.clone()
    for at in range(0, x.numel(), CHUNK):
        part = out[at : at + CHUNK]
        part += noise.normal(part.numel()).mul_(std).to(x.dtype)
    return layout.blank(out) if layout is not None and layout.size == x.numel() else out
