"""Exact aggregation of LoRA: what averaging the factors loses goes into the frozen base."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedfm.cards.registry import method
from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError, Problem, RoundFailed
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregator, Bound, Lift, State
from fedfm.vectors.layout import Layout

A, B, R = "lora_A.default.weight", "lora_B.default.weight", "lora_R"


@method(
    "fedex-lora",
    slot="aggregate",
    section="IV.A",
    paper="Singhal, Ponkshe, Vepakomma, FedEx-LoRA: exact aggregation for federated and efficient fine-tuning of "
    "foundation models, ACL 2025",
    departs="the residual stays with the model as a dense buffer instead of travelling as factors",
    atlas=("lora-exact",),
)
@dataclass(frozen=True)
class FedExLoRA(Aggregator):
    """Average A and B, and add what that loses to the base: R += sum_i p_i B_i A_i - Bbar Abar (in units of B A).

    The mean of products is not the product of means: sum p_i B_i A_i - Bbar Abar = sum_{i<j} p_i p_j (B_i - B_j)
    (A_i - A_j). With R the adapted weight W0 + s (R + B A) is exactly the weighted mean of the parties' weights.
    Messages are weights (client.send=weights, server.takes=weights) over a layout with `...lora_A.default.weight`
    (r, in), `...lora_B.default.weight` (out, r) and a buffer `...lora_R` (out, in) per adapted matrix; everything else
    is averaged. The lift puts R_i + B_i A_i in R's place, so sums stay as long as messages and may run under masks.
    When all weights are 0 the round fails.
    """

    form = "sum"
    shares = True
    takes = ("weights",)

    def feasible(self, parties: int, bound: Bound) -> str:
        try:
            pairs(bound.layout)
        except ConfigError as e:
            return f"{e.problems[0].what}; {e.problems[0].fix}"
        return ""

    def lift(self, m: Message, ctx: Ctx) -> Lift:
        if m.kind != "weights":
            raise ConfigError(
                [
                    Problem(
                        "client.send",
                        f"fedex-lora got '{m.kind}' from {m.sender or 'a party'}",
                        "the product B A needs the factors themselves, not their change",
                        "set client.send=weights and server.takes=weights",
                    )
                ]
            )
        assert ctx.layout is not None
        x = m.x.float().clone()
        views = ctx.layout.views(x)
        for head in pairs(ctx.layout):
            views[head + R].addmm_(views[head + B], views[head + A])
        return Lift(x, m.mass, m.mass)

    def share(self, m: Message, ctx: Ctx) -> Lift:
        return self.lift(m, ctx)

    def finish(
        self, x: Tensor, mass: float | Tensor, count: int, state: State, ctx: Ctx
    ) -> tuple[Tensor, State]:
        assert ctx.layout is not None
        if float(mass) <= 0:
            raise RoundFailed("fedex-lora: the weights of all contributions sum to zero")
        x = x / mass
        views = ctx.layout.views(x)
        for head in pairs(ctx.layout):
            views[head + R].addmm_(views[head + B], views[head + A], alpha=-1)
        return x, state


def pairs(layout: Layout) -> list[str]:
    """The name prefixes of the adapted matrices; raises ConfigError naming every tensor that is missing."""
    names = {e.name for e in layout.entries}
    heads = sorted({n.removesuffix(end) for n in names for end in (A, B, R) if n.endswith(end)})
    absent = [head + end for head in heads for end in (A, B, R) if head + end not in names]
    if absent or not heads:
        what = f"lacks {', '.join(absent)}" if heads else "has no LoRA matrices"
        raise ConfigError(
            [
                Problem(
                    "aggregate",
                    f"fedex-lora on a model that {what}",
                    "each adapted matrix needs its factors A, B and a residual buffer R",
                    "use a LoRA task that keeps the residual of the base",
                )
            ]
        )
    return heads
