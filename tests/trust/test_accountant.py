"""Privacy spent, planned and stopped: folds over the ledger, and what they say."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from test_composition import closed_form

from fedfm.core.context import Ctx
from fedfm.core.errors import FedfmError, MissingExtra
from fedfm.core.spending import overspends
from fedfm.laws.homes import quadratics
from fedfm.ledger.events import Line
from fedfm.trust.privacy import composition
from fedfm.trust.privacy.accountant import per_round, planned, spent, statement
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

DELTA = 1e-5


ALL = {"kind": "all"}


def plan(t: int, sampling: Any = ALL, **more: Any) -> Line:
    return {"round": t, "kind": "plan", "client": None, "sampling": sampling, **more}


def release(
    t: int,
    z: float,
    mechanism: str = "gaussian",
    client: str | None = None,
    noise: str = "seeded",
    relation: str = "",
) -> Line:
    return {
        "round": t,
        "kind": "privacy",
        "client": client,
        "mechanism": mechanism,
        "event": {"GaussianDpEvent": {"noise_multiplier": z}},
        "relation": relation or ("replace-one" if client else "zero-out"),
        "observer": "server" if client else "recipients",
        "delta": DELTA,
        "noise": noise,
    }


def ledger(rounds: int, z: float, sampling: Any = ALL, relation: str = "") -> list[Line]:
    return [e for t in range(rounds) for e in (plan(t, sampling), release(t, z, relation=relation))]


def poisson(q: float) -> dict[str, Any]:
    return {"kind": "poisson", "rate": q}


def uniform(count: int, of: int) -> dict[str, Any]:
    return {"kind": "uniform", "count": count, "of": of}


def test_a_ledger_gives_the_figure_of_its_releases_and_says_what_it_means() -> None:
    got = spent(ledger(100, 1.0, poisson(0.1)), DELTA)
    assert got is not None and got.epsilon == pytest.approx(7.0466, abs=1e-3)
    assert (got.accountant, got.rounds, got.mechanism, got.relation.change) == (
        "PLD",
        100,
        "gaussian",
        "zero-out",
    )
    for word in (
        "whole party",
        "whoever gets the model",
        "not that it took part",
        "predictable",
        "delta 1e-05",
    ):
        assert word in str(got)
    loose = spent(ledger(100, 1.0, poisson(0.1)), DELTA, accountant="rdp")
    assert (
        loose is not None and loose.accountant == "RDP" and loose.epsilon == pytest.approx(7.9039, abs=1e-3)
    )


@pytest.mark.parametrize("z,rounds,epsilon", [(4.0, 10, 7.51), (8.0, 50, 8.60), (5.0, 100, 24.3816)])
def test_local_noise_costs_the_doubled_sensitivity_and_no_amplification(
    z: float, rounds: int, epsilon: float
) -> None:
    few = [e for t in range(rounds) for e in (plan(t, poisson(0.01)), release(t, z, "local-gaussian", "a"))]
    few += [release(t, z, "local-gaussian", "b") for t in range(rounds - 1)]
    got = spent(few, DELTA)
    assert got is not None and got.epsilon == pytest.approx(epsilon, abs=5e-3)
    assert got.relation.change == "replace-one" and "against the server" in str(got)
    assert got.epsilon == pytest.approx(closed_form(2.0, z / math.sqrt(rounds), DELTA), rel=1e-3)
    assert got.rounds == rounds and got.mechanism == "local-gaussian"  # of the party that spent most


def test_relation_and_observer_are_the_releases_own() -> None:
    costs = {
        change: found.epsilon
        for change in ("zero-out", "replace-one", "add-or-remove")
        if (found := spent(ledger(7, 3.0, relation=change), DELTA))
    }
    assert costs["zero-out"] == costs["add-or-remove"] == pytest.approx(3.7868, abs=1e-3)
    assert costs["replace-one"] == pytest.approx(8.5726, abs=1e-3)  # and what a row is promised: never 3.79


def test_once_the_noise_is_real_a_draw_from_the_seed_amplifies_nothing() -> None:
    real = [e | ({"noise": "system"} if e["kind"] == "privacy" else {}) for e in ledger(5, 2.0, poisson(0.1))]
    secret = [
        e | ({"sampling": poisson(0.1) | {"secret": True}} if e["kind"] == "plan" else {}) for e in real
    ]
    seeded, public, hidden = (spent(e, DELTA) for e in (ledger(5, 2.0, poisson(0.1)), real, secret))
    whole = spent(ledger(5, 2.0), DELTA)
    assert seeded and public and hidden and whole
    assert public.epsilon == whole.epsilon > hidden.epsilon == seeded.epsilon
    assert "predictable" in str(seeded) and "predictable" not in str(public)


def test_monotone_in_rounds_and_noise_and_order_of_events_does_not_matter() -> None:
    series = per_round(ledger(6, 1.0, poisson(0.1)), DELTA)
    assert len(series) == 6 and series == sorted(series) and series[0] > 0
    last = spent(list(reversed(ledger(6, 1.0, poisson(0.1)))), DELTA)
    assert last is not None and last.epsilon == series[-1]
    costs = [s.epsilon for z in (0.7, 1.0, 2.0) if (s := spent(ledger(6, z, poisson(0.1)), DELTA))]
    assert costs == sorted(costs, reverse=True)


def test_failed_rounds_count_and_rounds_without_a_release_do_not() -> None:
    events = ledger(3, 2.0)
    events += [{"round": 1, "kind": "round_failed", "client": None, "reason": "no quorum"}, plan(3)]
    got = spent(events, DELTA)
    assert got is not None and got.rounds == 3
    series = per_round(events, DELTA)
    assert len(series) == 4 and series[3] == series[2] == got.epsilon


@pytest.mark.parametrize("draw", [{"kind": "poisson", "rate": 0.1}])
def test_a_cohort_of_random_size_that_releases_nothing_is_seen_and_has_no_epsilon(
    draw: dict[str, Any],
) -> None:
    """N = 8, q = 0.1, z = 1: seeing which rounds are empty costs 2.25 where 1.69 would be told (defect 8)."""
    with pytest.raises(FedfmError, match="must release noise"):
        spent([*ledger(1, 1.0, draw), plan(1, draw)], DELTA)
    told = statement([ClipNoise()], [*ledger(1, 1.0, draw), plan(1, draw)], {}, 8)
    assert told is not None and told["epsilon"] is None and "no epsilon: round 1" in told["sentence"]


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
        ([release(0, 1.0)], "no plan"),
        ([plan(0), release(0, 1.0) | {"event": None}], "without its event"),
        ([plan(0), release(0, 1.0) | {"event": {"PufferfishEvent": {}}}], "has no event 'PufferfishEvent'"),
        ([plan(0), release(0, 0.0)], "infinite"),
        ([plan(0, poisson(0.1)), plan(0), release(0, 1.0)], "planned twice"),
        ([plan(0, uniform(3, 9), clients=["a", "b"]), release(0, 1.0)], "planned 2"),
        ([plan(0, uniform(3, 9)), release(0, 1.0), plan(1, poisson(0.1)), release(1, 1.0)], "one way"),
        ([plan(0), release(0, 1.0), release(1, 1.0, "local-gaussian", "a")], "neighbouring relations"),
        ([plan(0), release(0, 1.0), release(0, 1.0, relation="replace-one")], "neighbouring relations"),
        ([plan(0), release(0, 1.0), release(0, 1.0) | {"observer": "server"}], "different observers"),
    ],
)
def test_what_is_not_understood_is_refused(events: list[Line], what: str) -> None:
    for fold in (spent, per_round):
        with pytest.raises(FedfmError, match=what):
            fold(events, DELTA)
    told = statement([ClipNoise()], events, {}, 9)
    assert told is not None and told["epsilon"] is None and told["sentence"].startswith("no epsilon: ")


def test_notes_and_delta() -> None:
    events = [plan(0), release(0, 1.0, noise="system")]
    plain, warned = spent(events, DELTA, parties=100), spent(events, 0.01, parties=100)
    assert plain is not None and plain.note == ""
    assert warned is not None and "delta 0.01 is not below 1/100" in warned.note
    with pytest.raises(FedfmError, match="delta"):
        spent(events, 0.0)
    asked = spent([e | {"delta": 1e-7} for e in events])
    assert asked is not None and asked.delta == 1e-7 and asked.epsilon > plain.epsilon


def test_one_more_round_works_out_no_loss_anew() -> None:
    events = ledger(300, 1.0, poisson(0.02))
    spent(events, DELTA)
    before = composition._loss.cache_info().misses
    for t in range(300, 305):
        events += [plan(t, poisson(0.02)), release(t, 1.0)]
        spent(events, DELTA)
    assert composition._loss.cache_info().misses == before


@pytest.mark.parametrize(
    "epsilon,rounds,sampling,noise",
    [
        (4.0, 1000, poisson(0.01), 0.73478),
        (1.0, 1, ALL, 3.7306),
        (1.0, 7, ALL, 9.8703),
        (8.0, 50, ALL, 4.2443),
        (3.0, 20, ALL, 6.2189),
    ],
)
def test_an_epsilon_becomes_the_noise_of_the_plan(
    epsilon: float, rounds: int, sampling: Any, noise: float
) -> None:
    stage = planned(ClipNoise(epsilon=epsilon), [sampling] * rounds)
    assert stage.epsilon is None and stage.noise_multiplier == pytest.approx(noise, rel=3e-4)
    got = spent(ledger(rounds, stage.noise_multiplier, sampling), DELTA)
    assert got is not None and got.epsilon <= epsilon
    doubled = planned(ClipNoise(epsilon=epsilon, relation="replace-one"), [ALL] * rounds)
    single = planned(ClipNoise(epsilon=epsilon), [ALL] * rounds)
    assert doubled.noise_multiplier == pytest.approx(2 * single.noise_multiplier, rel=3e-4)
    assert planned(ClipNoise(noise_multiplier=3.0), [ALL]) == ClipNoise(noise_multiplier=3.0)


def test_calibration_of_local_noise_and_refusals() -> None:
    stage = planned(LocalGaussian(epsilon=8.0), [ALL] * 10)
    assert closed_form(2.0, stage.noise_multiplier / math.sqrt(10), DELTA) == pytest.approx(8.0, rel=1e-3)
    for bad in (lambda: planned(ClipNoise(epsilon=1.0), [{}]),):
        with pytest.raises(FedfmError):
            bad()
    with pytest.raises(ValueError, match="two ways to say one thing"):
        ClipNoise(epsilon=1.0, noise_multiplier=1.0)
    with pytest.raises(FedfmError, match="was not turned into noise"):
        ClipNoise(epsilon=1.0).decode_sum(torch.zeros(2), {}, Ctx(0))


@pytest.mark.parametrize("epsilon", [2.0, 5.0, 9.0])
def test_a_budget_stops_before_the_round_that_would_exceed_it(epsilon: float) -> None:
    events: list[Line] = []
    fed = quadratics(uplink=ClipNoise(noise_multiplier=3.0, budget=epsilon))

    def why() -> str:
        return overspends(fed, lambda: events, 5)

    while not why():
        events += [plan(len(events) // 2), release(len(events) // 2, 3.0)]
    rounds = len(events) // 2
    got, more = spent(events, DELTA), spent([*events, plan(rounds), release(rounds, 3.0)], DELTA)
    assert got and more and got.epsilon <= epsilon < more.epsilon and f"budget is {epsilon:g}" in why()
    assert overspends(quadratics(uplink=ClipNoise(noise_multiplier=3.0)), lambda: events, 5) == ""


@pytest.mark.parametrize(
    "stage,words",
    [
        (ClipNoise(noise_multiplier=0.0), "gaussian only clips or perturbs"),
        (ClipNoise(no_guarantee=True), "gaussian only clips or perturbs"),
        (LocalGaussian(noise_multiplier=0.0), "local-gaussian only clips"),
        (SecAgg(), "secagg hides single updates from the server; its sum is exact"),
    ],
)
def test_a_protection_without_an_epsilon_is_told_as_one(stage: Any, words: str) -> None:
    told = statement([stage], [plan(0)], {"draw": "seen"}, 5)
    assert told is not None and told["epsilon"] is None and words in told["sentence"]
    assert "no guarantee of differential privacy" in told["sentence"] and told["outside"] == {"draw": "seen"}
    assert statement([], [plan(0)], {}, 5) is None


def test_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    composition._library.cache_clear()
    composition._loss.cache_clear()
    try:
        with pytest.raises(MissingExtra, match=r"fedfm\[privacy\]"):
            spent(ledger(1, 1.2345), DELTA)
    finally:
        composition._library.cache_clear()
