"""A truthful reverse auction under a budget: parties ask for money, the server buys examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from fedfm.cards.registry import knob, method
from fedfm.core.context import Ctx, Terms
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Bound, Plan, Selector, State
from fedfm.incentives.answers import numbers
from fedfm.incentives.money import units_down, units_up
from fedfm.ledger.events import Event


def allocate(
    asks: Mapping[str, float], quality: Mapping[str, float], budget: float
) -> tuple[tuple[str, ...], dict[str, Fraction]]:
    """Winners in order of rising ask per quality, and the exact payment of each.

    In that order (ties by name) i is taken while b_i <= B q_i / (Q + q_i), Q the quality taken before; it
    stops at the first who is not. With Q the winners' total all are paid q_i r, r = min(B / Q, b_j / q_j), j
    the first loser (Singer 2010). So sum p <= B, p_i >= b_i, and p_i is the highest ask with which i still
    wins, whatever i asked: truth is a dominant strategy. All of it is computed in fractions, hence exact.
    Asks that are negative or not finite and qualities that are not positive stay out. O(n log n).
    """
    density = {
        i: Fraction(b) / Fraction(quality[i])
        for i, b in asks.items()
        if math.isfinite(b) and b >= 0 and quality[i] > 0
    }
    order = sorted(density, key=lambda i: (density[i], i))
    limit, taken, winners = Fraction(budget), Fraction(0), 0
    for i in order:
        grown = taken + Fraction(quality[i])
        if density[i] * grown > limit:
            break
        taken, winners = grown, winners + 1
    if not winners:
        return (), {}
    rate = limit / taken
    if winners < len(order):
        rate = min(rate, density[order[winners]])
    return tuple(order[:winners]), {i: Fraction(quality[i]) * rate for i in order[:winners]}


def whole(
    asks: Mapping[str, int],
    quality: Mapping[str, float],
    winners: Sequence[str],
    payments: Mapping[str, Fraction],
) -> dict[str, int]:
    """What `allocate` pays for whole asks, in whole units: the highest whole ask with which each still wins.

    That is the payment rounded down; one unit less where the payment is whole itself and as dense as the ask
    of the first loser, who has the smaller name: there the tie is lost. Hence b_i <= p_i, and whoever has a
    fractional cost and asks for it rounded up cannot gain by asking for anything else either.
    """
    won = set(winners)
    rest = [i for i in asks if i not in won and quality[i] > 0]
    first = min(((Fraction(asks[i]) / Fraction(quality[i]), i) for i in rest), default=None)
    paid = {i: math.floor(payments[i]) for i in winners}
    for i in winners:
        if first is not None and i > first[1] and paid[i] == payments[i] == first[0] * Fraction(quality[i]):
            paid[i] -= 1
    return paid


@dataclass(frozen=True)
class Bid(Event):
    """What a party asks for a round of work."""

    ask: float
    server = True


@method(
    "proportional-share",
    slot="select",
    section="VI.C/VI.E",
    survey=(148,),
    paper="Singer, Budget Feasible Mechanisms, 2010",
    departs="No branch that buys the best offer alone, which only the worst-case bound on value needs.",
)
@dataclass(frozen=True)
class ProportionalShare(Selector):
    """Every free party asks for money; the server buys the cheapest examples that the round's budget can pay.

    Quality is the number of examples, which is public. Its plans promise the payments, and the default reward
    pays them: another one beside it is refused. In simulation a party's private cost is uniform on
    [cost_low, cost_high], drawn once for the whole run from its own stream; `misreport` multiplies what it
    asks, for experiments (truth is the best answer).

    Money is whole minor units (cents): an ask is rounded up, a payment is the highest whole ask that wins.
    So nobody is paid below cost, truth stays a dominant strategy, and a round's promises never exceed
    `budget`. Only who delivers is paid; the promises to the others return to the server. Under a pace that
    keeps late work a promise stays open until the party delivers or is promised something else.
    """

    budget: float = knob(100.0, "money to promise in one round", low=0.0)
    cost_low: float = knob(1.0, "smallest private cost of taking part in a round", low=0.0)
    cost_high: float = knob(10.0, "largest private cost", low=0.0)
    misreport: Mapping[str, float] = knob(
        factory=dict, doc="party -> factor on what it asks (others: 1)", names=("party", "")
    )
    decimals: int = knob(2, "digits of money after the point", low=0, high=9)

    asks = True
    releases = False  # a cost is drawn, whatever the rows are
    promises = True

    def __post_init__(self) -> None:
        if self.cost_high < self.cost_low:
            raise ValueError(f"cost_high is {self.cost_high}, below cost_low, {self.cost_low}")

    def cost(self, ctx: Ctx) -> float:
        """The private cost of `ctx.client`, the same in every round."""
        u = float(torch.rand((), dtype=torch.float64, generator=ctx.at(round=0, path="").rng("cost")))
        return self.cost_low + (self.cost_high - self.cost_low) * u

    def candidates(self, pool: Mapping[str, int], state: State, ctx: Ctx) -> Sequence[str]:
        return tuple(pool)

    def answer(self, brief: Message, data: Any, ctx: Ctx, bound: Bound) -> Message:
        ask = self.cost(ctx) * self.misreport.get(ctx.client, 1.0)
        return nothing(ask=units_up(ask, self.decimals) / 10**self.decimals if math.isfinite(ask) else ask)

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Message]
    ) -> tuple[Plan, State]:
        asks: dict[str, int] = {}
        for i, ask in numbers(answers, "ask").items():
            if i in pool and ask >= 0:
                ctx.at(client=i).note(Bid(ask))
                asks[i] = units_up(ask, self.decimals)
        winners, payments = allocate(asks, pool, units_down(self.budget, self.decimals))
        units = whole(asks, pool, winners, payments)
        promised = {i: units[i] / 10**self.decimals for i in winners}
        sampling = {"kind": "auction", "count": len(winners), "of": len(pool)}
        return Plan(tuple((i, Terms()) for i in winners), promised, sampling), state
