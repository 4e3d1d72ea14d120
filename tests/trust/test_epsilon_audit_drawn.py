"""Federations drawn at random that `check` accepts under a guarantee are audited by measurement; so are planted leaks.

One of a hundred honest ones may exceed its claim by chance, so whatever does is played again, longer and with other
seeds, and fails if it does so again. A leak must be caught the first time.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured import Picks, Trial, bound, trial
from test_epsilon_audit import Quieter, TellsTheSign, Unclipped

from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.protocols import Pace, Selector, Wire
from fedfm.core.spending import noises, schedule
from fedfm.efficiency.communication.coarse.natural import Natural
from fedfm.efficiency.communication.coarse.sign import Sign
from fedfm.efficiency.communication.coarse.terngrad import TernGrad
from fedfm.efficiency.communication.codec.entropy import Entropy
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.communication.codec.quantise import Quantise
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.hierarchy import Edges
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.poisson import Poisson
from fedfm.incentives.selection.uniform import Uniform
from fedfm.pace import AllArrive, Quorum, Speed
from fedfm.trust.privacy.accountant import planned
from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

CODES: tuple[Wire, ...] = (
    QSGD(15),
    Quantise(8),
    TopK(0.5),
    Natural(),
    Sign(),
    TernGrad(),
    Pipe(QSGD(15, packed=False), Entropy()),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def drawn(seed: int) -> Trial:
    """A random protection, relation, draw, divisor, pace and fold, with noise for a random epsilon of 1 to 3.5."""
    rng = random.Random(seed)
    make = rng.choices((central, local, masked), (6, 3, 1))[0]
    shape: dict[str, Any] = {
        "rounds": rng.randint(1, 3),
        "parties": rng.randint(3, 6),
        "length": rng.choice((1.0, 1.0, 30.0)),
        "fold": rng.choice(("float", "fixed")),
    }
    found = make(rng, rng.uniform(1.0, 3.5), shape)
    draws = schedule(found.fed, found.parties, found.rounds)
    stages = [planned(s, draws) if s.accountant is not None else s for s in _stages(found)]
    return replace(found, fed=replace(found.fed, uplink=Pipe(*stages)))


def _stages(t: Trial) -> tuple[Wire, ...]:
    return t.fed.uplink.stages if isinstance(t.fed.uplink, Pipe) else (t.fed.uplink,)


def central(rng: random.Random, epsilon: float, shape: dict[str, Any]) -> Trial:
    n = shape["parties"]
    relation = rng.choice(("zero-out", "replace-one", "add-or-remove"))
    select = rng.choice(
        (None, None, Poisson(rng.choice((0.3, 0.6, 0.9))), Uniform(count=rng.randint(1, n - 1)))
    )
    if relation == "add-or-remove" and isinstance(select, Uniform):
        select = None  # refused: the plan tells how many there are
    few = (
        select.rate * n if isinstance(select, Poisson) else select.count if isinstance(select, Uniform) else n
    )
    weights = rng.choice((Mean("equal", denominator=few), Mean(cap=1.0, denominator=few)))
    if select is None and relation != "add-or-remove" and rng.random() < 0.3:
        weights = Mean("equal")
    slots = dict(shape, aggregate=weights, against=rng.random() < 0.3)
    if rng.random() < 0.3 and weights.denominator and not isinstance(select, Uniform):
        slots["pace"] = AllArrive(
            drop={"party-1": "upload"}
        )  # a round of nobody fails, unless the draw is private
        if isinstance(select, Poisson):
            slots["pace"] = AllArrive(dropout=0.1)
        elif relation != "add-or-remove" and rng.random() < 0.5:
            slots["pace"] = Quorum(0.2, deadline_s=10.0, speed=Speed(5.0, 0.3, 0.3))
    if select is not None:
        slots["select"] = select
    if rng.random() < 0.2:
        slots["select"] = Edges(count=2, **({} if select is None else {"inner": select}))
    return trial(ClipNoise(epsilon=epsilon, relation=relation), **slots)


def local(rng: random.Random, epsilon: float, shape: dict[str, Any]) -> Trial:
    stage = LocalGaussian(epsilon=epsilon, relation=rng.choice(("zero-out", "replace-one")))
    behind = rng.choice((None, *CODES))
    uplink = (
        stage if behind is None else Pipe(stage, *(behind.stages if isinstance(behind, Pipe) else (behind,)))
    )
    return trial(uplink, **dict(shape, fold="float", aggregate=Picks()))


def masked(rng: random.Random, epsilon: float, shape: dict[str, Any]) -> Trial:
    relation = rng.choice(("zero-out", "replace-one"))
    shape = dict(shape, rounds=1, aggregate=Mean("equal", denominator=1.0))
    return trial(Pipe(DiscreteGaussian(epsilon=epsilon, relation=relation), SecAgg()), **shape)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_what_is_accepted_holds_what_it_claims(seed: int, tmp_path: Path) -> None:
    t = drawn(seed)
    assert not check(t.fed), t.fed
    masked_ones = isinstance(noises(t.fed)[0], DiscreteGaussian)  # whose exact sampler takes its time
    measured = bound(t, tmp_path / "first", plays=120 if masked_ones else 200, seed=seed)
    if measured > t.claim:
        again = bound(t, tmp_path / "again", plays=600, seed=1000 + seed)
        assert again <= t.claim, (
            f"{t.fed.uplink}, {t.fed.select}: {measured:.2f}, then {again:.2f} of {t.claim:.2f}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_planted_leaks_are_caught(seed: int, tmp_path: Path) -> None:
    t, rng = drawn(seed), random.Random(seed)
    (stage,) = noises(t.fed)
    if isinstance(stage, ClipNoise):
        lies = rng.choice((Unclipped, Quieter))
        knobs = {k: v for k, v in vars(stage).items() if k in ("clip_norm", "noise_multiplier", "relation")}
        t = replace(t, length=60.0, fed=replace(t.fed, uplink=lies(**knobs)))
        client = replace(t.fed.client, against=False)
        # of everybody, all on time: what a rare draw hides, so few plays cannot show
        t = replace(t, fed=replace(t.fed, client=client, select=Selector(), pace=Pace()))
    else:
        honest = LocalGaussian(noise_multiplier=stage.noise, relation="replace-one")  # type: ignore[attr-defined]
        t = replace(t, fed=replace(t.fed, uplink=Pipe(TellsTheSign(), honest), aggregate=Picks()))
        assert check(t.fed)
    assert bound(t, tmp_path, seed=seed) > t.claim, (t.fed.uplink, t.fed.select)
