"""Contributions against known games, closed forms and exact enumeration."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effort import fewer as few
from fedfm.core.context import Ctx
from fedfm.core.errors import ConfigError
from fedfm.core.federation import Federation
from fedfm.data.digits import Digits
from fedfm.data.partition.iid import Iid
from fedfm.data.source import Shard
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.evaluation.held_out import HeldOut
from fedfm.incentives.contribution.leave_one_out import LeaveOneOut
from fedfm.incentives.contribution.shapley_exact import ShapleyExact
from fedfm.incentives.contribution.shapley_permutation import ShapleyPermutation
from fedfm.incentives.reward.budget_split import BudgetSplit
from fedfm.running.entry import run
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.tasks.vision.image import ImageClassification
from play import play


def worth(valuer: Any, ids: list[str], game: Any, ctx: Ctx) -> dict[str, float]:
    """The values of a game, from a house that plays it."""
    values: dict[str, float] = valuer.value(ids, {}, ctx.at(house=SimpleNamespace(game=game)))[0]
    return values


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


GAMES = [
    (glove, {"L": 2 / 3, "R": 1 / 6, "Q": 1 / 6}),
    (airport, {"1": 1 / 3, "2": 5 / 6, "3": 11 / 6}),
    (majority, {"50": 2 / 3, "49": 1 / 6, "1": 1 / 6}),
    (additive, {"1": 1.0, "2": 2.0, "-3": -3.0}),
]


@dataclass(frozen=True)
class Judged(Quadratics):
    """The server's own rows are like the test rows: F is the mean over all parties."""

    def read(self, seed: int, columns: Any) -> Any:
        parties = super().read(seed, columns)
        return replace(parties, house=Shard("server", parties.test().rows))

    def open(self, seed: int, columns: Any = None) -> Any:
        return self.read(seed, columns)


@pytest.mark.parametrize(("game", "phi"), GAMES)
def test_shapley_of_known_games(game: Any, phi: dict[str, float]) -> None:
    assert worth(ShapleyExact(), list(phi), game, Ctx(0)) == pytest.approx(phi, abs=1e-12)
    events: list[dict[str, Any]] = []
    estimate = worth(ShapleyPermutation(permutations=1000), list(phi), game, Ctx(0, events=events))
    assert estimate == pytest.approx(phi, abs=5 * max(events[0]["stderr"], 1e-12))
    assert events[0]["stderr"] < 0.02 and events[0]["coalitions"] == 8


def tables(n: int) -> Any:
    return st.lists(st.floats(-10, 10), min_size=2**n, max_size=2**n)


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
        pu, pv = worth(valuer, ids, u, Ctx(0)), worth(valuer, ids, v, Ctx(0))
        both = worth(valuer, ids, lambda s: u(s) + v(s), Ctx(0))
        assert math.fsum(pu.values()) == pytest.approx(u(frozenset(ids)) - u(frozenset()), abs=1e-9)
        assert both == pytest.approx({i: pu[i] + pv[i] for i in ids}, abs=1e-9)
        assert worth(valuer, ids, lambda s: u(s - {"c"}), Ctx(0))["c"] == 0.0
    swap = {"a": "b", "b": "a"}
    alike = worth(ShapleyExact(), ids, lambda s: u(s) + u(frozenset(swap.get(i, i) for i in s)), Ctx(0))
    assert alike["a"] == pytest.approx(alike["b"], abs=1e-9)
    brute = dict.fromkeys(ids, 0.0)
    for order in itertools.permutations(ids):
        for k, i in enumerate(order):
            brute[i] += (u(frozenset(order[: k + 1])) - u(frozenset(order[:k]))) / 24
    assert worth(ShapleyExact(), ids, u, Ctx(0)) == pytest.approx(brute, abs=1e-9)


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
    assert worth(ShapleyExact(), list(phi), game, Ctx(0)) == pytest.approx(phi, abs=1e-9)
    # without interactions of three parties an order and its reverse are exact
    assert worth(ShapleyPermutation(permutations=2), list(phi), game, Ctx(0)) == pytest.approx(phi, abs=1e-9)
    single = worth(ShapleyPermutation(permutations=2, antithetic=False), list(phi), game, Ctx(0))
    assert single != pytest.approx(phi, abs=1e-3)


def test_truncation_saves_evaluations_and_is_off_by_at_most_the_tolerance() -> None:
    asked: set[frozenset[str]] = set()

    def game(s: frozenset[str]) -> float:
        asked.add(s)
        return 1 - 0.5 ** len(s)

    ids = [f"{k}" for k in range(10)]
    values = worth(ShapleyPermutation(permutations=20, tolerance=0.01), ids, game, Ctx(0))
    # 0.5^k <= 0.01 + 0.5^10 first holds at k = 7, so nobody is asked about coalitions of 8 or 9
    assert max(len(s) for s in asked if len(s) < 10) == 7
    assert 0 <= 1 - 0.5**10 - math.fsum(values.values()) <= 0.01
    full = worth(ShapleyPermutation(permutations=20), ids, majority_of_ten, Ctx(0))
    assert math.fsum(full.values()) == pytest.approx(1.0)


def majority_of_ten(s: frozenset[str]) -> float:
    return float(len(s) > 5)


def test_leave_one_out_and_limits() -> None:
    assert worth(LeaveOneOut(), ["L", "R", "Q"], glove, Ctx(0)) == {"L": 1.0, "R": 0.0, "Q": 0.0}
    ids = [f"{k}" for k in range(13)]
    with pytest.raises(ConfigError, match="8192 evaluations"):
        worth(ShapleyExact(), ids, majority_of_ten, Ctx(0))
    many = worth(ShapleyExact(max_players=13), ids, majority_of_ten, Ctx(0))
    assert many == pytest.approx(dict.fromkeys(ids, 1 / 13))
    for valuer in (ShapleyExact(), ShapleyPermutation(), LeaveOneOut()):
        assert valuer.reads and worth(valuer, [], glove, Ctx(0)) == {}


@pytest.mark.parametrize("valuer", [ShapleyExact(), ShapleyPermutation(permutations=2), LeaveOneOut()])
def test_contributions_in_a_federation(valuer: Any, tmp_path: Any) -> None:
    """One step from x = 0: d_i = lr a_i b_i; with fixed weights 1/4 the game is quadratic: a closed form.

    F(x) = mean_j a_j/2 (x - b_j)^2, g = -mean a b, H = mean a. The free rider (b = 0) gets exactly 0.
    """
    a, b, lr = (1.0, 2.0, 3.0, 4.0), (1.0, 0.0, -1.0, 2.0), 0.1
    fed = Federation(
        Quadratic(),
        Judged(a=a, b=b),
        client=Local(lr=lr, steps=1, batch=0),
        value=valuer,
        aggregate=Mean(weights="equal", denominator=4.0),
        rounds=1,
        reward=BudgetSplit(budget=10.0),
    )
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


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_values_sum_to_the_gain_on_all_of_the_servers_rows(parts: int, tmp_path: Any) -> None:
    """Pieces in which the test rows are scored side by side are no sample that anybody is valued on."""
    fed = Federation(
        Quadratic(),
        Judged(a=(1.0, 1.0, 1.0, 4.0), b=(0.0, 2.0, 2.0, 5.0)),
        client=Local(lr=0.1, steps=1, batch=0),
        value=ShapleyExact(),
        evaluate=HeldOut(parts=parts),
        rounds=2,
    )
    records, events, _ = play(fed, tmp_path)
    loss = [r["metrics"]["loss"] for r in records]
    assert loss[0] - loss[1] == pytest.approx(3.285)  # F(0) = 13.5, x = 0.1 * 24 / 4
    for t in (0, 1):
        values = [e["value"] for e in events if e["kind"] == "value" and e["round"] == t]
        assert math.fsum(values) == pytest.approx(loss[t] - loss[t + 1], rel=1e-5)
        assert (
            values[1] == values[2] and values[3] > 0 > values[0]
        )  # the parties at 0, 2, 2 and 5, all from 0


@pytest.mark.parametrize("valuer", [ShapleyExact(), LeaveOneOut(), None], ids=repr)
def test_a_run_says_what_its_values_rest_on(valuer: Any, tmp_path: Any) -> None:
    data = Digits(train_rows=60, test_rows=60, partition=Iid(parties=2), server_rows=20)
    fed = Federation(ImageClassification(channels=(4, 8)), data, client=Local(steps=1), rounds=1)
    result = run(fed if valuer is None else replace(fed, value=valuer), out=tmp_path / "run", baselines=None)
    page, told = (tmp_path / "run/report.html").read_text(), result.summary["server_rows"]
    if valuer is None:
        assert told is None and "Valued on" not in page
        return
    assert told["rows"] == 20 and told["of"] == {str(k): 2 for k in range(10)}
    assert "Valued on 20 rows of the server" in page
