"""From messages to one vector: decode, lift, fold in place, undo the after-sum stages, finish.

`Fold` holds one sum whatever the number of clients. fp32 sums depend on the order of their terms, so the default
fold adds in release order; `fixed` adds 64-bit integers and is exact in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedfm.core.combine import below, stages_of
from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused, RoundFailed
from fedfm.core.message import Message, finite
from fedfm.core.protocols import Aggregate, Lift, State, Wire

if TYPE_CHECKING:
    from fedfm.core.federation import Federation

FIXED_BITS = 32  # fractional bits of the exact fold
FIXED_RANGE = 2.0 ** 20  # largest |alpha * x| it takes: 2^20 * 2^32 leaves 2^11 summands before 2^63
CHUNK = 1 << 16  # elements: the int64 temporaries of the exact fold stay in cache


def opaque_at(wire: Wire) -> int | None:
    """The position of the stage that hides single messages."""
    return next((i for i, s in enumerate(stages_of(wire)) if s.opaque), None)


def weights_behind(fed: Federation, n: int) -> int:
    """Values of mass behind a hidden payload of n: one, or one a coordinate where parties train sub-models."""
    return n if any(w < 1.0 for w in getattr(fed.select, "widths", ())) else 1


def decode(wire: Wire, m: Message, state: State, ctx: Ctx) -> tuple[Message, State]:
    """Undo, right to left, the stages that act on one message (all, or those right of the opaque one)."""
    x, stages, stop = m.x, stages_of(wire), opaque_at(wire)
    for i in reversed(range(0 if stop is None else stop + 1, len(stages))):
        x, sub = stages[i].decode(x, below(m.side, i), state.get(str(i), {}), ctx.within(i))
        if sub:
            state = state | {str(i): sub}
    return replace(m, x=x, side={}), state


def validate(m: Message, size: int) -> None:
    """Refuse a decoded message that must not reach an aggregate."""
    if m.x.dim() != 1 or (size >= 0 and m.x.numel() != size):
        raise MessageRefused(f"{m.sender} sent {tuple(m.x.shape)} values where ({size},) were agreed")
    if not finite(m.x):
        raise MessageRefused(f"{m.sender} sent values that are not finite")
    if not 0.0 <= m.mass < float("inf"):
        raise MessageRefused(f"{m.sender} claims the weight {m.mass}")


@dataclass
class Fold:
    """A running sum of lifts: `add` in place, then read `x` and `mass`."""

    kind: str = "float"  # "float" | "fixed"
    x: Tensor | None = None
    mass: float | Tensor = 0.0
    ids: list[str] = field(default_factory=list)
    exact: Fraction = Fraction(0)  # the mass of fold=fixed
    masses: int = 0  # values of mass behind the payload of an opaque sum

    def add(self, lift: Lift, sender: str) -> None:
        if self.kind == "fixed" and lift.x.is_floating_point():
            if self.x is None:
                self.x = torch.zeros(lift.x.numel(), dtype=torch.int64)
            if lift.x.numel() and not max(map(abs, map(float, lift.x.aminmax()))) * abs(lift.alpha) <= FIXED_RANGE:  # all or nothing
                raise MessageRefused(f"{sender}: a value beyond the declared range {FIXED_RANGE:g} of fold=fixed")
            scale = lift.alpha * 2.0 ** FIXED_BITS  # a power of two rounds nothing
            for at in range(0, lift.x.numel(), CHUNK):
                self.x[at:at + CHUNK] += lift.x[at:at + CHUNK].double().mul_(scale).round_().long()
        elif self.x is None:
            self.x = lift.x.float() * lift.alpha if lift.x.is_floating_point() else lift.x.clone()
        else:
            self.x.add_(lift.x, alpha=lift.alpha if lift.x.is_floating_point() else 1)
        if self.kind == "fixed" and not isinstance(lift.mass, Tensor) and not isinstance(self.mass, Tensor):
            self.exact += Fraction(lift.mass)  # floats depend on their order
            self.mass = float(self.exact)
        else:
            self.mass = self.mass + lift.mass
        self.ids.append(sender)

    def total(self) -> Tensor:
        assert self.x is not None
        if self.kind == "fixed" and self.x.dtype == torch.int64 and not self.masses:
            out = torch.empty(self.x.numel())
            for at in range(0, out.numel(), CHUNK):
                out[at:at + CHUNK] = self.x[at:at + CHUNK].double().mul_(2.0 ** -FIXED_BITS)
            return out
        return self.x


def gather(fed: Federation, m: Message, fold: Fold, ctx: Ctx) -> None:
    """Put one decoded message into the fold."""
    if opaque_at(fed.uplink) is not None:
        fold.masses = int(m.info["masses"])
        fold.add(Lift(m.x, 1.0, 0.0), m.sender)
    else:
        fold.add(fed.aggregate.lift(m, ctx), m.sender)


def settle(fed: Federation, kept: Sequence[Message] | Fold, host: State, ctx: Ctx, population: int) -> Aggregate:
    """One vector from a round's messages: the coalition game uses this very function."""
    if not isinstance(kept, Fold) and fed.aggregate.form == "all":
        if len(kept) < fed.aggregate.needs:
            raise RoundFailed(f"{len(kept)} messages, this aggregator needs {fed.aggregate.needs}")
        x = fed.aggregate.combine(kept, ctx)
        return Aggregate(x, len(kept), tuple(m.sender for m in kept), population)
    if not isinstance(kept, Fold):
        fold = Fold(fed.fold)
        for m in kept:
            gather(fed, m, fold, ctx)
        kept = fold
    if not kept.ids:
        raise RoundFailed("nobody contributed")
    stages, hidden, mass = stages_of(fed.uplink), opaque_at(fed.uplink), kept.mass
    x = kept.total()
    for i in reversed(range(len(stages))):
        if hidden is not None and i < hidden and stages[i].linear:
            x, _ = stages[i].decode(x, {}, {}, ctx.within(i))
        x = stages[i].decode_sum(x, host.get(str(i), {}), ctx.within(i))
        if i == hidden:
            tail = x[x.numel() - kept.masses:]
            x, mass = x[:x.numel() - kept.masses], (float(tail) if kept.masses == 1 else tail)
    return Aggregate(fed.aggregate.finish(x, mass, len(kept.ids), ctx), len(kept.ids), tuple(kept.ids), population)


def hosts(wire: Wire, ctx: Ctx) -> State:
    """The wire stages' server state for one round."""
    return {str(i): s.host(ctx.within(i)) for i, s in enumerate(stages_of(wire))}


def phases(wire: Wire) -> Mapping[str, str]:
    """All conversation phases of the stages, in order."""
    return {p: b for s in stages_of(wire) for p, b in s.phases.items()}
