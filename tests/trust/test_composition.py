"""Epsilons of every draw and relation against closed forms, own compositions and the fact sheet's golden values."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest

from fedfm.core.errors import FedfmError
from fedfm.trust.privacy.composition import Draw, drawn, epsilon, gaussian, together, written

ADD, REPLACE, ZERO = "add-or-remove", "replace-one", "zero-out"
WHOLE = Draw()


def poisson(q: float) -> Draw:
    return Draw("poisson", q)


def fixed(count: int, of: int) -> Draw:
    return Draw("uniform", count=count, of=of)


def cost(
    z: float, rounds: int, change: str, draw: Draw = WHOLE, delta: float = 1e-5, how: str = "auto"
) -> float:
    return epsilon(frozenset({(gaussian(z), draw, rounds)}), change, delta, how)[0]


def closed_form(sensitivity: float, sigma: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism, exactly: Balle and Wang 2018, theorem 8, solved by bisection.

    delta(eps) = Phi(D / 2s - eps s / D) - e^eps Phi(-D / 2s - eps s / D).
    """
    phi, r = NormalDist().cdf, sensitivity / sigma

    def at(eps: float) -> float:
        return phi(r / 2 - eps / r) - math.exp(eps) * phi(-r / 2 - eps / r)

    low, high = 0.0, 300.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > delta else (low, middle)
    return high


# Of the fact sheet: (z, rounds, draw, delta, relation, PLD). Unsampled ones are closed forms as well.
GOLDEN = [
    (1.0, 1, WHOLE, 1e-5, ADD, 4.3772),
    (1.0, 1, WHOLE, 1e-5, ZERO, 4.3772),
    (1.0, 1, WHOLE, 1e-5, REPLACE, 9.9973),
    (3.0, 7, WHOLE, 1e-5, ADD, 3.7868),
    (3.0, 7, WHOLE, 1e-5, REPLACE, 8.5726),
    (3.0, 7, Draw(displaces="arrival"), 1e-5, ADD, 8.5726),
    (3.0, 7, Draw(displaces="arrival"), 1e-5, REPLACE, 8.5726),
    (5.0, 100, WHOLE, 1e-5, REPLACE, 24.3816),
    (1.0, 10, WHOLE, 1e-5, ZERO, 17.8566),
    (4.0, 10, WHOLE, 1e-5, REPLACE, 7.5113),
    (1.0, 1, poisson(0.1), 1e-5, ADD, 1.6845),
    (1.0, 1, poisson(0.1), 1e-5, REPLACE, 1.7892),
    (1.0, 100, poisson(0.1), 1e-5, ADD, 7.0466),
    (1.0, 100, poisson(0.1), 1e-5, REPLACE, 10.5164),
    (1.0, 1000, poisson(0.01), 1e-5, ADD, 1.8282),
    (1.0, 1000, poisson(0.01), 1e-5, REPLACE, 2.8434),
    (0.8, 200, poisson(0.05), 1e-6, ADD, 8.8657),
    (2.0, 50, poisson(0.3), 1e-5, REPLACE, 10.5036),
    (4.0, 100, fixed(10, 100), 1e-5, ADD, 2.3374),
    (4.0, 100, fixed(10, 100), 1e-5, REPLACE, 4.3681),
    (3.0, 20, fixed(2, 5), 1e-5, ADD, 6.7339),
    (3.0, 20, fixed(2, 5), 1e-5, REPLACE, 11.8901),
    (1.0, 1000, fixed(10, 1000), 1e-5, REPLACE, 15.1614),
    (1.0, 100, Draw("truncated", 0.1, 20, 100), 1e-5, ADD, 7.9006),
    (1.0, 100, Draw("truncated", 0.1, 20, 100), 1e-5, REPLACE, 10.8911),
]  # fmt: skip
RENYI = [
    (1.0, 1, WHOLE, ADD, 4.7285),
    (1.0, 1, WHOLE, REPLACE, 10.7255),
    (3.0, 7, WHOLE, REPLACE, 9.2100),
    (1.0, 100, poisson(0.1), ADD, 7.9039),
    (4.0, 100, fixed(10, 100), REPLACE, 5.3790),
    (3.0, 20, fixed(2, 5), REPLACE, 14.0707),
    (1.0, 1000, fixed(10, 1000), REPLACE, 20.9871),
]


@pytest.mark.parametrize("z,rounds,draw,delta,change,want", GOLDEN)
def test_golden_values(z: float, rounds: int, draw: Draw, delta: float, change: str, want: float) -> None:
    assert cost(z, rounds, change, draw, delta) == pytest.approx(want, abs=1e-3)
    if draw.kind == "all":
        k = 2.0 if change == REPLACE or draw.displaces else 1.0
        assert closed_form(k, z / math.sqrt(rounds), delta) == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("z,rounds,draw,change,want", RENYI)
def test_golden_values_of_the_renyi_accountant(
    z: float, rounds: int, draw: Draw, change: str, want: float
) -> None:
    assert cost(z, rounds, change, draw, how="rdp") == pytest.approx(want, abs=1e-3)
    assert cost(z, rounds, change, draw) <= want  # the smaller of the two is told


# ---- the library's two traps -------------------------------------------------------------------------------
def test_replacing_doubles_in_one_accountant_of_the_library_and_not_in_the_other() -> None:
    """google/differential-privacy#378: fed as it is, the Renyi accountant would claim half the true sensitivity."""
    import dp_accounting as dpa
    from dp_accounting import pld, rdp

    relation, one = dpa.NeighboringRelation.REPLACE_ONE, dpa.GaussianDpEvent(1.0)
    naive = rdp.RdpAccountant(neighboring_relation=relation).compose(one).get_epsilon(1e-5)
    true = closed_form(2.0, 1.0, 1e-5)
    assert pld.PLDAccountant(relation).compose(one).get_epsilon(1e-5) == pytest.approx(true, rel=1e-3)
    assert naive < true <= cost(1.0, 1, REPLACE, how="rdp")


def test_a_fixed_size_draw_is_no_poisson_draw_and_its_event_is_relative_to_the_sensitivity() -> None:
    """One party with +C, the others with -C, 10 of 100 drawn: the sums lie 2C apart with probability 0.1."""
    import dp_accounting as dpa
    from dp_accounting import rdp

    event = dpa.SampledWithoutReplacementDpEvent(100, 10, dpa.GaussianDpEvent(4.0))
    naive = rdp.RdpAccountant(neighboring_relation=dpa.NeighboringRelation.REPLACE_ONE)
    naive_cost = naive.compose(event, 100).get_epsilon(1e-5)
    lowest = cost(2.0, 100, ADD, poisson(0.1))  # the pair of that example, exactly
    for change in (ADD, REPLACE):
        assert cost(4.0, 100, change, fixed(10, 100)) >= lowest - 1e-2
        assert cost(4.0, 100, change, fixed(10, 100)) > cost(4.0, 100, ADD, poisson(0.1))
    assert naive_cost < lowest


# ---- orders ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("draw", [WHOLE, poisson(0.2), fixed(4, 20)], ids=lambda d: d.kind)
@pytest.mark.parametrize("change", [ADD, REPLACE, ZERO])
def test_epsilon_rises_with_rounds_and_rate_and_falls_with_noise(draw: Draw, change: str) -> None:
    assert cost(2.0, 5, change, draw) < cost(2.0, 9, change, draw)
    assert cost(3.0, 5, change, draw) < cost(2.0, 5, change, draw) <= cost(2.0, 5, change, draw.public)
    assert cost(2.0, 5, ZERO, draw) <= cost(2.0, 5, ZERO, WHOLE) * (
        1 + 1e-9
    )  # who is not drawn cannot be worse off
    assert cost(2.0, 5, ADD, draw) <= cost(2.0, 5, REPLACE, draw) * (1 + 1e-9)
    assert cost(2.0, 5, ZERO, draw) <= cost(2.0, 5, REPLACE, draw) * (1 + 1e-9)


def test_releases_of_one_cohort_are_joined_and_unequal_rounds_compose() -> None:
    joint = together([gaussian(1.0), gaussian(10.0)], "round 0")
    got = epsilon(frozenset({(joint, WHOLE, 1)}), ADD, 1e-5)[0]
    assert got == pytest.approx(4.4025, abs=1e-3) == closed_form(1.0, 0.99504, 1e-5)
    mixed = epsilon(frozenset({(gaussian(3.0), WHOLE, 2), (gaussian(4.0), WHOLE, 3)}), ADD, 1e-5)[0]
    assert mixed == pytest.approx(closed_form(1.0, (2 / 9 + 3 / 16) ** -0.5, 1e-5), rel=1e-3)


def test_other_events_of_the_library_compose_and_what_it_cannot_is_refused() -> None:
    laplace, zcdp = (
        written({"LaplaceDpEvent": {"noise_multiplier": 2.0}}),
        written({"ZCDpEvent": {"rho": 0.5}}),
    )
    assert epsilon(frozenset({(laplace, WHOLE, 3)}), ADD, 1e-9) == (pytest.approx(1.5, rel=1e-2), "PLD")
    assert epsilon(frozenset({(zcdp, WHOLE, 1)}), ZERO, 1e-5) == (pytest.approx(4.7285, abs=1e-3), "RDP")
    for bad, change, draw in (
        (laplace, ADD, poisson(0.1)),
        (zcdp, ADD, poisson(0.1)),
        (zcdp, ADD, fixed(1, 9)),
    ):
        with pytest.raises(FedfmError, match="will not guess"):
            epsilon(frozenset({(bad, draw, 1)}), change, 1e-5)
    with pytest.raises(FedfmError, match="no event 'Cauchy"):
        epsilon(frozenset({(written({"CauchyEvent": {}}), WHOLE, 1)}), ADD, 1e-5)
    with pytest.raises(FedfmError, match="cannot be read"):
        epsilon(frozenset({(written({"ZCDpEvent": {"sigma": 1}}), WHOLE, 1)}), ADD, 1e-5)
    with pytest.raises(FedfmError, match="several kinds"):
        together([laplace, gaussian(1.0)], "round 3")


@pytest.mark.parametrize("data", [None, {}, {"a": 1}, {"GaussianDpEvent": {}, "b": {}}, "GaussianDpEvent"])
def test_a_release_without_an_event_is_refused(data: Any) -> None:
    with pytest.raises(FedfmError, match="without its event"):
        written(data)


@pytest.mark.parametrize("z", [0.0, -1.0, math.inf, math.nan])
def test_a_release_without_noise_is_refused(z: float) -> None:
    with pytest.raises(FedfmError, match="infinite"):
        gaussian(z)


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"kind": "by-loss", "count": 3, "of": 9},
        {"kind": "by answers"},
        {"kind": "poisson", "rate": 1.5},
        {"kind": "poisson", "rate": "half"},
        {"kind": "uniform", "count": 5, "of": 4},
        {"kind": "cut", "drawn": {"kind": "poisson", "rate": 0.1}},
        {"kind": "truncated", "rate": 0.1, "count": 8, "of": 20},  # not said to be cut at random
    ],
)
def test_draws_that_nobody_can_account_for_are_refused(sampling: dict[str, Any]) -> None:
    with pytest.raises(FedfmError, match="no amplification is known"):
        drawn(sampling)


def test_sampling_all_in_other_words() -> None:
    words = [{"kind": "all"}, {"kind": "poisson", "rate": 1.0}, {"kind": "uniform", "count": 9, "of": 9}]
    assert {drawn(w) for w in words} == {WHOLE}
    assert drawn({"kind": "uniform", "count": 2, "of": 9}).public == Draw(displaces="draw")
