"""A menu of contracts: every type takes its own line, nobody loses, and no feasible menu is better for the server."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.core.context import Ctx
from fedfm.core.message import nothing
from fedfm.incentives.contract.menu import ContractMenu, optimal
from fedfm.laws.homes import play, quadratics


def worth(menu: list[tuple[int, float]], prior: tuple[float, ...], value: float) -> float:
    return math.fsum(p * (value * math.log(1 + f) - r) for p, (f, r) in zip(prior, menu, strict=True))


@given(
    st.lists(st.floats(0.2, 5.0), min_size=2, max_size=4, unique=True),
    st.lists(st.floats(0.1, 1.0), min_size=4, max_size=4),
    st.floats(1.0, 60.0),
)
@settings(max_examples=80, deadline=None)
def test_each_type_takes_its_line_and_none_loses(
    costs: list[float], shares: list[float], value: float
) -> None:
    costs = sorted(costs, reverse=True)
    prior = [s / sum(shares[: len(costs)]) for s in shares[: len(costs)]]
    menu = optimal(costs, prior, value, 32)
    for k, c in enumerate(costs):
        gains = [r - c * f for f, r in menu]
        assert gains[k] >= max(gains) - 1e-9 and gains[k] >= -1e-9, (menu, costs)
    assert menu[0][1] == pytest.approx(costs[0] * menu[0][0])  # no rent for the dearest type


@pytest.mark.parametrize("prior", [(0.3, 0.4, 0.3), (0.05, 0.9, 0.05), (0.6, 0.05, 0.35)])
def test_no_menu_on_the_grid_is_better(prior: tuple[float, ...]) -> None:
    """All menus with at most 9 steps that every type would follow; the optimum is rounded to whole steps."""
    costs, value = (4.0, 2.0, 1.0), 12.0
    mine = worth(optimal(costs, prior, value, 9), prior, value)
    best = -math.inf
    for steps in itertools.combinations_with_replacement(range(10), 3):
        reward, menu, before = 0.0, [], 0
        for f, c in zip(steps, costs, strict=True):
            reward, before = reward + c * (f - before), f
            menu.append((f, reward))
        best = max(best, worth(menu, prior, value))
    assert mine >= best - 0.15, (mine, best)


def test_in_a_federation_who_works_more_is_paid_more() -> None:
    menu = ContractMenu()
    played = play(quadratics(select=menu))
    chosen = {e["client"]: (e["steps"], e["reward"]) for e in played.events if e["kind"] == "contract"}
    paid = {e["client"]: e["amount"] for e in played.events if e["kind"] == "pay"}
    assert chosen and {i: r for i, (_, r) in chosen.items()} == paid
    for i, (steps, reward) in chosen.items():
        assert reward >= menu.cost(Ctx(0, client=i)) * steps - 1e-9
    asked = [
        e for e in played.events if e["kind"] == "bytes" and e["direction"] == "down" and e["total"] < 400
    ]
    assert asked  # a question is a word and no model


def test_odd_answers_are_passed_over() -> None:
    menu = ContractMenu()
    answers = {
        "a": nothing(line=1),
        "b": nothing(line=7),
        "c": nothing(line=-1),
        "d": nothing(line=0.5),
        "e": nothing(),
    }
    plan, _ = menu.select(dict.fromkeys("abcde", 3), {}, Ctx(0, events=[]), answers)
    assert [i for i, _ in plan.jobs] == ["a"]
    with pytest.raises(ValueError, match="costs must fall"):
        ContractMenu(costs=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="sum to 1"):
        ContractMenu(prior=(0.5, 0.5, 0.5))
