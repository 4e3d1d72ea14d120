"""The accountant against an oracle that shares nothing with it, over every federation here that promises an epsilon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from epsilon_oracle import concentrated, sampled, whole

from federations import FEDERATIONS, SECURE, digits
from fedfm.cards.registry import load, recipes
from fedfm.core.combine import Pipe
from fedfm.core.federation import Federation
from fedfm.core.spending import noises, planned
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import play, quadratics
from fedfm.pace import AllArrive
from fedfm.trust.privacy.accountant import plan, spent
from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

NOISY = {n: f for n, f in {**FEDERATIONS, **SECURE}.items() if noises(digits(**f))}
PUBLIC = Mean("equal", denominator=5.0)
K = {"zero-out": 1.0, "add-or-remove": 1.0, "replace-one": 2.0}


def by_hand(stage: Any, select: Any, rounds: int, slack: float = 1.0) -> tuple[float, float]:
    """(at least, at most) of the fact sheet's tables, from knobs alone."""
    z, k, delta = stage.noise_multiplier, K[stage.relation], stage.delta
    if isinstance(
        stage, DiscreteGaussian
    ):  # rounding lengthens an update to 1.02 C; the server sees who took part
        eps = concentrated(rounds * (1.02 * k / z) ** 2 / 2, delta)
        return eps, eps * 1.01  # the library tries some orders only
    if isinstance(stage, LocalGaussian) or not isinstance(select, Poisson | Uniform):
        eps = whole(k, z, rounds, delta)
        return eps * (1 - 1e-6), eps * (1 + 2e-3)
    assert isinstance(select, Poisson)
    low, high = sampled(select.rate, z, rounds, delta, stage.relation)
    return low - 1e-6, high + 2e-3


def holds(found: float, bounds: tuple[float, float]) -> None:
    assert bounds[0] <= found <= bounds[1], (found, bounds)
    assert bounds[1] - bounds[0] < 0.02 * bounds[1] + 0.005  # the oracle itself says something


@pytest.mark.parametrize("name", list(NOISY))
def test_every_private_federation_spends_what_the_oracle_says(name: str, tmp_path: Path) -> None:
    fed = digits(**NOISY[name])
    played = play(fed, tmp_path)
    (stage,) = noises(fed)
    got = spent(played.events)
    assert got is not None and not played.failed and got.rounds == fed.rounds
    holds(got.epsilon, by_hand(stage, fed.select, fed.rounds))


MORE: dict[str, Federation] = {
    "poisson": quadratics(uplink=ClipNoise(noise_multiplier=1.0), select=Poisson(0.3), rounds=5),
    "poisson, one more": quadratics(
        uplink=ClipNoise(noise_multiplier=1.5, relation="add-or-remove"), select=Poisson(0.5), rounds=3
    ),
    "poisson, replaced": quadratics(
        uplink=ClipNoise(noise_multiplier=1.0, relation="replace-one"), select=Poisson(0.2), rounds=4
    ),
    "poisson, nobody": quadratics(uplink=ClipNoise(noise_multiplier=1.0), select=Poisson(1e-6), rounds=4),
    "replaced": quadratics(uplink=ClipNoise(noise_multiplier=3.0, relation="replace-one"), rounds=7),
    "local, silenced": quadratics(uplink=LocalGaussian(noise_multiplier=4.0, relation="zero-out"), rounds=3),
    "local, of some": quadratics(uplink=LocalGaussian(noise_multiplier=8.0), rounds=2),
    "masked integers": quadratics(
        uplink=Pipe(DiscreteGaussian(noise_multiplier=2.0), SecAgg()), rounds=2, aggregate=Mean("equal")
    ),
    "masked integers, replaced": quadratics(
        uplink=Pipe(DiscreteGaussian(noise_multiplier=4.0, relation="replace-one"), SecAgg()),
        rounds=2,
        aggregate=Mean("equal"),
    ),
    "lost": quadratics(uplink=ClipNoise(noise_multiplier=3.0), pace=AllArrive(dropout=0.4), rounds=4),
}


@pytest.mark.parametrize("name", list(MORE))
def test_draws_relations_and_mechanisms_spend_what_the_oracle_says(name: str, tmp_path: Path) -> None:
    fed = MORE[name]
    if isinstance(noises(fed)[0], ClipNoise):
        fed = replace(fed, aggregate=PUBLIC)
    got, (stage,) = spent(play(fed, tmp_path).events), noises(fed)
    assert got is not None and got.rounds == fed.rounds and got.relation.change == stage.relation
    holds(got.epsilon, by_hand(stage, fed.select, fed.rounds))


def test_every_recipe_that_names_an_epsilon_gets_the_noise_for_it() -> None:
    """Solved for z by the accountant, checked by the oracle: below the target, and by less than a thousandth."""
    found = {name: load(name, "recipe")() for name in recipes()}
    private = {name: fed for name, fed in found.items() if noises(fed)}
    assert "dp-fedavg" in private
    for name, fed in private.items():
        parties = fed.data.partition.parties
        (stage,) = noises(planned(fed, parties))
        assert stage.noise_multiplier is not None
        low, high = by_hand(stage, fed.select, fed.rounds)
        target = noises(fed)[0].epsilon
        assert target is not None and target * (1 - 2e-3) < high and low <= target, (name, low, high)


@pytest.mark.parametrize("q,z,rounds,change", [(0.1, 1.0, 100, "zero-out"), (0.1, 1.0, 100, "replace-one")])
def test_the_oracle_gives_the_fact_sheets_figures(q: float, z: float, rounds: int, change: str) -> None:
    low, high = sampled(q, z, rounds, 1e-5, change)
    assert low <= {"zero-out": 7.0466, "replace-one": 10.5164}[change] <= high and high - low < 0.05
    assert whole(1.0, 1.0, 10, 1e-5) == pytest.approx(17.8566, abs=1e-4)
    assert whole(2.0, 3.0, 7, 1e-5) == pytest.approx(8.5726, abs=1e-4)
    found = spent(
        plan([ClipNoise(noise_multiplier=z, relation=change)], [{"kind": "poisson", "rate": q}] * rounds)
    )
    assert found is not None and low <= found.epsilon <= high
