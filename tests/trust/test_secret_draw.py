"""With real noise the cohort is drawn from the operating system; only a draw that nobody can repeat is amplified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fedfm.core.context import Ctx, Noise, Terms
from fedfm.core.federation import replace
from fedfm.core.protocols import Plan, Selector, State
from fedfm.core.spending import schedule, unseen
from fedfm.efficiency.communication.submodel.heterofl import HeteroFL
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import play, quadratics
from fedfm.running.feasible import promise
from fedfm.trust.privacy.accountant import cost, spent
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian

REAL, SEEDED = ClipNoise(noise_multiplier=2.0, real_noise=True), ClipNoise(noise_multiplier=2.0)
PUBLIC = Mean("equal", denominator=2.0)


def drawn(uplink: Any, select: Selector, rounds: int = 12) -> tuple[list[Any], list[Any]]:
    """The cohorts and the samplings of a run."""
    played = play(quadratics(uplink=uplink, aggregate=PUBLIC, select=select, rounds=rounds))
    plans = [e for e in played.events if e["kind"] == "plan"]
    return [e["clients"] for e in plans], [e["sampling"] for e in plans]


@pytest.mark.parametrize("select", [Poisson(0.5), Uniform(count=2), Edges(inner=Uniform(count=2))], ids=repr)
def test_real_noise_draws_cohorts_that_nobody_can_draw_again(select: Selector) -> None:
    again = [drawn(SEEDED, select)[0] for _ in range(2)]
    assert again[0] == again[1] == drawn(LocalGaussian(noise_multiplier=9.0, real_noise=True), select)[0]
    (one, how), (two, _) = drawn(REAL, select), drawn(REAL, select)
    assert len({repr(c) for c in (one, two, again[0])}) == 3
    assert all(s["secret"] is True for s in how) and "secret" not in drawn(SEEDED, select, 1)[1][0]
    if "count" in how[0]:
        assert all(len(set(c)) == 2 for c in one)


def test_a_secret_draw_is_amplified_and_one_from_the_seed_is_not() -> None:
    fed = quadratics(uplink=REAL, aggregate=PUBLIC, select=Poisson(0.3), rounds=4)
    secret, whole = (
        cost([SEEDED], [{"kind": "poisson", "rate": 0.3}] * 4),
        cost([SEEDED], [{"kind": "all"}] * 4),
    )
    got = spent(play(fed).events)
    assert got is not None and got.note == "" and secret < whole
    assert got.epsilon == pytest.approx(secret, rel=1e-9)
    assert f"epsilon {secret:.2f}" in promise(fed, 5)
    told = spent(play(replace(fed, uplink=SEEDED)).events)
    assert (
        told is not None and told.epsilon == got.epsilon and "would be spent with secret noise" in told.note
    )
    seen = replace(fed, select=FromTheSeed())
    booked = spent(play(seen).events)
    assert booked is not None and booked.epsilon == pytest.approx(whole, rel=1e-9)
    assert f"epsilon {whole:.2f}" in promise(seen, 5)  # known before the run, too


@dataclass(frozen=True)
class FromTheSeed(Selector):
    """Tosses the coins of the run's seed, which anybody may know."""

    independent = True
    random_size = True
    draws = "poisson"

    def select(
        self, pool: Mapping[str, int], state: State, ctx: Ctx, answers: Mapping[str, Any]
    ) -> tuple[Plan, State]:
        coins = torch.rand(len(pool), generator=ctx.shared("own")) < 0.3
        jobs = tuple((i, Terms()) for i, taken in zip(pool, coins.tolist(), strict=True) if taken)
        return Plan(jobs, sampling={"kind": "poisson", "rate": 0.3}), state


def test_who_must_not_be_seen_is_said_by_the_noise_and_real_parties_have_it_always() -> None:
    fed = quadratics(uplink=SEEDED, aggregate=PUBLIC, select=HeteroFL(inner=Uniform(count=2)))
    assert not unseen(fed) and unseen(replace(fed, uplink=REAL)) and not unseen(quadratics())
    assert not unseen(replace(fed, uplink=LocalGaussian(real_noise=True)))  # the server sees who took part
    apart = replace(fed)
    object.__setattr__(apart, "simulated", False)
    assert unseen(apart) and schedule(apart, 7, 1) == (
        {"kind": "uniform", "count": 2, "of": 7, "secret": True},
    )


def test_secret_numbers_are_uniform_and_seeded_ones_those_of_the_generator() -> None:
    ctx = Ctx(3, 1)
    assert torch.equal(
        ctx.coins("x").uniform(5), torch.rand(5, dtype=torch.float64, generator=ctx.shared("x"))
    )
    assert ctx.coins("x").order(9) == torch.randperm(9, generator=ctx.shared("x")).tolist()
    secret, other = ctx.at(unseen=True).coins("x"), ctx.at(unseen=True).coins("x")
    assert (
        secret.secret and not ctx.coins("x").secret and not torch.equal(secret.uniform(4), other.uniform(4))
    )
    fixed = Noise(b"k" * 32)
    numbers = fixed.uniform(100_000)
    assert float(numbers.min()) >= 0.0 and float(numbers.max()) < 1.0
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.005) and float(numbers.var()) == pytest.approx(
        1 / 12, abs=0.002
    )
    found = Counter(tuple(fixed.order(3)) for _ in range(6000))
    assert len(found) == 6 and max(abs(n - 1000) for n in found.values()) < 130  # four standard deviations
    assert fixed.order(0) == [] and fixed.order(1) == [0]


def test_named_streams_have_32_bits_and_nothing_secret_comes_from_them() -> None:
    """torch's CPU generator drops the upper half of its seed (docs/log.md); secret numbers keep their whole key."""
    low, high = (torch.rand(4, generator=torch.Generator().manual_seed(5 + k * 2**32)) for k in (0, 1))
    assert torch.equal(low, high)
    one, two = Noise(b"k" * 32), Noise(b"k" * 31 + b"l")  # keys that differ in their last bits alone
    assert not torch.equal(one.normal(4), two.normal(4))
