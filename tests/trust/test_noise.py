"""Noise that must be secret: cryptographic, keyed by all of its bytes, fresh each time; and when it is not, said so."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.checks.exposure import exposure
from fedfm.core.context import Ctx, Noise
from fedfm.core.protocols import Selector
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import play, quadratics
from fedfm.trust.privacy.accountant import spent
from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian

PUBLIC = Mean("equal", denominator=5.0)


@pytest.mark.parametrize("byte", [0, 3, 4, 5, 8, 15, 16, 31])
def test_every_byte_of_the_key_counts(byte: int) -> None:
    """A generator of 32 bits would give the same numbers for keys that differ above bit 32."""
    key = bytearray(range(32))
    before = Noise(bytes(key)).normal(64)
    key[byte] ^= 1
    after = Noise(bytes(key)).normal(64)
    assert not bool((before == after).any()) and torch.equal(before, Noise(bytes(range(32))).normal(64))


def test_the_operating_system_is_asked_for_the_whole_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(n: int) -> bytes:
        asked.append(n)
        return bytes(n)

    monkeypatch.setattr(os, "urandom", urandom)
    Ctx(0, simulated=False).noise("p").normal(4)
    Ctx(0).noise("p", real=True).normal(4)
    Ctx(0).noise("p").normal(4)
    assert asked == [32, 32]


@pytest.mark.parametrize("source", [b"s" * 32, torch.Generator().manual_seed(3)], ids=["secret", "seeded"])
def test_the_numbers_are_standard_normal(source: Any) -> None:
    n = 200_000
    x = Noise(source).normal(n)
    assert x.dtype == torch.float64 and bool(x.isfinite().all())
    assert abs(float(x.mean())) < 5 / math.sqrt(n) and float(x.std()) == pytest.approx(
        1.0, abs=5 / math.sqrt(2 * n)
    )
    for t in (0.5, 1.0, 2.0, 3.0):
        p = math.erfc(t / math.sqrt(2))
        assert float((x.abs() > t).double().mean()) == pytest.approx(p, abs=5 * math.sqrt(p / n))
    lag = float((x[1:] * x[:-1]).mean())
    halves = float((x[: n // 2] * x[n // 2 :]).mean())  # Box and Muller's pairs
    assert max(abs(lag), abs(halves)) < 5 / math.sqrt(n // 2)
    assert [Noise(b"s" * 32).normal(k).numel() for k in (0, 1, 2, 7)] == [0, 1, 2, 7]


def test_calls_of_one_stream_never_repeat_and_parts_are_not_the_whole() -> None:
    noise = Noise(b"k" * 32)
    parts = torch.cat([noise.normal(1000) for _ in range(20)])
    assert len(set(parts.tolist())) == 20_000


@pytest.mark.parametrize("source", [b"u" * 32, torch.Generator().manual_seed(5)], ids=["secret", "seeded"])
@pytest.mark.parametrize("bound", [1, 2, 3, 1000, 2**40 + 1, 2**62])
def test_integers_are_uniform_below_their_bound(source: Any, bound: int) -> None:
    x = Noise(source).below(torch.full((20_000,), bound))
    assert int(x.min()) >= 0 and int(x.max()) < bound
    bins = min(bound, 8)
    seen = torch.bincount((x.double() / bound * bins).long().clamp(max=bins - 1), minlength=bins).double()
    share = torch.tensor(
        [math.ceil((k + 1) * bound / bins) - math.ceil(k * bound / bins) for k in range(bins)]
    )
    want = share.double() / bound * 20_000
    assert float(((seen - want) ** 2 / want).sum()) < 40.0  # at most 7 degrees of freedom: the chance is 1e-6


# ---- in a federation ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("stage", [ClipNoise, LocalGaussian])
def test_real_noise_can_be_asked_for_in_simulation(stage: Any, tmp_path: Path) -> None:
    """With seeded noise the difference of two runs is a party's update; with real noise it is noise."""

    def model(real: bool, name: str) -> Any:
        uplink = stage(clip_norm=1.0, noise_multiplier=3.0, real_noise=real)
        return play(quadratics(uplink=uplink, aggregate=PUBLIC, rounds=1), tmp_path / name)

    a, b, c, d = (model(real, f"{real}-{k}") for real in (False, True) for k in range(2))
    assert torch.equal(a.model, b.model) and not bool((c.model == d.model)[:3].any())
    told = [spent(p.events) for p in (a, c)]
    assert told[0] and told[1] and told[0].seeded and not told[1].seeded
    assert "predictable" in str(told[0]) and "predictable" not in str(told[1])


def test_noise_of_one_seed_subtracted_gives_a_party_away_and_that_is_what_is_said(tmp_path: Path) -> None:
    """Five parties, then four, one seed: the sums differ by exactly what the fifth sent (case dp-seeded-noise)."""

    def total(parties: int, real: bool) -> Any:
        stage = ClipNoise(noise_multiplier=50.0, real_noise=real)
        sums = torch.stack(
            [stage.encode(torch.full((8,), 0.1 * k), {}, Ctx(0))[0] for k in range(parties)]
        ).sum(0)
        return stage.decode_sum(sums, {}, Ctx(0, round=3)).double()

    mine = torch.full((8,), 1.0, dtype=torch.float64) / math.sqrt(8)
    assert float((total(5, False) - total(4, False) - mine).abs().max()) < 1e-4
    gap = total(5, True) - total(4, True) - mine
    assert float(gap.norm()) > 50.0  # two draws of std 50: about 50 sqrt(2) sqrt(8) = 200


def test_the_release_of_no_message_is_noise_alone() -> None:
    """What an empty cohort must release: the stage needs nothing but a vector of zeros (defect 8)."""
    stage, ctx = ClipNoise(clip_norm=0.5, noise_multiplier=2.0), Ctx(0, round=2, events=[])
    x = stage.decode_sum(torch.zeros(50_000), {}, ctx)
    assert float(x.std()) == pytest.approx(1.0, rel=0.02) and len(ctx.events or []) == 1
    empty = DiscreteGaussian(clip_norm=0.5, noise_multiplier=2.0).encode(torch.empty(0), {}, Ctx(0))[0]
    assert not empty.numel() and str(exposure(quadratics(uplink=stage))["model"]) == "covered by gaussian"


@pytest.mark.parametrize("draw", ["fresh", "resumed"])
def test_a_run_stops_at_its_budget_and_says_so(draw: str, tmp_path: Path) -> None:
    stage = ClipNoise(noise_multiplier=3.0, budget=3.0)  # five rounds of mu = 1/3 cost 3.13, four 2.76
    fed = quadratics(uplink=stage, aggregate=PUBLIC, rounds=9)
    played = play(fed, tmp_path)
    if draw == "resumed":
        played = play(fed, tmp_path, resume=True)
        assert not played.records  # a stop outlives the process
    got = spent(played.events)
    assert got is not None and got.rounds == played.run.state.round == 4 and got.epsilon <= 3.0
    (stop,) = [e for e in played.events if e["kind"] == "stopped"]
    assert "budget is 3" in stop["reason"]
    assert draw == "resumed" or played.records[-1]["metrics"]  # the last model is scored


@pytest.mark.parametrize("select", [Selector(), Uniform(count=2), Poisson(rate=0.5)])
@pytest.mark.parametrize("budget", [2.0, 3.0, 4.0])
def test_a_budget_of_local_noise_holds_for_the_party_that_spent_most(
    budget: float, select: Any, tmp_path: Path
) -> None:
    """The round that would follow is one more for every party that took part; it was counted for nobody."""
    fed = quadratics(
        uplink=LocalGaussian(noise_multiplier=4.0, budget=budget),
        aggregate=Mean("equal"),
        select=select,
        rounds=12,
    )
    played = play(fed, tmp_path)
    got = spent(played.events)
    most = max(Counter(e["client"] for e in played.events if e["kind"] == "privacy").values())
    more = spent([{**e, "client": "a"} for t in range(most + 1) for e in [_one(played.events, t)]])
    assert got is not None and got.epsilon <= budget
    assert played.run.state.round == 12 or (more is not None and more.epsilon > budget)


def _one(events: Any, t: int) -> dict[str, Any]:
    return next(e for e in events if e["kind"] == "privacy") | {"round": t}
