"""Clip and noise, and the accountant: bounds that hold to the last bit, figures against independent oracles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfm.core.context import Ctx, Noise
from fedfm.core.errors import ClientFailed
from fedfm.trust.privacy.accountant import per_round, spent
from fedfm.trust.privacy.mechanism.clipping import clip, perturb
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.vectors.layout import Layout

DELTA = 1e-5
DRAWN = {"kind": "plan", "round": 0, "clients": [], "sampling": {"kind": "all"}}
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def exact_norm(x: Tensor) -> float:
    """Squares summed without rounding error, scaled so that none over- or underflows."""
    peak = float(x.abs().max()) if x.numel() else 0.0
    return peak * math.sqrt(math.fsum((v / peak) ** 2 for v in x.tolist())) if peak else 0.0


# ---- clipping ----------------------------------------------------------------------------------------------
@settings(max_examples=300, deadline=None)
@given(st.lists(floats, min_size=0, max_size=40), st.floats(1e-30, 1e30))
def test_clipped_norm_never_exceeds_the_bound(values: list[float], bound: float) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    before = x.clone()
    y = clip(x, bound)
    assert torch.equal(x, before) and y.dtype == torch.float32
    assert exact_norm(y) <= bound * (1 + 1e-12)
    if exact_norm(x) > bound * (1 + 1e-9):
        assert exact_norm(y) <= bound  # what was scaled stays strictly inside
        assert exact_norm(y) == pytest.approx(bound, rel=1e-6, abs=1e-40)
    elif exact_norm(x) < bound * (1 - 1e-9):
        assert torch.equal(y, x)


@pytest.mark.parametrize(
    "x",
    [
        torch.full((1000,), 3.4e38),
        torch.full((7,), 1e-45),
        torch.full((3,), 1e300, dtype=torch.float64),
        torch.full((3,), 1e-300, dtype=torch.float64),
        torch.tensor([3.4e38, 1e-45]),
    ],
)
def test_extreme_values(x: Tensor) -> None:
    y = clip(x, 0.5)
    assert exact_norm(y) <= 0.5 and bool(torch.isfinite(y).all())
    if exact_norm(x) <= 0.5:
        assert torch.equal(x, y)


def test_zero_stays_zero_empty_stays_empty_and_chunks_agree() -> None:
    assert torch.equal(clip(torch.zeros(5), 1.0), torch.zeros(5))
    assert clip(torch.empty(0), 1.0).numel() == 0
    x = torch.randn((1 << 16) + 5, generator=torch.Generator().manual_seed(1)) * 10
    torch.testing.assert_close(clip(x, 2.0), x * (2.0 / x.double().norm()).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("wire", [ClipNoise(), LocalGaussian()])
def test_values_that_are_not_finite_fail_the_client(bad: float, wire: Any) -> None:
    with pytest.raises(ClientFailed, match="party-7"):
        wire.encode(torch.tensor([0.0, bad]), {}, Ctx(0, client="party-7"))


# ---- central noise -----------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_one_party_moves_the_sum_by_at_most_c(data: st.DataObject) -> None:
    wire, c = ClipNoise(clip_norm=0.7), 0.7
    rows = data.draw(
        st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6), min_size=2, max_size=5)
    )
    clipped = [wire.encode(torch.tensor(r), {}, Ctx(0))[0].double() for r in rows]
    other = wire.encode(torch.tensor(data.draw(st.lists(floats, min_size=6, max_size=6))), {}, Ctx(0))[
        0
    ].double()
    whole = torch.stack(clipped).sum(0)
    removed, replaced = whole - clipped[0], whole - clipped[0] + other
    assert float((whole - removed).norm()) <= c * (1 + 1e-9)
    assert float((whole - replaced).norm()) <= 2 * c * (1 + 1e-9)


def test_noise_has_its_standard_deviation_and_is_drawn_once_per_round() -> None:
    wire, x = ClipNoise(clip_norm=0.5, noise_multiplier=3.0), torch.zeros(200_000)
    a, b, c = (wire.decode_sum(x, {}, Ctx(0, round=t)) for t in (0, 0, 1))
    assert not x.any() and torch.equal(a, b) and not torch.equal(a, c)
    # A sample standard deviation of 2e5 draws is within 5 / sqrt(4e5) = 0.8 % of the true one.
    assert float(a.std()) == pytest.approx(1.5, rel=8e-3) and abs(float(a.mean())) < 5 * 1.5 / math.sqrt(2e5)
    assert abs(float(torch.corrcoef(torch.stack([a, c]))[0, 1])) < 5 / math.sqrt(2e5)
    inside = float((a.abs() < 1.5).float().mean())
    assert inside == pytest.approx(0.6827, abs=5e-3)  # Gaussian: one standard deviation


def test_padding_of_the_layout_stays_zero() -> None:
    layout = Layout.of({"a": (3,), "b": (17,), "c": ()})
    y = perturb(torch.zeros(layout.size), 1.0, Noise(torch.Generator().manual_seed(0)), layout)
    covered = torch.zeros(layout.size, dtype=torch.bool)
    for e in layout.entries:
        covered[e.offset : e.offset + e.size] = True
    assert bool((y[covered] != 0).all()) and not y[~covered].any()


def test_event_of_a_release() -> None:
    ctx = Ctx(0, round=4, events=[])
    wire = ClipNoise(clip_norm=0.5, noise_multiplier=3.0)
    wire.encode(torch.ones(4), {}, ctx)
    assert ctx.events == []
    wire.decode_sum(torch.zeros(4), {}, ctx)
    assert ctx.events == [
        {
            "round": 4,
            "kind": "privacy",
            "client": None,
            "mechanism": "gaussian",
            "event": {"GaussianDpEvent": {"noise_multiplier": 3.0}},
            "relation": "zero-out",
            "unit": "party",
            "observer": "recipients",
            "delta": 1e-5,
            "noise_multiplier": 3.0,
            "clip_norm": 0.5,
            "noise": "seeded",
            "simulated": True,
        }
    ]
    wire.decode_sum(torch.zeros(4), {}, ctx.muted())
    assert len(ctx.events) == 1


def test_without_noise_it_only_clips_and_claims_nothing() -> None:
    ctx, x = Ctx(0, client="a", events=[]), torch.ones(4)
    for wire in (ClipNoise(1.0, 0.0), LocalGaussian(1.0, 0.0)):
        y, side, state = wire.encode(x, {}, ctx)
        assert exact_norm(y) == pytest.approx(1.0, rel=1e-6) and side == {} and state == {}
        assert torch.equal(wire.decode_sum(y, {}, ctx), y) and torch.equal(wire.decode(y, {}, {}, ctx)[0], y)
    assert ctx.events == [] and spent([DRAWN], DELTA) is None and per_round([DRAWN], DELTA) == []


def test_local_noise_is_independent_between_parties_and_rounds() -> None:
    wire = LocalGaussian(clip_norm=0.5, noise_multiplier=4.0)
    rows = [
        wire.encode(torch.zeros(100_000), {}, Ctx(0, round=t, client=i))[0]
        for t in (0, 1)
        for i in ("a", "b")
    ]
    cross = torch.corrcoef(torch.stack(rows)) - torch.eye(4)
    assert float(cross.abs().max()) < 5 / math.sqrt(1e5)
    assert all(float(r.std()) == pytest.approx(2.0, rel=0.012) for r in rows)
    mean = torch.stack(rows).mean(0)  # averaging n leaves z C / sqrt(n)
    assert float(mean.std()) == pytest.approx(1.0, rel=0.012)
    ctx = Ctx(0, round=1, client="a", events=[])
    wire.encode(torch.zeros(4), {}, ctx)
    assert ctx.events and ctx.events[0]["mechanism"] == "local-gaussian" and ctx.events[0]["client"] == "a"


# ---- the accountant ----------------------------------------------------------------------------------------
