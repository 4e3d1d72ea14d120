"""Are two things the same, to the last bit? States, messages and vectors, compared and copied."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedfm.core.message import Message
from fedfm.vectors.layout import Layout


def same(a: Any, b: Any, rtol: float = 0.0) -> bool:
    """Equal types, shapes and bits, however deeply nested (NaN equals NaN); floats of tensors up to `rtol` of the largest."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return torch.equal(_bits(a), _bits(b)) or bool(rtol and a.is_floating_point() and near(a, b, rtol))
    if isinstance(a, Message) and isinstance(b, Message):
        return same(vars(a), vars(b), rtol)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[k], b[k], rtol) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y, rtol) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def _bits(t: Tensor) -> Tensor:
    return (
        t.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        if t.numel()
        else torch.empty(0, dtype=torch.uint8)
    )


def kept(x: Any) -> Any:
    """A deep copy, to see later whether `x` was changed."""
    return copy.deepcopy(x)


def near(a: Tensor, b: Tensor, rtol: float = 1e-5) -> bool:
    """Equal up to `rtol` of the largest value in sight (rounding of a sum is relative to its terms)."""
    if a.shape != b.shape:
        return False
    if not a.numel():
        return True
    a, b = a.double(), b.double()
    return bool((a - b).abs().max() <= rtol * max(1e-12, float(a.abs().max()), float(b.abs().max())))


def normal(d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """d independent N(0, 1) values; the same for the same seed."""
    return torch.randn(d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def padding(layout: Layout) -> Tensor:
    """Where a vector has no numbers (bool)."""
    return ~layout.pack({e.name: torch.ones(e.shape) for e in layout.entries}).bool()
