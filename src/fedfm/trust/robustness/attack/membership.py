"""Who is malicious: drawn once, the same parties for every attack of a seed, so that attacks can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fedfm.core.context import Ctx


def drawn(ids: Sequence[str], fraction: float | None, count: int | None, ctx: Ctx) -> frozenset[str]:
    """The first `count` (None: floor(fraction * parties)) of a permutation of the sorted ids, from the cohort's stream."""
    names = sorted(ids)
    order = torch.randperm(len(names), generator=ctx.shared("malicious")).tolist()
    return frozenset(names[i] for i in order[: count or math.floor((fraction or 0.0) * len(names) + 1e-9)])
