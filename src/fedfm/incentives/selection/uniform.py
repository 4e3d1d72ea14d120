"""A uniformly random cohort: the sampling of FedAvg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.core.protocols import Plan, Selector, State


@method(
    "uniform",
    slot="select",
    section="VI.C",
    survey=(25,),
    paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017",
    reduces_to="uniform(fraction=1) is everybody",
    atlas=("fedavg",),
    also=("random",),
)
@dataclass(frozen=True)
class Uniform(Selector):
    """m of the N free parties, every m-subset alike: m = max(1, round(fraction N)), or `count`.

    When m is the whole population the plan is in pool order. Otherwise it is in drawn order, so that a pace
    that has room for fewer than m (buffered rounds) starts a uniform sample too, and not the first names of
    the pool.
    """

    count: int | None = knob(
        None, "parties a round (all, if fewer are free), instead of `fraction`", low=1, alternative="size"
    )
    fraction: float | None = knob(
        1.0, "share of the free parties, at least one", low=0.0, high=1.0, alternative="size"
    )

    draws = "uniform"

    def most(self, parties: int) -> int:
        return min(
            parties, self.count if self.count is not None else max(1, round((self.fraction or 0.0) * parties))
        )

    def init(self, pool: Mapping[str, int], ctx: Ctx) -> State:
        return {"population": len(pool)}

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        ids, n = list(pool), len(pool)
        m = min(n, self.count if self.count is not None else max(1, round((self.fraction or 0.0) * n)))
        coins = ctx.coins("select")
        if m < int(state.get("population", n)):
            ids = [ids[k] for k in coins.order(n)[:m]]
        sampling: dict[str, Any] = {"kind": "uniform", "count": m, "of": n} if m < n else {"kind": "all"}
        if coins.secret and m < n:
            sampling["secret"] = True
        return Plan(tuple((i, Terms()) for i in ids), sampling=sampling), state
