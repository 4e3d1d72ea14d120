"""Two levels: edges sum their parties' messages, the root sums the edges'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from fedfm.around import AroundSelector
from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx
from fedfm.core.message import Message
from fedfm.core.protocols import Outcome, Plan, Selector, State


@method(
    "edges",
    slot="select",
    section="IV.A",
    paper="Liu et al., Client-Edge-Cloud Hierarchical Federated Learning, 2020",
    reduces_to="edges(count=1) is its inner selector",
    atlas=("hierarchy",),
    departs="One aggregation at the edge a round (kappa_2 = 1), so the tree gives what the flat federation gives.",
)
@dataclass(frozen=True)
class Edges(AroundSelector):
    """Deals the parties to `count` edges, once; each edge sends the root one sum a round instead of its messages.

    The sums are those of the flat federation: to the bit under fold=fixed, to fp32 rounding under fold=float. The
    ledger's `edge` events tell the bytes of the upper level.
    """

    count: int = knob(2, "edge aggregators", low=1)
    inner: Selector = knob(factory=Selector, doc="who takes part")

    groups = True

    @property
    def draws(self) -> str:
        return self.inner.draws

    @property
    def random_size(self) -> bool:  # type: ignore[override]
        return self.inner.random_size

    def init(self, pool: Mapping[str, int], ctx: Ctx) -> State:
        order = torch.randperm(len(pool), generator=ctx.shared("edges")).tolist()
        edges = {i: f"edge-{k % self.count}" for i, k in zip(pool, order, strict=True)}
        return {"inner": self.inner.init(pool, ctx), "edges": edges}

    def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> tuple[str, ...]:
        return tuple(self.inner.candidates(pool, state["inner"], ctx))

    def question(self, brief: Message, pool: Mapping[str, int], state: State, ctx: Ctx) -> Message:
        return self.inner.question(brief, pool, state["inner"], ctx)

    def learn(self, state: State, outcome: Outcome, ctx: Ctx) -> State:
        return state | {"inner": self.inner.learn(state["inner"], outcome, ctx)}

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        plan, inner = self.inner.select(pool, state["inner"], ctx, answers)
        jobs = tuple((i, replace(terms, group=state["edges"][i])) for i, terms in plan.jobs)
        return replace(plan, jobs=jobs), state | {"inner": inner}
