"""Clip and noise, and the accountant: bounds that hold to the last bit, figures against independent oracles."""

from __future__ import annotations

import math
import sys
import time
from statistics import NormalDist
from typing import Any

import pytest

from fedfm.core.context import Event
from fedfm.core.errors import FedfmError, MissingExtra
from fedfm.trust.privacy import accountant
from fedfm.trust.privacy.accountant import calibrate, per_round, spent

DELTA = 1e-5


ALL = {"kind": "all"}


def plan(t: int, sampling: Any = ALL, **more: Any) -> Event:
    return {"round": t, "kind": "plan", "client": None, "sampling": sampling, **more}


def release(
    t: int, z: float, mechanism: str = "gaussian", client: str | None = None, simulated: bool = True
) -> Event:
    return {
        "round": t,
        "kind": "privacy",
        "client": client,
        "mechanism": mechanism,
        "noise_multiplier": z,
        "clip_norm": 1.0,
        "simulated": simulated,
    }


def ledger(rounds: int, z: float, sampling: Any = ALL) -> list[Event]:
    return [e for t in range(rounds) for e in (plan(t, sampling), release(t, z))]


def poisson(q: float) -> dict[str, Any]:
    return {"kind": "poisson", "rate": q}


def uniform(count: int, of: int) -> dict[str, Any]:
    return {"kind": "uniform", "count": count, "of": of}


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


# Recomputed with dp-accounting 0.6 for the sheet of method facts: (rate, z, rounds, delta, PLD, RDP).
GOLDEN = [
    (0.01, 1.0, 1000, 1e-5, 1.8282, 2.1014),
    (0.1, 1.0, 50, 1e-5, 5.148, 5.885),
    (0.1, 1.0, 100, 1e-5, 7.0466, 7.9039),
    (0.05, 1.0, 200, 1e-5, 4.766, 5.368),
    (0.05, 0.8, 200, 1e-6, 8.8657, 9.9053),
    (1.0, 5.0, 100, 1e-5, 9.9973, 10.7255),
    (256 / 60000, 1.1, 14063, 1e-5, 2.3818, 2.5967),
]


@pytest.mark.parametrize("q,z,rounds,delta,pld,rdp", GOLDEN)
def test_golden_values(q: float, z: float, rounds: int, delta: float, pld: float, rdp: float) -> None:
    events = ledger(rounds, z, poisson(q))
    a, b = spent(events, delta), spent(events, delta, accountant="rdp")
    assert a is not None and b is not None
    assert a.epsilon == pytest.approx(pld, abs=1e-3) and (a.accountant, a.rounds) == ("PLD", rounds)
    assert b.epsilon == pytest.approx(rdp, abs=1e-3) and b.accountant == "RDP"
    assert a.relation == "add or remove one party" and a.mechanism == "gaussian" and "simulated" in a.note


@pytest.mark.parametrize("z,rounds", [(1.0, 1), (3.7306, 1), (5.0, 100), (0.5, 1), (20.0, 7)])
def test_full_participation_is_the_closed_form(z: float, rounds: int) -> None:
    """T Gaussian releases of noise z are one of noise z / sqrt(T)."""
    got = spent(ledger(rounds, z), DELTA)
    assert got is not None and got.epsilon == pytest.approx(
        closed_form(1.0, z / math.sqrt(rounds), DELTA), rel=1e-3
    )
    if (z, rounds) == (1.0, 1):
        assert got.epsilon == pytest.approx(4.377, abs=1e-3)


@pytest.mark.parametrize("z,rounds,epsilon", [(4.0, 10, 7.51), (8.0, 50, 8.60), (5.0, 100, 24.3816)])
def test_local_noise_costs_the_doubled_sensitivity_and_no_amplification(
    z: float, rounds: int, epsilon: float
) -> None:
    few = [e for t in range(rounds) for e in (plan(t, poisson(0.01)), release(t, z, "local-gaussian", "a"))]
    few += [release(t, z, "local-gaussian", "b") for t in range(rounds - 1)]
    got = spent(few, DELTA)
    assert got is not None and got.epsilon == pytest.approx(epsilon, abs=5e-3)
    assert got.relation == "replace one party"
    assert got.epsilon == pytest.approx(closed_form(2.0, z / math.sqrt(rounds), DELTA), rel=1e-3)
    assert got.rounds == rounds and got.mechanism == "local-gaussian"  # of the party that spent most


def test_fixed_size_sampling_is_accounted_under_replacement() -> None:
    got = spent(ledger(100, 4.0, uniform(10, 100)), DELTA)
    assert got is not None and (got.accountant, got.relation) == ("RDP", "replace one party")
    unsampled = closed_form(2.0, 4.0 / 10.0, DELTA)
    assert got.epsilon < unsampled
    # Independent: theorem 9 of Wang, Balle, Kasiviswanathan for integer orders, from the definition, sensitivity 2C.
    assert got.epsilon <= direct_renyi(0.1, 2.0, 100, DELTA) * (1 + 1e-9)
    assert got.epsilon == pytest.approx(direct_renyi(0.1, 2.0, 100, DELTA), rel=0.15)


def direct_renyi(q: float, sigma: float, rounds: int, delta: float) -> float:
    """The general bound of Wang et al. 2019, theorem 9 (the library has the tighter theorem 27), to (eps, delta)."""

    def eps(order: float) -> float:
        return order / (2 * sigma**2)

    best = math.inf
    for a in range(2, 60):
        terms = [1 + q**2 * math.comb(a, 2) * min(4 * math.expm1(eps(2)), 2 * math.exp(eps(2)))]
        terms += [2 * q**j * math.comb(a, j) * math.exp((j - 1) * eps(j)) for j in range(3, a + 1)]
        cost = rounds * math.log(math.fsum(terms)) / (a - 1)
        best = min(best, cost + math.log1p(-1 / a) - math.log(delta * a) / (a - 1))
    return best


def test_sampling_all_in_other_words() -> None:
    a = spent(ledger(5, 2.0), DELTA)
    assert a == spent(ledger(5, 2.0, poisson(1.0)), DELTA) == spent(ledger(5, 2.0, uniform(9, 9)), DELTA)


def test_monotone_in_rounds_and_noise_and_order_of_events_does_not_matter() -> None:
    series = per_round(ledger(6, 1.0, poisson(0.1)), DELTA)
    assert len(series) == 6 and series == sorted(series) and series[0] > 0
    last = spent(list(reversed(ledger(6, 1.0, poisson(0.1)))), DELTA)
    assert last is not None and last.epsilon == series[-1]
    costs = [s.epsilon for z in (0.7, 1.0, 2.0) if (s := spent(ledger(6, z, poisson(0.1)), DELTA))]
    assert costs == sorted(costs, reverse=True)


def test_failed_rounds_count_and_rounds_without_a_release_do_not() -> None:
    events = ledger(3, 2.0, poisson(0.2))
    events += [
        {"round": 1, "kind": "round_failed", "client": None, "reason": "no quorum"},
        plan(3, poisson(0.2)),
    ]
    got = spent(events, DELTA)
    assert got is not None and got.rounds == 3
    series = per_round(events, DELTA)
    assert len(series) == 4 and series[3] == series[2] == got.epsilon


def test_series_of_a_long_ledger_never_understates() -> None:
    events, q = ledger(150, 5.0), (0, 7, 60, 149)
    series = per_round(events, DELTA)
    assert len(series) == 150 and series == sorted(series) and len(set(series)) == 64
    for t in q:
        assert series[t] >= closed_form(1.0, 5.0 / math.sqrt(t + 1), DELTA) * (1 - 1e-3)
    last = spent(events, DELTA)
    assert last is not None and series[-1] == last.epsilon


def test_two_releases_of_one_cohort_share_its_amplification() -> None:
    """Noise z twice on the same sample is noise z / sqrt(2) once, sampled once; independent samples would cost less."""
    events = [plan(0, poisson(0.1)), release(0, 2.0), release(0, 2.0)]
    a, b = spent(events, DELTA), spent(ledger(1, math.sqrt(2.0), poisson(0.1)), DELTA)
    assert a is not None and b is not None and a.epsilon == pytest.approx(b.epsilon, rel=1e-9)


def test_rounds_of_different_noise_compose() -> None:
    mixed = [plan(0), release(0, 1.0), plan(1), release(1, 2.0)]
    got = spent(mixed, DELTA)
    assert got is not None and got.epsilon == pytest.approx(
        closed_form(1.0, 1 / math.sqrt(1 + 0.25), DELTA), rel=1e-3
    )
    sampled = [plan(0, poisson(0.1)), release(0, 1.0), plan(1), release(1, 2.0)]
    one, two = spent(sampled[:2], DELTA), spent(sampled, DELTA)
    assert one is not None and two is not None
    assert max(one.epsilon, closed_form(1.0, 2.0, DELTA)) < two.epsilon < got.epsilon


@pytest.mark.parametrize(
    "events,what",
    [
        ([plan(0, {}), release(0, 1.0)], "no amplification is known"),
        ([plan(0, {"kind": "bids"}), release(0, 1.0)], "no amplification is known"),
        ([plan(0, poisson(1.5)), release(0, 1.0)], "no amplification is known"),
        ([plan(0, uniform(5, 4)), release(0, 1.0)], "no amplification is known"),
        ([release(0, 1.0)], "no plan"),
        ([plan(0), release(0, 1.0, "laplace")], "does not know the mechanism 'laplace'"),
        ([plan(0), release(0, 0.0)], "infinite"),
        ([plan(0, poisson(0.1)), plan(0), release(0, 1.0)], "planned twice"),
        ([plan(0, uniform(3, 9), clients=["a", "b"]), release(0, 1.0)], "planned 2"),
        ([plan(0, uniform(3, 9)), release(0, 1.0), plan(1, poisson(0.1)), release(1, 1.0)], "one way"),
        ([plan(0), release(0, 1.0), release(1, 1.0, "local-gaussian", "a")], "no common epsilon"),
    ],
)
def test_what_is_not_understood_is_refused(events: list[Event], what: str) -> None:
    for fold in (spent, per_round):
        with pytest.raises(FedfmError, match=what):
            fold(events, DELTA)


def test_notes_and_delta() -> None:
    events = [plan(0), release(0, 1.0, simulated=False)]
    plain, warned = spent(events, DELTA, parties=100), spent(events, 0.01, parties=100)
    assert plain is not None and plain.note == ""
    assert warned is not None and "delta 0.01 is not below 1/100" in warned.note
    with pytest.raises(FedfmError, match="delta"):
        spent(events, 0.0)


def test_one_more_round_is_cheap() -> None:
    events = ledger(300, 1.0, poisson(0.02))
    spent(events, DELTA)
    start = time.process_time()
    for t in range(300, 305):
        events += [plan(t, poisson(0.02)), release(t, 1.0)]
        spent(events, DELTA)
    assert (time.process_time() - start) / 5 < 0.3


@pytest.mark.parametrize(
    "epsilon,rounds,sampling,noise", [(4.0, 1000, poisson(0.01), 0.73478), (1.0, 1, ALL, 3.7306)]
)
def test_calibration(epsilon: float, rounds: int, sampling: Any, noise: float) -> None:
    z = calibrate(epsilon, DELTA, rounds, sampling)
    assert z == pytest.approx(noise, rel=3e-4)
    got = spent(ledger(rounds, z, sampling), DELTA)
    assert got is not None and got.epsilon <= epsilon


def test_calibration_of_local_noise_and_refusals() -> None:
    z = calibrate(8.0, DELTA, 10, {}, mechanism="local-gaussian")
    assert closed_form(2.0, z / math.sqrt(10), DELTA) == pytest.approx(8.0, rel=1e-3)
    for bad in (
        lambda: calibrate(0.0, DELTA, 1, ALL),
        lambda: calibrate(1.0, DELTA, 0, ALL),
        lambda: calibrate(1.0, DELTA, 1, {}),
        lambda: calibrate(1.0, DELTA, 1, ALL, mechanism="laplace"),
    ):
        with pytest.raises(FedfmError):
            bad()


def test_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    accountant._library.cache_clear()
    accountant._one.cache_clear()
    try:
        with pytest.raises(MissingExtra, match=r"fedfm\[privacy\]"):
            spent(ledger(1, 1.2345), DELTA)
    finally:
        accountant._library.cache_clear()
