"""QSGD: stochastic quantisation to s levels of the vector's norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import bits, length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.vectors.layout import Layout


@method(
    "qsgd",
    slot="wire",
    section="IV.C",
    survey=(30,),
    paper="Alistarh et al., QSGD: communication-efficient SGD via gradient quantization and encoding, NeurIPS 2017",
    departs="fixed-width codes; add the entropy stage behind it for the paper's variable-length ones",
    atlas=("fedpaq",),
)
@dataclass(frozen=True)
class QSGD(Wire):
    """Q_i = ||x||_2 sign(x_i) xi_i, where xi_i is |x_i| s / ||x||_2 rounded up or down at random so that E Q = x.

    E||Q - x||^2 <= min(d/s^2, sqrt(d)/s) ||x||^2; s = 1 is ternary. Sign and level are one code of
    1 + ceil(log2(s+1)) bits (= ceil(log2(2s+1)) for every s). With `bucket`, each run of that many coordinates has
    its own norm. Bytes: 4 a norm + ceil(d (1 + ceil(log2(s+1))) / 8); `packed=False` gives whole bytes a code, which
    an `entropy` stage shortens best.
    """

    levels: int = knob(127, "s: levels above zero; 1 is ternary, 127 is one byte a value", low=1, high=32767)
    bucket: int = knob(0, "coordinates that share a norm; 0: all", low=0)
    packed: bool = knob(True, "pack codes without gaps")

    makes = "codes"
    unbiased = True

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(bits.length(layout.numbers, self._width()))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = length.real(finite(x, "qsgd"), ctx)
        rows = self._rows(u.float())
        norm = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).float()
        if not bool(norm.isfinite().all()):
            raise ClientFailed("qsgd: the norm of the update is beyond fp32; lower the learning rate")
        level = rows / torch.where(norm > 0, norm, torch.ones_like(norm))[:, None] * self.levels
        size = level.abs()
        lower = size.floor()
        up = torch.rand(rows.shape, generator=ctx.rng("qsgd")) < size.sub_(lower)
        q = lower.add_(up).clamp_(max=self.levels).copysign_(level)
        codes = q.add_(self.levels).to(torch.int32).reshape(-1)[: u.numel()]
        return bits.pack(codes, self._width()), {"norm": norm, **length.tell(x.numel(), ctx)}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        n = length.told(side, ctx, x.nbytes)
        d = length.count(n, ctx)
        norm = length.one(side, "norm", "qsgd").float()
        rows = self._rows((bits.unpack(x, d, self._width()) - self.levels).float())
        if norm.shape != (rows.shape[0],) or bool((rows.abs() > self.levels).any() or (norm < 0).any()):
            raise MessageRefused(
                f"qsgd: {norm.numel()} norms came for {rows.shape[0]} buckets, or levels above {self.levels}"
            )
        return length.spread((rows * (norm / self.levels)[:, None]).reshape(-1)[:d], n, ctx), state

    def _width(self) -> int:
        exact = (2 * self.levels).bit_length()
        return exact if self.packed else 8 * -(-exact // 8)

    def _rows(self, x: Tensor) -> Tensor:
        """Buckets as rows, the last one filled up with zeros."""
        size = min(self.bucket, x.numel()) or max(1, x.numel())
        return torch.nn.functional.pad(x, (0, -x.numel() % size)).view(-1, size)
