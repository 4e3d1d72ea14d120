"""Selection, the auction, contributions and rewards, against closed forms and exact enumeration."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedfm.core.config import from_config, to_config
from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed, ConfigError
from fedfm.core.federation import Federation
from fedfm.core.ledger import read
from fedfm.core.loop import Run
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Plan
from fedfm.core.session import Site
from fedfm.core.state import Store
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.evaluation.held_out import HeldOut
from fedfm.incentives.answers import numbers
from fedfm.incentives.budget_split import BudgetSplit
from fedfm.incentives.leave_one_out import LeaveOneOut
from fedfm.incentives.money import largest_remainder, units_down, units_up
from fedfm.incentives.poisson import Poisson
from fedfm.incentives.power_of_choice import PowerOfChoice
from fedfm.incentives.proportional_share import ProportionalShare, allocate
from fedfm.incentives.shapley_exact import ShapleyExact
from fedfm.incentives.shapley_permutation import ShapleyPermutation
from fedfm.incentives.uniform import Uniform
from fedfm.tasks.quadratic import Quadratic, Quadratics

few = settings(max_examples=40, deadline=None)


def pool(n: int) -> dict[str, int]:
    return {f"p{k:02d}": 10 + k for k in range(n)}


def names(plan: Plan) -> list[str]:
    return [i for i, _ in plan.jobs]


def play(fed: Federation, folder: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Run]:
    """Run the federation; returns its records, its events and the run."""
    parties, engine = fed.data.open(fed.seed), fed.engine.make()
    site = Site(fed, fed.task.open(parties), parties, Store(folder / "clients"))
    engine.open(site)
    run = Run(fed, folder, site, engine)
    records = list(run.rounds())
    engine.close()
    return records, list(read(folder / "events.jsonl")), run


# ---- selectors ---------------------------------------------------------------------------------------------
def test_uniform_sizes_order_and_sampling() -> None:
    ctx = Ctx(3)
    for selector, m in ((Uniform(), 10), (Uniform(fraction=0.25), 2), (Uniform(fraction=0.0), 1),
                        (Uniform(count=3), 3), (Uniform(count=99), 10)):
        state = selector.init(pool(10), ctx)
        plan, _ = selector.select(pool(10), state, ctx, {})
        assert len(set(names(plan))) == len(plan.jobs) == m and set(names(plan)) <= set(pool(10))
        assert plan == selector.select(pool(10), state, ctx, {})[0]
        assert plan.sampling == ({"kind": "all"} if m == 10 else {"kind": "uniform", "count": m, "of": 10})
    assert names(Uniform().select(pool(10), Uniform().init(pool(10), ctx), ctx, {})[0]) == list(pool(10))
    assert Uniform(count=3).select({}, {}, ctx, {})[0].jobs == ()


def test_every_part_of_a_uniform_plan_is_uniform() -> None:
    """All 2-subsets of 5 as the first two of a plan of 4, or of all who are free: chi-square, 9 degrees."""
    for selector in (Uniform(count=4), Uniform()):
        state = {"population": 8}  # three parties are busy
        plans = [names(selector.select(pool(5), state, Ctx(0, t), {})[0]) for t in range(2000)]
        seen = Counter(frozenset(plan[:2]) for plan in plans)
        assert len(seen) == 10
        assert sum((n - 200) ** 2 / 200 for n in seen.values()) < 27.9  # 0.999 quantile


def test_poisson_is_independent_coins() -> None:
    """Size ~ Binomial(8, 0.3): mean 2.4, variance 1.68; with fixed sizes the variance would be 0."""
    plans = [names(Poisson(0.3).select(pool(8), {}, Ctx(1, t), {})[0]) for t in range(3000)]
    sizes = torch.tensor([float(len(p)) for p in plans])
    assert abs(float(sizes.mean()) - 2.4) < 0.08 and abs(float(sizes.var()) - 1.68) < 0.15
    assert any(not p for p in plans) and all(p == sorted(p) for p in plans)
    everybody = Poisson(1.0).select(pool(8), {}, Ctx(1), {})[0]
    assert names(everybody) == list(pool(8)) and everybody.sampling == {"kind": "poisson", "rate": 1.0}
    assert not Poisson(0.0).select(pool(8), {}, Ctx(1), {})[0].jobs


def test_power_of_choice_candidates_follow_the_examples() -> None:
    """One candidate of rows (1, 2, 5): probabilities 1/8, 2/8, 5/8."""
    one = PowerOfChoice(count=1, asked=1)
    seen = Counter(one.candidates({"a": 1, "b": 2, "c": 5, "none": 0}, {}, Ctx(0, t))[0] for t in range(4000))
    for i, share in (("a", 1 / 8), ("b", 2 / 8), ("c", 5 / 8)):
        assert abs(seen[i] / 4000 - share) < 0.03
    two = PowerOfChoice(count=1, asked=2)
    # without replacement: P({b, c}) = 2/8 * 5/6 + 5/8 * 2/3 = 0.625
    pairs = Counter(tuple(two.candidates({"a": 1, "b": 2, "c": 5}, {}, Ctx(0, t))) for t in range(4000))
    assert abs(pairs["b", "c"] / 4000 - 0.625) < 0.03
    assert two.candidates({"a": 0}, {}, Ctx(0)) == [] and two.candidates({}, {}, Ctx(0)) == []
    with pytest.raises(ValueError, match="at least count"):
        PowerOfChoice(count=3, asked=2)


def test_power_of_choice_takes_the_largest_and_passes_over_the_silent() -> None:
    answers = {"p00": nothing(loss=1.0), "p03": nothing(loss=2.0), "p02": nothing(loss=2.0), "p06": nothing(),
               "p04": nothing(loss=math.nan), "p05": nothing(loss="much"), "gone": nothing(loss=9.0)}
    plan, _ = PowerOfChoice(count=2, asked=9).select(pool(8), {}, Ctx(0), answers)
    assert names(plan) == ["p02", "p03"]
    plan, _ = PowerOfChoice(count=9, asked=9).select(pool(8), {}, Ctx(0), answers)
    assert names(plan) == ["p02", "p03", "p00"]


def test_power_of_choice_answer_is_the_local_loss() -> None:
    bound = Quadratic(dim=2).open(None)
    data = torch.tensor([[1.0, 3.0], [2.0, 5.0], [4.0, 1.0]])
    brief = Message(torch.zeros(bound.layout.size), "weights")
    exact = sum(a / 2 * 2 * b * b for a, b in data.tolist()) / 3  # a/2 ||0 - b||^2 in two dimensions
    for batch in (1, 2, 16):
        m = PowerOfChoice(batch=batch).answer(brief, data, Ctx(0, client="x"), bound)
        assert m.info["loss"] == pytest.approx(exact)
    sub = PowerOfChoice(rows=1).answer(brief, data, Ctx(0, client="x"), bound).info["loss"]
    assert any(sub == pytest.approx(a * b * b) for a, b in data.tolist())
    with pytest.raises(ClientFailed, match="bare model"):
        PowerOfChoice().answer(Message(torch.zeros(3)), data, Ctx(0), bound)
    with pytest.raises(ClientFailed, match="no examples"):
        PowerOfChoice().answer(brief, data[:0], Ctx(0), bound)


def test_power_of_choice_in_a_federation(tmp_path: Any) -> None:
    """At x = 0 the losses are a/2 b^2 = 0.5, 4.5, 2, 12.5: parties 3 and 1."""
    data = Quadratics(a=(1.0,) * 4, b=(1.0, 3.0, -2.0, 5.0))
    fed = Federation(Quadratic(), data, select=PowerOfChoice(count=2, asked=4), rounds=1,
                     client=Local(steps=1, batch=0))
    records, events, _ = play(fed, tmp_path)
    assert records[-1]["clients"] == 2
    assert [e["clients"] for e in events if e["kind"] == "plan"] == [["party-3", "party-1"]]
    assert {e["client"]: e["loss"] for e in events if e["kind"] == "local_loss"} == {
        "party-0": 0.5, "party-1": 4.5, "party-2": 2.0, "party-3": 12.5}


def test_numbers_distrusts_answers() -> None:
    bad = {"a": nothing(ask="1"), "b": nothing(ask=None), "c": nothing(ask=10 ** 400), "e": nothing(),
           "d": nothing(ask=math.inf)}
    assert numbers({**bad, "f": nothing(ask=3)}, "ask") == {"f": 3.0}


# ---- the auction -------------------------------------------------------------------------------------------
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


def test_auction_of_ten_thousand_is_fast() -> None:
    rng = torch.Generator().manual_seed(0)
    ids = [f"p{k}" for k in range(10_000)]
    asks = dict(zip(ids, torch.randint(100, 100_000, (10_000,), generator=rng).tolist(), strict=True))
    quality = dict(zip(ids, torch.randint(1, 5_000, (10_000,), generator=rng).tolist(), strict=True))
    start = time.perf_counter()
    winners, pay = allocate(asks, quality, 10 ** 8)
    assert time.perf_counter() - start < 1.0 and len(winners) > 1000 and sum(pay.values()) <= 10 ** 8


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
    paid, state = auction.pay(plan, ["b"], {}, {}, Ctx(0))
    assert paid == {"b": 3.0}
    later, state = auction.pay(Plan(()), ["a"], {}, state, Ctx(0))  # kept late work: paid on arrival, once
    assert later == {"a": 3.0} and auction.pay(Plan(()), ["a", "b"], {}, state, Ctx(0))[0] == {}


def test_auction_in_a_federation(tmp_path: Any) -> None:
    auction = ProportionalShare(budget=12.0)
    data = Quadratics(a=(1.0,) * 6, b=(1.0,) * 6)
    fed = Federation(Quadratic(), data, select=auction, reward=auction, rounds=2,
                     client=Local(steps=1, batch=0))
    _, events, run = play(fed, tmp_path)
    for t in range(2):
        now = [e for e in events if e["round"] == t]
        bids = {e["client"]: e["ask"] for e in now if e["kind"] == "bid"}
        paid = {e["client"]: e["amount"] for e in now if e["kind"] == "pay"}
        plan = next(e["clients"] for e in now if e["kind"] == "plan")
        assert len(bids) == 6 and set(paid) == set(plan) and 0 < len(plan) < 6
        assert all(paid[i] >= bids[i] >= auction.cost(Ctx(0, client=i)) for i in plan)
        assert round(100 * sum(paid.values())) <= 1200
    assert run.state.reward == {"open": {}}


# ---- contributions -----------------------------------------------------------------------------------------
def glove(s: frozenset[str]) -> float:
    """One left glove, two right ones: the left owner gets 2/3, each right owner 1/6."""
    return float(min(len(s & {"L"}), len(s & {"R", "Q"})))


def airport(s: frozenset[str]) -> float:
    """Runway costs 1, 2, 3: each segment is shared by those who need it: 1/3, 1/3 + 1/2, 1/3 + 1/2 + 1."""
    return max((float(i) for i in s), default=0.0)


def majority(s: frozenset[str]) -> float:
    """[51; 50, 49, 1]: "50" is pivotal in 4 orders of 6, the others in 1 each."""
    return float(sum(int(i) for i in s) >= 51)


def additive(s: frozenset[str]) -> float:
    return 7.0 + sum(float(i) for i in s)


GAMES = [(glove, {"L": 2 / 3, "R": 1 / 6, "Q": 1 / 6}), (airport, {"1": 1 / 3, "2": 5 / 6, "3": 11 / 6}),
         (majority, {"50": 2 / 3, "49": 1 / 6, "1": 1 / 6}), (additive, {"1": 1.0, "2": 2.0, "-3": -3.0})]


@pytest.mark.parametrize(("game", "phi"), GAMES)
def test_shapley_of_known_games(game: Any, phi: dict[str, float]) -> None:
    assert ShapleyExact().value(list(phi), game, Ctx(0)) == pytest.approx(phi, abs=1e-12)
    events: list[dict[str, Any]] = []
    estimate = ShapleyPermutation(permutations=1000).value(list(phi), game, Ctx(0, events=events))
    assert estimate == pytest.approx(phi, abs=5 * max(events[0]["stderr"], 1e-12))
    assert events[0]["stderr"] < 0.02 and events[0]["coalitions"] == 8


def tables(n: int) -> Any:
    return st.lists(st.floats(-10, 10), min_size=2 ** n, max_size=2 ** n)


def as_game(ids: str, table: list[float]) -> Any:
    return lambda s: table[sum(1 << k for k, i in enumerate(ids) if i in s)]


@few
@given(tables(4), tables(4), st.integers(1, 9), st.booleans())
def test_shapley_axioms(one: list[float], two: list[float], permutations: int, antithetic: bool) -> None:
    """Efficiency, additivity and null player hold for both; symmetry and brute force for the exact one."""
    ids = "abcd"
    u, v = as_game(ids, one), as_game(ids, two)
    estimate = ShapleyPermutation(permutations=permutations, antithetic=antithetic)
    for valuer in (ShapleyExact(), estimate):
        pu, pv = valuer.value(ids, u, Ctx(0)), valuer.value(ids, v, Ctx(0))
        both = valuer.value(ids, lambda s: u(s) + v(s), Ctx(0))
        assert math.fsum(pu.values()) == pytest.approx(u(frozenset(ids)) - u(frozenset()), abs=1e-9)
        assert both == pytest.approx({i: pu[i] + pv[i] for i in ids}, abs=1e-9)
        assert valuer.value(ids, lambda s: u(s - {"c"}), Ctx(0))["c"] == 0.0
    swap = {"a": "b", "b": "a"}
    alike = ShapleyExact().value(ids, lambda s: u(s) + u(frozenset(swap.get(i, i) for i in s)), Ctx(0))
    assert alike["a"] == pytest.approx(alike["b"], abs=1e-9)
    brute = dict.fromkeys(ids, 0.0)
    for order in itertools.permutations(ids):
        for k, i in enumerate(order):
            brute[i] += (u(frozenset(order[:k + 1])) - u(frozenset(order[:k]))) / 24
    assert ShapleyExact().value(ids, u, Ctx(0)) == pytest.approx(brute, abs=1e-9)


def quadratic(n: int) -> tuple[Any, dict[str, float]]:
    """v(S) = -F(sum_S d_i), F(x) = g x + x H x / 2; hence phi_i = -g d_i - d_i H sum_j d_j / 2."""
    rng = torch.Generator().manual_seed(1)
    g, d = torch.randn(3, generator=rng).double(), torch.randn(n, 3, generator=rng).double()
    h = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))

    def game(s: frozenset[str]) -> float:
        x = d[[int(i) for i in sorted(s)]].sum(0)
        return float(-(g @ x) - x @ h @ x / 2)

    return game, {f"{i}": float(-(g @ d[i]) - d[i] @ h @ d.sum(0) / 2) for i in range(n)}


def test_shapley_of_a_quadratic_loss() -> None:
    game, phi = quadratic(7)
    assert ShapleyExact().value(list(phi), game, Ctx(0)) == pytest.approx(phi, abs=1e-9)
    # without interactions of three parties an order and its reverse are exact
    assert ShapleyPermutation(permutations=2).value(list(phi), game, Ctx(0)) == pytest.approx(phi, abs=1e-9)
    single = ShapleyPermutation(permutations=2, antithetic=False).value(list(phi), game, Ctx(0))
    assert single != pytest.approx(phi, abs=1e-3)


def test_truncation_saves_evaluations_and_is_off_by_at_most_the_tolerance() -> None:
    asked: set[frozenset[str]] = set()

    def game(s: frozenset[str]) -> float:
        asked.add(s)
        return 1 - 0.5 ** len(s)

    ids = [f"{k}" for k in range(10)]
    values = ShapleyPermutation(permutations=20, tolerance=0.01).value(ids, game, Ctx(0))
    # 0.5^k <= 0.01 + 0.5^10 first holds at k = 7, so nobody is asked about coalitions of 8 or 9
    assert max(len(s) for s in asked if len(s) < 10) == 7
    assert 0 <= 1 - 0.5 ** 10 - math.fsum(values.values()) <= 0.01
    full = ShapleyPermutation(permutations=20).value(ids, majority_of_ten, Ctx(0))
    assert math.fsum(full.values()) == pytest.approx(1.0)


def majority_of_ten(s: frozenset[str]) -> float:
    return float(len(s) > 5)


def test_leave_one_out_and_limits() -> None:
    assert LeaveOneOut().value(["L", "R", "Q"], glove, Ctx(0)) == {"L": 1.0, "R": 0.0, "Q": 0.0}
    ids = [f"{k}" for k in range(13)]
    with pytest.raises(ConfigError, match="8192 evaluations"):
        ShapleyExact().value(ids, majority_of_ten, Ctx(0))
    many = ShapleyExact(max_players=13).value(ids, majority_of_ten, Ctx(0))
    assert many == pytest.approx(dict.fromkeys(ids, 1 / 13))
    for valuer in (ShapleyExact(), ShapleyPermutation(), LeaveOneOut()):
        assert valuer.reads and valuer.value([], glove, Ctx(0)) == {}


@pytest.mark.parametrize("valuer", [ShapleyExact(), ShapleyPermutation(permutations=2), LeaveOneOut()])
def test_contributions_in_a_federation(valuer: Any, tmp_path: Any) -> None:
    """One step from x = 0: d_i = lr a_i b_i; with fixed weights 1/4 the game is quadratic: a closed form.

    F(x) = mean_j a_j/2 (x - b_j)^2, g = -mean a b, H = mean a. The free rider (b = 0) gets exactly 0.
    """
    a, b, lr = (1.0, 2.0, 3.0, 4.0), (1.0, 0.0, -1.0, 2.0), 0.1
    fed = Federation(Quadratic(), Quadratics(a=a, b=b), client=Local(lr=lr, steps=1, batch=0), value=valuer,
                     aggregate=Mean(weights="equal", denominator=4.0), evaluate=HeldOut(utility_parts=1),
                     rounds=1, reward=BudgetSplit(budget=10.0))
    _, events, _ = play(fed, tmp_path)
    values = {e["client"]: e["value"] for e in events if e["kind"] == "value"}
    d = [lr * x * y / 4 for x, y in zip(a, b, strict=True)]
    g, h = -sum(x * y for x, y in zip(a, b, strict=True)) / 4, sum(a) / 4
    half = 1.0 if isinstance(valuer, LeaveOneOut) else 0.5  # v(N) - v(N - i) = -g d_i - d_i h (sum - d_i / 2)
    own = [h * x * x / 2 if isinstance(valuer, LeaveOneOut) else 0.0 for x in d]
    phi = {f"party-{k}": -g * x - half * h * x * sum(d) + own[k] for k, x in enumerate(d)}
    assert values == pytest.approx(phi, abs=1e-5)
    assert values["party-1"] == 0.0
    paid = {e["client"]: e["amount"] for e in events if e["kind"] == "pay"}
    assert paid["party-1"] == 0.0 and round(100 * sum(paid.values())) == 1000


# ---- rewards -----------------------------------------------------------------------------------------------
def share(values: dict[str, float], **knobs: Any) -> dict[str, float]:
    return BudgetSplit(**knobs).pay(Plan(()), list(values), values, {}, Ctx(0))[0]


def test_money() -> None:
    assert units_up(0.57, 2) == 57 == units_down(0.57, 2)
    assert units_up(1.1, 2) == 110 and units_up(1.101, 2) == 111 and units_down(1.109, 2) == 110
    assert units_down(1.999999999999993, 0) == 1 and units_up(1e-9, 2) == 1
    assert all(units_up(k / 100, 2) == k == units_down(k / 100, 2) for k in range(3000))
    third = [Fraction(1)] * 3
    assert largest_remainder(third, 100) == [34, 33, 33] and largest_remainder([Fraction(0)] * 2, 5) == [0, 0]
    assert largest_remainder([], 5) == []
    assert largest_remainder([Fraction(k) for k in (31, 32, 37)], 10) == [3, 3, 4]  # 3.1, 3.2, 3.7


def test_policies_by_hand() -> None:
    values = {"a": 1.0, "b": 3.0, "c": -5.0, "d": 0.0}
    assert share(values, budget=100) == {"a": 25.0, "b": 75.0, "c": 0.0, "d": 0.0}
    assert share(values, budget=100, policy="equal") == dict.fromkeys("abcd", 25.0)
    assert share(values, budget=90, policy="rank") == {"a": 30.0, "b": 60.0, "c": 0.0, "d": 0.0}
    assert share({"a": 1.0, "b": 1.0, "c": 2.0}, budget=60, policy="rank") == {"a": 15, "b": 15, "c": 30}
    soft = share(values, budget=100, policy="softmax", temperature=2.0)
    assert soft["b"] == pytest.approx(100 * math.e / (1 + math.e), abs=0.01) and soft["c"] == soft["d"] == 0.0
    assert share({"a": 1e6, "b": 1.0}, budget=10, policy="softmax", temperature=1e-3) == {"a": 10.0, "b": 0.0}
    assert share({"a": 1.0, "b": math.nan, "c": -math.inf}, budget=1) == {"a": 1.0, "b": 0.0, "c": 0.0}
    for policy in ("linear", "softmax", "rank"):
        assert share({"a": -1.0, "b": 0.0}, budget=1, policy=policy) == {"a": 0.0, "b": 0.0}
        assert share({"a": -1.0, "b": 0.0}, budget=1, policy=policy, fallback="equal") == {"a": 0.5, "b": 0.5}
    unvalued, _ = BudgetSplit(policy="equal").pay(Plan(()), ["x"], {}, {}, Ctx(0))
    assert unvalued == {"x": 100.0}
    assert share({}) == {}


@few
@given(st.lists(st.one_of(st.floats(-5, 5), st.sampled_from([0.0, 1.0, 1e-9])), min_size=1, max_size=9),
       st.floats(0, 1000), st.sampled_from(["linear", "softmax", "equal", "rank"]),
       st.sampled_from(["none", "equal"]))
def test_budget_split_properties(phi: list[float], budget: float, policy: str, fallback: str) -> None:
    values = {f"p{k}": v for k, v in enumerate(phi)}
    knobs = {"budget": budget, "policy": policy, "fallback": fallback}
    paid = share(values, **knobs)
    cents = {i: round(100 * p) for i, p in paid.items()}
    positive = any(v > 0 for v in phi)
    spends = positive or policy == "equal" or fallback == "equal"
    assert sum(cents.values()) == (units_down(budget, 2) if spends else 0)  # to the cent
    assert all(c >= 0 for c in cents.values())
    for i, j in itertools.permutations(values, 2):
        if values[i] > values[j]:
            assert cents[i] >= cents[j]
        if values[i] == values[j]:
            assert abs(cents[i] - cents[j]) <= 1
    if positive and policy != "equal":
        assert all(cents[i] == 0 for i, v in values.items() if v <= 0)
    back = share(dict(reversed(values.items())), **knobs)
    assert back == paid  # the order of arrival does not matter
    if policy in ("linear", "rank", "equal"):
        assert share({i: 1024 * v for i, v in values.items()}, **knobs) == paid


def test_specs_survive_a_config() -> None:
    auction = ProportionalShare(misreport={"party-0": 1.5})
    slots: list[tuple[Any, Any, Any]] = [
        (auction, ShapleyExact(), auction), (Uniform(count=2), ShapleyPermutation(), BudgetSplit()),
        (Poisson(), LeaveOneOut(), BudgetSplit()), (PowerOfChoice(), LeaveOneOut(), BudgetSplit())]
    for select, value, reward in slots:
        fed = Federation(Quadratic(), Quadratics(), select=select, value=value, reward=reward)
        again = from_config(to_config(fed))
        assert (again.select, again.value, again.reward) == (select, value, reward)
