"""Order statistics of a few long rows: a sorting network of whole-row minima and maxima.

A round has tens of messages of millions of coordinates. Sorting each column by itself is slow; Batcher's merge
exchange (Knuth, The Art of Computer Programming 3, 5.2.2 M) needs the same comparisons for every column, so each
is one minimum and one maximum over a chunk that stays in cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHUNK = 1 << 15  # coordinates at a time


@functools.lru_cache(maxsize=64)
def network(n: int) -> tuple[tuple[int, int], ...]:
    """The exchanges (i, j), i < j, that sort any n rows."""
    pairs, top = [], (n - 1).bit_length() if n > 1 else 0
    p = 1 << (top - 1) if top else 0
    while p:
        q, r, d = 1 << (top - 1), 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(pairs)


def ordered(rows: Sequence[Tensor]) -> list[Tensor]:
    """The rows (each (c,)) sorted per coordinate, ascending; the given tensors are overwritten."""
    out = list(rows)
    spare = torch.empty_like(out[0])
    for i, j in network(len(out)):
        low, high = out[i], out[j]
        torch.minimum(low, high, out=spare)
        torch.maximum(low, high, out=high)
        out[i], spare = spare, low
    return out


def per_coordinate(rows: Sequence[Tensor], rule: Callable[[list[Tensor]], Tensor]) -> Tensor:
    """Apply `rule` (sorted rows of a chunk -> (c,)) to vectors of shape (d,) each; fp32 out."""
    d = rows[0].numel()
    out = torch.empty(d)
    for at in range(0, d, CHUNK):
        out[at : at + CHUNK] = rule(
            ordered(torch.stack([r[at : at + CHUNK].float() for r in rows]).unbind(0))
        )
    return out
