"""Error feedback: what a lossy codec left out goes into the next message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedfm.cards.registry import knob, method
from fedfm.core.combine import Pipe, stages_of
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec.finite import finite
from fedfm.efficiency.communication.codec.randk import RandK
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.vectors.layout import Layout


@method(
    "error-feedback",
    slot="wire",
    section="IV.C",
    survey=(213, 242),
    paper="Karimireddy et al., Error feedback fixes SignSGD and other gradient compression schemes, ICML 2019",
    atlas=("sparsify",),
)
@dataclass(frozen=True)
class ErrorFeedback(Wire):
    """Compress u = x + e and keep e = u - decode(u) for the next round in which this party takes part.

    The sum telescopes: sum_t c_t + e_T = sum_t x_t; over a lossless codec it is that codec. `inner` should be a
    contraction (top-k; unscaled rand-k); with a quantiser whose relative variance exceeds 1 the residual may grow. An
    entry that waits t rounds then moves t updates at once: with few entries a round, lower the rates. The residual is
    in units of the update, is kept with the party, and moves only when the server accepted the message.
    Bytes: those of `inner`.
    """

    inner: Wire = knob(factory=TopK, doc="the lossy codec, or a list of stages")

    def __post_init__(self) -> None:
        if isinstance(self.inner, list | tuple):
            object.__setattr__(self, "inner", Pipe(*self.inner))
        for stage in stages_of(self.inner):
            if isinstance(stage, RandK) and stage.unbiased:
                raise ValueError(
                    "error-feedback over randk(unbiased=true) diverges, because d/k times a mask is no "
                    "contraction: set unbiased=false"
                )
            if stage.opaque or stage.after_sum or stage.phases or stage.perturbs:
                raise ValueError(
                    f"error-feedback cannot wrap {type(stage).__name__}: the client cannot see what the "
                    "server will decode, and noise fed back would cancel; put that stage behind error-feedback"
                )

    remembers = True
    follows = property(lambda self: all(s.lossless or s.unbiased for s in stages_of(self.inner)))
    makes = property(lambda self: self.inner.makes)
    needs = property(lambda self: self.inner.needs)

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.inner.linear

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        return self.inner.lossless

    def gives(self, layout: Layout) -> Layout | None:
        return self.inner.gives(layout)

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        u = finite(x, "error-feedback").float()
        if "residual" in state:
            if state["residual"].shape != u.shape:
                raise ClientFailed(
                    f"error-feedback: the residual has {state['residual'].numel()} values and the "
                    f"update {u.numel()}; updates must keep one size, so do not vary the sub-model "
                    "between rounds"
                )
            u = u + state["residual"]
        y, side, inner = self.inner.encode(u, state.get("inner", {}), ctx)
        # A stateful decoder needs its memory here too: the client's copy of what the server remembers of it.
        arrived, mirror = self.inner.decode(y, side, state.get("mirror", {}), ctx)
        e = u - arrived
        new = {"residual": e if bool(e.any()) else None, "inner": inner, "mirror": mirror}
        return (
            y,
            side,
            {k: v for k, v in new.items() if v is not None and not (isinstance(v, dict) and not v)},
        )

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        x, sub = self.inner.decode(x, side, state.get("inner", {}), ctx)
        return x, ({"inner": sub} if sub else {})

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        return self.inner.decode_sum(x, host, ctx)

    def host(self, ctx: Ctx) -> State:
        return self.inner.host(ctx)
