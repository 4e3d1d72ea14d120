"""HeteroFL: weak parties train a narrower sub-model of the same network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fedfm.around import AroundSelector
from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.errors import FedfmError
from fedfm.core.message import Message
from fedfm.core.protocols import Bound, Outcome, Plan, Selector, State


@method(
    "heterofl",
    slot="select",
    section="IV.C",
    survey=(31,),
    paper="Diao et al., HeteroFL: Computation and Communication Efficient FL for Heterogeneous Clients, 2021",
    reduces_to="heterofl(widths=(1.0,)) is its inner selector",
    departs="The mean over a coordinate's holders is weighted by examples unless aggregate.weights=equal; "
    "the networks have no normalisation layers, so there is no static batch norm.",
    atlas=("heterofl",),
)
@dataclass(frozen=True)
class HeteroFL(AroundSelector):
    """Gives every party of the inner plan its width level: the brief holds the first ceil(width * n) hidden channels.

    Levels are dealt once and for all from the run's seed (`dynamic`: anew every round). The server averages each
    coordinate over its holders; what nobody holds keeps its value. Bytes shrink with about width squared.
    """

    widths: tuple[float, ...] = knob((1.0, 0.5, 0.25), "levels, as shares of the hidden channels")
    dynamic: bool = knob(False, "draw the level of a party anew every round")
    inner: Selector = knob(factory=Selector, doc="who takes part")

    @property
    def cuts(self) -> bool:  # type: ignore[override]
        return any(w < 1.0 for w in self.widths)

    @property
    def recuts(self) -> bool:  # type: ignore[override]
        return self.dynamic and len(set(self.widths)) > 1

    def __post_init__(self) -> None:
        if not self.widths or not all(0.0 < w <= 1.0 for w in self.widths):
            raise ValueError(f"heterofl: widths are shares above 0 and up to 1, got {self.widths}")

    def feasible(self, parties: int, bound: Bound) -> str:
        """Every level is made once, where a task without sub-models says so before any work."""
        try:
            with torch.random.fork_rng(devices=[]):
                for width in self.widths:
                    bound.at("", Terms(width=width))
        except FedfmError as e:
            return str(e)
        return self.inner.feasible(parties, bound)

    @property
    def draws(self) -> str:
        return self.inner.draws

    @property
    def random_size(self) -> bool:  # type: ignore[override]
        return self.inner.random_size

    def init(self, pool: Mapping[str, int], ctx: Ctx) -> State:
        order = torch.randperm(len(pool), generator=ctx.shared("heterofl")).tolist()
        levels = {i: self.widths[k % len(self.widths)] for i, k in zip(pool, order, strict=True)}
        return {"inner": self.inner.init(pool, ctx), "levels": levels}

    def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> Any:
        return self.inner.candidates(pool, state["inner"], ctx)

    def question(self, brief: Message, pool: Mapping[str, int], state: State, ctx: Ctx) -> Message:
        return self.inner.question(brief, pool, state["inner"], ctx)

    def learn(self, state: State, outcome: Outcome, ctx: Ctx) -> State:
        return state | {"inner": self.inner.learn(state["inner"], outcome, ctx)}

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        plan, inner = self.inner.select(pool, state["inner"], ctx, answers)
        jobs = tuple((i, replace(t, width=self._width(i, state, ctx))) for i, t in plan.jobs)
        return replace(plan, jobs=jobs), state | {"inner": inner}

    def _width(self, client: str, state: State, ctx: Ctx) -> float:
        if not self.dynamic:
            return float(state["levels"][client])
        return self.widths[
            int(torch.randint(len(self.widths), (1,), generator=ctx.at(client=client).pair("heterofl")))
        ]
