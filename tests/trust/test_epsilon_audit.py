"""Epsilon measured (`measured.py`): nobody is told apart better than was claimed, and planted leaks are caught.

Seeds are fixed: an honest build does not fail by chance.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from measured import Picks, Trial, alarms, bound, told_apart, trial
from torch import Tensor

from fedfm.checks.rules import check
from fedfm.core.combine import Pipe
from fedfm.core.context import Ctx
from fedfm.core.protocols import State, Wire
from fedfm.efficiency.communication.codec.qsgd import QSGD
from fedfm.efficiency.training.mean import Mean
from fedfm.incentives.selection.poisson import Poisson
from fedfm.trust.privacy.mechanism.clipping import perturb
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise
from fedfm.trust.privacy.mechanism.local_gaussian import LocalGaussian

PUBLIC = Mean("equal", denominator=1.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def places(t: Trial) -> set[str]:
    return {p.where for p in check(t.fed)}


def test_bounds_of_rates_are_those_of_the_tables() -> None:
    assert alarms(0, 200) == (0.0, pytest.approx(1 - 0.025 ** (1 / 200), rel=1e-9))
    assert alarms(200, 200) == (pytest.approx(0.025 ** (1 / 200), rel=1e-9), 1.0)
    assert alarms(10, 100) == (pytest.approx(0.0490, abs=1e-4), pytest.approx(0.1762, abs=1e-4))
    zeros, ones = torch.zeros(200), torch.ones(200)
    assert told_apart(ones, zeros, 0.5) == pytest.approx(3.98, abs=0.01)  # no more can be shown in 200 plays


# ---- three that are accepted -------------------------------------------------------------------------------
CENTRAL = trial(ClipNoise(noise_multiplier=2.2), rounds=3, length=40.0, aggregate=PUBLIC)
LOCAL = trial(Pipe(LocalGaussian(noise_multiplier=4.0), QSGD(15)), rounds=2, length=40.0, aggregate=Picks())
ADDED = trial(
    ClipNoise(noise_multiplier=1.2, relation="add-or-remove"),
    select=Poisson(0.9),
    parties=4,
    aggregate=Mean("equal", denominator=2.0),
)


@pytest.mark.parametrize("honest", [CENTRAL, LOCAL, ADDED], ids=["central", "local", "a party more"])
def test_what_is_accepted_holds_what_it_claims(honest: Trial, tmp_path: Path) -> None:
    assert not check(honest.fed) and honest.claim < 3.5  # 3.62 can be shown in 140 plays
    measured = bound(honest, tmp_path)
    assert 0.05 < measured < honest.claim  # alive, and below


# ---- planted leaks -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Unclipped(ClipNoise):
    """Forgets to clip."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {}, state


@dataclass(frozen=True)
class Quieter(ClipNoise):
    """A tenth of the noise that it tells the accountant."""

    def decode_sum(self, x: Tensor, host: State, ctx: Ctx) -> Tensor:
        self.announce(ctx)
        return perturb(x, self.std / 10, ctx.noise("gaussian"), ctx.layout)


@dataclass(frozen=True)
class TellsTheSign(Wire):
    """Sends the sign of the first value beside the others."""

    def encode(self, x: Tensor, state: State, ctx: Ctx) -> tuple[Tensor, dict[str, Tensor], State]:
        return x, {"sign": x[:1].sign()}, state

    def decode(self, x: Tensor, side: Mapping[str, Tensor], state: State, ctx: Ctx) -> tuple[Tensor, State]:
        return x, state


@pytest.mark.parametrize("stage", [Unclipped, Quieter], ids=lambda s: s.__name__)
def test_a_mechanism_that_lies_is_caught(stage: Any, tmp_path: Path) -> None:
    leaky = trial(stage(noise_multiplier=2.0), length=40.0, aggregate=PUBLIC)
    assert bound(leaky, tmp_path) > leaky.claim


def test_a_side_tensor_is_caught_and_refused(tmp_path: Path) -> None:
    leaky = trial(Pipe(TellsTheSign(), LocalGaussian(noise_multiplier=4.0)), aggregate=Picks())
    assert bound(leaky, tmp_path) > leaky.claim and "uplink.0" in places(leaky)


@pytest.mark.parametrize("select", [None, Poisson(0.9)], ids=["all", "poisson"])
def test_a_count_is_caught_and_refused(select: Any, tmp_path: Path) -> None:
    """The divisor is published with the noise: its spread tells how many there were."""
    slots = {} if select is None else {"select": select}
    stage = ClipNoise(noise_multiplier=8.0, relation="add-or-remove")
    leaky = trial(stage, parties=4, dim=1024, aggregate=Mean("equal"), **slots)
    assert "aggregate.denominator" in places(leaky)
    if select is None:
        assert bound(leaky, tmp_path) > leaky.claim
    public = replace(leaky, fed=replace(leaky.fed, aggregate=Mean("equal", denominator=4.0)))
    assert not places(public) and bound(public, tmp_path / "public") < 0.6 + leaky.claim
