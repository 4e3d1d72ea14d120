"""The distributed discrete Gaussian: an exact sampler, a rounding that keeps its bound, a sum that is noisy enough."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm.checks.exposure import exposure
from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx, Noise
from fedfm.core.errors import ClientFailed
from fedfm.core.federation import replace
from fedfm.efficiency.training.mean import Mean
from fedfm.laws.homes import play, quadratics
from fedfm.pace import AllArrive
from fedfm.running.feasible import affordable
from fedfm.trust.privacy.accountant import cost, planned, spent
from fedfm.trust.privacy.mechanism.discrete_gaussian import (
    SLACK,
    DiscreteGaussian,
    coin,
    discrete_gaussian,
    discrete_laplace,
    rounded,
)
from fedfm.trust.privacy.secure.secagg import SecAgg

ALL = {"kind": "all"}


def seeded(seed: int = 0) -> Noise:
    return Noise(torch.Generator().manual_seed(seed))


def chi_square_p(seen: Tensor, weight: Any, width: int) -> float:
    """Probability of counts as uneven as these under P(k) ~ weight(k), by Wilson and Hilferty's approximation."""
    ks = range(-width, width + 1)
    total = math.fsum(weight(k) for k in range(-60 * width, 60 * width + 1))
    want = [len(seen) * weight(k) / total for k in ks] + [0.0]
    want[-1] = len(seen) - sum(want)  # everything beyond
    got = [int((seen == k).sum()) for k in ks] + [int((seen.abs() > width).sum())]
    value, free = sum((a - b) ** 2 / b for a, b in zip(got, want, strict=True)), len(want) - 1
    z = ((value / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
    return 0.5 * math.erfc(z / math.sqrt(2))


@pytest.mark.parametrize("variance", [1, 5, 30])
@pytest.mark.parametrize("source", ["seed", "system"])
def test_draws_follow_the_discrete_gaussian(variance: int, source: str) -> None:
    noise = seeded(variance) if source == "seed" else Noise(bytes([variance]) * 32)
    x = discrete_gaussian(40_000, variance, noise)
    assert chi_square_p(x, lambda k: math.exp(-k * k / (2 * variance)), 3 * math.isqrt(variance)) > 1e-4
    assert chi_square_p(x + 1, lambda k: math.exp(-k * k / (2 * variance)), 3 * math.isqrt(variance)) < 1e-9


def test_draws_follow_the_discrete_laplace_and_coins_the_exponential() -> None:
    x = discrete_laplace(40_000, 4, seeded(1))
    assert chi_square_p(x, lambda k: math.exp(-abs(k) / 4), 12) > 1e-4
    for a, b in ((0, 3), (1, 3), (3, 3), (7, 3), (2**40 + 1, 2**41)):
        p = math.exp(-a / b)
        heads = coin(torch.full((20_000,), a), torch.full((20_000,), b), seeded(a)).double().mean()
        assert float(heads) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 20_000) + 1e-12)


def slow(variance: int, rng: random.Random) -> int:
    """Algorithm 3 of the paper word by word, in fractions."""

    def flip(x: Fraction) -> bool:
        while x > 1:
            if not flip(Fraction(1)):
                return False
            x -= 1
        k = 1
        while Fraction(rng.randrange(10**12), 10**12) < x / k:
            k += 1
        return k % 2 == 1

    t = math.isqrt(variance) + 1
    while True:
        u, v = rng.randrange(t), 0
        if not flip(Fraction(u, t)):
            continue
        while flip(Fraction(1)):
            v += 1
        y, minus = u + t * v, rng.random() < 0.5
        if not (minus and y == 0) and flip((abs(y) - Fraction(variance, t)) ** 2 / (2 * variance)):
            return -y if minus else y


def test_draws_agree_with_the_algorithm_in_fractions() -> None:
    rng, n = random.Random(3), 3000
    slowly = torch.tensor([slow(12, rng) for _ in range(n)])
    fast = discrete_gaussian(n, 12, seeded(2))
    both = torch.stack([torch.bincount(x.clamp(-8, 8) + 8, minlength=17).double() for x in (slowly, fast)])
    value = float(((both[0] - both[1]).square() / both.sum(0).clamp(min=1)).sum())  # 16 degrees of freedom
    assert value < 45.0  # the chance of more is 1e-4


def test_variance_is_what_was_asked_for_at_every_size() -> None:
    for variance in (1, 256, 4096**2):
        x = discrete_gaussian(40_000, variance, seeded(4)).double()
        assert float(x.var()) == pytest.approx(
            variance, rel=5 * math.sqrt(2 / 40_000) + 0.02 * (variance == 1)
        )


# ---- the stage ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("d", [1, 100, 3000])
@pytest.mark.parametrize("c", [0.01, 1.0, 300.0])
def test_what_is_rounded_keeps_the_bound_and_its_mean(d: int, c: float) -> None:
    stage = DiscreteGaussian(clip_norm=c, shares=4)
    grid, why = stage._grid(d)
    longest = stage._longest(d, grid)
    assert not why and longest * grid <= SLACK * c and math.log2(grid).is_integer()
    x = torch.randn(d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    x *= c / x.norm() / grid
    draws = torch.stack([rounded(x, longest, seeded(k)) for k in range(40)])
    assert float(draws.double().norm(dim=1).max()) <= longest
    assert float((draws - x).abs().max()) < 1.0
    assert float((draws.double().mean(0) - x).abs().max()) <= 5 * 0.5 / math.sqrt(40)
    sigma = stage.std / grid / math.sqrt(stage.shares)
    tau = 10 * sum(math.exp(-2 * (math.pi * sigma) ** 2 * k / (k + 1)) for k in range(1, 100))
    assert sigma >= 16.0 and tau == 0.0  # of Kairouz et al., theorem 1: below what a float can hold


def test_shares_add_up_to_the_noise_that_was_promised_on_a_grid_of_integers() -> None:
    stage, d, n = DiscreteGaussian(clip_norm=0.5, noise_multiplier=2.0, shares=4), 20_000, 4
    parts = [stage.encode(torch.zeros(d), {}, Ctx(0, client=f"party-{k}"))[0] for k in range(n)]
    grid = stage._grid(d)[0]
    assert all(torch.equal(p, (p / grid).round() * grid) for p in parts)
    total = torch.stack(parts).sum(0).double()
    assert 1.0 * (1 - 0.03) <= float(total.std()) <= 1.0 * (1 + 0.03)  # z C, four shares of z C / 2
    each = torch.corrcoef(torch.stack(parts)) - torch.eye(n)
    assert float(each.abs().max()) < 5 / math.sqrt(d)
    x = torch.randn(d) * 10
    assert float((stage.encode(x, {}, Ctx(0))[0] - x / x.norm() * 0.5).std()) == pytest.approx(0.5, rel=0.03)


def test_a_release_costs_what_theorem_one_says() -> None:
    stage = DiscreteGaussian(noise_multiplier=3.0)
    rho = 7 * 0.5 * (SLACK / 3.0) ** 2
    orders = [1 + k / 100 for k in range(1, 20_000)]
    own = min(rho * a + math.log1p(-1 / a) - math.log(1e-5 * a) / (a - 1) for a in orders)
    assert cost([stage], [ALL] * 7) == pytest.approx(own, rel=5e-3)  # the library's orders are coarser
    assert cost([stage], [ALL] * 7) >= own * (1 - 1e-9)
    drawn = {"kind": "uniform", "count": 5, "of": 50}
    assert cost([stage], [drawn] * 7) == cost([stage], [ALL] * 7)  # the server sees who took part
    two = cost([DiscreteGaussian(noise_multiplier=3.0, relation="replace-one")], [ALL] * 7)
    one = cost([DiscreteGaussian(noise_multiplier=1.5)], [ALL] * 7)
    assert two == pytest.approx(one, rel=1e-9)
    ready = planned(DiscreteGaussian(epsilon=6.0), [ALL] * 7)
    assert cost([ready], [ALL] * 7) <= 6.0 <= cost([ready], [ALL] * 7) * 1.001


def test_under_masks_a_federation_learns_and_its_ledger_has_one_release_a_round(tmp_path: Path) -> None:
    wire = Pipe(DiscreteGaussian(clip_norm=0.5, noise_multiplier=0.05, shares=4), SecAgg())
    fed = quadratics(uplink=wire, aggregate=Mean("equal", denominator=5.0), rounds=3)
    assert check(fed) == [] and exposure(fed)["x"].by == "discrete-gaussian"
    played = play(fed, tmp_path / "hidden")
    clipped = play(
        replace(fed, uplink=DiscreteGaussian(0.5, 0.0, shares=4, no_guarantee=True)), tmp_path / "plain"
    )
    assert not played.failed and [e["round"] for e in played.events if e["kind"] == "privacy"] == [0, 1, 2]
    assert float((played.model - clipped.model).norm()) < 3 * 5 * 0.025 * math.sqrt(3 * 3) / 5
    got = spent(played.events)
    assert got is not None and got.observer == "server" and got.accountant == "RDP"
    lossy = replace(fed, pace=AllArrive(drop={"party-1": "upload"}))
    assert check(lossy) == [] and not play(lossy, tmp_path / "lossy").failed  # the shares of four are enough


@pytest.mark.parametrize(
    "slots,where",
    [
        ({"uplink": DiscreteGaussian()}, "uplink.0"),  # alone
        ({"uplink": Pipe(SecAgg(), DiscreteGaussian())}, "uplink.1"),  # behind the mask
        ({"uplink": Pipe(DiscreteGaussian(), SecAgg(bits=20))}, "uplink.1.bits"),
        ({"aggregate": Mean(cap=4.0, denominator=5.0)}, "aggregate.weights"),
        ({"aggregate": Mean()}, "aggregate.weights"),
    ],
)
def test_where_its_shares_would_not_add_up_it_is_refused(slots: dict[str, Any], where: str) -> None:
    base: dict[str, Any] = {
        "uplink": Pipe(DiscreteGaussian(), SecAgg()),
        "aggregate": Mean("equal", denominator=5.0),
    }
    assert where in {p.where for p in check(quadratics(**base | slots))} and check(quadratics(**base)) == []


def test_more_shares_than_may_remain_and_models_that_are_too_large_are_refused() -> None:
    fed = quadratics(
        uplink=Pipe(DiscreteGaussian(noise_multiplier=4.0, shares=5), SecAgg()), aggregate=Mean("equal")
    )
    rows = {f"party-{i}": 4 for i in range(5)}
    assert "4 of 5 may remain" in affordable(fed, rows)[0].what and "shares=4" in affordable(fed, rows)[0].fix
    good = replace(fed, uplink=Pipe(DiscreteGaussian(noise_multiplier=4.0, shares=4), SecAgg()))
    assert affordable(good, rows) == []
    assert "fewer trained values" in DiscreteGaussian(noise_multiplier=50.0)._grid(10**9)[1]
    with pytest.raises(ClientFailed, match="fewer trained values"):
        DiscreteGaussian(noise_multiplier=1e6).encode(torch.zeros(10), {}, Ctx(0, client="a"))
