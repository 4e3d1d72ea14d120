"""Secure aggregation: exact sums under every drop-out, within their range, and in the loop."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import RoundFailed
from fedfm.core.federation import Federation
from fedfm.core.protocols import Pace
from fedfm.efficiency.training.local import Local
from fedfm.efficiency.training.mean import Mean
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.secure.secagg import SecAgg
from play import play
from secagg_round import PHASES, drive, oracle, vectors_of


# ---- the sum -----------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_sum_is_exact_for_every_drop_out_pattern_or_the_round_fails(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 6))
    wire = SecAgg(threshold=data.draw(st.sampled_from([0.62, 0.67, 1.0])))
    drops = {f"party-{i}": p for i in range(n) if (p := data.draw(st.sampled_from([None, None, *PHASES])))}
    vectors = vectors_of(n, 5, seed=n, scale=100.0)
    left, alive, t = {}, dict(vectors), 0
    for phase in PHASES:
        alive = {i: v for i, v in alive.items() if drops.get(i) != phase}
        left[phase] = alive
        if phase == "keys":
            t = wire.needed(len(alive))
    if len(left["keys"]) >= 3 and all(len(left[p]) >= t for p in PHASES):
        assert torch.equal(drive(wire, vectors, drops).total, oracle(wire, vectors, left["upload"]))
    else:
        try:
            assert drive(wire, vectors, drops).total is None  # nobody was left to upload
        except RoundFailed as e:
            assert "secagg" in str(e)


def test_every_subset_of_survivors_of_eight() -> None:
    wire, vectors = SecAgg(threshold=0.62), vectors_of(8, 7)
    for gone in itertools.chain.from_iterable(itertools.combinations(vectors, k) for k in range(3)):
        done = drive(wire, vectors, dict.fromkeys(gone, "upload"))
        assert torch.equal(done.total, oracle(wire, vectors, [i for i in vectors if i not in gone]))


@pytest.mark.parametrize("n,t", [(3, 3), (4, 3), (5, 4), (10, 7), (30, 21)])
def test_threshold_by_default_exceeds_two_thirds(n: int, t: int) -> None:
    assert SecAgg().needed(n) == t and 3 * t > 2 * n


@pytest.mark.parametrize("n", range(3, 60))
def test_threshold_holds_against_a_server_that_names_other_survivors_to_others(n: int) -> None:
    """It can tell each of n parties of n - t drop-outs; the mask keys of t - 1 others take t shares each."""
    t = SecAgg(threshold=0.62).needed(n)
    assert t * (t - 1) > n * (n - t) and 3 <= t <= n and t >= 0.62 * n
    assert t == max(math.ceil(0.62 * n - 1e-9), min(k for k in range(1, n + 1) if k * (k - 1) > n * (n - k)))


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.619, 1.1, float("nan")])
def test_thresholds_at_which_one_update_can_be_read_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="below 0.62"):
        SecAgg(threshold=threshold)


def test_too_few_parties_and_too_few_survivors_fail_with_numbers() -> None:
    with pytest.raises(RoundFailed, match="2 parties gave keys"):
        drive(SecAgg(), vectors_of(2, 4))
    for phase, did in zip(
        PHASES[1:], ("shared their keys", "uploaded", "revealed their shares"), strict=True
    ):
        with pytest.raises(RoundFailed, match=f"3 of 5 parties {did}, 4 are needed"):
            drive(SecAgg(), vectors_of(5, 4), {"party-0": phase, "party-4": phase})
    with pytest.raises(RoundFailed, match="stays masked"):
        drive(SecAgg(), vectors_of(5, 4), dict.fromkeys(vectors_of(5, 4), "unmask"))


def test_long_vectors_cross_chunks() -> None:
    vectors = vectors_of(4, (1 << 16) + 3)
    wire = SecAgg()
    done = drive(wire, vectors, {"party-2": "upload"})
    want = sum((vectors[i].double() * 2.0**32).round().long() for i in vectors if i != "party-2")
    assert torch.equal(done.total, (want.double() / 2.0**32).float())


# ---- ranges ------------------------------------------------------------------------------------------------
def test_value_out_of_range_fails_its_party_with_the_way_out() -> None:
    wire, vectors = SecAgg(range_bound=4.0, threshold=0.62), vectors_of(8, 6)
    vectors["party-1"][3], vectors["party-2"][0] = 4.5, float("nan")
    vectors["party-0"][1] = -4.0  # at the bound
    done = drive(wire, vectors)
    assert set(done.failed) == {"party-1", "party-2"} and "raise its range_bound" in done.failed["party-1"]
    assert "4.5" not in done.failed["party-1"]  # the server reads it
    assert torch.equal(done.total, oracle(wire, vectors, [i for i in vectors if i not in done.failed]))


def test_cohort_that_could_overflow_is_refused_at_the_keys() -> None:
    assert SecAgg(bits=32, range_bound=2.0**20).capacity == 2047
    assert SecAgg(bits=40, range_bound=2.0**20).capacity == 7
    wire = SecAgg(bits=60, range_bound=2.0)
    assert wire.capacity == 3
    extreme = {f"party-{i}": torch.tensor([2.0, -2.0]) for i in range(3)}
    assert drive(wire, extreme).total.tolist() == [6.0, -6.0]  # the edge itself does not wrap
    with pytest.raises(RoundFailed, match=r"lower bits or range_bound, or take at most 3 parties"):
        drive(wire, extreme | {"party-3": torch.zeros(2)})


# ---- in the loop --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Leave(Pace):
    """Drop-outs by (round, party, phase)."""

    at: tuple[tuple[int, str, str], ...] = ()

    def lost(self, phase: str, ctx: Ctx) -> bool:
        return (ctx.round, ctx.client, phase) in self.at


def trained(
    folder: Any, denominator: float = 0.0, **slots: Any
) -> tuple[list[dict[str, Any]], Tensor, list[Any]]:
    """Records, model and privacy events of eight parties on a quadratic, three rounds."""
    data = Quadratics(a=tuple(map(float, range(1, 9))), b=tuple(map(float, range(8))))
    fed = Federation(
        Quadratic(dim=40),
        data,
        client=Local(lr=0.01, steps=2, batch=0),
        rounds=3,
        aggregate=Mean(weights="equal", denominator=denominator),
        **slots,
    )
    assert check(fed) == []
    records, events, run = play(fed, folder)
    return records, run.model(), [e for e in events if e["kind"] == "privacy"]


def test_loop_with_drop_outs_gives_the_plain_model(tmp_path: Any) -> None:
    gone = (
        (0, "party-1", "keys"),
        (0, "party-2", "shares"),
        (1, "party-3", "upload"),
        (1, "party-4", "unmask"),
    )
    plain = tuple((t, i, "upload") for t, i, phase in gone if phase != "unmask")
    _, want, _ = trained(tmp_path / "plain", pace=Leave(plain))
    records, got, _ = trained(tmp_path / "masked", pace=Leave(gone), uplink=SecAgg(threshold=0.62))
    assert [r["clients"] for r in records[1:]] == [6, 7, 8] and not any(r.get("failed") for r in records)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    assert not list(tmp_path.glob("masked/clients/**/*.safetensors"))  # no secret was stored


def test_loop_adds_central_noise_to_the_unmasked_sum_once(tmp_path: Any) -> None:
    noise = ClipNoise(clip_norm=1.0, noise_multiplier=2.0)
    _, want, a = trained(tmp_path / "plain", uplink=noise)
    _, got, b = trained(tmp_path / "masked", uplink=Pipe(noise, SecAgg()))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert a == b and [e["round"] for e in a] == [0, 1, 2]


def test_loop_below_threshold_moves_nothing(tmp_path: Any) -> None:
    records, got, _ = trained(
        tmp_path, pace=Leave(((0, "party-0", "upload"), (1, "party-0", "keys"))), uplink=SecAgg(threshold=1.0)
    )
    assert "7 of 8 parties uploaded, 8 are needed" in records[1]["failed"]
    assert [r["clients"] for r in records[1:]] == [0, 7, 8]
