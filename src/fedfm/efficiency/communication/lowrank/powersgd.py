"""Low-rank codes of matrices by one step of power iteration (PowerSGD)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec import length
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.vectors.layout import Entry, Layout


@method(
    "powersgd",
    slot="wire",
    section="IV.C",
    survey=(30,),
    paper="Vogels, Karimireddy, Jaggi, PowerSGD: practical low-rank gradient compression for distributed optimization, "
    "NeurIPS 2019",
    departs="Each party codes its own update; the paper's all-reduce of the factors needs two exchanges a round.",
)
@dataclass(frozen=True)
class PowerSGD(Wire):
    """A matrix M (m, n) travels as P (m, r) and Q (n, r): P = orth(M Q_before), Q = M^T P, M ~ P Q^T.

    A tensor of more dimensions is the matrix of its first against all others; vectors, and matrices that r (m + n)
    values would not shorten, travel whole. Q_before is the party's last Q (random at first): over rounds it
    finds the leading directions of its updates. ||M - P Q^T|| <= ||M||, so it is a contraction: wrap it in
    `error-feedback` or `ef21`. It needs the shapes of the tensors: first stage of a pipe; not before secure
    aggregation. With rank min(m, n) it is exact to rounding. Bytes: 4 sum r (m + n), and 4 a value that travels whole.
    """

    rank: int = knob(2, "r: columns of the factors", low=1)

    contracts = True
    remembers = True
    needs = frozenset({"structure"})

    def gives(self, layout: Layout) -> Layout:
        return Layout.flat(sum(r * (m + n) if r else e.size for e, (m, n, r) in self._tensors(layout)))

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u, parts, new = finite(x, "powersgd").float(), [], dict[str, Tensor]()
        for e, (m, n, r) in self._tensors(_shapes(u.numel(), ctx)):
            piece = u[e.offset : e.offset + e.size]
            if not r:
                parts.append(piece)
                continue
            matrix, before = piece.view(m, n), state.get(e.name)
            if before is None or before.shape != (n, r):
                before = torch.randn(n, r, generator=ctx.pair(f"powersgd/{e.name}"))
            p = torch.linalg.qr(matrix @ before).Q
            q = matrix.T @ p
            parts += [p.reshape(-1), q.reshape(-1)]
            # a direction that this update lacks is drawn anew, so that the next one is not deaf to it
            new[e.name] = q if bool((q.norm(dim=0) > 0).all()) else before
        return torch.cat(parts) if parts else u, length.tell(u.numel(), ctx), new

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        size = length.told(side, ctx, x.nbytes)
        tensors = list(self._tensors(_shapes(size, ctx)))
        wanted = sum(r * (m + n) if r else e.size for e, (m, n, r) in tensors)
        if x.numel() != wanted:
            raise MessageRefused(f"powersgd: {x.numel()} values came where {wanted} were agreed")
        out, at = torch.zeros(size), 0
        for e, (m, n, r) in tensors:
            if not r:
                piece, at = x[at : at + e.size].float(), at + e.size
            else:
                p, q = (
                    x[at : at + m * r].float().view(m, r),
                    x[at + m * r : at + (m + n) * r].float().view(n, r),
                )
                piece, at = (p @ q.T).reshape(-1), at + (m + n) * r
            out[e.offset : e.offset + e.size] = piece
        return out, state

    def _tensors(self, layout: Layout) -> Iterator[tuple[Entry, tuple[int, int, int]]]:
        """Each tensor with (m, n, r) of its matrix; r = 0: it travels whole."""
        for e in layout.entries or Layout.flat(layout.size).entries:
            m, n = (e.shape[0], math.prod(e.shape[1:])) if len(e.shape) > 1 else (e.size, 1)
            r = min(self.rank, m, n)
            yield e, (m, n, r if r * (m + n) < e.size else 0)


def _shapes(size: int, ctx: Ctx) -> Layout:
    """The tensors of a vector; one of which no shape is known is one tensor."""
    known = ctx.layout
    return known if known is not None and known.size == size and known.entries else Layout.flat(size)
