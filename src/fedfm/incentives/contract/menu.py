"""A menu of contracts: how much work for how much money, so that every type of party picks its own line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Bound, Plan, Selector, State
from fedfm.incentives.answers import numbers
from fedfm.ledger.events import Event


def optimal(
    costs: Sequence[float], prior: Sequence[float], value: float, most: int
) -> list[tuple[int, float]]:
    """The best menu (steps, reward) by type, dearest first, for a server that gains value * ln(1 + steps).

    `costs` per step fall from type to type, `prior` are their shares. Of all menus from which each type would take its
    own line (incentive compatibility) and lose nothing (participation), the best has rewards R_1 = c_1 f_1 and
    R_n = R_(n-1) + c_n (f_n - f_(n-1)); so type n is worth p_n value ln(1 + f) - A_n f to the server, with A_n = p_n c_n
    + (c_n - c_(n+1)) sum_(m > n) p_m. Where the maxima fall from type to type, neighbours are pooled (ironing). Steps are
    whole: each maximum is rounded to the nearest, which keeps the menu's order and so all constraints.
    """
    n = len(costs)
    tail = [math.fsum(prior[k + 1 :]) for k in range(n)]
    rent = [prior[k] * costs[k] + (costs[k] - costs[k + 1] if k + 1 < n else 0.0) * tail[k] for k in range(n)]
    blocks: list[list[float]] = []  # share, price, types
    for share, price in zip(prior, rent, strict=True):
        blocks.append([share, price, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    steps = [
        min(most, max(0, round(value * share / price - 1)))
        for share, price, k in blocks
        for _ in range(int(k))
    ]
    menu, reward, before = [], 0.0, 0
    for f, c in zip(steps, costs, strict=True):
        reward += c * (f - before)
        menu.append((f, reward))
        before = f
    return menu


@dataclass(frozen=True)
class Contract(Event):
    """The line of the menu that a party chose: its steps, and what it is paid for them."""

    line: int
    steps: int
    reward: float
    server = True


@method(
    "contract-menu",
    slot="select",
    section="VI.B",
    survey=(115,),
    paper="Kang et al., Incentive Mechanism for Reliable Federated Learning: A Joint Optimization Approach to Combining "
    "Reputation and Contract Theory, 2019",
    departs="effort is the number of local steps at a linear cost; no reputation",
    atlas=("contract",),
)
@dataclass(frozen=True)
class ContractMenu(Selector):
    """Offer every free party one menu (steps, reward); each takes the line that is best for it, or none.

    A party of cost c per step takes the line with the largest R - c f (ties to more work), if that is not negative; who
    works is promised R and paid on delivery. Types are known in distribution only. In simulation a party's cost is
    drawn from the types, once a run. ValueError when costs do not fall or shares do not sum to 1.
    """

    costs: tuple[float, ...] = knob((4.0, 2.0, 1.0), "cost of one local step by type, falling")
    prior: tuple[float, ...] = knob((0.3, 0.4, 0.3), "share of each type")
    gain: float = knob(20.0, "what ln(1 + steps) is worth to the server, in money", low=0.0)
    most_steps: int = knob(32, "longest line", low=1)

    asks = True
    releases = False  # a cost is drawn, whatever the rows are
    promises = True
    independent = True

    def __post_init__(self) -> None:
        if (
            len(self.costs) != len(self.prior)
            or abs(math.fsum(self.prior) - 1) > 1e-9
            or min(self.prior) <= 0
        ):
            raise ValueError(
                f"contract-menu: {len(self.costs)} costs need as many shares above 0 that sum to 1"
            )
        if min(self.costs) <= 0 or any(a <= b for a, b in zip(self.costs, self.costs[1:], strict=False)):
            raise ValueError(f"contract-menu: costs must fall and be above 0, got {self.costs}")

    @property
    def menu(self) -> list[tuple[int, float]]:
        return optimal(self.costs, self.prior, self.gain, self.most_steps)

    def cost(self, ctx: Ctx) -> float:
        """The private cost of a step of `ctx.client`, the same in every round."""
        u = float(torch.rand((), dtype=torch.float64, generator=ctx.at(round=0, path="").rng("cost")))
        edge = 0.0
        for c, p in zip(self.costs, self.prior, strict=True):
            edge += p
            if u < edge:
                return c
        return self.costs[-1]

    def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> Sequence[str]:
        return tuple(pool)

    def question(self, brief: Message, pool: Mapping[str, int], state: State, ctx: Ctx) -> Message:
        return nothing(menu=[list(line) for line in self.menu])

    def answer(self, question: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
        c, menu = self.cost(ctx), question.info["menu"]
        gains = [reward - c * steps for steps, reward in menu]
        best = max(range(len(menu)), key=lambda k: (gains[k], menu[k][0]))
        return nothing(line=best if gains[best] >= -1e-9 and menu[best][0] else -1)

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        menu, jobs, promised = self.menu, list[tuple[str, Terms]](), dict[str, float]()
        for i, line in numbers(answers, "line").items():
            if i in pool and line in range(len(menu)) and menu[int(line)][0]:
                steps, reward = menu[int(line)]
                ctx.at(client=i).note(Contract(int(line), steps, reward))
                jobs.append((i, Terms(steps=steps)))
                promised[i] = reward
        return Plan(tuple(jobs), promised, {"kind": "contract", "count": len(jobs), "of": len(pool)}), state
