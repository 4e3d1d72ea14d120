"""Epsilon measured: neighbouring federations are told apart no better than was claimed, and planted leaks are caught.

A server that never moves makes every round an independent one-round federation, so one run is some hundred plays. The
attacker knows both worlds and guesses by one score with a threshold fixed beforehand. Clopper and Pearson bound its
rates of true and false alarms (2.5 % each), so with 95 % confidence epsilon >= ln((p - delta) / f). Seeds are fixed:
an honest build does not fail by chance.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.errors import Problem
from fedfm.core.federation import Federation
from fedfm.core.message import Message
from fedfm.core.protocols import Aggregate, Aggregator, Client, Server, State, Wire
from fedfm.efficiency.communication.codec.topk import TopK
from fedfm.efficiency.training.mean import Mean
from fedfm.evaluation.held_out import HeldOut
from fedfm.incentives.selection.uniform import Uniform
from fedfm.laws.homes import play
from fedfm.tasks.quadratic import Quadratic, Quadratics
from fedfm.trust.privacy.accountant import cost
from fedfm.trust.privacy.mechanism.clipping import perturb
from fedfm.trust.privacy.mechanism.discrete_gaussian import DiscreteGaussian
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian
from fedfm.trust.privacy.secure.secagg import SecAgg

PLAYS, DELTA = 200, 1e-5
ALL = {"kind": "all"}


@dataclass(frozen=True)
class Sends(Client):
    """A fixed direction times a length for each party; party-0 is the one that differs between the worlds."""

    lengths: Mapping[str, float] = field(default_factory=dict)

    def work(self, brief: Message, data: Any, state: State, ctx: Ctx, bound: Any) -> Any:
        x = torch.zeros(bound.layout.size)
        first = 0 if ctx.client == "party-0" else 1  # the others' direction tells nothing of party-0
        x[first] = self.lengths.get(ctx.client, 1.0)
        return Message(x, mass=1.0), state


@dataclass(frozen=True)
class Watches(Server):
    """Keeps every aggregate, and never moves."""

    def step(self, state: State, agg: Aggregate, ctx: Ctx) -> State:
        return state | {"seen": torch.cat([state.get("seen", torch.empty(0, agg.x.numel())), agg.x[None]])}


@dataclass(frozen=True)
class Picks(Aggregator):
    """What the server sees of party-0."""

    form = "all"

    def combine(self, messages: Sequence[Message], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return next(m.x for m in messages if m.sender == "party-0").float(), state


def seen(
    uplink: Wire, mine: float | None, folder: Path, seed: int, parties: int = 3, dim: int = 16, **slots: Any
) -> tuple[Tensor, list[Problem]]:
    """Everything that PLAYS rounds publish, (PLAYS, dim); party-0 sends `mine`, or is not there. And `check`'s word."""
    ones = (1.0,) * (parties - (mine is None))
    fed = Federation(
        Quadratic(dim=dim),
        Quadratics(ones, ones),
        client=Sends({"party-0": mine if mine is not None else 1.0}),
        server=Watches(),
        evaluate=HeldOut(every=PLAYS, parts=1),
        uplink=uplink,
        rounds=PLAYS,
        seed=seed,
        **slots,
    )
    played = play(fed, folder)
    assert not played.failed
    return played.run.state.server["seen"], check(fed)


def alarms(count: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's 97.5 % bounds from below and above of a rate, by bisection on the binomial tail."""

    def tail(p: float, k: int) -> float:  # P(X >= k)
        return math.fsum(math.comb(of, j) * p**j * (1 - p) ** (of - j) for j in range(k, of + 1))

    def root(f: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if f(middle) else (middle, high)
        return low

    lower = 0.0 if count == 0 else root(lambda p: tail(p, count) > 0.025)
    upper = 1.0 if count == of else root(lambda p: 1 - tail(p, count + 1) < 0.025)
    return lower, upper


def told_apart(with_it: Tensor, without: Tensor, threshold: float) -> float:
    """The lower bound of epsilon from scores in either world, alarms above the threshold."""
    p, _ = alarms(int((with_it > threshold).sum()), len(with_it))
    _, f = alarms(int((without > threshold).sum()), len(without))
    q, _ = alarms(int((without <= threshold).sum()), len(without))
    _, g = alarms(int((with_it <= threshold).sum()), len(with_it))
    return max(0.0, *(math.log((a - DELTA) / b) for a, b in ((p, f), (q, g)) if a > DELTA))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_bounds_of_rates_are_those_of_the_tables() -> None:
    assert alarms(0, 200) == (0.0, pytest.approx(1 - 0.025 ** (1 / 200), rel=1e-9))
    assert alarms(200, 200) == (pytest.approx(0.025 ** (1 / 200), rel=1e-9), 1.0)
    assert alarms(10, 100) == (pytest.approx(0.0490, abs=1e-4), pytest.approx(0.1762, abs=1e-4))
    zeros, ones = torch.zeros(200), torch.ones(200)
    assert told_apart(ones, zeros, 0.5) == pytest.approx(
        3.98, abs=0.01
    )  # nothing more can be shown in 200 plays


# ---- central noise, with a party's contribution or without it ---------------------------------------------------
@dataclass(frozen=True)
class Unclipped(ClipNoise):
    """A planted leak: it forgets to clip."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {}, state


@dataclass(frozen=True)
class Quieter(ClipNoise):
    """A planted leak: a fortieth of the noise that it tells the accountant."""

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        self.announce(ctx)
        return perturb(x, self.std / 40, ctx.noise("gaussian"), ctx.layout)


def central(stage: Wire, folder: Path, **slots: Any) -> float:
    """Zero-out: party-0 sends 40 clip norms, or nothing."""
    slots = {"aggregate": Mean("equal", denominator=1.0)} | slots
    x, problems = seen(stage, 40.0, folder / "with", 1, **slots)
    y, _ = seen(stage, 0.0, folder / "without", 2, **slots)
    assert not problems
    return told_apart(x[:, 0], y[:, 0], 0.5 if float(x[:, 0].mean()) < 5 else 20.0)


def test_central_noise_holds_what_it_claims_and_planted_leaks_are_caught(tmp_path: Path) -> None:
    honest = ClipNoise(noise_multiplier=1.25)
    claim = cost([honest], [ALL])
    measured = central(honest, tmp_path / "honest")
    assert 0.05 < measured < claim < 3.5  # alive, and below the claim; 3.98 can be shown
    assert central(Unclipped(noise_multiplier=1.25), tmp_path / "unclipped") > claim
    assert central(Quieter(noise_multiplier=1.25), tmp_path / "quieter") > claim


# ---- local noise, one update or another --------------------------------------------------------------------
def local(
    wire: Wire, folder: Path, score: Callable[[Tensor], Tensor], threshold: float
) -> tuple[float, set[str]]:
    """Replace-one: party-0 sends +1 or -1 in the first coordinate, the server looks at its message."""
    x, problems = seen(wire, 1.0, folder / "plus", 3, aggregate=Picks())
    y, _ = seen(wire, -1.0, folder / "minus", 4, aggregate=Picks())
    return told_apart(score(x), score(y), threshold), {p.where for p in problems}


@dataclass(frozen=True)
class SidesWithSign(Wire):
    """A planted leak: a code that sends the sign of the first value beside the others, and puts it back."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {"sign": x[:1].sign()}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return torch.cat([x[:-1], side["sign"] * 1e3]), state


def test_local_noise_holds_what_it_claims_and_a_side_tensor_is_caught(tmp_path: Path) -> None:
    honest = LocalGaussian(noise_multiplier=2.5)
    claim = cost([honest], [ALL])
    measured, problems = local(honest, tmp_path / "honest", lambda x: x[:, 0], 0.0)
    assert 0.05 < measured < claim < 3.5 and not problems
    measured, _ = local(Pipe(honest, TopK(0.25)), tmp_path / "behind", lambda x: x[:, 0], 0.0)
    assert measured < claim  # a code behind the noise is post-processing
    leaky, problems = local(Pipe(SidesWithSign(), honest), tmp_path / "side", lambda x: x[:, -1], 0.0)
    assert leaky > claim and problems == {"uplink.0"}  # measured, and refused


# ---- a party more or less ----------------------------------------------------------------------------------
def adding(denominator: float, folder: Path) -> tuple[float, set[str]]:
    """Add-or-remove: party-0 is there or not; the score is the spread of what is published, scaled to noise over five."""
    stage, dim = ClipNoise(noise_multiplier=20.0, relation="add-or-remove"), 1024
    slots: dict[str, Any] = {"aggregate": Mean("equal", denominator=denominator), "parties": 5, "dim": dim}
    x, problems = seen(stage, 1.0, folder / "five", 5, **slots)
    y, _ = seen(stage, None, folder / "four", 6, **slots)
    middle = 20.0 / (denominator or 4.5)
    return told_apart(-x.std(1), -y.std(1), -middle), {p.where for p in problems}


def test_a_divisor_that_counts_gives_a_party_away_and_a_public_one_does_not(tmp_path: Path) -> None:
    claim = cost([ClipNoise(noise_multiplier=20.0, relation="add-or-remove")], [ALL])
    assert claim == pytest.approx(0.16, abs=0.03)
    by_count, problems = adding(0.0, tmp_path / "count")
    assert (
        by_count == pytest.approx(3.98, abs=0.3) and by_count > claim and "aggregate.denominator" in problems
    )
    public, problems = adding(5.0, tmp_path / "public")
    assert public < 0.6 and not problems  # 95 % of a rate of one half already allow 0.3


# ---- more of them ------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_masked_sums_with_discrete_noise_hold_what_they_claim(tmp_path: Path) -> None:
    stage = DiscreteGaussian(noise_multiplier=1.25, shares=3)
    claim = cost([stage], [ALL])
    measured = central(Pipe(stage, SecAgg()), tmp_path, parties=3)
    assert 0.05 < measured < claim


@pytest.mark.slow
def test_a_fixed_size_draw_holds_what_it_claims(tmp_path: Path) -> None:
    stage, draw = ClipNoise(noise_multiplier=1.0), {"kind": "uniform", "count": 2, "of": 5}
    claim = cost([stage], [draw])
    measured = central(stage, tmp_path, select=Uniform(count=2), parties=5)
    assert measured < claim
