"""Selection: sizes, chances and what is asked of the candidates."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from fedfm.core.context import Ctx
from fedfm.core.errors import ClientFailed
from fedfm.core.federation import Federation
from fedfm.core.message import Message, nothing
from fedfm.core.protocols import Plan
from fedfm.efficiency.training.local import Local
from fedfm.incentives.answers import numbers
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.power_of_choice import PowerOfChoice
from fedfm.incentives.selection.uniform import Uniform
from fedfm.tasks.quadratic import Quadratic, Quadratics
from play import play


def pool(n: int) -> dict[str, int]:
    return {f"p{k:02d}": 10 + k for k in range(n)}


def names(plan: Plan) -> list[str]:
    return [i for i, _ in plan.jobs]


def test_uniform_sizes_order_and_sampling() -> None:
    ctx = Ctx(3)
    for selector, m in (
        (Uniform(), 10),
        (Uniform(fraction=0.25), 2),
        (Uniform(fraction=0.0), 1),
        (Uniform(count=3), 3),
        (Uniform(count=99), 10),
    ):
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
    answers = {
        "p00": nothing(loss=1.0),
        "p03": nothing(loss=2.0),
        "p02": nothing(loss=2.0),
        "p06": nothing(),
        "p04": nothing(loss=math.nan),
        "p05": nothing(loss="much"),
        "gone": nothing(loss=9.0),
    }
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
    fed = Federation(
        Quadratic(), data, select=PowerOfChoice(count=2, asked=4), rounds=1, client=Local(steps=1, batch=0)
    )
    records, events, _ = play(fed, tmp_path)
    assert records[-1]["clients"] == 2
    assert [e["clients"] for e in events if e["kind"] == "plan"] == [["party-3", "party-1"]]
    assert {e["client"]: e["loss"] for e in events if e["kind"] == "local_loss"} == {
        "party-0": 0.5,
        "party-1": 4.5,
        "party-2": 2.0,
        "party-3": 12.5,
    }


def test_numbers_distrusts_answers() -> None:
    bad = {
        "a": nothing(ask="1"),
        "b": nothing(ask=None),
        "c": nothing(ask=10**400),
        "e": nothing(),
        "d": nothing(ask=math.inf),
    }
    assert numbers({**bad, "f": nothing(ask=3)}, "ask") == {"f": 3.0}
