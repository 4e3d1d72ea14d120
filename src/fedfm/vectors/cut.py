"""Sub-models: the part of a layout that a share of the width or of the rank leaves, nested in one another."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.vectors.layout import Layout


@dataclass(frozen=True)
class Cut:
    """A sub-model: `sub[target] = full[source]`, prefix slices along the cut axes, hence nested in one another."""

    layout: Layout
    full: Layout
    source: Tensor
    target: Tensor

    def narrow(self, full: Tensor) -> Tensor:
        sub = full.new_zeros(self.layout.size)
        sub[self.target] = full[self.source]
        return sub

    def widen(self, sub: Tensor) -> Tensor:
        full = sub.new_zeros(self.full.size)
        full[self.source] = sub[self.target]
        return full

    def coverage(self) -> Tensor:
        """1 where the sub-model has the coordinate, else 0."""
        full = torch.zeros(self.full.size)
        full[self.source] = 1.0
        return full


def share(width: float, n: int) -> int:
    """How many of n hidden units a share holds: ceil(width * n), at least 1 (0.28 * 50 is 14, whatever floats say)."""
    return max(1, math.ceil(width * n - 1e-9))


@functools.lru_cache(maxsize=64)
def cut(layout: Layout, width: float = 1.0, rank: int | None = None) -> Cut | None:
    """The sub-layout for a share `width` of the hidden units (rounded up) or the first `rank` directions.

    Returns None when nothing is cut.
    """
    if width >= 1.0 and rank is None:
        return None

    def keep(n: int, axis: str) -> int:
        least = share(width, n) if axis == "width" else rank if axis == "rank" else None
        return n if least is None else min(least, n)

    kept = {
        e.name: tuple(keep(n, a) for n, a in zip(e.shape, e.axes or ("",) * len(e.shape), strict=True))
        for e in layout.entries
    }
    sub = layout.like(kept)
    full_views, sub_views = layout.views(torch.arange(layout.size)), sub.views(torch.arange(sub.size))
    source = [full_views[n][tuple(slice(k) for k in shape)].reshape(-1) for n, shape in kept.items()]
    target = [sub_views[n].reshape(-1) for n in kept]
    return Cut(sub, layout, torch.cat(source), torch.cat(target))
