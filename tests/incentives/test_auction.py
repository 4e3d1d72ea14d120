"""The auction: by hand, truthful, within its budget, and in a federation."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from effort import fewer as few
from fedfm.core.context import Ctx
from fedfm.core.federation import Federation
from fedfm.core.message import nothing
from fedfm.core.protocols import Plan, Reward
from fedfm.efficiency.training.local import Local
from fedfm.incentives.auction.proportional_share import ProportionalShare, allocate
from fedfm.tasks.quadratic import Quadratic, Quadratics
from play import play


def test_allocate_by_hand() -> None:
    """Quality 1 each, asks 1, 2, 3. B = 6: 1 <= 6, 2 <= 3, 3 > 2, so two win at r = min(6/2, 3) = 3."""
    asks, quality = {"a": 1, "b": 2, "c": 3}, dict.fromkeys("abc", 1)
    assert allocate(asks, quality, 6) == (("a", "b"), {"a": Fraction(3), "b": Fraction(3)})
    assert allocate(asks, quality, 5) == (("a", "b"), {"a": Fraction(5, 2), "b": Fraction(5, 2)})
    assert allocate(asks, quality, 100) == (("a", "b", "c"), dict.fromkeys("abc", Fraction(100, 3)))
    # the next ask caps the rate: B/Q = 10 but the loser asks 6
    assert allocate({"a": 1, "b": 6}, {"a": 1, "b": 1}, 10) == (("a",), {"a": Fraction(6)})
    assert allocate(asks, quality, 0.5) == ((), {}) == allocate({}, {}, 5)
    assert allocate({"a": 1, "b": 1}, {"b": 1, "a": 1}, 1)[0] == ("a",)  # ties by name
    odd = {"a": -1, "b": math.inf, "c": math.nan, "d": 1}
    assert allocate(odd, {"a": 1, "b": 1, "c": 1, "d": 0}, 9) == ((), {})


@st.composite
def markets(draw: Any) -> tuple[dict[str, float], dict[str, int], float]:
    n = draw(st.integers(1, 6))
    ask = st.one_of(st.integers(1, 12).map(float), st.floats(0.01, 20.0))  # whole ones make ties
    asks = draw(st.lists(ask, min_size=n, max_size=n))
    quality = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    ids = [f"p{k}" for k in range(n)]
    return dict(zip(ids, asks, strict=True)), dict(zip(ids, quality, strict=True)), draw(st.floats(0.5, 60.0))


def deviations(i: str, asks: dict[str, float], quality: dict[str, int], budget: float) -> list[float]:
    """110 even points, every other density scaled to i (times 0.999, 1, 1.001), the budget, 0, infinity."""
    top = 2 * max(asks.values())
    near = [asks[j] / quality[j] * quality[i] * f for j in asks if j != i for f in (0.999, 1.0, 1.001)]
    return [top * k / 109 for k in range(110)] + near + [budget, 0.0, math.inf]


@few
@given(markets())
def test_auction_is_truthful_individually_rational_and_within_budget(market: Any) -> None:
    costs, quality, budget = market
    winners, pay = allocate(costs, quality, budget)
    assert sum(pay.values()) <= Fraction(budget)  # exact, not to a tolerance
    assert all(pay[i] >= Fraction(costs[i]) for i in winners)
    for i, cost in costs.items():
        honest = pay[i] - Fraction(cost) if i in winners else Fraction(0)
        for bid in deviations(i, costs, quality, budget):
            won, paid = allocate({**costs, i: bid}, quality, budget)
            assert (paid[i] - Fraction(cost) if i in won else 0) <= honest
            if i in winners and bid <= cost:
                assert i in won and paid[i] == pay[i]  # monotone; the payment is not its own
            if i in winners:  # critical value: wins below its payment, loses above
                assert (i in won) == (bid < pay[i]) or bid == pay[i]


@few
@given(markets())
@example(({"p0": 1.0, "p1": 0.5}, {"p0": 1, "p1": 1}, 1.0))  # p1 loses the tie at 1, so its payment is 0
@example(({"p0": 1.0}, {"p0": 1}, 1.999999999999993))  # a budget is not rounded up
def test_rounded_auction_is_truthful_too(market: Any) -> None:
    """In whole units: real costs, asks rounded up by their owner, payments rounded down by the server."""
    costs, quality, budget = market
    auction = ProportionalShare(budget=budget, decimals=0)

    def utility(i: str, ask: float) -> float:
        asks = {j: nothing(ask=a) for j, a in {**costs, i: ask}.items()}
        plan, _ = auction.select(quality, {}, Ctx(0), asks)
        assert sum(plan.promised.values()) <= budget and all(p == int(p) for p in plan.promised.values())
        return plan.promised[i] - costs[i] if i in plan.promised else 0.0

    for i in list(costs)[:3]:
        honest = utility(i, costs[i])
        assert honest >= 0
        assert all(utility(i, bid) <= honest for bid in range(62))


def test_auction_of_ten_thousand() -> None:
    rng = torch.Generator().manual_seed(0)
    ids = [f"p{k}" for k in range(10_000)]
    asks = dict(zip(ids, torch.randint(100, 100_000, (10_000,), generator=rng).tolist(), strict=True))
    quality = dict(zip(ids, torch.randint(1, 5_000, (10_000,), generator=rng).tolist(), strict=True))
    winners, pay = allocate(asks, quality, 10**8)
    assert len(winners) > 1000 and sum(pay.values()) <= 10**8


def test_costs_are_private_fixed_and_misreported_on_purpose() -> None:
    honest, liar = ProportionalShare(), ProportionalShare(misreport={"a": 2.0})
    bound, data = Quadratic().open(None), torch.zeros(1, 2)

    def ask(auction: ProportionalShare, client: str, t: int = 0) -> float:
        ask: float = auction.answer(nothing(), data, Ctx(5, t, client=client), bound).info["ask"]
        return ask

    assert ask(honest, "a") == ask(honest, "a", 7) != ask(honest, "b")
    cost = honest.cost(Ctx(5, 3, client="a"))
    assert 1 <= cost <= 10 and cost <= ask(honest, "a") < cost + 0.01
    assert 2 * cost <= ask(liar, "a") < 2 * cost + 0.01 and ask(liar, "b") == ask(honest, "b")
    with pytest.raises(ValueError, match="below cost_low"):
        ProportionalShare(cost_low=2, cost_high=1)


def test_only_who_delivers_is_paid() -> None:
    auction = ProportionalShare(budget=6, decimals=2)
    answers = {"a": nothing(ask=1), "b": nothing(ask=2), "c": nothing(ask=3)}
    plan, _ = auction.select(dict.fromkeys("abc", 1), {}, Ctx(0), answers)
    assert plan.promised == {"a": 3.0, "b": 3.0}
    pay = Reward().pay
    paid, state = pay(plan, ["b"], {}, {}, Ctx(0))
    assert paid == {"b": 3.0}
    later, state = pay(Plan(()), ["a"], {}, state, Ctx(0))  # kept late work: paid on arrival, once
    assert later == {"a": 3.0} and pay(Plan(()), ["a", "b"], {}, state, Ctx(0))[0] == {}


def test_auction_in_a_federation(tmp_path: Any) -> None:
    auction = ProportionalShare(budget=12.0)
    data = Quadratics(a=(1.0,) * 6, b=(1.0,) * 6)
    fed = Federation(Quadratic(), data, select=auction, rounds=2, client=Local(steps=1, batch=0))
    _, events, run = play(fed, tmp_path)
    for t in range(2):
        now = [e for e in events if e["round"] == t]
        bids = {e["client"]: e["ask"] for e in now if e["kind"] == "bid"}
        paid = {e["client"]: e["amount"] for e in now if e["kind"] == "pay"}
        plan = next(e["clients"] for e in now if e["kind"] == "plan")
        assert len(bids) == 6 and set(paid) == set(plan) and 0 < len(plan) < 6
        assert all(paid[i] >= bids[i] >= auction.cost(Ctx(0, client=i)) for i in plan)
        assert round(100 * sum(paid.values())) <= 1200
    assert run.state.slots["reward"] == {}
