"""Rewards: money in whole units, and budgets shared out to the cent."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effort import fewer as few
from fedfm.core.context import Ctx
from fedfm.core.protocols import Plan
from fedfm.incentives.money import largest_remainder, units_down, units_up
from fedfm.incentives.reward.budget_split import BudgetSplit


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
@given(
    st.lists(st.one_of(st.floats(-5, 5), st.sampled_from([0.0, 1.0, 1e-9])), min_size=1, max_size=9),
    st.floats(0, 1000),
    st.sampled_from(["linear", "softmax", "equal", "rank"]),
    st.sampled_from(["none", "equal"]),
)
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
