"""Top-k sparsification."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import bits, length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.vectors.layout import Layout


def kept(fraction: float | None, count: int | None, d: int) -> int:
    """k of d: `count` if given, else ceil(fraction * d), at least 1 (0.1 * 30 is 3, whatever floats say)."""
    return min(d, count or max(1, math.ceil((fraction or 0.0) * d - 1e-9)))


@method(
    "topk",
    slot="wire",
    section="IV.C",
    survey=(213, 242),
    paper="Stich, Cordonnier, Jaggi, Sparsified SGD with memory, NeurIPS 2018",
    atlas=("sparsify",),
    also=("top-k", "sparsify"),
)
@dataclass(frozen=True)
class TopK(Wire):
    """The k entries of largest magnitude of the whole vector; the others become 0 (ties: lowest index).

    k is rounded up, and counts weights: padding between tensors is none of the d values. ||x - C(x)||^2 <= (1 - k/d)
    ||x||^2; fraction=1 is the identity. It is biased: wrap it in `error-feedback`. The
    payload is the k values in index order; beside it go their indices, k ceil(log2 d) bits as a list or d bits as a
    bitmap, whichever is smaller.
    Bytes of an fp32 vector: 4k + ceil(min(k ceil(log2 d), d) / 8).
    """

    fraction: float | None = knob(
        0.01, "share of the entries that travel, at least one", above=0.0, high=1.0, alternative="size"
    )
    count: int | None = knob(
        None, "number of entries that travel, instead of the share", low=1, alternative="size"
    )

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(kept(self.fraction, self.count, layout.numbers))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = length.real(finite(x, "topk"), ctx)
        d = u.numel()
        index = largest(u, kept(self.fraction, self.count, d))
        return u[index], {"index": packed(index, d), **length.tell(x.numel(), ctx)}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        n = length.told(side, ctx, x.nbytes)
        d = length.count(n, ctx)
        if x.numel() != (k := kept(self.fraction, self.count, d)):
            raise MessageRefused(f"topk: {x.numel()} values came where {k} of {d} were agreed")
        out = torch.zeros(d)
        out[unpacked(length.one(side, "index", "topk"), k, d)] = x.float()
        return length.spread(out, n, ctx), state


def largest(x: Tensor, k: int) -> Tensor:
    """Ascending indices of the k largest |x|; among equals the lowest index wins, which torch.topk leaves open."""
    if k >= x.numel():
        return torch.arange(x.numel())
    size = x.abs()
    least = size.topk(k, sorted=False).values.min()
    index = (size >= least).nonzero().reshape(-1)
    if index.numel() > k:
        ties = index[size[index] == least]
        drop = torch.zeros_like(size, dtype=torch.bool)
        drop[ties[ties.numel() - (index.numel() - k) :]] = True
        index = index[~drop[index]]
    return index


def packed(index: Tensor, d: int) -> Tensor:
    """Ascending indices below d as uint8: a list, or a bitmap where that is smaller."""
    wide = max(0, d - 1).bit_length()
    if index.numel() * wide < d:
        return bits.pack(index, wide)
    here = np.zeros(d, np.uint8)
    here[index.numpy()] = 1
    return torch.from_numpy(np.packbits(here, bitorder="little"))


def unpacked(raw: Tensor, k: int, d: int) -> Tensor:
    """The k indices; raises MessageRefused when the bytes do not name k places below d."""
    wide = max(0, d - 1).bit_length()
    if k * wide < d:
        index = bits.unpack(raw, k, wide).long()
    elif raw.dtype == torch.uint8 and raw.numel() == -(-d // 8):
        index = torch.from_numpy(np.flatnonzero(np.unpackbits(raw.numpy(), count=d, bitorder="little")))
    else:
        raise MessageRefused(f"topk: a bitmap of {d} bits was agreed, {raw.numel()} bytes came")
    if index.numel() != k or (k and int(index.max()) >= d):
        raise MessageRefused(
            f"topk: {index.numel()} indices up to {int(index.max()) if index.numel() else 0} came "
            f"where {k} below {d} were agreed"
        )
    if not bool((index[1:] > index[:-1]).all()):
        raise MessageRefused("topk: its indices do not ascend, or one stands twice")
    return index
