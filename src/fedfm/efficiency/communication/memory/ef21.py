"""EF21: both ends keep an estimate of a party's update, and the code is of what is new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.combine import Pipe, stages_of
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, MessageRefused
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.vectors.layout import Layout


@method(
    "ef21",
    slot="wire",
    section="IV.C",
    survey=(213, 242),
    paper="Richtarik, Sokolov, Fatkhullin, EF21: a new, simpler, theoretically better, and practically faster error "
    "feedback, NeurIPS 2021; with rate < 1 Mishchenko et al., Distributed learning with compressed gradient "
    "differences, 2019 (DIANA)",
    departs="Estimates begin at 0 unless whole_first, which is the paper's way.",
    atlas=("sparsify",),
)
@dataclass(frozen=True)
class EF21(Wire):
    """c = C(x - g) travels, the server takes g + c for x, and both ends set g <- g + rate c.

    With rate 1 and a contraction (`topk`, `sign`, `powersgd`) this is EF21: the error follows the *change* of the
    updates and vanishes where they settle, also where parties' updates stay different from zero. With an unbiased
    code of variance w (`qsgd`, `randk`) set rate <= 1/(1 + w): DIANA's shift. A party's estimate moves only with a
    message that the server accepted. It suits parties that come back: a party's first message is C(x), and while it
    is away its estimate stands still. The server keeps one vector a party. In a downlink x is the model and g the
    receiver's copy of it: there the first message must be whole (`whole_first`), for C(x) is hardly a model. Neither
    before secure aggregation nor around noise, and not with sub-models whose size changes. Bytes: those of `inner`.
    """

    inner: Wire = knob(factory=TopK, doc="the codec of the difference, or a list of stages")
    rate: float = knob(1.0, "how far the estimate follows; 1 is EF21", low=0.0, high=1.0)

    whole_first: bool = knob(False, "a first message is x itself, as in the paper; needed in a downlink")

    remembers = True
    makes = property(lambda self: self.inner.makes)
    needs = property(lambda self: self.inner.needs)

    def __post_init__(self) -> None:
        if isinstance(self.inner, list | tuple):
            object.__setattr__(self, "inner", Pipe(*self.inner))
        for stage in stages_of(self.inner):
            if stage.opaque or stage.after_sum or stage.phases or stage.perturbs:
                raise ValueError(
                    f"ef21 cannot wrap {type(stage).__name__}: both ends must see what arrives, and noise in an "
                    "estimate would be counted again every round; put that stage behind ef21"
                )

    @property
    def follows(self) -> bool:  # type: ignore[override]
        return self.whole_first or all(s.lossless or s.unbiased for s in stages_of(self.inner))

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        return self.inner.unbiased

    def gives(self, layout: Layout) -> Layout | None:
        return None if self.whole_first else self.inner.gives(layout)  # the first is longer than the others

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u, g = finite(x, "ef21").float(), state.get("g")
        if g is not None and g.shape != u.shape:
            raise ClientFailed(
                f"ef21: the estimate has {g.numel()} values and the update {u.numel()}; updates must keep one size, "
                "so do not vary the sub-model between rounds"
            )
        if g is None and self.whole_first:
            return u, {}, {"g": u.clone()}
        y, side, inner = self.inner.encode(u if g is None else u - g, state.get("inner", {}), ctx)
        c, mirror = self.inner.decode(y, side, state.get("mirror", {}), ctx)  # what the server will see
        return y, side, self._kept({"inner": inner, "mirror": mirror}, g, c)

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        g = state.get("g")
        if g is None and self.whole_first:
            if not x.is_floating_point():
                raise MessageRefused(f"ef21: a first message is whole, this one holds {x.dtype}")
            return x.float(), {"g": x.float().clone()}
        c, inner = self.inner.decode(x, side, state.get("inner", {}), ctx)
        if g is not None and g.shape != c.shape:
            raise MessageRefused(f"ef21: an update of {c.numel()} values for an estimate of {g.numel()}")
        return c if g is None else g + c, self._kept({"inner": inner}, g, c)

    def _kept(self, memory: State, g: Tensor | None, c: Tensor) -> State:
        step = c * self.rate if self.rate != 1.0 else c
        return {k: v for k, v in memory.items() if v} | {"g": step.clone() if g is None else g + step}
