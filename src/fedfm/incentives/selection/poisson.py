"""Poisson sampling: every party tosses its own coin, as privacy accounting likes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message
from fedfm.core.protocols import Plan, Selector, State


@method(
    "poisson",
    slot="select",
    section="VI.C",
    paper="McMahan et al., Learning Differentially Private Recurrent Language Models, 2018",
    reduces_to="poisson(rate=1) is everybody",
)
@dataclass(frozen=True)
class Poisson(Selector):
    """Each free party takes part with probability `rate`, independently of the others; in pool order.

    The cohort's size is Binomial(N, rate): a round may be empty. Such a round yields no model, but for noise on the sum,
    which is released alone.
    """

    rate: float = knob(0.1, "probability of taking part in a round", above=0.0, high=1.0)

    random_size: ClassVar[bool] = True
    independent = True
    draws = "poisson"

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        coins = ctx.coins("select")
        heads = (coins.uniform(len(pool)) < self.rate).tolist()
        ids = [i for i, taken in zip(pool, heads, strict=True) if taken]
        sampling = {"kind": "poisson", "rate": self.rate} | ({"secret": True} if coins.secret else {})
        return Plan(tuple((i, Terms()) for i in ids), sampling=sampling), state
