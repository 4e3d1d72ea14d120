"""From decoded messages to one vector: lift, fold in place, undo the stages that act on the sum, finish.

`Fold` holds one sum whatever the number of clients. fp32 sums depend on the order of their terms, so the default
fold adds in release order; `fixed` adds 64-bit integers and is exact in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedfm.cards.registry import name_of
from fedfm.core.blame import of_slot
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import MessageRefused, MethodFault, RoundFailed
from fedfm.core.message import Message, finite
from fedfm.core.protocols import Aggregate, Lift, State, Wire
from fedfm.core.spending import always
from fedfm.core.state import lent
from fedfm.ledger import events
from fedfm.vectors.layout import Layout

if TYPE_CHECKING:
    from fedfm.core.federation import Federation

FIXED_BITS = 32  # fractional bits of the exact fold
FIXED_RANGE = 2.0**20  # largest |alpha * x| it takes: 2^20 * 2^32 leaves 2^11 summands before 2^63
FAR = 1e34  # largest |mass * x| of a message: ten thousand of them are a number that fp32 holds
CHUNK = 1 << 16  # elements: the int64 temporaries of the exact fold stay in cache


def weights_behind(fed: Federation, n: int) -> int:
    """Values of mass behind a hidden payload of n: one, or one a coordinate where parties train sub-models."""
    return n if fed.select.cuts else 1


def validate(m: Message, size: int) -> None:
    """Refuse a decoded message that must not reach an aggregate."""
    if m.x.dim() != 1 or (size >= 0 and m.x.numel() != size):
        raise MessageRefused(f"{m.sender} sent {tuple(m.x.shape)} values where ({size},) were agreed")
    if size >= 0 and not m.x.is_floating_point():
        raise MessageRefused(f"{m.sender} sent {m.x.dtype} where floating-point values were agreed")
    if not 0.0 <= m.mass <= 2.0**63:
        raise MessageRefused(f"{m.sender} claims the weight {m.mass}")
    if m.x.is_floating_point() and m.x.numel():
        reach = max(map(abs, map(float, torch.aminmax(m.x))))
        if not reach * max(m.mass, 1.0) < FAR:  # also where it is no number
            raise MessageRefused(
                f"{m.sender} sent values that are not finite, or too large for a sum: {reach:.3g}"
            )


def admit(fed: Federation, m: Message, stack: Pipe, layout: Layout, ctx: Ctx) -> None:
    """Under an opaque stage a wrong length must be caught before the barrier names the survivors: MessageRefused."""
    if (at := stack.hidden) is None:
        return
    lifted = fed.aggregate.lifted(layout)
    shared = Pipe(*stack.stages[:at]).gives(layout if lifted == layout.size else Layout.flat(lifted))
    n = shared.size if shared is not None else -1  # what stands before a sum is linear, and says its length
    masses, ctx = weights_behind(fed, n), ctx.at(client=m.sender, layout=layout)
    x, _ = stack.decode(m.x, m.side, {}, ctx)  # down to the masked values
    if m.info.get("masses") != masses or not stack.stages[at].holds(x, n + masses):
        raise MessageRefused(
            f"{m.sender} sent {tuple(x.shape)} {x.dtype} where {n} and {masses} of mass were agreed"
        )


@dataclass
class Fold:
    """A running sum of lifts: `add` in place, then read `x` and `mass`."""

    kind: str = "float"  # "float" | "fixed"
    x: Tensor | None = None
    exact: Fraction = Fraction(0)  # the mass (float sums depend on their order)
    spread: Any = 0.0  # and what of it is one a coordinate
    ids: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)  # in the order of `ids`
    reach: float = 0.0  # no coordinate of fold=fixed is farther from zero
    masses: int = 0  # values of mass behind the payload of an opaque sum

    @property
    def mass(self) -> float | Tensor:
        total: float | Tensor = float(self.exact) + self.spread
        return total

    def hide(self, stage: Wire, m: Message, ctx: Ctx) -> None:
        """Add a message that only its stage understands."""
        self.masses = int(m.info["masses"])
        self.x = stage.add(self.x, m.x, ctx)
        self.ids.append(m.sender)

    def add(self, lift: Lift, sender: str) -> None:
        # may raise: before anything is added
        mass = lift.mass if isinstance(lift.mass, Tensor) else Fraction(lift.mass)
        if self.kind == "fixed":
            if self.x is None:
                self.x = torch.zeros(lift.x.numel(), dtype=torch.int64)
            top = max(map(abs, map(float, lift.x.aminmax()))) * abs(lift.alpha) if lift.x.numel() else 0.0
            if not (top <= FIXED_RANGE and self.reach + top < 2.0 ** (63 - FIXED_BITS)):  # all or nothing
                raise MessageRefused(
                    f"{sender}: a value beyond the declared range {FIXED_RANGE:g} of fold=fixed, or too large a sum"
                )
            self.reach += top
            scale = lift.alpha * 2.0**FIXED_BITS  # a power of two rounds nothing
            for at in range(0, lift.x.numel(), CHUNK):
                self.x[at : at + CHUNK] += lift.x[at : at + CHUNK].double().mul_(scale).round_().long()
        elif self.x is None:
            self.x = lift.x.float() * lift.alpha
        else:
            self.x.add_(lift.x, alpha=lift.alpha)
        if isinstance(mass, Tensor):
            self.spread = self.spread + mass
        else:
            self.exact += mass
        self.ids.append(sender)

    def merge(self, other: Fold) -> None:
        """Add another fold of the same kind: an edge's sum to the root's. Exact for fold=fixed and for masked integers."""
        if self.x is None:
            self.x, self.masses = other.x, other.masses
        elif other.x is not None:
            far = self.reach + other.reach >= 2.0 ** (63 - FIXED_BITS)
            if far and self.kind == "fixed" and not self.masses:
                raise RoundFailed("the edges' sums together leave the range of fold=fixed")
            self.x.add_(other.x)
        self.reach += other.reach
        self.exact, self.spread = self.exact + other.exact, self.spread + other.spread
        self.ids += other.ids
        self.versions += other.versions

    def total(self) -> Tensor:
        assert self.x is not None
        if self.kind == "fixed" and self.x.dtype == torch.int64 and not self.masses:
            return torch.cat(
                [part.double().mul_(2.0**-FIXED_BITS).float() for part in torch.split(self.x, CHUNK)]
            )
        return self.x


def gather(fed: Federation, m: Message, fold: Fold, ctx: Ctx) -> None:
    """Put one decoded message into the fold."""
    if (at := Pipe(fed.uplink).hidden) is not None:
        with of_slot(f"uplink.{at}", fed.uplink):
            fold.hide(Pipe(fed.uplink).stages[at], m, ctx.within(at))
    else:
        fold.add(fed.aggregate.lift(m, ctx), m.sender)
    fold.versions.append(m.version)


def rooted(folds: Mapping[str, Fold], ctx: Ctx) -> Fold:
    """The sum of the edges' sums, by group; each edge sends its own up, once."""
    root = Fold()
    for group, fold in sorted(folds.items()):
        if group and fold.x is not None:
            ctx.note(events.Edge(group, len(fold.ids), fold.x.nbytes))
        if not root.ids:
            root = fold
        else:
            root.merge(fold)
    return root


def settle(
    fed: Federation, kept: Sequence[Message] | Fold, host: State, state: State, ctx: Ctx, population: int
) -> tuple[Aggregate, State]:
    """One vector from a round's messages, and the aggregator's new state: the coalition game uses this very function."""
    if not isinstance(kept, Fold) and fed.aggregate.form == "all":
        if len(kept) < fed.aggregate.least:
            raise RoundFailed(f"{len(kept)} messages, this aggregator needs {fed.aggregate.least}")
        with of_slot("aggregate", fed.aggregate, state, [m.x for m in kept]):
            x, state = fed.aggregate.combine(kept, lent(state), ctx)
        ids, versions = zip(*((m.sender, m.version) for m in kept), strict=True) if kept else ((), ())
        return _vector(Aggregate(x, len(kept), ids, population, versions), state, fed.aggregate), state
    if not isinstance(kept, Fold):
        fold = Fold(fed.fold)
        for m in kept:
            gather(fed, m, fold, ctx.at(client=m.sender))
        kept = fold
    if kept.x is None and always(fed) and ctx.layout is not None:  # of no message: noise alone
        kept.x = torch.zeros(fed.aggregate.lifted(ctx.layout))
    if kept.x is None:
        raise RoundFailed("nobody contributed")
    stages, hidden, mass = Pipe(fed.uplink).stages, Pipe(fed.uplink).hidden, kept.mass
    x = kept.total()
    for i in reversed(range(len(stages))):
        with of_slot(f"uplink.{i}", stages[i]):
            if hidden is not None and i < hidden and stages[i].linear:
                x, _ = stages[i].decode(x, {}, {}, ctx.within(i))
            x = stages[i].decode_sum(x, host.get(str(i), {}), ctx.within(i))
        if i == hidden:
            tail = x[x.numel() - kept.masses :]
            x, mass = x[: x.numel() - kept.masses], (float(tail) if kept.masses == 1 else tail)
    with of_slot("aggregate", fed.aggregate, state):
        x, state = fed.aggregate.finish(x, mass, len(kept.ids), lent(state), ctx)
    whole = Aggregate(x, len(kept.ids), tuple(kept.ids), population, tuple(kept.versions))
    return _vector(whole, state, fed.aggregate), state


def _vector(agg: Aggregate, state: State, by: Any) -> Aggregate:
    """What an aggregator gives, if it is what every server steps by; MethodFault or RoundFailed if it is not."""
    if not (isinstance(agg.x, Tensor) and agg.x.dim() == 1 and isinstance(state, dict)):
        shape = f"a tensor {tuple(agg.x.shape)}" if isinstance(agg.x, Tensor) else type(agg.x).__name__
        what = f"{name_of(by)} gives {shape} and {type(state).__name__}, not a tensor (n,) and a dict of its state"
        raise MethodFault("aggregate", what)
    if not finite(agg.x):
        raise RoundFailed(
            "the aggregate is not finite: somebody's values or weight are too large, or are divided by 0"
        )
    return agg
